"""The restoring sampler as one graph: its draws are those of ``Sampler.gibbs``, of the same keys."""

from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from stmd_export import WholeRestoration, export_onnx
from stmd_export.cli import export_app
from stmd_export.restoring import normals_at
from stmd_sdk import InvalidArgumentError, Noise, Sampler
from stmd_sdk.backends.session import open_session
from stmd_sdk.diffusion.classes import Classes
from stmd_sdk.diffusion.noise import AbstractNoise
from stmd_sdk.diffusion.vp import VPSchedule
from stmd_sdk.errors import CheckpointError
from stmd_sdk.inference.coupling import LinearCoupling
from stmd_sdk.inference.gibbs import annealed_gibbs, annealed_paths
from stmd_sdk.models.artefact import read_onnx
from stmd_sdk.models.objective import DDPM
from stmd_sdk.operators import GaussianNoise, Mask, Measurement
from stmd_sdk.operators.solve import SpectralDeflation
from stmd_sdk.runs.exported import ExportedRun, is_whole_sampler

from .conftest import BATCH, make_spec

LEVELS = 3


@pytest.fixture(scope="module")
def model(checkpoint, tmp_path_factory):
    spec = replace(make_spec("dit"), name="patches", classes=Classes(3, ("ant", "bee", "cow")))
    path, folder = checkpoint(spec), tmp_path_factory.mktemp("restoring")
    file = export_onnx(path, folder, whole=WholeRestoration(levels=LEVELS, takes_labels=True), batch=BATCH)
    return SimpleNamespace(path=path, file=file, sampler=Sampler.from_pretrained(path, device="cpu"))


def drawn(file, key, mask, y, shape):
    given = {"noise": normals_at(key, LEVELS, shape), "mask": mask, "y": y}
    if key.labels is not None:
        given["labels"] = key.labels
    return torch.from_numpy(open_session(file).run(["samples"], {name: one.numpy() for name, one in given.items()})[0])


@pytest.mark.parametrize("labels", [[-1] * 5, [0, 2, 1, -1, 0]])
def test_a_graph_draws_what_the_sampler_restores(model, labels):
    shape = model.sampler.spec.shape
    mask = (Noise.of(4, 1).uniform(1, 8, 8)[0] < 0.4).float()
    y = mask * model.sampler.sample(1, seed=2)
    key = Noise.of(7, 5, first=3).labelled(torch.tensor(labels))
    found = drawn(model.file, key, mask, y, shape)
    measured = Measurement(Mask(mask), y, GaussianNoise(0.02))
    expected = model.sampler.gibbs(measured, 5, steps=LEVELS, seed=key).samples
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert (mask * (found - drawn(model.file, key, mask, -y, shape))).abs().max() > 0.5  # it heeds y


def test_where_nothing_is_measured_y_says_nothing(model):
    shape, key = model.sampler.spec.shape, Noise.of(7, 2).labelled(torch.tensor([1, -1]))
    nothing = torch.zeros(1, 8, 8)
    one, other = (drawn(model.file, key, nothing, torch.full((1, *shape), y), shape) for y in (1.0, -0.5))
    assert torch.equal(one, other)
    assert bool(one.isfinite().all())
    assert one.std() > 0.1


def test_a_file_says_what_it_is_and_is_taken_for_nothing_else(model):
    artefact = read_onnx(model.file)[1]
    assert (artefact.kind, len(artefact.couplings), artefact.sigma) == ("restorer", LEVELS, 0.02)
    assert artefact.couplings[-1] == 0.02
    assert not is_whole_sampler(model.file)
    for opened in (Sampler.from_pretrained, ExportedRun.open):
        with pytest.raises(CheckpointError, match="is a whole restoring sampler"):
            opened(model.file)
    data = bytearray(model.file.read_bytes())
    data[len(data) // 2] ^= 1
    changed = model.file.with_name("changed.onnx")
    changed.write_bytes(data)
    with pytest.raises(CheckpointError):
        read_onnx(changed)


@dataclass(frozen=True)
class Recorder(AbstractNoise):
    """A key that notes where normals are drawn."""

    path: tuple = ()
    seen: list = field(default_factory=list)
    labels = None

    def fold(self, i):
        return replace(self, path=(*self.path, i))

    def normal(self, *shape):
        self.seen.append(self.path)
        return torch.ones(2, *shape)


def test_the_paths_are_those_that_annealed_draws_ask_for():
    noise, mask, y = Recorder(), Mask(torch.tensor([1.0, 0.0])), torch.zeros(1, 2)
    coupling = LinearCoupling(mask, y, SpectralDeflation(mask.spectrum(y), 1.0, 0.1), 0.1)

    def posterior(x_t, t, key):
        return key.normal(2)

    for _ in annealed_gibbs(posterior, VPSchedule(), coupling, [1.0, 0.3, 0.1], torch.zeros(2, 2), noise):
        pass
    assert noise.seen == list(annealed_paths(3))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"sigma": 0.001}, "below 0.01"),
        ({"levels": 0}, "levels"),
        ({"label": 1, "takes_labels": True}, "one label, or takes labels"),
        ({"label": "dog"}, "dog"),
        ({"operator": "sr4"}, "of 'mask'"),
    ],
)
def test_what_cannot_be_restored_is_refused(model, tmp_path, changes, says):
    with pytest.raises(InvalidArgumentError, match=says):
        export_onnx(model.path, tmp_path, whole=WholeRestoration(**changes), batch=BATCH)
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_knows_one_point_and_reduced_precision_are_refused(checkpoint, model, tmp_path):
    point = checkpoint(make_spec("mlp", objective=DDPM()), "point")
    with pytest.raises(InvalidArgumentError, match="needs draws"):
        export_onnx(point, tmp_path, whole=WholeRestoration(), batch=BATCH)
    with pytest.raises(InvalidArgumentError, match="fp32 alone"):
        export_onnx(model.path, tmp_path, whole=WholeRestoration(), precision="fp16", batch=BATCH)


@pytest.mark.long
def test_the_command_writes_it_for_one_class(checkpoint, tmp_path, quick_trace):
    path = checkpoint(make_spec("mlp"), "plain")
    options = ["--ckpt", path, "--restore", "mask", "--levels", LEVELS, "--sigma", 0.05, "--onnx", "--out", tmp_path]
    done = CliRunner().invoke(export_app, [*map(str, options), "--batch", "1:2:4"])
    assert done.exit_code == 0, done.output
    (file,) = tmp_path.glob("*.onnx")
    assert file.name == "mlp-restore-mask-l3-s0.05.onnx"
    key, mask, y = Noise.of(1, 3), torch.tensor([1.0, 0.0]), torch.tensor([[0.7, 0.0]])
    found = drawn(file, key, mask, y, (2,))
    sampler = Sampler.from_pretrained(path, device="cpu")
    expected = sampler.gibbs(Measurement(Mask(mask), y, GaussianNoise(0.05)), 3, steps=LEVELS, seed=key).samples
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--restore", "sr4", "--onnx"], "of 'mask', not of 'sr4'"),
        (["--restore", "mask", "--openvino"], "--onnx"),
        (["--restore", "mask", "--whole", "--onnx"], "without --whole"),
        (["--levels", "20", "--onnx"], "--restore"),
        (["--restore", "mask", "--guidance", "2", "--onnx"], "--whole"),
    ],
)
def test_options_that_do_not_go_together(options, says):
    done = CliRunner().invoke(export_app, ["--ckpt", "digits", *options])
    assert done.exit_code == 2
    assert says in done.output
