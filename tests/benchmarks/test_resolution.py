"""Laws of the coverage of pixels at a resolution, of images whose law is known."""

import pytest
from resolution import cases, coverages

from stmd_sdk import Noise
from stmd_sdk.evaluation import JointDraws


def found():
    n = 600
    inked = (Noise.of(0, 21 * n).uniform(1, 5, 5) < 0.4).float().reshape(21, n, 1, 5, 5)
    x = 2 * inked - 1
    joint = JointDraws(x[20], x[20], 0.5, x[:20])
    return {
        name: coverages(JointDraws(truth, joint.x_t, 0.5, draws), 1.0, Noise.of(1, n))
        for name, (truth, draws) in cases(joint).items()
    }


def test_exact_draws_cover_at_any_resolution_and_a_shade_counts_at_full_resolution_alone():
    rows = found()
    for exact in ("the digit", "a draw"):
        for side in ("below", "above"):
            assert rows[exact][side] == pytest.approx(0.05, abs=0.01)
        for of in ("coverage", "at_resolution"):
            assert rows[exact][of] == pytest.approx(0.9, abs=0.01)
    darker = rows["a draw, darker"]
    assert darker["above"] < 0.01
    assert darker["coverage"] > 0.93
    assert darker["at_resolution"] < 0.92
    assert rows["a draw, widths x 0.9"]["at_resolution"] < 0.88
    assert rows["a draw, widths x 1.1"]["at_resolution"] > 0.92
    assert rows["a draw, widths x 0.95"]["coverage"] < 0.5  # ranks alone: no value is met again
