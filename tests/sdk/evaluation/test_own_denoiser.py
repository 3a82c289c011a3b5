"""A model against its own denoiser: an exact one agrees with itself, a narrow one does not."""

import json

import pytest
import torch
from typer.testing import CliRunner

from stmd_sdk import InvalidArgumentError, ModelSpec, Sampler
from stmd_sdk.cli.app import app
from stmd_sdk.codecs.codec import VectorCodec
from stmd_sdk.diffusion.target import ResidualTarget
from stmd_sdk.evaluation.own_denoiser import certify_own_denoiser
from stmd_sdk.models.objective import DDPM, STMD
from stmd_sdk.networks import MLPConfig

SPEC = ModelSpec("gauss", STMD("residual"), (3,), MLPConfig(width=8, depth=1), VectorCodec(), sigma_data=0.7)


def _sampler(average_velocity, width):
    exact = average_velocity(ResidualTarget(SPEC.schedule, 0.7), 0.4, 0.7)

    def network(x, times):
        """The exact velocity where it is the denoiser's; draws whose noise is scaled by ``width``."""
        z = x[:, :3]
        narrow = exact(x, times) + (1 - width) * z
        return torch.where(times[:, 1:2] == 0, exact(x, times.clamp(min=1e-4)), narrow)

    return Sampler(network, SPEC, torch.device("cpu"))


@pytest.mark.parametrize(("width", "low", "high"), [(1.0, 0.9, 1.1), (0.7, 0.4, 0.6)])
def test_a_narrow_draw_disagrees_with_its_own_denoiser(average_velocity, monkeypatch, tmp_path, width, low, high):
    monkeypatch.setattr(Sampler, "from_pretrained", lambda *_, **__: _sampler(average_velocity, width))
    report = certify_own_denoiser("gauss", out=tmp_path / "own", pairs=300)
    ratios = [one.estimate.value for one in report.certificate.findings if one.measure == "variance ratio"]
    assert len(ratios) == 5
    assert all(low < ratio < high for ratio in ratios)
    energies = [one.estimate.value for one in report.certificate.findings if one.measure == "energy distance"]
    assert (abs(sum(energies) / 5) < 0.013) == (width == 1)  # 0.026 for Gaussians of these deviations
    assert len(json.loads((tmp_path / "own.json").read_text())["findings"]) == 10


def test_what_has_no_draws_beside_its_denoiser_s_is_refused(monkeypatch, tmp_path):
    for sampler in (
        Sampler(lambda x, times: x, ModelSpec("ddpm", DDPM(), (3,), SPEC.network, VectorCodec()), torch.device("cpu")),
        Sampler.from_denoiser(lambda x, sigma: x / (1 + sigma[:, None]), shape=(3,), device="cpu"),
    ):
        monkeypatch.setattr(Sampler, "from_pretrained", lambda *_, sampler=sampler, **__: sampler)
        with pytest.raises(InvalidArgumentError, match="has no draws beside its denoiser's"):
            certify_own_denoiser("x", out=tmp_path / "own")


def test_the_command_prints_it_as_no_verdict(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = CliRunner().invoke(app, ["certify", "mixture2d", "--against", "own-denoiser", "--pairs", "16"])
    assert ran.exit_code == 0, ran.output
    assert "No verdict" in " ".join(ran.output.split())
    assert (tmp_path / "mixture2d-own-denoiser.json").is_file()
    refused = CliRunner().invoke(app, ["certify", "mixture2d", "--against", "oracle"])
    assert refused.exit_code == 2
