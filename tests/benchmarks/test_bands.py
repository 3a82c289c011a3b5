"""Laws of spread over skill by bands of frequency."""

import pytest
import torch
from bands import EDGES, by_bands

from stmd_sdk import Noise
from stmd_sdk.evaluation import JointDraws


def fields(n, b):
    """Independent fields of noise [n, b, 1, 28, 28]."""
    return 0.3 * Noise.of(4, n * b).normal(1, 28, 28).reshape(n, b, 1, 28, 28)


def spread_skill(draws, x):
    return [one.value for one in by_bands(JointDraws(x, x, 0.5, draws))]


def test_exact_draws_have_one_in_every_band_and_a_band_that_is_narrowed_shows_alone():
    all_ = fields(20, 200)
    x, draws = all_[0], all_[1:]
    assert spread_skill(draws, x) == pytest.approx([1.0] * (len(EDGES) - 1), abs=0.05)
    rows = torch.fft.fftfreq(28)
    fine = (rows[:, None].square() + rows.square()).sqrt() >= EDGES[-2]
    narrowed = torch.fft.ifft2(torch.fft.fft2(draws) * torch.where(fine, 0.8, 1.0)).real
    found = spread_skill(narrowed, x)
    assert found[:-1] == pytest.approx([1.0] * (len(EDGES) - 2), abs=0.05)
    assert found[-1] == pytest.approx(0.8, abs=0.03)
