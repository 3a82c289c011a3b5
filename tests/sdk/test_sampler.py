"""The sampler: exact posteriors give the data, a sample is itself in any batch, nonsense is refused."""

import hashlib
import logging
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from stmd_sdk import CheckpointError, DeviceError, InvalidArgumentError, ModelSpec, Noise, Sampler, VPSchedule
from stmd_sdk.backends.devices import resolve_device
from stmd_sdk.codecs.codec import PixelCodec, VectorCodec
from stmd_sdk.diffusion.target import X0Target
from stmd_sdk.models.checkpoint import save_model
from stmd_sdk.models.objective import BY_KIND, STMD
from stmd_sdk.networks import MLPConfig, UNetConfig
from stmd_sdk.runs.chunks import rows_at_once

CPU = torch.device("cpu")
MEAN, DEVIATION = 0.5, 0.7
X_T = torch.zeros(3, 4)
IMAGES = ModelSpec(
    "images",
    STMD("residual"),
    (1, 8, 8),
    UNetConfig(channels=(8, 16), groups=4, embedding_width=16),
    PixelCodec(),
)


def _vectors(objective="stmd", target="x0", sigma_data=1.0, width=4):
    return ModelSpec(
        "vectors",
        BY_KIND[objective](**({"target": target} if objective == "stmd" else {})),
        (width,),
        MLPConfig(width=8, depth=1),
        VectorCodec(),
        sigma_data=sigma_data,
    )


def _toy(objective="stmd"):
    """A sampler whose network is a formula, row by row the same in every batch."""

    def network(x, times):
        return torch.tanh(x[:, :4] + times.sum(1, keepdim=True)) + 0.3 * x[:, -4:]

    return Sampler(network, _vectors(objective), CPU)


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    """A small U-Net of random weights, saved."""
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("model") / "images.safetensors"
    save_model(path, IMAGES, IMAGES.build_network().state_dict())
    return path


# What the loop computes


@pytest.mark.parametrize(("target", "sigma_data"), [("x0", 1.0), ("residual", 0.4)])
@pytest.mark.parametrize("steps", [1, 2, 4, 16, [1.0, 0.9, 0.05, 0.0]])
def test_an_exact_posterior_gives_the_data_whatever_the_number_of_steps(steps, target, sigma_data, average_velocity):
    spec = _vectors("stmd", target, sigma_data, width=8)
    sampler = Sampler(average_velocity(spec.objective.flow_target(spec.measured), MEAN, DEVIATION), spec, CPU)
    x = sampler.sample(40_000, inference_steps=steps, seed=3, batch_size=20_000).double()
    # 320,000 numbers: 0.5 % is four standard errors of their deviation and 2 of 0.25 % of their mean.
    assert x.std().item() == pytest.approx(DEVIATION, rel=5e-3)
    assert x.mean().item() == pytest.approx(MEAN, rel=1e-2)
    assert torch.corrcoef(x.T).fill_diagonal_(0).abs().max() < 5 / 40_000**0.5


def test_ddpm_with_the_exact_noise_tends_to_the_data_at_first_order():
    schedule = VPSchedule()

    def epsilon(x, times):
        alpha, variance = schedule.alpha(times), schedule.variance(times)
        gain = alpha * DEVIATION**2 / (alpha**2 * DEVIATION**2 + variance)
        return (x - alpha * (MEAN + gain * (x - alpha * MEAN))) / variance.sqrt()

    sampler = Sampler(epsilon, _vectors("ddpm", width=8), CPU)

    def missing_variance(steps):
        x = sampler.sample(20_000, inference_steps=steps, seed=1, batch_size=20_000).double()
        assert x.mean().item() == pytest.approx(MEAN, rel=1e-2)
        return 1 - x.var().item() / DEVIATION**2

    # The point estimate has no variance of its own: one step has next to none, many steps nearly all of it.
    assert missing_variance(1) > 0.99
    coarse, fine = missing_variance(32), missing_variance(128)
    assert coarse > 0.05
    assert coarse / fine == pytest.approx(4, rel=0.3)


