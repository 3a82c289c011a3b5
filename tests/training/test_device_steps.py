"""Steps that a device makes without the host: what is learned, when they stop, and that nothing in one can wait."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file

from stmd_sdk.codecs.codec import PixelCodec
from stmd_sdk.data.arrays import ArrayData
from stmd_sdk.diffusion.noise import Noise
from stmd_sdk.errors import DeviceError, TrainingError
from stmd_training.batches import batches_of, resident
from stmd_training.device_steps import device_steps, uncaptured
from stmd_training.recipe import load_recipe
from stmd_training.run import TrainingRun
from stmd_training.steps import TrainState
from stmd_training.trainer import train

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
IMAGES = (
    "shape=[1, 8, 8]",
    "network={kind='unet', channels=[8, 16], groups=4, embedding_width=16}",
    "energy_score={weight=3.0, differences=0.3, patches=0.3, patch_sizes=[4]}",
)
KINDS = {
    "images": ("mnist-compact-calibrated", IMAGES),
    "classes": ("mnist-compact-classes", IMAGES),
    "paper": ("mnist", IMAGES[:2]),
    "meanflow": ("mnist-meanflow", IMAGES[:2]),
    "ddpm": ("mnist-ddpm", IMAGES[:2]),
    "transformer": ("mnist", (IMAGES[0], "network={kind='dit', depth=1, width=16, heads=2, patch_size=2}")),
    "vectors": ("mixture2d-calibrated", ("network={kind='mlp', width=16, depth=1}",)),
}
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def of(kind, *settings):
    name, own = KINDS[kind]
    common = ("batch_size=8", "steps=6", "log_every=1", "warmup_steps=2", "precision=float32")
    return load_recipe(name, (*common, *own, *settings))


def data_of(recipe):
    values = Noise.of(5, 20).uniform(*recipe.shape) * 255
    labels = torch.arange(20) % 10 if recipe.classes else None
    codec = PixelCodec() if len(recipe.shape) == 3 else recipe.codec
    array = values.to(torch.uint8) if len(recipe.shape) == 3 else values / 255
    return ArrayData("some", array, codec, labels)


def started(recipe, device=CPU):
    """A state whose optimizer skips steps, as a GPU's does; its loss; its batches."""
    spec = recipe.model_spec(1.0, {})
    state = TrainState.fresh(spec, recipe, device)
    if device.type == "cpu":
        rate = torch.tensor(recipe.learning_rate)
        state.optimizer = torch.optim.AdamW(state.parameters.values(), lr=rate, weight_decay=0.0, fused=True)
    batches = batches_of(resident(data_of(recipe), device), recipe.batch_size, recipe.seed, recipe.unlabelled_share)
    return state, recipe.loss(spec, state.loss_weights), batches


def learned(state):
    return {name: tensor.detach().clone() for name, tensor in (*state.parameters.items(), *state.ema.items())}


@pytest.mark.parametrize("kind", ["classes", "ddpm", "transformer", "vectors"])
def test_a_device_learns_what_the_host_does(kind):
    recipe = of(kind, "steps=4")
    host, loss, batches = started(recipe)
    expected = list(train(host, loss, batches, recipe))
    device, loss, batches = started(recipe)
    recorded = []
    found = list(device_steps(device, loss, batches, recipe, lambda work: recorded.append(work()) or work))
    assert len(recorded) == 1
    for one, other in zip(found, expected, strict=True):
        assert (one.step, one.learning_rate) == (other.step, other.learning_rate)
        assert math.isclose(one.loss, other.loss, rel_tol=1e-4)
        assert math.isclose(one.gradient_norm, other.gradient_norm, rel_tol=1e-3)
    start = learned(started(recipe)[0])
    for name, tensor in learned(host).items():
        assert torch.allclose(learned(device)[name], tensor, atol=1e-6), name
    assert any(not torch.equal(tensor, start[name]) for name, tensor in learned(device).items())


def test_it_pauses_where_something_is_logged_drawn_or_saved_and_at_the_end():
    recipe = of("vectors", "steps=20", "log_every=4", "sample_every=7", "checkpoint_every=10")
    state, loss, batches = started(recipe)
    assert [step.step for step in device_steps(state, loss, batches, recipe, uncaptured)] == [
        4,
        7,
        8,
        10,
        12,
        14,
        16,
        20,
    ]


