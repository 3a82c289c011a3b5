"""The law at the end of annealed chains, by algebra: the posterior as levels grow, and the levels' choice."""

import lag
import pytest


@pytest.mark.parametrize("turned", [False, True])
def test_chains_end_at_the_posterior_as_levels_grow(turned):
    covariance, A = lag.problems()["three gains"]
    ends = [lag.ended(covariance, A, lag.levels_of(covariance, A, 1.0, n), turned=turned) for n in (40, 400, 4000)]
    kls = [kl for kl, _ in ends]
    assert kls[0] > 4 * kls[1] > 16 * kls[2] > -1e-9
    assert ends[-1][1] < 0.02


def test_the_levels_that_are_used_lag_little():
    """40 levels in the mean over the problems: against copies drawn anew, against a first ρ above and far below."""
    problems = lag.problems().values()

    def mean(wide, turned):
        return sum(lag.ended(S, A, lag.levels_of(S, A, wide, 40), turned=turned)[0] for S, A in problems)

    chosen = mean(lag.WIDE, True)
    assert chosen < 0.45 * mean(lag.WIDE, False)
    assert chosen < 0.65 * mean(10.0, True)
    assert chosen < 0.25 * mean(10.0, False)
    assert chosen < 1.1 * mean(0.3, True)