def test_the_loop_is_the_loop_written_by_hand_with_the_keys_of_the_design():
    sampler, noise = _toy(), Noise.of(9, 6)
    posterior = sampler.spec.build_posterior(sampler.network, 2)
    x = noise.fold(0).normal(4)
    for k, (t, s) in enumerate([(1.0, 0.6), (0.6, 0.2), (0.2, 0.0)], start=1):
        x_0 = posterior(x, torch.full((6,), t), noise.fold(2 * k - 1))
        epsilon = noise.fold(2 * k).normal(4)
        x = sampler.spec.schedule.bridge(x_0, x, torch.full((6,), t), torch.full((6,), s), epsilon)
    drawn = sampler.sample(6, inference_steps=[1.0, 0.6, 0.2, 0.0], mean_flow_steps=2, seed=9)
    assert torch.equal(drawn, x)


@pytest.mark.parametrize(("steps", "mean_flow_steps"), [(1, 1), (4, 1), (3, 5)])
def test_a_sample_costs_n_times_m_evaluations(steps, mean_flow_steps):
    calls = []

    def network(x, times):
        calls.append(len(x))
        return x[:, :4]

    Sampler(network, _vectors(), CPU).sample(
        10, inference_steps=steps, mean_flow_steps=mean_flow_steps, seed=0, batch_size=4
    )
    assert calls == [4] * steps * mean_flow_steps * 2 + [2] * steps * mean_flow_steps


def test_mean_flow_maps_the_first_noise_to_the_sample():
    def network(z, times):
        tau, r = times[:, :1], times[:, :1] - times[:, 1:]
        spread_tau, spread_r = (((1 - time) ** 2 * DEVIATION**2 + time**2).sqrt() for time in (tau, r))
        return (z - (1 - r) * MEAN - spread_r / spread_tau * (z - (1 - tau) * MEAN)) / (tau - r)

    sampler = Sampler(network, _vectors("meanflow"), CPU)
    for mean_flow_steps in (1, 3):
        x = sampler.sample(20, mean_flow_steps=mean_flow_steps, seed=2)
        assert torch.allclose(x, MEAN + DEVIATION * Noise.of(2, 20).fold(0).normal(4), atol=1e-5)


def test_samples_of_images_stay_in_the_range():
    spec = ModelSpec("images", STMD(), (1, 4, 4), IMAGES.network, PixelCodec())
    sampler = Sampler(lambda x, times: 5 * x[:, :1], spec, CPU)
    x = sampler.sample(50, seed=0)
    assert (x.min(), x.max()) == (-1, 1)
    *_, (_, last, _) = sampler.trajectory(50, seed=0)
    assert last.abs().max() > 1
    assert torch.equal(last.clamp(-1, 1), x)


# A sample is itself


@pytest.mark.parametrize("objective", ["stmd", "ddpm", "meanflow"])
def test_a_sample_is_the_same_alone_in_a_batch_and_in_chunks(objective):
    sampler, steps = _toy(objective), 1 if objective == "meanflow" else 3
    batch = sampler.sample(64, inference_steps=steps, seed=4)
    assert torch.equal(sampler.sample(1, inference_steps=steps, seed=4, first=7)[0], batch[7])
    assert torch.equal(sampler.sample(64, inference_steps=steps, seed=4, batch_size=5), batch)
    assert torch.equal(sampler.sample(20, inference_steps=steps, seed=4, first=30), batch[30:50])
    assert torch.equal(sampler.sample(64, inference_steps=steps, seed=Noise.of(4, 64)), batch)
    assert torch.equal(sampler.sample(9, inference_steps=steps, seed=Noise.of(4, 64)[5:14]), batch[5:14])
    assert not torch.equal(sampler.sample(64, inference_steps=steps, seed=5), batch)


