"""Whether more steps help, and how a model is made to refuse those that do not."""

import pytest
from steps import Doubling, doublings, refusal, write_refusal

from stmd_sdk import InvalidArgumentError, Sampler

SEEDS = 0, 1, 2, 3


def test_a_distance_that_halves_with_n_and_doubles_with_m_is_found_worse_in_m_alone():
    def distance(n, m, seed):
        return (1 + 0.01 * seed * n) * m / n

    found = list(doublings("own", distance, SEEDS))
    assert [one.what for one in found] == [
        "N = 1 to 2", "N = 2 to 4", "N = 4 to 8", "M = 1 to 2 at N = 1", "M = 1 to 2 at N = 4"
    ]  # fmt: skip
    assert found[0].ratio == pytest.approx(0.5, rel=0.02)
    assert [one.worse for one in found] == [False, False, False, True, True]
    assert refusal(found).startswith("two evaluations a draw take the distance to the data to 2 ± ")
    assert refusal(found[:3]) == ""


def test_a_ratio_within_its_error_is_not_called_worse():
    one = Doubling("own", "N = 1 to 2", (1.0, 1.0, 1.0), (1.3, 0.9, 1.0))
    assert one.ratio > 1
    assert one.ratio - one.error < 1
    assert not one.worse


def test_what_is_written_is_refused_and_nothing_else_of_the_file_changes(digits_of_any_m, tmp_path):
    path = tmp_path / "own.safetensors"
    path.write_bytes(digits_of_any_m.read_bytes())
    before = Sampler.from_pretrained(path).sample(2, seed=0)
    write_refusal(str(path), "two evaluations are worse")
    sampler = Sampler.from_pretrained(path)
    assert sampler.spec.one_flow_step == "two evaluations are worse"
    assert sampler.sample(2, seed=0).equal(before)
    with pytest.raises(InvalidArgumentError, match="mean_flow_steps: digits takes 1 alone: two evaluations are worse"):
        sampler.sample(2, mean_flow_steps=2, seed=0)
