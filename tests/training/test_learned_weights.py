"""Laws of the learned loss weights."""

import pytest
import torch

from stmd_sdk.diffusion.noise import Noise
from stmd_sdk.diffusion.vp import VPSchedule
from stmd_sdk.errors import InvalidArgumentError
from stmd_training.learned_weights import LossWeights
from stmd_training.losses import STMDLoss
from stmd_training.recipe import load_recipe
from stmd_training.scores import EnergyScore


def test_they_begin_as_no_weights():
    def network(x, times):
        return x[:, :3] * times[:, :1]

    x_0, noise = Noise.of(1, 32).normal(3), Noise.of(0, 32)
    plain, weighed = (
        STMDLoss(VPSchedule(), energy_score=EnergyScore(0.5), weights=weights)(network, x_0, noise)
        for weights in (None, LossWeights())
    )
    assert torch.equal(plain, weighed)


def test_they_learn_the_size_of_each_loss_at_its_times():
    """Losses c E, E ~ Exp(1), with c over four decades of t: e^s must become c, of each loss its own."""
    torch.manual_seed(0)
    weights = LossWeights()
    optimizer = torch.optim.AdamW(weights.parameters(), lr=3e-3, weight_decay=0.0)
    size = lambda t: 10 ** (4 * t - 2)  # noqa: E731
    steps = 300
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * (1 - step / steps)
        t, tau, r, flow, score = Noise.of(0, 512).fold(step).uniform(5).unbind(1)
        optimizer.zero_grad()
        loss = weights.flow(-flow.log() * size(t), tau, r * tau, t) + weights.energy_score(-score.log() / size(t), t)
        loss.mean().backward()
        optimizer.step()
    t, half = torch.linspace(0.05, 0.95, 19), torch.full((19,), 0.5)
    one, zero = torch.ones(19), torch.zeros(19)
    torch.testing.assert_close(weights(half, half / 2, t)[:, 0].exp() / size(t), one, rtol=0.15, atol=0)
    torch.testing.assert_close(weights(one, zero, t)[:, 1].exp() * size(t), one, rtol=0.15, atol=0)


def test_only_the_transition_map_has_them():
    with pytest.raises(InvalidArgumentError, match="learned_weights"):
        load_recipe("mnist-meanflow", ("learned_weights=true",))
