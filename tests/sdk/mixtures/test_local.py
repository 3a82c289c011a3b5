"""Local Gaussians: their posterior is the exact one, and y of data that they fit is noise that ignores x_t."""

import base64
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from stmd_sdk import InvalidArgumentError, Noise, VPSchedule
from stmd_sdk.cli.app import app
from stmd_sdk.diffusion.posterior import FlowPosterior
from stmd_sdk.diffusion.target import ResidualTarget
from stmd_sdk.diffusion.velocity import NetworkVelocity
from stmd_sdk.evaluation import GaussianMixture, kernel_certificate, mixture
from stmd_sdk.mixtures import local as local_gaussians
from stmd_sdk.mixtures.local import LocalGaussians, MixtureTarget
from stmd_sdk.models.checkpoint import save_model
from stmd_sdk.models.objective import STMD
from stmd_sdk.models.spec import ModelSpec
from stmd_sdk.networks import MLPConfig

SCHEDULE = VPSchedule()
TIMES = (1e-3, 0.1, 0.4, 1.0)


def stmd_posterior(network, target, output="velocity", mean_flow_steps=1, bound=None):
    return FlowPosterior(NetworkVelocity(network, target, output), target, mean_flow_steps, bound)


def gaussians_of(law):
    return LocalGaussians.of(law.weights, law.means, law.covariances)


def skewed():
    """Three Gaussians of unlike weights and shapes, whose posteriors overlap, in four dimensions."""
    factors = Noise.of(1, 3).normal(4, 4).double()
    covariances = 0.1 * torch.eye(4, dtype=torch.float64) + 0.2 * factors @ factors.mT
    return GaussianMixture(
        torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64), Noise.of(0, 3).normal(4).double(), covariances
    )


LAWS = {"mixture64": mixture("mixture64"), "skewed": skewed()}
laws = pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)


def looks(law, n):
    """x_0, x_t and t at each of the times."""
    t = torch.tensor(TIMES).repeat_interleave(n)
    x_0 = law.sample(Noise.of(0, len(t)))
    return x_0, SCHEDULE.marginal(x_0, t, Noise.of(1, len(t)).normal(*law.shape)), t


@laws
def test_a_y_of_x_0_decodes_to_x_0(law):
    x_0, x_t, t = looks(law, 500)
    target = MixtureTarget(SCHEDULE, gaussians_of(law))
    y = target.encode(x_0, x_t, t, Noise.of(2, len(t)))
    torch.testing.assert_close(target.decode(y, x_t, t), x_0, atol=2e-4, rtol=0)
    # Where several Gaussians hold x_0, another key chooses another of its y; both decode to it.
    other = target.encode(x_0, x_t, t, Noise.of(3, len(t)))
    assert law is LAWS["mixture64"] or (other - y).abs().max() > 0.5
    torch.testing.assert_close(target.decode(other, x_t, t), x_0, atol=2e-4, rtol=0)


@laws
def test_the_y_of_data_that_the_gaussians_fit_is_noise_that_ignores_x_t(law):
    n = 20_000
    x_0, x_t, t = looks(law, n)
    y = MixtureTarget(SCHEDULE, gaussians_of(law)).encode(x_0, x_t, t, Noise.of(2, len(t)))
    error, tests = n**-0.5, y.shape[1] ** 2
    bound = float(torch.special.ndtri(torch.tensor(1 - 0.001 / tests)))  # one in a thousand, over all tests
    for drawn, seen in zip(y.double().view(4, n, -1), x_t.double().view(4, n, -1), strict=True):
        assert drawn.mean(dim=0).abs().max() < bound * error
        both = torch.cov(torch.cat([drawn, seen / seen.std(dim=0)], dim=1).T)
        d = drawn.shape[1]
        assert (both[:d, :d] - torch.eye(d)).abs().max() < bound * 2**0.5 * error
        assert both[:d, d:].abs().max() < bound * error
        # The first number chooses the mode, and is normal beyond its variance.
        assert (drawn[:, 0] ** 4).mean() == pytest.approx(3, abs=5 * 96**0.5 * error)


def test_noise_decodes_to_draws_of_the_exact_posterior():
    law = mixture("mixture2d")
    target = MixtureTarget(SCHEDULE, gaussians_of(law))

    def posterior(x_t, t, noise):
        return target.decode(noise.normal(2), x_t, t)

    found = kernel_certificate(posterior, law, SCHEDULE, pairs=2000)
    assert min(one.p_value for one in found.findings if one.p_value is not None) > 1e-4
    # Draws that took every mode for as likely would fail it.
    weights = torch.tensor([0.3, *[0.1] * 7], dtype=torch.float64)
    target = MixtureTarget(SCHEDULE, LocalGaussians.of(weights, law.means, law.covariances))
    found = kernel_certificate(posterior, law, SCHEDULE, pairs=2000)
    assert min(one.p_value for one in found.findings if one.p_value is not None) < 1e-10


