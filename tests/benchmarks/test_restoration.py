"""The scores of restored digits: right for exchangeable draws, and they see draws that are too narrow."""

import argparse
import math

import pytest
import restoration
import scoring
import torch

from stmd_sdk.diffusion.noise import Noise


def test_scores_tell_exchangeable_draws_from_narrow_ones():
    n, shape = 64, (1, 28, 28)
    everything = 0.4 * Noise.of(0, scoring.DRAWS + 1).normal(n, *shape)
    x, draws = everything[0], everything[1:]
    for problem in restoration.problems(x, 0.1, seed=3):
        right = scoring.scores(problem.x, draws, 0)
        for name, exact in [("pixel_coverage90", 0.9), ("projection_coverage90", 0.9), ("spread_skill", 1.0)]:
            assert abs(right[name] - exact) < 4.5 * right[f"{name}_error"], name
        # The error of a mean of K draws has variance 0.4² (1 + 1/K), over 784 pixels.
        psnr = 10 * math.log10(4 / (0.4**2 * (1 + 1 / scoring.DRAWS)))
        assert abs(right["psnr_of_mean"] - psnr) < 4.5 * right["psnr_of_mean_error"] + 0.01
        narrow = scoring.scores(problem.x, 0.5 * draws, 0)
        assert narrow["pixel_coverage90"] < 0.75
        assert narrow["spread_skill"] < 0.6
        assert narrow["crps"] > right["crps"]


def test_measurements_lie_in_the_range_of_their_operators_and_hide_what_they_say():
    x = 2 * Noise.of(1, 8).uniform(1, 28, 28) - 1
    for problem in restoration.problems(x, 0.1, seed=3):
        again = problem.operator.A(problem.operator.A_dagger(problem.y))
        torch.testing.assert_close(again, problem.y, rtol=1e-3, atol=1e-3)
        noise = problem.y - problem.operator.A(x)
        assert 0.03 < noise.std() < 0.11


def test_problems_and_methods_are_picked_by_how_their_names_begin(tmp_path):
    x = 0.4 * Noise.of(1, 8).normal(1, 28, 28)
    options = argparse.Namespace(model="own", seed=3, first=100, problems=["box", "Gauss"], methods=["exact"])

    def exact(sampler, problem, seed):
        return scoring.Restored(0.4 * Noise.of(seed, scoring.DRAWS).normal(len(problem.x), 1, 28, 28), 1, {"zeta": 2.0})

    found = restoration.problems(x, 0.1, seed=3)
    rows = scoring.compared(options, None, x, found, {"exact, own": exact, "other": exact}, sigma=0.1)
    assert [row["problem"] for row in rows] == ["box of 12 x 12 hidden", "Gaussian blur, deviation 1.5"]
    assert all(row["method"] == "exact, own" and row["digits"] == 8 and row["zeta"] == 2.0 for row in rows)
    options.methods = ["dps"]
    with pytest.raises(SystemExit, match="nothing was measured"):
        scoring.write_rows(tmp_path / "rows.json", scoring.compared(options, None, x, found, {"DPS": exact}))
    assert not list(tmp_path.iterdir())


def test_fewer_digits_than_directions_are_refused_before_anything_is_drawn(capsys):
    parser = scoring.digit_options(None, 16, "out.json")
    assert parser.parse_args(["--data", "x", "--digits", "8"]).digits == 8
    with pytest.raises(SystemExit):
        parser.parse_args(["--data", "x", "--digits", "7"])
    assert "--digits: must be 8 or more, got 7" in capsys.readouterr().err
