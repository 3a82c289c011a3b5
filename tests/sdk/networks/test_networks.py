"""Networks: the paper's sizes, exact forward-mode derivatives, outputs that hear every input of their row."""

import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import nn

from stmd_sdk import InvalidArgumentError
from stmd_sdk.networks import PRESETS, DiTConfig, MLPConfig, UNetConfig, build_network
from stmd_sdk.networks.dit import Attention as DiTAttention
from stmd_sdk.networks.dit import positions
from stmd_sdk.networks.embedding import TimesEmbedding, frequencies

SMALL = {
    "unet": (UNetConfig(channels=(8, 16), groups=4, embedding_width=32), (8, 8)),
    "unet, folded": (
        UNetConfig(channels=(8, 16), attention=(), groups=4, patch_size=2, embedding_width=32),
        (8, 12),
    ),
    "unet, as for CIFAR-10": (
        UNetConfig(channels=(8, 8, 8), attention=(0, 1), layers_per_block=2, downsample_padding=0, groups=4),
        (8, 8),
    ),
    "dit": (DiTConfig(depth=2, width=16, heads=2), (4, 8)),
    "mlp": (MLPConfig(width=16, depth=2), ()),
    "mlp, with octaves": (MLPConfig(width=16, depth=2, octaves=2), ()),
}
kinds = pytest.mark.parametrize("kind", SMALL)


def _build(kind, times=3):
    """A small network in double precision, away from the zeros that it starts from."""
    config, size = SMALL[kind]
    network = build_network(config, in_channels=4, out_channels=2, times=times, size=size).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    for module in network.modules():
        if isinstance(module, Attention):
            module.upcast_softmax = False  # to float32, which double precision need not pass through
    return network


