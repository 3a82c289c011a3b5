"""Laws of training with classes: each row's loss hears its own label, and who asks for a class gets it."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from stmd_sdk import DataError, InvalidArgumentError, Noise, Sampler, TrainingError
from stmd_sdk.codecs.codec import VectorCodec
from stmd_sdk.data.arrays import ArrayData
from stmd_sdk.data.load import load_data
from stmd_sdk.diffusion.classes import UNLABELLED, Classes
from stmd_sdk.errors import DataWarning
from stmd_sdk.models.tensors import read_metadata, read_tensors, write_tensors
from stmd_training.batches import batches_of
from stmd_training.recipe import load_recipe
from stmd_training.run import TrainingRun
from stmd_training.taught import Guided, Taught, guidance_of, guided_rows
from stmd_training.tilt import tilted_recipe

PLAIN = (
    "network={kind='mlp', width=32, depth=1}", "shape=[2]", "codec.kind=vector", "classes=3", "batch_size=64",
    "steps=8", "checkpoint_every=4", "log_every=1", "sample_every=1000", "learning_rate=3e-3", "warmup_steps=0",
    "decay=constant", "flow.power=0",
)  # fmt: skip
OBJECTIVES = {
    "stmd": ("target=residual", "energy_score.weight=1", "learned_weights=true"),
    "stmd, the error of x0": ("target=residual", "energy_score.weight=1", "error_of=x0"),
    "meanflow": ("objective=meanflow",),
    "ddpm": ("objective=ddpm",),
    "stmd, guidance inside": ("target=residual", "energy_score.weight=1", "guided=3"),
}


def recipe_of(*settings):
    return load_recipe("mixture2d", (*PLAIN, *settings))


def three_spots(n=600):
    """Class c about the point (2c - 2, 1), deviation 0.2."""
    labels = torch.arange(n) % 3
    points = torch.stack([2.0 * labels - 2, torch.ones(n)], dim=1) + 0.2 * Noise.of(0, n).normal(2)
    return ArrayData("spots", points, VectorCodec(), labels, ("left", "middle", "right"))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_each_row_s_loss_hears_its_own_label(objective):
    recipe = recipe_of(*OBJECTIVES[objective])
    spec = recipe.model_spec(1.0, {})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = spec.build_network()
    torch.nn.init.normal_(network.leave.weight)
    loss, x_0, key = recipe.loss(spec, None), Noise.of(1, 8).normal(2), Noise.of(2, 8)
    labels = torch.tensor([0, 1, 2, UNLABELLED, 0, 1, 2, UNLABELLED])
    before = loss(network, x_0, key.labelled(labels))
    for row in range(8):
        other = labels.clone()
        other[row] = 2 if labels[row] == 0 else 0
        moved = (loss(network, x_0, key.labelled(other)) - before).abs() > 1e-6
        assert moved.nonzero().flatten().tolist() == [row]


def test_a_share_of_the_rows_is_hidden_and_all_others_have_their_own_labels():
    data = three_spots()
    batches, plain = batches_of(data, 500, 3, 0.1), batches_of(data, 500, 3)
    hidden = 0
    for step in range(20):
        labels = batches.labels(step)
        assert torch.equal(labels, batches_of(data, 500, 3, 0.1).labels(step))
        seen = labels != UNLABELLED
        assert torch.equal(labels[seen], (batches(step)[seen, 0] / 2 + 1).round().long())
        assert torch.equal(plain.labels(step)[seen], labels[seen])
        hidden += int((~seen).sum())
    assert abs(hidden / 10_000 - 0.1) < 4 * (0.1 * 0.9 / 10_000) ** 0.5
    assert batches_of(load_data("mixture2d"), 50, 3, 0.1).labels(0) is None


@pytest.mark.long
def test_who_asks_for_a_class_gets_it_and_who_asks_for_none_gets_all(tmp_path):
    rarely = "checkpoint_every=300", "log_every=300"
    settings = "steps=300", "batch_size=128", "unlabelled_share=0.2", "ema=0.98", *rarely
    recipe = recipe_of(*OBJECTIVES["stmd"], *settings)
    sampler = Sampler.from_pretrained(TrainingRun(recipe, three_spots(), tmp_path)(progress=False), device="cpu")
    assert sampler.spec.classes.names == ("left", "middle", "right")
    labels = torch.arange(300) % 3

    def classes_of(key):
        return (sampler.sample(300, seed=key)[:, 0] / 2 + 1).round().long().clamp(0, 2)

    assert float((classes_of(Noise.of(1, 300).labelled(labels)) == labels).float().mean()) > 0.95
    counts = torch.bincount(classes_of(Noise.of(1, 300)), minlength=3)
    assert int(counts.min()) > 50


@pytest.mark.long
def test_guidance_inside_moves_away_from_other_classes_in_one_evaluation(tmp_path):
    rarely = "checkpoint_every=300", "log_every=300"
    settings = "steps=300", "batch_size=128", "unlabelled_share=0.2", "ema=0.98", *rarely
    recipe = recipe_of(*OBJECTIVES["stmd, guidance inside"], *settings)
    overlapping = replace(three_spots(), array=three_spots().array + Noise.of(9, 600).normal(2))
    sampler = Sampler.from_pretrained(TrainingRun(recipe, overlapping, tmp_path)(progress=False), device="cpu")
    calls = []
    seen = sampler.network.module.register_forward_hook(lambda module, inputs, found: calls.append(len(found)))

    def mean(w):
        return float(sampler.sample(2000, labels="right", guidance=w, inference_steps=1, seed=0)[:, 0].mean())

    assert mean(3.0) > mean(1.0) + 0.25
    assert sum(calls) == 4000
    seen.remove()


def test_a_run_that_was_stopped_ends_with_the_weights_of_one_that_was_not(tmp_path):
    recipe = recipe_of(*OBJECTIVES["stmd"])
    whole = TrainingRun(recipe, three_spots(), tmp_path / "whole")(progress=False)
    TrainingRun(replace(recipe, steps=4), three_spots(), tmp_path / "stopped")(progress=False)
    stopped = TrainingRun(recipe, three_spots(), tmp_path / "stopped")(progress=False)
    for name, tensor in load_file(whole).items():
        assert torch.equal(load_file(stopped)[name], tensor), name
    with pytest.raises(TrainingError, match="on other data"):
        TrainingRun(recipe, replace(three_spots(), labels=three_spots().labels.flip(0)), tmp_path / "stopped")(
            progress=False
        )


def test_guided_rows_learn_the_velocity_that_two_evaluations_would_combine():
    v, z, x_t = (Noise.of(seed, 8).normal(2) for seed in (1, 2, 3))
    t, tau, r = torch.linspace(0.1, 0.8, 8), torch.linspace(0.2, 0.9, 8), torch.zeros(8)
    labels = torch.tensor([0, 1, 2, 0, UNLABELLED, 1, 2, 0])
    rows = guided_rows(8, moving=6)
    assert rows == slice(3, 7)  # three of six, and one of the two others
    w = guidance_of(Classes(3, guided=3.0), Noise.of(5, 8).labelled(labels), rows)
    assert w[[0, 1, 2, 4, 7]].tolist() == [1.0] * 5
    assert bool(((w[[3, 5, 6]] > 1) & (w[[3, 5, 6]] < 3)).all())

    def unlabelled(z, r, tau, x_t, t):
        assert torch.equal(r, tau)
        return 2 * z - x_t + t[:, None]

    found = Taught(guided=Guided(rows, w[rows], unlabelled))(v, z, r, tau, x_t, t)
    expected = w[:, None] * v + (1 - w[:, None]) * (2 * z - x_t + t[:, None])
    torch.testing.assert_close(found, expected)
    taught = Taught(lambda z, r, tau, x_t, t: -z, Guided(rows, w[rows], unlabelled))(v, z, r, tau, x_t, t)
    torch.testing.assert_close(taught, expected - w[:, None] * (v + z))
    assert guidance_of(Classes(3), Noise.of(5, 8).labelled(labels), rows) is None


def test_a_teacher_teaches_a_network_that_never_saw_a_row_without_a_label():
    recipe = recipe_of("unlabelled_share=0")
    spec = recipe.model_spec(1.0, {})
    key = Noise.of(2, 8).labelled(torch.arange(8) % 3)
    loss = recipe.loss(spec, None, lambda noise: lambda x, sigma: x / (1 + sigma[:, None] ** 2))
    assert bool(loss(spec.build_network(), Noise.of(1, 8).normal(2), key).isfinite().all())


@pytest.mark.parametrize("objective", ["stmd", "stmd, guidance inside"])
def test_pieces_of_a_batch_have_the_labels_of_their_rows(tmp_path, objective):
    # AdamW blows up rounding where a gradient is next to none, by as much as the rate.
    recipe = recipe_of(*OBJECTIVES[objective], "steps=3", "learned_weights=false", "learning_rate=3e-4")
    one, two = (
        TrainingRun(replace(recipe, microbatches=pieces), three_spots(), tmp_path / str(pieces))(progress=False)
        for pieces in (1, 4)
    )
    for name, tensor in load_file(one).items():
        torch.testing.assert_close(load_file(two)[name], tensor, atol=1e-5, rtol=1e-4)


def test_a_model_with_classes_is_not_tilted():
    spec = recipe_of().model_spec(1.0, {"recipe": "mixture2d"})
    with pytest.raises(InvalidArgumentError, match="mixture2d has classes"):
        tilted_recipe(spec, None, (), "data")


def test_a_run_from_before_there_were_classes_goes_on(tmp_path):
    settings = tuple(setting for setting in PLAIN if setting != "classes=3")
    recipe = load_recipe("mixture2d", (*settings, "steps=4"))
    run = TrainingRun(recipe, three_spots(), tmp_path)
    run(progress=False)
    tensors, metadata = read_tensors(run.state_path)
    old = json.loads(read_metadata(run.state_path)["recipe"])
    for key in ("classes", "class_names", "unlabelled_share"):
        del old[key]
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    write_tensors(run.state_path, tensors, {**metadata, "recipe": json.dumps(old)})
    TrainingRun(replace(recipe, steps=6), three_spots(), tmp_path)(progress=False)


def test_data_that_have_not_the_classes_of_the_recipe_are_refused(tmp_path):
    data = three_spots()
    with pytest.raises(DataError, match="has no labels, and recipe 'mixture2d' is for 3 classes"):
        TrainingRun(recipe_of(), replace(data, labels=None), tmp_path)
    with pytest.raises(DataError, match="has no labels"):
        TrainingRun(recipe_of(), load_data("mixture2d"), tmp_path)
    with pytest.raises(DataError, match=r"labels up to 2, .* for 0 to 1; .*classes=3"):
        TrainingRun(recipe_of("classes=2"), data, tmp_path)
    with pytest.raises(DataError, match="left, middle, right, and recipe 'mixture2d' calls them a, b, c"):
        TrainingRun(recipe_of("class_names=['a', 'b', 'c']"), data, tmp_path)
    with pytest.warns(DataWarning, match="no sample is of class 3, which"):
        TrainingRun(recipe_of("classes=4"), data, tmp_path)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (("classes=-1",), "classes must be an integer from 1"),
        (("class_names=['a']",), "1 names for 3 classes"),
        (("unlabelled_share=1",), r"unlabelled_share: must lie in \[0, 1\)"),
        (("classes=0", "unlabelled_share=0.2"), "need classes"),
    ],
)
def test_a_recipe_of_impossible_classes_is_refused(settings, says):
    with pytest.raises(InvalidArgumentError, match=says):
        recipe_of(*settings)
