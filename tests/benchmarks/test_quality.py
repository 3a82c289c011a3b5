"""The quality benchmark: its solvers have their orders, its figures stand beside the paper's with their status."""

import json
import sys

import pytest
import quality
import torch
from solvers import ddim, dpm_solver

from stmd_sdk.diffusion.loop import time_grid
from stmd_sdk.diffusion.noise import Noise
from stmd_sdk.diffusion.schedule import expand
from stmd_sdk.diffusion.vp import VPSchedule
from stmd_sdk.errors import InvalidArgumentError

SCHEDULE, DEVIATION = VPSchedule(), 0.5


def gaussian_mean(x_t, t, _noise):
    """E(x_0 | x_t) for data N(0, s²)."""
    alpha, variance = expand(SCHEDULE.alpha(t), x_t), expand(SCHEDULE.variance(t), x_t)
    return alpha * DEVIATION**2 * x_t / (alpha**2 * DEVIATION**2 + variance)


@pytest.mark.parametrize(("solver", "order"), [(ddim, 1), (dpm_solver, 2)])
def test_solvers_follow_the_probability_flow_with_their_order(solver, order):
    """For data N(0, s²) the flow keeps x_t / √(α_t² s² + σ_t²), up to any time; here from 1 to 0.3."""
    noise = Noise.of(0, 8)
    x_1 = noise.fold(0).normal(4).double()
    t = torch.tensor([1.0, 0.3], dtype=torch.float64)
    spread = (SCHEDULE.alpha(t) ** 2 * DEVIATION**2 + SCHEDULE.variance(t)).sqrt()
    exact = x_1 * spread[1] / spread[0]

    def error(n):
        times = [1 - 0.7 * k / n for k in range(n + 1)]
        found = solver(gaussian_mean, SCHEDULE, times, (4,), noise)
        return float((found.double() - exact).abs().max())

    assert error(32) / error(64) == pytest.approx(2**order, rel=0.25)
    # All the way to 0 the error still vanishes.
    end = solver(gaussian_mean, SCHEDULE, time_grid(256), (4,), noise)
    torch.testing.assert_close(end.double(), x_1 * DEVIATION / spread[0], rtol=0.02, atol=0.01)


def test_figures_stand_beside_the_papers_with_their_status(tmp_path, monkeypatch, capsys):
    arguments = f"--data digits --calibrated digits --steps 1 2 --features pixels --out {tmp_path / 'q'}"
    monkeypatch.setattr(sys, "argv", ["quality.py", *arguments.split()])
    quality.main()
    facts = json.loads((tmp_path / "q.json").read_text())
    assert [(row["method"], row["evaluations"], row["status"]) for row in facts["rows"]] == [
        ("STMD calibrated", 1, "ours"),
        ("STMD calibrated", 2, "ours"),
    ]
    assert facts["rows"][0]["training"]["steps"] == 1800
    assert facts["rows"][0]["quality"]["frechet"] > facts["floor"] > 0
    assert {path.name for path in tmp_path.iterdir()} == {"q.json", "q.png", "q-stmd-calibrated.png"}
    assert "1800" in capsys.readouterr().out
    claim = quality.claim_for((1, 28, 28), "Mean Flow", 1)
    assert (claim.value, claim.status) == (28, "second-hand")
    monkeypatch.setattr(sys, "argv", ["quality.py", *arguments.replace("--calibrated", "--ddpm").split()])
    with pytest.raises(InvalidArgumentError, match="DDPM: digits has objective 'stmd'"):
        quality.main()
    assert all(one.status != "ours" for claims in quality.CLAIMS.values() for one in claims)
