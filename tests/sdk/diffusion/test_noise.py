"""Noise: a number depends on seed, path and sample alone, and numbers of different keys are independent."""

import hashlib
import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import stats

from stmd_sdk import InvalidArgumentError, Noise
from stmd_sdk.diffusion import host_philox
from stmd_sdk.diffusion.noise import GivenNoise
from stmd_sdk.diffusion.philox import fresh_seed

COUNT = 4096


def _correlations(rows):
    """Largest absolute correlation between different rows, in standard deviations of chance."""
    correlation = np.corrcoef(rows.double().numpy())
    return np.abs(correlation - np.eye(len(correlation))).max() * np.sqrt(rows.shape[1])


@pytest.mark.parametrize("draw", ["normal", "uniform", "words"])
def test_a_sample_alone_is_the_sample_in_a_batch_in_chunks_and_among_draws(draw):
    def numbers(noise):
        return getattr(noise.fold(3), draw)(50)

    batch = numbers(Noise.of(11, 64))
    assert torch.equal(numbers(Noise.of(11, 1, first=7))[0], batch[7])
    chunks = [numbers(Noise.of(11, min(5, 64 - start), first=start)) for start in range(0, 64, 5)]
    assert torch.equal(torch.cat(chunks), batch)
    assert torch.equal(numbers(Noise.of(11, 64)[10:20]), batch[10:20])
    assert torch.equal(numbers(Noise.of(11, 64).draws(3))[:64], batch)


