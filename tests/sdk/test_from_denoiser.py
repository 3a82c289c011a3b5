"""Any denoiser is a sampler: of an exact one all that it draws is exact."""

import pytest
import torch

from stmd_sdk import CheckpointError, InvalidArgumentError, Noise, Sampler
from stmd_sdk.evaluation import mixture
from stmd_sdk.evaluation.certify import certify_model
from stmd_sdk.evaluation.kernel import conditional_energy
from stmd_sdk.evaluation.oracle import oracle_pairs
from stmd_sdk.models.checkpoint import save_model
from stmd_sdk.operators import GaussianNoise, Mask, Measurement

DATA = mixture("mixture2d")
Y, SIGMA = torch.tensor([[1.0, 0.0]]), 0.1  # of the first coordinate alone


@pytest.fixture(scope="module")
def sampler():
    return Sampler.from_denoiser(DATA.denoise, shape=(2,), sigma_data=DATA.root_mean_square(), device="cpu")


def _first_coordinate():
    return Mask(torch.tensor([1.0, 0.0]))


@pytest.mark.parametrize("steps", [1, 3])
def test_samples_are_the_mixture_s_for_every_n(sampler, steps):
    x = sampler.sample(1500, inference_steps=steps, seed=0)
    assert float(x.square().sum(dim=1).mean()) == pytest.approx(1.4**2 + 2 * 0.15**2, rel=0.03)
    assert float((x.norm(dim=1) - 1.4).std()) == pytest.approx(0.15, abs=0.015)
    modes = (torch.atan2(x[:, 1], x[:, 0]) / (torch.pi / 4)).round().long() % 8
    assert bool((modes.bincount(minlength=8) > 130).all())


def test_posteriors_are_the_mixture_s(sampler):
    exact = oracle_pairs(DATA, sampler.spec.schedule, 0.3, Noise.of(0, 1000))
    drawn = sampler.posterior(exact.x_t, 0.3, draws=8, seed=1)
    distance, scale = conditional_energy(drawn, exact.oracle)
    assert abs(float(distance.mean() / scale.mean())) < 0.025  # three standard errors
    assert float(drawn.var(dim=0).sum(dim=1).mean() / exact.trace.mean()) == pytest.approx(1, abs=0.03)


def test_a_transition_goes_where_two_steps_go(sampler):
    x_1 = Noise.of(3, 1500).normal(2)
    x_half = sampler.transition(x_1, 1.0, 0.5, mean_flow_steps=8, seed=0)
    alpha = sampler.spec.schedule.alpha(torch.tensor(0.5))
    expected = alpha**2 * (1.4**2 / 2 + 0.15**2) + 1 - alpha**2
    assert float(x_half.var(dim=0).mean()) == pytest.approx(float(expected), rel=0.05)


def test_what_is_measured_is_met(sampler):
    """All methods put x_1 near y; the exact ones x_2 where the circle's modes then are, at ±1, for .96 of the mass.

    Gibbs without resampling misjudges the mass of modes: .85.
    """
    likelihood = Measurement(_first_coordinate(), Y, GaussianNoise(SIGMA))
    draws = {
        "gibbs": sampler.gibbs(likelihood, 200, steps=20, mean_flow_steps=4, seed=0).samples,
        "chain": sampler.chain(likelihood, 200, steps=10, mean_flow_steps=4, seed=0).samples,
        "steer": sampler.steer(likelihood, 400, inference_steps=8, mean_flow_steps=4, seed=0).samples,
    }
    for method, x in draws.items():
        assert float(((x[:, 1].abs() - 0.98).abs() < 0.5).double().mean()) > 0.8, method
    draws["condition"] = sampler.condition(_first_coordinate(), Y, sigma=SIGMA).sample(200, mean_flow_steps=4, seed=0)
    for method, x in draws.items():
        assert abs(float(x[:, 0].mean()) - 1) < 0.12, method


def test_a_sample_is_itself_in_any_batch_and_costs_n_times_m(sampler):
    calls = []
    counted = Sampler.from_denoiser(lambda x, s: calls.append(1) or DATA.denoise(x, s), shape=(2,), device="cpu")
    calls.clear()
    x = counted.sample(6, inference_steps=2, mean_flow_steps=3, seed=0)
    assert len(calls) == 6
    alone = counted.sample(1, inference_steps=2, mean_flow_steps=3, seed=0, first=4)
    torch.testing.assert_close(x[4:5], alone, atol=1e-6, rtol=0)
    calls.clear()
    counted.posterior(x, 0.5, seed=0)
    assert len(calls) == 16


def test_its_denoiser_is_the_one_given(sampler):
    x, sigma = Noise.of(0, 5).normal(2), torch.full((5,), 0.4)
    assert torch.equal(sampler.denoiser(x, sigma), DATA.denoise(x, sigma))


def test_images_are_clamped_and_vectors_are_not():
    def denoise(x, sigma):
        return 3 / (1 + sigma.reshape(-1, *[1] * (x.ndim - 1))) * torch.ones_like(x)

    images = Sampler.from_denoiser(denoise, shape=(1, 2, 2), device="cpu").sample(2, seed=0)
    vectors = Sampler.from_denoiser(denoise, shape=(4,), device="cpu").sample(2, seed=0)
    assert float(images.max()) == 1
    assert float(vectors.max()) > 2


@pytest.mark.parametrize(
    ("denoise", "says"),
    [
        (lambda x, sigma: x[:, :1], r"denoise: returned \[2, 1\] for x of shape \[2, 2\]"),
        (lambda x, sigma: x / (sigma - sigma)[:, None], "not finite at sigma = 0.5"),
        (lambda x, sigma: x / (1 + (sigma > 3) * float("inf"))[:, None] * float("inf"), "not finite"),
        (lambda x, sigma: 0.5 * x, "the same for one x at sigma = 0.5 and 5"),
        (lambda x, sigma: None, "must return a torch.Tensor, got a NoneType"),
        (lambda x, sigma: x.numpy(), "must return a torch.Tensor, got a ndarray"),
        (None, "must be a function"),
    ],
)
def test_what_is_no_denoiser_is_refused(as_users_call, denoise, says):
    with pytest.raises(InvalidArgumentError, match=says):
        Sampler.from_denoiser(denoise, shape=(2,), device="cpu")


def test_a_function_is_in_no_file(sampler, tmp_path):
    with pytest.raises(InvalidArgumentError, match="in no file"):
        sampler.spec.build_network()
    save_model(tmp_path / "model.safetensors", sampler.spec, {})
    with pytest.raises(CheckpointError, match=r"describes no network .*in no file"):
        Sampler.from_pretrained(tmp_path / "model.safetensors")


def test_too_few_steps_are_no_certificate(tmp_path, monkeypatch, sampler):
    monkeypatch.setattr(Sampler, "from_pretrained", lambda *_, **__: sampler)
    with pytest.raises(InvalidArgumentError, match=r"mean_flow_steps = 4: .*give at least 8"):
        certify_model("x", "mixture2d", out=tmp_path / "out", mean_flow_steps=4)