def test_a_sample_of_a_real_network_is_the_same_up_to_rounding_and_in_another_process(model_path):
    sampler = Sampler.from_pretrained(model_path, device="cpu")
    batch = sampler.sample(16, inference_steps=2, seed=4)
    assert batch.std() > 0.1
    assert not batch.is_inference()  # the caller may differentiate what follows
    assert torch.allclose(sampler.sample(1, inference_steps=2, seed=4, first=7)[0], batch[7], atol=1e-5)
    assert torch.allclose(sampler.sample(16, inference_steps=2, seed=4, batch_size=5), batch, atol=1e-5)
    program = (
        "import sys, hashlib, torch; torch.set_num_threads(1); from stmd_sdk import Sampler; "
        "x = Sampler.from_pretrained(sys.argv[1], device='cpu').sample(16, inference_steps=2, seed=4); "
        "print(hashlib.sha256(x.numpy().tobytes()).hexdigest())"
    )
    run = subprocess.run([sys.executable, "-c", program, model_path], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == hashlib.sha256(batch.numpy().tobytes()).hexdigest()


def test_batch_invariant_samples_are_bit_equal_whatever_batch_they_are_drawn_in(model_path):
    sampler = Sampler.from_pretrained(model_path, device="cpu")
    batch = sampler.sample(40, inference_steps=2, seed=4, batch_invariant=True)
    assert torch.allclose(batch, sampler.sample(40, inference_steps=2, seed=4), atol=1e-5)
    for first, n, size in ((0, 1, None), (15, 2, None), (7, 33, 5), (39, 1, 1), (0, 40, 64)):
        part = sampler.sample(n, inference_steps=2, seed=4, first=first, batch_size=size, batch_invariant=True)
        assert torch.equal(part, batch[first : first + n])
    last = sampler.sample(1, inference_steps=1, seed=4, first=2**32 - 1, batch_invariant=True)
    assert torch.allclose(last, sampler.sample(1, inference_steps=1, seed=4, first=2**32 - 1), atol=1e-5)


def test_a_batch_invariant_evaluation_has_sixteen_rows_each_sample_always_in_the_same():
    seen = []

    def network(x, times):
        seen.append(x[:, :4])
        return x[:, :4]

    sampler = Sampler(network, _vectors(), CPU)
    sampler.sample(40, inference_steps=1, seed=0, batch_invariant=True)
    sampler.sample(3, inference_steps=1, seed=0, first=18, batch_size=2, batch_invariant=True)
    assert [len(x) for x in seen] == [16] * 4
    assert torch.equal(seen[3], seen[1])


def test_chunks_shrink_where_memory_runs_out_unless_their_size_was_asked_for():
    sizes = []

    def network(x, times):
        sizes.append(len(x))
        if len(x) > 10:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 byte")
        return x[:, :4]

    sampler = Sampler(network, _vectors(), CPU)
    drawn = sampler.sample(64, inference_steps=1, seed=0)
    assert sizes == [64, 32, 16] + [8] * 8
    assert torch.equal(drawn, sampler.sample(64, inference_steps=1, seed=0, batch_size=8))
    with pytest.raises(DeviceError, match="11 samples at once do not fit in memory; give a smaller batch_size"):
        sampler.sample(64, inference_steps=1, seed=0, batch_size=11)


def test_other_errors_of_a_network_are_its_own():
    def network(x, times):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        Sampler(network, _vectors(), CPU).sample(64, seed=0)


@pytest.mark.parametrize(("shape", "rows"), [((2,), 4096), ((1, 8, 8), 1024), ((1, 28, 28), 64), ((3, 1024, 1024), 1)])
def test_without_a_batch_size_the_state_of_a_chunk_is_bounded(shape, rows):
    assert rows_at_once(shape, CPU) == rows


def test_without_a_seed_the_fresh_one_is_reported_and_gives_the_same(caplog):
    sampler = _toy()
    with caplog.at_level(logging.INFO, logger="stmd_sdk"):
        first, second = sampler.sample(3), sampler.sample(3)
    seeds = [int(re.search(r"seed (\d+)", message)[1]) for message in caplog.messages]
    assert len(seeds) == 2
    assert torch.equal(sampler.sample(3, seed=seeds[0]), first)
    assert torch.equal(sampler.sample(3, seed=seeds[1]), second)
    assert not torch.equal(first, second)


def test_progress_changes_nothing():
    sampler = _toy()
    assert torch.equal(sampler.sample(5, seed=0, progress=True), sampler.sample(5, seed=0))


# Trajectories, transitions, posteriors


def test_a_trajectory_ends_at_the_sample_and_its_last_draw():
    sampler = _toy()
    steps = list(sampler.trajectory(7, inference_steps=5, mean_flow_steps=2, seed=6, first=3))
    assert [t for t, _, _ in steps] == pytest.approx([0.8, 0.6, 0.4, 0.2, 0.0])
    _, x, x_0 = steps[-1]
    assert torch.equal(x, sampler.sample(7, inference_steps=5, mean_flow_steps=2, seed=6, first=3))
    assert torch.equal(x, x_0)


@pytest.mark.parametrize("objective", ["stmd", "ddpm", "meanflow"])
def test_a_transition_to_0_is_a_posterior_draw_and_to_t_the_state_itself(objective):
    sampler, x_t, t = _toy(objective), Noise.of(0, 5).normal(4), 1.0
    draw = sampler.posterior(x_t, t, draws=3, seed=8)
    assert torch.equal(sampler.transition(x_t, t, 0.0, seed=8), draw[0])
    assert torch.equal(sampler.transition(x_t, t, t, seed=8), x_t)


def test_transitions_from_x_1_are_the_run():
    sampler, noise = _toy(), Noise.of(6, 5)
    first, *_ = sampler.trajectory(5, inference_steps=4, seed=6)
    x_1 = noise.fold(0).normal(4)
    assert torch.equal(sampler.transition(x_1, 1.0, 0.75, seed=6), first[1])
    assert torch.equal(sampler.transition(x_1, torch.ones(5), torch.full((5,), 0.75), seed=noise), first[1])


def test_times_may_differ_by_sample():
    sampler, x_t, noise = _toy(), Noise.of(0, 4).normal(4), Noise.of(1, 4)
    t, s = torch.tensor([0.2, 0.5, 0.9, 1.0]), torch.tensor([0.0, 0.5, 0.1, 0.3])
    together = sampler.transition(x_t, t, s, seed=noise)
    draws = sampler.posterior(x_t, t, draws=2, seed=noise)
    for i in range(4):
        row = slice(i, i + 1)
        alone = sampler.transition(x_t[row], t[i].item(), s[i].item(), seed=noise[row])
        assert torch.equal(alone, together[row])
        assert torch.equal(sampler.posterior(x_t[row], t[row], draws=2, seed=noise[row]), draws[:, row])


def test_draws_of_the_posterior_are_independent_and_have_its_moments(average_velocity, gaussian_target):
    spec = _vectors("stmd", "residual", 0.4, width=2)
    sampler = Sampler(average_velocity(spec.objective.flow_target(spec.measured), MEAN, DEVIATION), spec, CPU)
    x_t, t = torch.tensor([[0.3, -1.0]]), 0.4
    draws = sampler.posterior(x_t, t, draws=100_000, seed=1)[:, 0].double()
    mean, deviation = gaussian_target(X0Target(), x_t.double(), torch.tensor([t]).double(), MEAN, DEVIATION)
    assert ((draws.mean(0) - mean) / deviation).abs().max() < 5 / 100_000**0.5
    assert (draws.std(0) / deviation - 1).abs().max() < 5 / 200_000**0.5
    assert torch.corrcoef(draws.T)[0, 1].abs() < 5 / 100_000**0.5
    lagged = torch.corrcoef(torch.stack([draws[:-1, 0], draws[1:, 0]]))[0, 1]
    assert lagged.abs() < 5 / 100_000**0.5


def test_more_draws_begin_with_the_same_draws_across_batches():
    sampler, x_t = _toy(), Noise.of(0, 100).normal(4)
    many = sampler.posterior(x_t, 0.5, draws=7, seed=1)
    assert many.shape == (7, 100, 4)
    assert torch.equal(sampler.posterior(x_t, 0.5, draws=2, seed=1), many[:2])
    assert torch.equal(sampler.posterior(x_t[3:4], 0.5, draws=7, seed=Noise.of(1, 100)[3:4]), many[:, 3:4])


def test_a_count_is_a_uniform_grid():
    sampler = _toy()
    expected = sampler.sample(3, inference_steps=4, seed=0)
    for grid in ([1.0, 0.75, 0.5, 0.25, 0.0], (1.0, 0.75, 0.5, 0.25, 0.0)):
        assert torch.equal(sampler.sample(3, inference_steps=grid, seed=0), expected)
    assert torch.equal(sampler.sample(3, seed=0), expected)


def test_counts_may_be_numpys_and_grids_arrays_tensors_or_whole_numbers(as_users_call):
    sampler, two = _toy(), np.int64(2)
    expected = sampler.sample(3, inference_steps=2, mean_flow_steps=2, seed=0)
    drawn = sampler.sample(np.int32(3), inference_steps=two, mean_flow_steps=two, seed=np.int64(0))
    assert torch.equal(drawn, expected)
    for grid in (torch.tensor([1.0, 0.5, 0.0]), np.array([1.0, 0.5, 0.0]), [1, 0.5, 0]):
        assert torch.equal(sampler.sample(3, inference_steps=grid, mean_flow_steps=2, seed=0), expected)
    assert torch.equal(sampler.transition(X_T, 1, 0, seed=0), sampler.transition(X_T, 1.0, 0.0, seed=0))


# What is refused


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"n": 0}, "n must be"),
        ({"n": -1}, "n must be"),
        ({"n": 2.0}, "n must be an integer"),
        ({"n": "4"}, "n must be an integer"),
        ({"n": True}, "n must be an integer"),
        ({"n": 2**33}, "n must be an integer from 1 to 4294967296"),
        ({"n": None}, "n must be an integer"),
        ({"inference_steps": 0}, "inference_steps must be"),
        ({"inference_steps": -2}, "inference_steps must be"),
        ({"inference_steps": 2.5}, "inference_steps must be an integer"),
        ({"inference_steps": 10**12}, "inference_steps must be an integer from 1 to 1048576"),
        ({"inference_steps": True}, "inference_steps must be an integer"),
        ({"inference_steps": "4"}, "inference_steps must be an integer"),
        ({"inference_steps": []}, "must begin with 1"),
        ({"inference_steps": [1.0]}, "must begin with 1"),
        ({"inference_steps": [0.9, 0.0]}, "must begin with 1"),
        ({"inference_steps": [1.0, 0.1]}, "end with 0"),
        ({"inference_steps": [1.0, 0.5, 0.5, 0.0]}, "decrease strictly"),
        ({"inference_steps": [1.0, 0.2, 0.5, 0.0]}, "decrease strictly"),
        ({"inference_steps": [1.0, float("nan"), 0.0]}, "decrease strictly"),
        ({"inference_steps": [1.0, "half", 0.0]}, "a count or a grid of times"),
        ({"inference_steps": torch.tensor(4)}, "a count or a grid of times"),
        ({"inference_steps": {}}, "must begin with 1"),
        ({"mean_flow_steps": 0}, "mean_flow_steps must be"),
        ({"mean_flow_steps": -1}, "mean_flow_steps must be"),
        ({"mean_flow_steps": 1.0}, "mean_flow_steps must be an integer"),
        ({"mean_flow_steps": 10**12}, "mean_flow_steps must be an integer from 1 to 1048576"),
        ({"mean_flow_steps": "2"}, "mean_flow_steps must be an integer"),
        ({"seed": -1}, "seed must be"),
        ({"seed": 2**64}, "seed must be an integer from 0 to 18446744073709551615"),
        ({"seed": 0.5}, "seed must be an integer"),
        ({"seed": "0"}, "seed must be an integer"),
        ({"seed": Noise.of(0, 3)}, "key of 3 samples, not 4"),
        ({"seed": Noise.of(0, 4), "first": 2}, "first goes with an integer seed"),
        ({"first": -1}, "first must be"),
        ({"first": 1.0}, "first must be an integer"),
        ({"first": 2**32 - 1}, "the last possible is 4294967295"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"batch_size": 1.5}, "batch_size must be an integer"),
        ({"batch_size": 0, "batch_invariant": True}, "batch_size must be"),
        ({"seed": Noise.of(0, 4), "batch_invariant": True}, "batch_invariant needs a seed that is an integer"),
    ],
)
def test_senseless_arguments_of_a_run_are_refused(as_users_call, arguments, says):
    run = {"n": 4, "seed": 0} | arguments
    with pytest.raises(InvalidArgumentError, match=says):
        _toy().sample(run.pop("n"), **run)
    if not arguments.keys() & {"batch_size", "batch_invariant"}:
        run = {"n": 4, "seed": 0} | arguments
        with pytest.raises(InvalidArgumentError, match=says):
            _toy().trajectory(run.pop("n"), **run)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"x_t": torch.zeros(3, 5)}, r"x_t must have shape \[b, 4\]"),
        ({"x_t": torch.zeros(4)}, r"x_t must have shape \[b, 4\]"),
        ({"x_t": torch.zeros(3, 4, 1)}, r"x_t must have shape \[b, 4\]"),
        ({"x_t": torch.zeros(0, 4)}, "with b >= 1"),
        ({"x_t": torch.tensor(0.0)}, "x_t must have shape"),
        ({"x_t": torch.zeros(3, 4, dtype=torch.int64)}, "x_t must be float32"),
        ({"x_t": torch.zeros(3, 4, dtype=torch.float64)}, "x_t must be float32"),
        ({"x_t": torch.zeros(3, 4, dtype=torch.bfloat16)}, "x_t must be float32"),
        ({"x_t": torch.zeros(3, 4, device="meta")}, "x_t is on meta, the sampler on cpu"),
        ({"x_t": np.zeros((3, 4), np.float32)}, r"x_t must be a torch\.Tensor, got a ndarray"),
        ({"x_t": [[0.0] * 4]}, r"x_t must be a torch\.Tensor, got a list"),
        ({"x_t": torch.full((3, 4), torch.nan)}, "not finite"),
        ({"x_t": torch.full((3, 4), torch.inf)}, "not finite"),
        ({"t": 0.0}, r"t must lie in \(0, 1\]"),
        ({"t": -0.1}, r"t must lie in \(0, 1\]"),
        ({"t": 1.1}, r"t must lie in \(0, 1\]"),
        ({"t": float("nan")}, r"t must lie in \(0, 1\]"),
        ({"t": torch.tensor([0.5, 0.5, 0.0])}, r"t must lie in \(0, 1\]"),
        ({"t": torch.tensor([0.5, 0.5])}, r"times must be a number or a tensor of shape \[3\]"),
        ({"t": torch.full((3, 1), 0.5)}, r"times must be a number or a tensor of shape \[3\]"),
        ({"t": "0.5"}, "times must be a number"),
        ({"t": None}, "times must be a number"),
        ({"mean_flow_steps": 0}, "mean_flow_steps must be"),
        ({"mean_flow_steps": "2"}, "mean_flow_steps must be"),
        ({"seed": -1}, "seed must be"),
        ({"seed": Noise.of(0, 2)}, "key of 2 samples, not 3"),
        ({"s": -0.1}, r"s must lie in \[0, t\]"),
        ({"s": 0.6}, r"s must lie in \[0, t\]"),
        ({"s": torch.tensor([0.1, 0.6, 0.1])}, r"s must lie in \[0, t\]"),
        ({"s": float("nan")}, r"s must lie in \[0, t\]"),
        ({"s": "0"}, "times must be a number"),
        ({"draws": 0}, "draws must be"),
        ({"draws": 1.5}, "draws must be"),
    ],
)
def test_senseless_states_and_times_are_refused(as_users_call, arguments, says):
    call = {"x_t": X_T, "t": 0.5, "seed": 0} | arguments
    if "draws" not in call:
        with pytest.raises(InvalidArgumentError, match=says):
            _toy().transition(**({"s": 0.1} | call))
    if "s" not in call:
        with pytest.raises(InvalidArgumentError, match=says):
            _toy().posterior(**call)