def test_another_process_draws_the_same_bits():
    program = (
        "import hashlib; from stmd_sdk import Noise; "
        "noise = Noise.of(5, 3, first=9).fold(1).fold(2).draws(2); "
        "numbers = noise.normal(2, 7).numpy().tobytes() + noise.uniform(3).numpy().tobytes(); "
        "print(hashlib.sha256(numbers).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    noise = Noise.of(5, 3, first=9).fold(1).fold(2).draws(2)
    here = hashlib.sha256(noise.normal(2, 7).numpy().tobytes() + noise.uniform(3).numpy().tobytes())
    assert other.strip() == here.hexdigest()


def test_more_numbers_begin_with_the_same_numbers_whatever_their_shape():
    noise = Noise.of(1, 4)
    assert torch.equal(noise.normal(10), noise.normal(23)[:, :10])
    assert torch.equal(noise.normal(2, 3, 4).flatten(1), noise.normal(24))
    assert torch.equal(noise.normal(), noise.normal(1)[:, 0])
    assert torch.equal(noise.uniform(), noise.uniform(1)[:, 0])


def test_global_generators_are_neither_read_nor_moved():
    torch.manual_seed(1)
    state, first = torch.get_rng_state(), Noise.of(2, 3).normal(5)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(Noise.of(2, 3).normal(5), first)


def test_normals_pass_a_kolmogorov_smirnov_test():
    noise = Noise.of(2024, 100).fold(1)
    assert stats.kstest(noise.normal(2000).double().numpy().ravel(), "norm").pvalue > 1e-3
    assert stats.kstest(noise.uniform(2000).double().numpy().ravel(), "uniform").pvalue > 1e-3


def test_samples_paths_seeds_and_draws_are_uncorrelated():
    paths = itertools.product(range(4), repeat=2)
    keys = {
        "samples": Noise.of(3, 64),
        "neighbouring words of an index": Noise(3, torch.tensor([0, 1, 2**31, 2**32 - 1])),
        "draws": Noise.of(3, 1).draws(64),
        "draws of draws": Noise.of(3, 2).draws(5).draws(6),
    }
    for name, noise in keys.items():
        # 2016 pairs: the largest of so many normals passes 5.5 once in ten thousand sets.
        assert _correlations(noise.normal(COUNT)) < 5.5, name
        assert _correlations(noise.normal(COUNT).square()) < 5.5, f"squares of {name}"
    by_path = [Noise.of(3, 1).fold(i).fold(j).normal(COUNT) for i, j in paths]
    by_depth = [Noise.of(3, 1).normal(COUNT), Noise.of(3, 1).fold(0).normal(COUNT)]
    by_seed = [Noise.of(seed, 1).normal(COUNT) for seed in (0, 1, 2**32, 2**63, 2**64 - 1)]
    assert _correlations(torch.cat([*by_path, *by_depth, *by_seed])) < 5.5


def test_numbers_of_one_row_are_uncorrelated_at_every_lag():
    rows = Noise.of(4, 1000).normal(16).double().T
    assert _correlations(rows) < 5
    assert _correlations(rows.square()) < 5


def test_uniforms_lie_in_the_open_interval_even_at_the_ends(monkeypatch):
    ends = np.array([[0, 1, 2**32 - 2, 2**32 - 1]])
    monkeypatch.setattr(Noise, "_bits", lambda self, count: (ends,) * 4)
    uniform = Noise.of(0, 1).uniform(16)
    assert 0 < uniform.min() < 1e-9
    assert 1 - 1e-7 < uniform.max() < 1
    assert Noise.of(0, 1).normal(16).isfinite().all()


def test_draw_0_is_the_key_itself_and_rows_are_draw_by_draw():
    noise = Noise.of(8, 3).fold(1)
    draws = noise.draws(4).normal(6).reshape(4, 3, 6)
    assert torch.equal(draws[0], noise.normal(6))
    assert torch.equal(draws[2, 1], noise[1:2].draws(4).normal(6)[2])
    assert torch.equal(noise.draws(2).normal(6), draws[:2].flatten(0, 1))


def test_all_rows_differ_also_when_draws_are_drawn_again():
    noise = Noise.of(8, 3).draws(4).draws(5)
    assert len(set(noise.indices.tolist())) == 60
    assert torch.equal(
        noise.normal(2)[:12].unique(dim=0), Noise.of(8, 3).draws(4).draws(5)[:12].normal(2).unique(dim=0)
    )


def test_a_folded_key_is_a_new_object():
    noise = Noise.of(1, 2)
    folded = noise.fold(5)
    assert (noise.path, folded.path) == ((), (5,))
    assert noise.key == 1 != folded.key


def test_numpy_integers_are_integers(as_users_call):
    noise = Noise.of(np.int64(2**62), np.int32(3), first=np.uint8(2))
    assert torch.equal(noise.fold(1).normal(4), Noise.of(2**62, 3, first=2).fold(1).normal(4))


@pytest.mark.parametrize(
    "arguments",
    [
        {"seed": -1},
        {"seed": 2**64},
        {"seed": 1.0},
        {"seed": "1"},
        {"seed": True},
        {"seed": None},
        {"n": 0},
        {"n": -3},
        {"n": 2.5},
        {"n": True},
        {"n": 2**32 + 1},
        {"n": "1"},
        {"first": -1},
        {"first": 2**32},
        {"first": 0.0},
    ],
)
def test_senseless_keys_are_refused(as_users_call, arguments):
    with pytest.raises(InvalidArgumentError, match=next(iter(arguments)) + " must be an integer"):
        Noise.of(**({"seed": 0, "n": 1} | arguments))


def test_samples_beyond_the_last_index_are_refused():
    with pytest.raises(InvalidArgumentError, match="samples 4294967290 to 4294967299: the last possible is"):
        Noise.of(0, 10, first=2**32 - 6)


@pytest.mark.parametrize("n", [0, -1, 1.5, "2", 2**31])
def test_senseless_numbers_of_draws_are_refused(as_users_call, n):
    with pytest.raises(InvalidArgumentError, match="n must be an integer"):
        Noise.of(0, 1).draws(n)


def test_the_largest_seed_and_the_last_index_are_usable():
    assert Noise.of(2**64 - 1, 1, first=2**32 - 1).fold(2**64 - 1).draws(2).normal(3).isfinite().all()


def test_given_noise_folds_to_its_normals_and_has_nothing_else():
    noise = Noise.of(5, 3)
    given = GivenNoise(torch.stack([noise.fold(i).normal(2) for i in range(4)]))
    assert all(torch.equal(given.fold(i).normal(2), noise.fold(i).normal(2)) for i in range(4))
    assert not any(hasattr(given, name) for name in ("uniform", "words", "draws", "__len__", "__getitem__"))


def test_fresh_seeds_differ_and_are_seeds():
    seeds = {fresh_seed() for _ in range(20)}
    assert len(seeds) > 15
    assert all(len(Noise.of(seed, 1)) == 1 for seed in seeds)


@pytest.mark.gpu
def test_a_gpu_draws_the_same_numbers():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    here, there = Noise.of(3, 64).fold(1), Noise.of(3, 64, device="cuda").fold(1)
    assert torch.equal(here.uniform(1000), there.uniform(1000).cpu())
    assert torch.allclose(here.normal(1000), there.normal(1000).cpu(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", [(1,), (3,), (1, 5, 5)])
def test_the_normals_of_several_keys_in_one_pass_are_those_of_each(monkeypatch, shape):
    noise = Noise.of(2**64 - 3, 5, first=7).labelled(torch.arange(5))
    expected = [noise.fold(i).normal(*shape) for i in range(6)]
    for once in (1, 64, 2**19):  # a row a pass, some, all of all keys
        monkeypatch.setattr(host_philox, "ONCE", once)
        given = noise.ahead(6, *shape)
        assert all(torch.equal(given.fold(i).normal(*shape), expected[i]) for i in range(6))
        assert torch.equal(given.labels, noise.labels)
