"""Captured runs: the samples are the plain sampler's, and nothing in a run waits for the host or copies from it."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from stmd_sdk import DeviceError, InvalidArgumentError, ModelSpec, Noise, Sampler
from stmd_sdk.backends.torch import TorchNetwork
from stmd_sdk.codecs.codec import PixelCodec, VectorCodec
from stmd_sdk.diffusion.philox import fold
from stmd_sdk.models.checkpoint import save_model
from stmd_sdk.models.objective import BY_KIND, STMD
from stmd_sdk.networks import DiTConfig, MLPConfig, UNetConfig
from stmd_sdk.runs.captured import GRAPHS, MAX_EVALUATIONS, CapturedRun, Graphs, bucket_of, normals_of

CPU = torch.device("cpu")
UNET = UNetConfig(channels=(8, 16), groups=4, embedding_width=16)
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def _images(network=UNET, objective="stmd"):
    trained = STMD("residual") if objective == "stmd" else BY_KIND[objective]()
    return ModelSpec("images", trained, (1, 8, 8), network, PixelCodec())


def _vectors(objective="stmd"):
    return ModelSpec("vectors", BY_KIND[objective](), (4,), MLPConfig(width=8, depth=1), VectorCodec())


def _formula(x, times):
    """A network that is row by row the same in every batch."""
    return torch.tanh(x[:, :4] + times.sum(1, keepdim=True)) + 0.3 * x[:, -4:]


def _repeating(record=lambda work: work()):
    """A recorder on the CPU: like a graph's, a recorded work's result lies in one place."""
    recorded = []

    def recording(work):
        result = record(work)
        recorded.append(len(result))

        def replay():
            with torch.inference_mode():
                return result.copy_(work())

        return replay

    return SimpleNamespace(turn=nullcontext, record=recording, recorded=recorded)


def _captured(network=_formula, spec=None, recorder=None):
    spec = spec or _vectors()
    return Sampler(network, spec, CPU, captured=CapturedRun(Graphs(network, spec, CPU, recorder or _repeating())))


# The samples


@pytest.mark.parametrize("n", [1, 5, 8])
@pytest.mark.parametrize(
    ("objective", "steps", "mean_flow_steps"), [("stmd", 3, 2), ("meanflow", 1, 2), ("ddpm", 9, 1)]
)
def test_captured_runs_draw_the_plain_samplers_samples(objective, steps, mean_flow_steps, n):
    spec = _vectors(objective)
    run = {"inference_steps": steps, "mean_flow_steps": mean_flow_steps}
    plain, captured = Sampler(_formula, spec, CPU), _captured(spec=spec)
    for seed in (2**64 - 1, 4):  # the first records, the second replays
        drawn = captured.sample(n, seed=seed, first=2**32 - 8, **run)
        assert torch.equal(drawn, plain.sample(n, seed=seed, first=2**32 - 8, **run))
        assert not drawn.is_inference()
    noise = Noise.of(7, 20).fold(3)[4 : 4 + n]
    assert torch.equal(captured.sample(n, seed=noise, **run), plain.sample(n, seed=noise, **run))


def test_a_captured_unet_draws_what_it_draws_uncaptured_and_the_same_again():
    spec = _images()
    network = TorchNetwork(spec.build_network().eval().requires_grad_(False), CPU, torch.float32)
    plain, captured = Sampler(network, spec, CPU), _captured(network, spec)
    expected = plain.sample(16, inference_steps=2, seed=1)
    assert expected.std() > 0.1
    for _ in range(2):
        assert torch.equal(captured.sample(16, inference_steps=2, seed=1), expected)
    assert torch.allclose(captured.sample(11, inference_steps=2, seed=1, first=5), expected[5:], atol=1e-5)


def test_the_noise_of_many_keys_at_once_is_that_of_each():
    noise, steps = Noise.of(2**64 - 3, 6, first=2**32 - 6).fold(8).draws(3), torch.arange(40)
    found = normals_of(torch.from_numpy(fold(noise.key, steps.numpy())), noise.indices, (3, 5))
    assert torch.equal(found, torch.stack([noise.fold(i).normal(3, 5) for i in range(40)]))


def test_a_sample_outlives_the_next_run():
    captured = _captured()
    first = captured.sample(4, seed=0)
    kept = first.clone()
    captured.sample(4, seed=1)
    assert torch.equal(first, kept)


# The graphs


def test_rows_run_in_the_next_power_of_two_that_fits():
    assert [bucket_of(rows, 64) for rows in (1, 2, 3, 5, 16, 17, 33, 64)] == [1, 2, 4, 8, 16, 32, 64, 64]
    assert [bucket_of(rows, 48) for rows in (20, 40, 48)] == [32, 48, 48]


def test_there_is_one_recording_a_bucket_grid_and_m_and_few_are_kept():
    recorder = _repeating()
    sampler = _captured(recorder=recorder)
    for n in (5, 7, 8, 6):
        sampler.sample(n, inference_steps=2, seed=n)
    assert recorder.recorded == [8]
    sampler.sample(40, inference_steps=2, seed=0, batch_size=16)
    assert recorder.recorded == [8, 16]  # two of sixteen, and eight in the one there was
    for grid in ([1.0, 0.5, 0.0], [1.0, 0.4, 0.0]):
        sampler.sample(8, inference_steps=grid, seed=0)
    sampler.sample(8, inference_steps=2, mean_flow_steps=2, seed=0)
    assert recorder.recorded == [8, 16, 8, 8]  # a count is its grid, another grid and another M are not
    for steps in range(3, 3 + GRAPHS):
        sampler.sample(1, inference_steps=steps, seed=0)
    sampler.sample(8, inference_steps=2, seed=0)
    assert recorder.recorded == [8, 16, 8, 8, *[1] * GRAPHS, 8]


def test_guides_trajectories_and_long_runs_go_step_by_step():
    recorder, plain = _repeating(), Sampler(_formula, _vectors(), CPU)
    sampler = _captured(recorder=recorder)
    many = MAX_EVALUATIONS // 2 + 1
    guided = sampler.guided(lambda posterior: lambda x_t, t, noise: 2 * posterior(x_t, t, noise))
    assert not torch.equal(guided.sample(3, seed=0), plain.sample(3, seed=0))
    list(sampler.trajectory(3, seed=0))
    drawn = sampler.sample(3, inference_steps=many, mean_flow_steps=2, seed=0)
    assert torch.equal(drawn, plain.sample(3, inference_steps=many, mean_flow_steps=2, seed=0))
    assert recorder.recorded == []
    sampler.sample(3, inference_steps=many - 1, mean_flow_steps=2, seed=0)
    assert recorder.recorded == [4]


def test_a_run_that_cannot_be_captured_is_an_error_that_says_eager():
    def broken(_):
        raise RuntimeError("operation not permitted when stream is capturing\nat some place")

    with pytest.raises(DeviceError, match=r"4 samples cannot be captured.*capturing; load the model with eager=True"):
        _captured(recorder=_repeating(broken)).sample(3, seed=0)

    def ours(_):
        raise InvalidArgumentError("an argument")

    with pytest.raises(InvalidArgumentError, match="an argument"):
        _captured(recorder=_repeating(ours)).sample(3, seed=0)


def test_where_memory_runs_out_smaller_graphs_are_captured():
    def small(work):
        result = work()
        if len(result) > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return result

    recorder = _repeating(small)
    drawn = _captured(recorder=recorder).sample(24, seed=0)
    assert torch.equal(drawn, Sampler(_formula, _vectors(), CPU).sample(24, seed=0))
    assert recorder.recorded == [8]
    with pytest.raises(DeviceError, match="12 samples at once do not fit"):
        _captured(recorder=recorder).sample(24, seed=0, batch_size=12)


# What a capture forbids.


@pytest.mark.parametrize(
    "offence",
    [
        lambda x: x.sum().item(),
        lambda x: bool((x > 0).all()),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: torch.tensor([1.0, 2.0], device=x.device),
        lambda x: torch.tensor(1.0),
        lambda x: x + torch.ones(3),
        lambda x: x * torch.ones(()),
        lambda x: torch.ones(3).to(x.device),
        lambda x: torch.empty_like(x).copy_(torch.ones(3)),
    ],
)
def test_the_referee_sees_offences(offence, referee):
    refused = 0
    for device in ("meta", "cpu"):
        try:
            with referee():
                offence(torch.empty(3, device=device))
        except (AssertionError, NotImplementedError):
            refused += 1
    assert refused > 0


@pytest.mark.parametrize(("device", "dtype"), [("meta", torch.bfloat16), ("cpu", torch.float32)])
@pytest.mark.parametrize(
    "spec",
    [_images(), _images(objective="meanflow"), _images(objective="ddpm"), _images(DiTConfig(1, 16, 2)), _vectors()],
    ids=lambda spec: f"{spec.network.kind}-{spec.objective.kind}",
)
def test_a_run_neither_reads_a_value_nor_crosses_devices(spec, device, dtype, referee):
    def record(work):
        with referee():
            return work()

    device = torch.device(device)
    network = TorchNetwork(spec.build_network().eval().requires_grad_(False), device, dtype)
    captured = CapturedRun(Graphs(network, spec, device, _repeating(record)), most=4)
    times = (1.0, 0.0) if spec.objective.kind == "meanflow" else (1.0, 0.6, 0.0)
    drawn = captured(Noise.of(0, 3, device=device), times, 1 if spec.objective.kind == "ddpm" else 2)
    assert (drawn.shape, drawn.device, drawn.dtype) == ((3, *spec.shape), device, torch.float32)


# On a GPU


@pytest.fixture
def model(tmp_path):
    spec = _images()
    save_model(tmp_path / "images.safetensors", spec, spec.build_network().state_dict())
    return tmp_path / "images.safetensors"


def test_on_the_cpu_nothing_is_captured(model):
    for eager in (False, True):
        sampler = Sampler.from_pretrained(model, device="cpu", eager=eager)
        assert isinstance(sampler.network, TorchNetwork)
        assert sampler.captured is None


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_graphs_draw_what_eager_draws_and_the_same_again(model, dtype, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # other batches, other products of ten bits
    captured = Sampler.from_pretrained(model, device="cuda", dtype=dtype)
    eager = Sampler.from_pretrained(model, device="cuda", dtype=dtype, eager=True)
    assert captured.captured is not None
    assert eager.captured is None
    for n, seed in ((16, 1), (5, 2), (16, 3), (1, 4)):
        drawn = captured.sample(n, mean_flow_steps=2, seed=seed)
        assert torch.allclose(drawn, eager.sample(n, mean_flow_steps=2, seed=seed), atol=1e-4 + 30 * _epsilon(dtype))
        assert torch.equal(drawn, captured.sample(n, mean_flow_steps=2, seed=seed))


def _epsilon(dtype):
    return 0.0 if dtype == torch.float32 else torch.finfo(dtype).eps


@pytest.mark.gpu
@needs_cuda
@pytest.mark.filterwarnings("ignore:.*Profiler clears events:UserWarning")
def test_a_replay_is_one_launch_and_streams_take_turns(model):
    sampler = Sampler.from_pretrained(model, device="cuda")
    expected = [sampler.sample(8, seed=seed) for seed in range(6)]
    streams = [torch.cuda.Stream() for _ in range(3)]
    torch.cuda.synchronize()
    drawn = []
    for seed in range(6):
        with torch.cuda.stream(streams[seed % 3]):
            drawn.append(sampler.sample(8, seed=seed))
    torch.cuda.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(drawn, expected, strict=True))
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profiled:
        sampler.sample(8, seed=0)
        torch.cuda.synchronize()
    assert sum(event.count for event in profiled.key_averages() if event.key == "cudaGraphLaunch") == 1


@pytest.mark.gpu
@needs_cuda
def test_a_capture_that_synchronises_is_refused():
    spec = _vectors()

    def reading(x, times):
        return _formula(x, times) * float(x.sum() > -torch.inf)

    sampler = _captured_on_cuda(reading, spec)
    with pytest.raises(DeviceError, match="eager=True"):
        sampler.sample(4, seed=0)
    assert torch.ones(3, device="cuda").sum().item() == 3  # the device goes on


def _captured_on_cuda(network, spec):
    from stmd_sdk.runs.captured import CudaGraphs

    cuda = torch.device("cuda")
    return Sampler(network, spec, cuda, captured=CapturedRun(Graphs(network, spec, cuda, CudaGraphs(cuda))))
