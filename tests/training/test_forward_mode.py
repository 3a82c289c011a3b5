"""Laws of forward mode: derivatives equal PyTorch's, values keep their graph, derivatives have none."""

import pytest
import torch

from stmd_sdk.errors import TrainingError
from stmd_sdk.networks import DiTConfig, MLPConfig, UNetConfig, build_network
from stmd_training.forward_mode import value_and_derivative

FUNCTIONS = {
    "sums": lambda x, y: 1 - (2 * x - y + 3) - y.mean(1, keepdim=True) + x.sum(),
    "products": lambda x, y: x * y @ y.T / (1 + x.square()).mean() - (x / 3 + y / x.exp()) @ x.T,
    "affine products": lambda x, y: torch.addmm(x[:1] @ y.T, x, y.T, beta=0.5, alpha=2.0),
    "batched": lambda x, y: torch.baddbmm(x[:, None], y[:, None, :1], x[:, None], beta=0.3),
    "elementwise": lambda x, y: (x.square() + 1).sqrt().log() + y.sin() * x.cos() + (y.exp() + 1).rsqrt() * x.expm1(),
    "units": lambda x, y: x.tanh() + y.sigmoid() + torch.nn.functional.silu(x) * torch.nn.functional.gelu(y),
    "softmax": lambda x, y: (x * y).softmax(-1) + x.softmax(0),
    "norm": lambda x, y: torch.nn.functional.layer_norm(x * y, (4,), x.detach()[0], None),
    "cuts": lambda x, y: torch.where(x > 0, x, y.square()) + x.clamp(min=0.1) + y.clamp(-0.5, 0.5),
    "shapes": lambda x, y: torch.cat([x.T.reshape(1, -1), y.unsqueeze(0).transpose(1, 2).flatten(1)])[:, 1:],
    "pieces": lambda x, y: torch.stack(x.chunk(2, 1)).squeeze(0) * torch.stack(y.unbind(1)[:2])[:, :, None],
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_derivatives_are_those_of_pytorch(name):
    generator = torch.Generator().manual_seed(0)
    x, y, dx, dy = torch.randn(4, 3, 4, dtype=torch.float64, generator=generator)
    value, derivative = value_and_derivative(FUNCTIONS[name], (x, y), (dx, dy))
    expected_value, expected = torch.func.jvp(FUNCTIONS[name], (x, y), (dx, dy))
    assert torch.equal(value, expected_value)
    torch.testing.assert_close(derivative, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "config",
    [UNetConfig(channels=(8, 16), groups=4, patch_size=2), DiTConfig(depth=1, width=16, heads=2), MLPConfig(width=16)],
    ids=lambda config: config.kind,
)
def test_a_network_is_differentiated_beside_its_own_graph(config):
    size = () if config.kind == "mlp" else (8, 8)
    torch.manual_seed(0)
    network = build_network(config, in_channels=2, out_channels=1, times=3, size=size).double()
    for parameter in network.parameters():  # layers that begin at zero would hide what comes before them
        torch.nn.init.normal_(parameter, std=0.2)
    x, times = torch.randn(3, 2, *size, dtype=torch.float64), torch.rand(3, 3, dtype=torch.float64)
    tangents = torch.randn_like(x), torch.randn_like(times)
    value, derivative = value_and_derivative(network, (x, times), tangents)
    with torch.no_grad():
        step = 1e-5
        ahead, behind = (network(x + h * tangents[0], times + h * tangents[1]) for h in (step, -step))
    # diffusers' attention takes its softmax in float32, which a difference of 1e-5 magnifies.
    assert (derivative - (ahead - behind) / (2 * step)).norm() < 1e-3 * derivative.norm()
    assert value.requires_grad
    assert not derivative.requires_grad
    gradients = torch.autograd.grad(value.sum(), list(network.parameters()))
    expected = torch.autograd.grad(network(x, times).sum(), list(network.parameters()))
    for gradient, plain in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, plain)


def test_what_does_not_depend_on_the_primals_does_not_move():
    x = torch.randn(3)
    value, derivative = value_and_derivative(lambda x: torch.ones_like(x) * 2, (x,), (x,))
    assert torch.equal(value, torch.full((3,), 2.0))
    assert torch.equal(derivative, torch.zeros(3))


@pytest.mark.parametrize("function", [torch.erfinv, lambda x: x.mul(1).mul_(2)])
def test_an_operation_without_a_rule_is_refused(function):
    x = torch.rand(3)
    with pytest.raises(TrainingError, match="no forward-mode rule for aten"):
        value_and_derivative(function, (x,), (x,))
