"""CONTRIBUTING says how to add a target, a schedule and a network: here each is, from outside, and draws exactly."""

from dataclasses import dataclass, replace
from typing import final

import pytest
import torch

from stmd_sdk import ModelSpec, Noise, Sampler
from stmd_sdk.codecs.codec import VectorCodec
from stmd_sdk.diffusion.cosine import CosineSchedule
from stmd_sdk.diffusion.glass import GlassVelocity
from stmd_sdk.diffusion.posterior import FlowPosterior
from stmd_sdk.diffusion.schedule import Schedule
from stmd_sdk.diffusion.target import AbstractAffineTarget, ResidualTarget
from stmd_sdk.mixtures.problems import mixture
from stmd_sdk.models.objective import STMD
from stmd_sdk.networks import MLPConfig

LAW = mixture("mixture2d")


@final
@dataclass(frozen=True)
class ScaledNoiseTarget(AbstractAffineTarget):
    """A new target: y = (x_0 - x_t / alpha_t) / (sigma_t / alpha_t), minus the noise in x_t."""

    schedule: Schedule

    def coefficients(self, t):
        """(1 / alpha_t, sigma_t / alpha_t)."""
        return 1 / self.schedule.alpha(t), self.schedule.sigma(t) / self.schedule.alpha(t)


@pytest.mark.parametrize("schedule", [CosineSchedule(), CosineSchedule(50.0)])
@pytest.mark.parametrize("new", [False, True])
def test_a_new_target_and_a_new_schedule_draw_the_exact_posterior(schedule, new):
    target = ScaledNoiseTarget(schedule) if new else ResidualTarget(schedule, 1.0)
    n = 3000
    t, key = torch.full((n,), 0.3), Noise.of(0, n)
    x_t = schedule.marginal(LAW.sample(key.fold(0)), t, key.fold(1).normal(2))
    posterior = FlowPosterior(GlassVelocity(LAW.denoise, schedule, target), target, mean_flow_steps=128)
    drawn, exact = posterior(x_t, t, key.fold(2)), LAW.draw_posterior(x_t, t, key.fold(3), schedule)
    mean = LAW.posterior_mean(x_t, t, schedule)
    spreads = [(x - mean).square().sum(dim=1) for x in (drawn, exact)]
    assert float(spreads[0].mean()) == pytest.approx(float(spreads[1].mean()), rel=0.1)
    # The exact posterior of the wrong schedule is told apart.
    wrong = LAW.draw_posterior(x_t, t, key.fold(3), CosineSchedule(5.0))
    assert float((wrong - mean).square().sum(dim=1).mean()) != pytest.approx(float(spreads[1].mean()), rel=0.1)


def test_a_new_schedule_rides_in_the_spec_and_a_new_network_is_any_function():
    spec = ModelSpec("cosine", STMD("residual"), (2,), MLPConfig(width=8, depth=1), VectorCodec(), CosineSchedule(90.0))
    assert ModelSpec.from_json(spec.to_json(), "here").schedule == CosineSchedule(90.0)
    velocity = GlassVelocity(LAW.denoise, spec.schedule, spec.objective.flow_target(spec.measured))

    def network(x, times):
        (z, x_t), (tau, _, t) = x.chunk(2, dim=1), times.unbind(dim=1)
        return velocity(z, tau, tau, x_t, t)

    drawn = Sampler(network, spec, torch.device("cpu")).sample(2000, inference_steps=8, mean_flow_steps=16, seed=0)
    radius = drawn.norm(dim=1)
    assert float(radius.mean()) == pytest.approx(1.4, abs=0.05)
    assert float(radius.std()) == pytest.approx(0.15, abs=0.05)
    other = replace(spec, schedule=CosineSchedule(91.0))
    assert other != spec