def test_one_round_gaussian_is_the_residual_target():
    round_one = GaussianMixture.isotropic(torch.zeros(1, 3), 0.7)
    x_0, x_t, t = looks(round_one, 200)
    target, residual = MixtureTarget(SCHEDULE, gaussians_of(round_one)), ResidualTarget(SCHEDULE, 0.7)
    y = residual.residual(x_0, x_t, t)
    torch.testing.assert_close(target.encode(x_0, x_t, t, Noise.of(0, len(t))), y, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(target.decode(y, x_t, t), x_0, atol=1e-4, rtol=1e-4)


def test_rows_do_not_depend_on_the_chunks_they_come_in(monkeypatch):
    x_0, x_t, t = looks(LAWS["skewed"], 50)
    target, key = MixtureTarget(SCHEDULE, gaussians_of(LAWS["skewed"])), Noise.of(2, len(t))
    y = target.encode(x_0, x_t, t, key)
    whole = target.decode(y, x_t, t)
    monkeypatch.setattr(local_gaussians, "CHUNK", 3 * 3 * 4)
    # At the smallest time y is a difference over 0.03.
    torch.testing.assert_close(target.encode(x_0, x_t, t, key), y, atol=1e-3, rtol=0)
    torch.testing.assert_close(target.decode(y, x_t, t), whole, atol=1e-5, rtol=0)


def test_autocast_leaves_the_change_of_variables_in_float32():
    x_0, x_t, t = looks(LAWS["skewed"], 50)
    target, key = MixtureTarget(SCHEDULE, gaussians_of(LAWS["skewed"])), Noise.of(2, len(t))
    with torch.autocast("cpu", torch.bfloat16):
        y = target.encode(x_0, x_t, t, key)
        drawn = target.decode(y, x_t, t)
    assert torch.equal(y, target.encode(x_0, x_t, t, key))
    assert torch.equal(drawn, target.decode(y, x_t, t))


def test_the_quantile_inverts_the_normal_distribution():
    p = torch.linspace(1e-6, 1 - 1e-6, 10_001, dtype=torch.float64)
    # In float64 the error is the polynomials' own.
    assert (local_gaussians._quantile(p) / torch.special.ndtri(p) - 1)[p != 0.5].abs().max() < 1e-6
    ends = torch.tensor([0.0, 1.0], requires_grad=True)
    local_gaussians._quantile(ends).sum().backward()
    assert ends.grad.isfinite().all()


@pytest.mark.parametrize("mean_flow_steps", [1, 2, 5])
def test_without_a_correction_the_flow_brings_noise_to_the_same_noise(mean_flow_steps):
    # From N(0, I) to N(0, I) the flow's map is the identity, though its velocity is not zero.
    posterior = stmd_posterior(
        lambda x, times: torch.zeros(len(x), 4),
        MixtureTarget(SCHEDULE, gaussians_of(LAWS["skewed"])),
        "correction",
        mean_flow_steps,
    )
    x_t, key = Noise.of(0, 100).normal(4), Noise.of(1, 100)
    torch.testing.assert_close(posterior.draw_y(x_t, torch.full((100,), 0.3), key), key.normal(4), atol=1e-5, rtol=1e-5)


def numbers(change=lambda n: n):
    raw = np.frombuffer(base64.b64decode(gaussians_of(LAWS["skewed"]).parameters), "<f4")
    return base64.b64encode(change(raw.copy()).astype("<f4").tobytes()).decode()


def with_entry(i, value):
    def change(raw):
        raw[i] = value
        return raw

    return change


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        (numbers()[:-16], "numbers are not"),
        ("§", "not base64"),
        ("AAA", "not base64"),
        (numbers(with_entry(1, -0.1)), "positive weights"),
        (numbers(with_entry(4, np.nan)), "finite"),
        (numbers(with_entry(3 + 12, -1.0)), "positive eigenvalues"),
        (numbers(with_entry(3 + 12, np.inf)), "finite"),
    ],
)
def test_parameters_that_are_no_mixture_are_refused(parameters, says):
    with pytest.raises(InvalidArgumentError, match=says):
        LocalGaussians(3, 4, parameters)


def spec(**changes):
    whole = ModelSpec(
        "skewed",
        STMD("mixture", "correction"),
        (4,),
        MLPConfig(width=16, depth=1),
        LAWS["skewed"].codec,
        local_gaussians=gaussians_of(LAWS["skewed"]),
    )
    return replace(whole, **changes)


def test_the_spec_carries_the_gaussians():
    read = ModelSpec.from_json(spec().to_json(), "a test")
    assert read == spec()
    x_t, t, key = Noise.of(0, 9).normal(4), torch.full((9,), 0.5), Noise.of(1, 9)
    network = spec().build_network().eval().requires_grad_(False)
    assert torch.equal(read.build_posterior(network)(x_t, t, key), spec().build_posterior(network)(x_t, t, key))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"local_gaussians": None}, "target 'mixture' needs them"),
        ({"objective": STMD("residual")}, "no other has them"),
        ({"shape": (5,)}, "of shape"),
    ],
)
def test_a_spec_that_does_not_fit_its_gaussians_is_refused(changes, says):
    with pytest.raises(InvalidArgumentError, match=says):
        spec(**changes)


def test_info_says_how_many_gaussians_there_are_and_not_their_numbers(tmp_path):
    save_model(tmp_path / "local.safetensors", spec(), spec().build_network().state_dict())
    result = CliRunner().invoke(app, ["info", str(tmp_path / "local.safetensors")])
    assert result.exit_code == 0, result.output
    assert "clusters 3" in result.output
    assert spec().local_gaussians.parameters[:20] not in result.output