def test_what_an_objective_does_not_have_is_refused():
    with pytest.raises(InvalidArgumentError, match="DDPM has no Mean Flow inside: mean_flow_steps must be 1"):
        _toy("ddpm").sample(2, mean_flow_steps=2, seed=0)
    with pytest.raises(InvalidArgumentError, match="DDPM has no Mean Flow inside"):
        _toy("ddpm").posterior(X_T, 0.5, mean_flow_steps=2, seed=0)
    for steps in (2, [1.0, 0.5, 0.0]):
        with pytest.raises(InvalidArgumentError, match="inference_steps must be 1"):
            _toy("meanflow").sample(2, inference_steps=steps, seed=0)
    for call in (
        lambda: _toy("meanflow").posterior(X_T, 0.5),
        lambda: _toy("meanflow").transition(X_T, 0.5, 0.0),
    ):
        with pytest.raises(InvalidArgumentError, match="Mean Flow knows t = 1 only"):
            call()


# Loading


def test_a_loaded_model_samples_in_lower_precision_with_a_float32_state(model_path):
    exact = Sampler.from_pretrained(model_path, device="cpu").sample(8, seed=0)
    for dtype in (torch.bfloat16, torch.float16):
        x = Sampler.from_pretrained(model_path, device="cpu", dtype=dtype).sample(8, seed=0)
        assert x.dtype == torch.float32
        assert 0 < (x - exact).abs().mean() < 0.05