def test_a_step_that_is_not_finite_teaches_nothing_and_neither_do_those_after_it():
    recipe = of("vectors", "log_every=6", "decay=constant")
    good = replace(recipe, steps=3)
    state, loss, batches = started(recipe)
    list(device_steps(state, loss, batches, good, uncaptured))
    expected, moments = learned(state), [dict(one) for one in state.optimizer.state.values()]

    class Broken:
        labels = batches.labels

        def __call__(self, step):
            return batches(step) * (math.nan if step == 3 else 1)

    state, loss, _ = started(recipe)
    with pytest.raises(TrainingError, match=r"step 4: the loss is nan .* the last checkpoint is intact"):
        list(device_steps(state, loss, Broken(), recipe, uncaptured))
    assert state.step == 3
    assert all(torch.equal(tensor, expected[name]) for name, tensor in learned(state).items())
    for one, other in zip(state.optimizer.state.values(), moments, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in ("step", "exp_avg", "exp_avg_sq"))


def test_a_step_that_cannot_be_captured_is_an_error_that_says_eager():
    def broken(_):
        raise RuntimeError("operation not permitted when stream is capturing\nat some place")

    recipe = of("vectors")
    state, loss, batches = started(recipe)
    with pytest.raises(DeviceError, match=r"a training step cannot be captured.*capturing; train with --eager"):
        list(device_steps(state, loss, batches, recipe, broken))


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_neither_reads_a_value_nor_copies_from_the_host(kind, referee):
    def watched(work):
        with referee():
            work()
        return work

    recipe = of(kind, "steps=1", "microbatches=2")
    state, loss, batches = started(recipe)
    assert list(device_steps(state, loss, batches, recipe, watched))


@pytest.mark.parametrize("kind", KINDS)
def test_a_loss_does_not_cross_devices(kind, referee, monkeypatch):
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: False)  # which knows nothing of the meta device
    recipe, meta = of(kind), torch.device("meta")
    spec = recipe.model_spec(1.0, {})
    state = TrainState.fresh(spec, recipe, meta)
    labels = torch.zeros(8, dtype=torch.int64, device=meta) if recipe.classes else None
    seed = torch.zeros((), dtype=torch.int64, device=meta)
    key = Noise(seed, torch.arange(8, device=meta), labels=labels)
    with referee():
        loss = recipe.loss(spec, state.loss_weights)
        loss(state.network, torch.zeros(8, *recipe.shape, device=meta), key).mean().backward()
    assert all(parameter.grad is not None for parameter in state.network.parameters())


@pytest.mark.parametrize("seed", [0, 2**63 + 5, 2**64 - 1])
def test_a_key_on_a_device_draws_what_the_number_draws(seed):
    noise = Noise.of(seed, 6, first=2**32 - 6).fold(3).fold(2**40).draws(2)
    key = noise.key - 2**64 if noise.key >= 2**63 else noise.key
    tensors = Noise(torch.tensor(key), noise.indices)
    for i in (0, 7):
        assert torch.equal(tensors.fold(i).normal(3, 5), noise.fold(i).normal(3, 5))
        assert torch.equal(tensors.fold(i).fold(1).uniform(7), noise.fold(i).fold(1).uniform(7))
    assert torch.equal(tensors[2:5].draws(2).normal(4), noise[2:5].draws(2).normal(4))


# On a GPU


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("kind", KINDS)
def test_captured_steps_are_the_eager_ones_bit_for_bit(kind, tmp_path):
    recipe = of(kind, "steps=12", "checkpoint_every=6", "sample_every=100", "decay=constant")
    for name, eager, steps in (("captured", False, (12,)), ("eager", True, (12,)), ("resumed", False, (6, 12))):
        for last in steps:
            run = TrainingRun(replace(recipe, steps=last), data_of(recipe), tmp_path / name, CUDA, eager=eager)
            run(progress=False)
    states = [load_file(tmp_path / name / "state.safetensors") for name in ("captured", "eager", "resumed")]
    for one, other in pairwise(states):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_gpu_learns_what_the_host_does(precision):
    recipe = of("classes", f"precision={precision}")
    states = []
    for device in (CPU, CUDA):
        state, loss, batches = started(recipe, device)
        list(train(state, loss, batches, recipe, record=uncaptured if device == CUDA else None))
        states.append(learned(state))
    start = learned(started(recipe)[0])
    moved = sum(float((tensor - start[name]).square().sum()) for name, tensor in states[0].items())
    apart = sum(float((states[1][name].cpu() - tensor).square().sum()) for name, tensor in states[0].items())
    assert apart < 0.05 * moved