def _inputs(kind, rows=3, times=3):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(rows, 4, *SMALL[kind][1], generator=generator, dtype=torch.float64)
    return x, torch.rand(rows, times, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(
    ("preset", "channels", "size", "millions", "tolerance"),
    [
        ("unet-mnist", 1, (28, 28), 1.1, 0.05),
        ("unet-cifar10", 3, (32, 32), 37.5, 0.05),
        ("dit-m2", 4, (32, 32), 308, 0.01),
    ],
)
def test_presets_have_the_papers_sizes(preset, channels, size, millions, tolerance):
    with torch.device("meta"):
        network = build_network(PRESETS[preset], in_channels=2 * channels, out_channels=channels, times=3, size=size)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    assert parameters / 1e6 == pytest.approx(millions, rel=tolerance)


@kinds
def test_forward_mode_derivatives_are_central_differences(kind):
    network, (x, times) = _build(kind), _inputs(kind)
    v, w, step = torch.randn_like(x), torch.randn_like(times), 1e-6
    with torch.no_grad():
        for tangents in ((v, w), (v, 0 * w), (0 * v, w)):
            _, derivative = torch.func.jvp(network, (x, times), tangents)
            ahead, behind = (network(x + side * tangents[0], times + side * tangents[1]) for side in (step, -step))
            difference = (ahead - behind) / (2 * step)
            assert difference.norm() > 0.1
            assert (derivative - difference).norm() < 1e-6 * difference.norm()


@kinds
def test_the_output_hears_each_time_and_each_input(kind):
    network, (x, times) = _build(kind), _inputs(kind)
    x.requires_grad_()
    times.requires_grad_()
    # Random weights of the outputs: a sum of all of them could cancel.
    output = network(x, times)
    of_x, of_times = torch.autograd.grad((output * torch.randn_like(output)).sum(), (x, times))
    assert of_times.abs().min() > 1e-6
    assert of_x.abs().min() > 1e-9
    swapped = network(x, times[:, [1, 0, 2]])
    assert (swapped - output).abs().max() > 1e-3


@kinds
def test_every_parameter_is_used(kind):
    network, (x, times) = _build(kind), _inputs(kind)
    output = network(x, times)
    (output * torch.randn_like(output)).sum().backward()
    unused = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    assert unused == []


@kinds
def test_a_row_depends_on_its_own_input_alone(kind):
    network, (x, times) = _build(kind).eval(), _inputs(kind, rows=5)
    with torch.no_grad():
        together = network(x, times)
        assert torch.allclose(network(x[3:4], times[3:4]), together[3:4], rtol=1e-10)


@kinds
def test_wrong_shapes_are_errors(kind):
    network, (x, times) = _build(kind), _inputs(kind)
    wrong = [(x, times[:, :2]), (x, times[:2]), (x[:, :3], times)]
    if x.ndim == 4:
        wrong += [(x[..., :-1], times), (x[:, :, :3], times), (x.flatten(1), times)]
    for bad_x, bad_times in wrong:
        with pytest.raises(Exception, match=r"shape|size|channels|divisible|check"):
            network(bad_x, bad_times)


def test_a_dit_takes_images_of_its_own_size_alone(as_users_call):
    network, (x, times) = _build("dit"), _inputs("dit")
    with pytest.raises(RuntimeError):
        network(x.repeat(1, 1, 2, 1), times)


def test_a_fresh_dit_is_zero_whatever_its_input():
    network = build_network(PRESETS["dit-small"], in_channels=2, out_channels=1, times=3, size=(8, 8))
    assert torch.equal(network(torch.randn(8, 2, 8, 8), torch.rand(8, 3)), torch.zeros(8, 1, 8, 8))


def test_our_attention_is_diffusers_own():
    network, (x, times) = _build("unet"), _inputs("unet")
    ours = network(x, times)
    attentions = [module for module in network.modules() if isinstance(module, Attention)]
    assert len(attentions) > 1
    for attention in attentions:
        attention.set_processor(AttnProcessor2_0())
    assert torch.allclose(network(x, times), ours, rtol=1e-9)


def test_attention_keeps_the_layout_and_a_unet_with_channels_last_computes_the_same():
    network, (x, times) = _build("unet"), _inputs("unet")
    expected = network(x, times)
    seen = []
    for module in network.modules():
        if isinstance(module, Attention):
            module.register_forward_hook(lambda _module, given, result: seen.append((given[0], result)))
    with torch.inference_mode():
        found = network.to(memory_format=torch.channels_last)(x, times)
    assert torch.allclose(found, expected, rtol=1e-9)
    assert len(seen) > 1
    for given, result in seen:
        assert given.is_contiguous(memory_format=torch.channels_last)
        assert result.is_contiguous(memory_format=torch.channels_last)


def test_the_dits_attention_is_scaled_dot_product_attention():
    attention, x = DiTAttention(16, 2).double(), torch.randn(3, 5, 16, dtype=torch.float64)
    q, k, v = (part.unflatten(-1, (2, 8)).transpose(1, 2) for part in attention.qkv(x).chunk(3, dim=-1))
    heads = nn.functional.scaled_dot_product_attention(q, k, v)
    assert torch.allclose(attention(x), attention.leave(heads.transpose(1, 2).flatten(2)))


@pytest.mark.parametrize("kind", ["unet", "dit"])
def test_inference_modes_fused_attention_is_the_plain_one(kind):
    network, (x, times) = _build(kind), _inputs(kind)
    with torch.inference_mode():
        fused = network(x, times)
    assert torch.allclose(fused, network(x, times), rtol=0, atol=1e-12)


def test_every_patch_has_its_own_position_and_neighbours_are_nearest():
    grid = positions(6, 9, 32)
    distance = torch.cdist(grid, grid) + 1e3 * torch.eye(54)
    assert distance.min() > 0.1
    row, column = torch.arange(54) // 9, torch.arange(54) % 9
    nearest = distance.argmin(1)
    assert ((row[nearest] - row).abs() + (column[nearest] - column).abs()).max() == 1


def test_a_dit_sees_positions_on_the_meta_device_too():
    with torch.device("meta"):
        network = build_network(SMALL["dit"][0], in_channels=4, out_channels=2, times=3, size=(4, 8))
    assert torch.equal(network.get_buffer("positions"), positions(2, 4, 16))


def test_frequencies_run_from_a_half_to_sixty_four():
    assert torch.allclose(frequencies(torch.zeros(1)), torch.logspace(-1, 6, 64, base=2.0))


def test_casting_a_network_leaves_its_time_features_in_float32():
    embedding = TimesEmbedding(3, 16, 16)
    entered = []
    embedding.enter.register_forward_pre_hook(lambda module, inputs: entered.append(inputs[0]))
    times = torch.rand(200, 3)
    embedding(times)
    embedding.bfloat16()(times)
    exact, cast = entered
    assert cast.dtype == torch.bfloat16
    # Half a unit in bfloat16's last place: the cast rounds the features and nothing before them.
    assert torch.equal(cast, exact.bfloat16())


@pytest.mark.parametrize(
    ("config", "key"),
    [
        (lambda: UNetConfig(channels=()), "channels"),
        (lambda: UNetConfig(channels=(32, 48)), "channels"),
        (lambda: UNetConfig(channels=(4, 4), groups=4), "channels"),
        (lambda: UNetConfig(channels=(32,)), "attention"),
        (lambda: UNetConfig(channels=(32, 32), attention=(-1,)), "attention"),
        (lambda: UNetConfig(channels=(32, 32), groups=0), "groups"),
        (lambda: UNetConfig(channels=(32, 32), patch_size=0), "patch_size"),
        (lambda: UNetConfig(channels=(32, 32), layers_per_block=0), "layers_per_block"),
        (lambda: DiTConfig(depth=1, width=16, heads=3), "heads"),
        (lambda: DiTConfig(depth=1, width=6, heads=2), "width"),
        (lambda: DiTConfig(depth=1, width=16, heads=0), "heads"),
        (lambda: DiTConfig(depth=0, width=16, heads=1), "depth"),
        (lambda: MLPConfig(width=0), "width"),
        (lambda: MLPConfig(depth=-1), "depth"),
        (lambda: MLPConfig(octaves=-1), "octaves"),
    ],
)
def test_senseless_configurations_name_their_key(config, key):
    with pytest.raises(InvalidArgumentError, match=key):
        config()


@pytest.mark.parametrize(
    ("config", "size", "says"),
    [
        (MLPConfig(), (8, 8), "takes vectors"),
        (DiTConfig(depth=1, width=16, heads=1), (), "takes images"),
        (UNetConfig(channels=(32, 32)), (8,), "takes images"),
        (UNetConfig(channels=(32, 32, 32)), (28, 30), "divisible by 4"),
        (UNetConfig(channels=(32, 32), patch_size=2), (28, 30), "divisible by 4"),
        (DiTConfig(depth=1, width=16, heads=1, patch_size=4), (8, 6), "divisible by 4"),
    ],
)
def test_a_network_that_does_not_fit_the_data_is_refused(config, size, says):
    with pytest.raises(InvalidArgumentError, match=says):
        build_network(config, in_channels=2, out_channels=1, times=3, size=size)