def test_a_sampler_takes_cuda_where_there_is_one_and_says_where_there_is_none(model_path):
    if torch.cuda.is_available():
        assert Sampler.from_pretrained(model_path).device.type == "cuda"
        return
    assert Sampler.from_pretrained(model_path).device == CPU
    with pytest.raises(DeviceError, match="CUDA was asked for, but"):
        Sampler.from_pretrained(model_path, device="cuda")
    with pytest.raises(DeviceError, match="CUDA was asked for, but"):
        resolve_device("cuda:1")


@pytest.mark.parametrize("device", ["gpu", "meta", "mps", "cpu:zero", 3.5, ""])
def test_other_devices_are_refused(as_users_call, device):
    with pytest.raises(DeviceError, match="device"):
        resolve_device(device)


def test_what_cannot_be_loaded_is_refused(model_path, tmp_path):
    with pytest.raises(InvalidArgumentError, match="dtype must be float32, bfloat16 or float16"):
        Sampler.from_pretrained(model_path, dtype=torch.float64)
    with pytest.raises(CheckpointError, match="no model 'nonesuch'"):
        Sampler.from_pretrained("nonesuch")
    (tmp_path / "model.pt").touch()
    with pytest.raises(CheckpointError, match=r"model\.pt: is a pickle"):
        Sampler.from_pretrained(tmp_path / "model.pt")
