"""Laws of class labels: they go where their rows go, and the network hears the label of its row and no other."""

import json
from dataclasses import replace

import pytest
import torch

from stmd_sdk.codecs.codec import PixelCodec, VectorCodec
from stmd_sdk.diffusion.classes import UNLABELLED, Classes
from stmd_sdk.diffusion.labelled import LabelledNetwork
from stmd_sdk.diffusion.noise import Noise
from stmd_sdk.errors import CheckpointError, InvalidArgumentError
from stmd_sdk.models.objective import DDPM, STMD, MeanFlow
from stmd_sdk.models.spec import ModelSpec
from stmd_sdk.networks import DiTConfig, MLPConfig, UNetConfig
from stmd_sdk.runs.chunks import chunked

CLASSES = Classes(3, ("ant", "bee", "cow"))
SPECS = {
    "unet": ModelSpec("unet", STMD(), (1, 8, 8), UNetConfig(channels=(8,), attention=(0,), groups=4), PixelCodec()),
    "dit": ModelSpec("dit", MeanFlow(), (1, 8, 8), DiTConfig(depth=1, width=16, heads=2), PixelCodec()),
    "mlp": ModelSpec("mlp", DDPM(), (4,), MLPConfig(width=16, depth=1), VectorCodec()),
}
kinds = pytest.mark.parametrize("kind", SPECS)


def built(spec):
    """Its network, of one seed, away from the zeros that it starts from."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = spec.build_network().eval().requires_grad_(False)
    for i, parameter in enumerate(network.parameters()):
        parameter.add_(0.1 * Noise.of(7, 1).fold(i).normal(*parameter.shape)[0])
    return network


def test_labels_go_where_their_rows_go_and_decide_nothing_that_is_drawn():
    plain = Noise.of(5, 6, first=10)
    key = plain.labelled(torch.tensor([0, 1, 2, 0, 1, UNLABELLED]))
    moved = key.fold(3)[2:6].draws(2).fold(1).to(torch.device("cpu"))
    assert moved.labels.tolist() == [2, 0, 1, -1] * 2
    assert torch.equal(moved.normal(2), plain.fold(3)[2:6].draws(2).fold(1).normal(2))
    assert moved[1::2].labels.tolist() == [0, -1, 0, -1]
    with pytest.raises(InvalidArgumentError, match="6 rows need as many labels"):
        plain.labelled(torch.zeros(5, dtype=torch.long))


@kinds
def test_a_network_with_a_table_of_zeros_is_the_one_without_classes(kind):
    spec, other = SPECS[kind], replace(SPECS[kind], classes=CLASSES)
    plain, conditional = built(spec), built(other)
    x, times = Noise.of(1, 5).normal(spec.in_channels, *spec.shape[1:]), Noise.of(2, 5).uniform(spec.times)
    labels = torch.tensor([0.0, 1.0, 2.0, 3.0, 1.0])[:, None]
    assert other.times == spec.times + 1
    table = conditional.embed.classes.weight
    conditional.load_state_dict({**plain.state_dict(), "embed.classes.weight": table})
    assert not torch.equal(conditional(x, torch.cat([times, labels], 1)), plain(x, times))
    table.zero_()
    assert torch.equal(conditional(x, torch.cat([times, labels], 1)), plain(x, times))


@kinds
def test_each_row_hears_its_own_label_through_posterior_and_chunks(kind, monkeypatch):
    spec = replace(SPECS[kind], classes=CLASSES)
    network = built(spec)
    posterior = spec.build_posterior(network)
    x_t, t, key = Noise.of(1, 4).normal(*spec.shape), torch.ones(4), Noise.of(2, 4)
    monkeypatch.setattr("stmd_sdk.runs.chunks.rows_at_once", lambda shape, device: 3)
    alone = [posterior(x_t, t, key.labelled(torch.full((4,), label))) for label in (0, 1, 2, UNLABELLED)]
    assert all(bool((a - b).abs().amax() > 1e-3) for i, a in enumerate(alone) for b in alone[:i])
    mixed = chunked(posterior)(x_t, t, key.labelled(torch.tensor([2, UNLABELLED, 0, 1])))
    expected = torch.stack([alone[2][0], alone[3][1], alone[0][2], alone[1][3]])
    torch.testing.assert_close(mixed, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(posterior(x_t, t, key), alone[3])


def test_the_label_is_the_last_column_of_the_times():
    seen = []
    given = LabelledNetwork(lambda x, times: seen.append(times) or x, torch.tensor([4, UNLABELLED]), Classes(10))
    given(torch.zeros(2, 1), torch.tensor([[0.5, 0.25], [1.0, 0.0]]))
    assert seen[0].tolist() == [[0.5, 0.25, 4.0], [1.0, 0.0, 10.0]]


def test_a_model_that_never_saw_a_row_without_a_label_draws_none():
    posterior = replace(SPECS["mlp"], classes=Classes(3, null=False)).build_posterior(lambda x, times: x)
    with pytest.raises(InvalidArgumentError, match="trained with labels alone"):
        posterior(torch.zeros(2, 4), torch.ones(2), Noise.of(0, 2))
    posterior(torch.zeros(2, 4), torch.ones(2), Noise.of(0, 2).labelled(torch.tensor([0, 2])))


def test_the_spec_brings_back_its_classes_and_files_without_them_are_as_they_were():
    plain = SPECS["mlp"]
    spec = replace(plain, classes=CLASSES)
    read = ModelSpec.from_json(spec.to_json(), "here")
    assert (read.classes.count, read.classes.names, read.classes.null) == (3, ("ant", "bee", "cow"), True)
    assert "classes" not in json.loads(plain.to_json())
    assert ModelSpec.from_json(plain.to_json(), "here").classes is None


@pytest.mark.parametrize(
    ("classes", "says"),
    [
        ({"count": 0}, "classes must be an integer from 1"),
        ({"count": 2, "names": ["a"]}, "1 names for 2 classes"),
        ({"count": 2, "names": ["a", "a"]}, "must differ"),
        ({"count": 2, "names": ["a", ""]}, "none be empty"),
        ({"count": 2, "colour": 1}, r"classes\.colour: unknown key"),
    ],
)
def test_classes_that_are_none_are_refused(classes, says):
    values = {**json.loads(SPECS["mlp"].to_json()), "classes": classes}
    with pytest.raises(CheckpointError, match=says):
        ModelSpec.from_json(json.dumps(values), "here")
