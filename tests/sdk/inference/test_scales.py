"""Scales and copies: measurements of standardised vectors, or beyond all noise; functions that work in place."""

import pytest
import torch

from stmd_sdk import InferenceError, InvalidArgumentError, ModelSpec, Noise, Sampler
from stmd_sdk.codecs.codec import PixelCodec, VectorCodec
from stmd_sdk.inference.guidance import LikelihoodGuide, values_of
from stmd_sdk.models.objective import STMD
from stmd_sdk.networks import MLPConfig, UNetConfig
from stmd_sdk.operators import Blur, GaussianNoise, Mask, Matrix, Measurement, average_pool, half_mask

CPU = torch.device("cpu")
MEAN, SCALE = (1000.0, -3.0, 0.5), (1.0, 300.0, 1e-3)
CODEC, PLAIN = VectorCodec(MEAN, SCALE), VectorCodec()


def standard(codec=PLAIN):
    """The exact sampler of N(0, I), as the network sees it: its residual about that law's posterior is noise alone."""
    spec = ModelSpec("normal", STMD("residual"), (3,), MLPConfig(width=8, depth=1), codec, sigma_data=1.0)
    return Sampler(lambda x, times: torch.zeros_like(x[:, :3]), spec, CPU)


def images():
    network = UNetConfig(channels=(8, 16), groups=4, embedding_width=16)
    spec = ModelSpec("images", STMD("residual"), (1, 8, 8), network, PixelCodec())
    return Sampler(lambda x, times: torch.zeros_like(x[:, :1]), spec, CPU)


def test_a_codec_of_columns_is_undone_by_its_inverse_and_fits_its_samples():
    x = Noise.of(0, 1000).normal(3).double() * torch.tensor(SCALE) + torch.tensor(MEAN)
    found = VectorCodec.standardising(x)
    seen = found.encode(x)
    torch.testing.assert_close(seen.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(seen.std(0, correction=0), torch.ones(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.decode(seen), x.float(), rtol=1e-6, atol=1e-6)
    for mean, scale in (((0.0,), ()), ((0.0,), (0.0,)), ((torch.inf,), (1.0,)), ((0.0,), (-1.0,))):
        with pytest.raises(InvalidArgumentError, match=r"mean|scale"):
            VectorCodec(mean, scale)
    with pytest.raises(InvalidArgumentError, match="3 columns, for samples of shape"):
        ModelSpec("m", STMD(), (2,), MLPConfig(width=8, depth=1), CODEC)
    spec = standard(CODEC).spec
    assert ModelSpec.from_json(spec.to_json(), "here") == spec


def test_samples_are_on_the_users_scale():
    x, seen = standard(CODEC).sample(100, seed=3), standard().sample(100, seed=3)
    torch.testing.assert_close(x, torch.tensor(MEAN) + torch.tensor(SCALE) * seen)


@pytest.mark.parametrize("method", ["condition", "chain"])
def test_a_measurement_of_standardised_vectors_is_one_of_the_users_samples(method):
    """Gaussian data and a linear measurement: the posterior is known."""
    matrix = torch.tensor([[1.0, 0.01, 0.0], [0.0, 0.002, 400.0]])
    y, sigma, n = torch.tensor([[1003.0, 200.5]]), 0.7, 20_000
    prior = torch.tensor(SCALE).double().square().diag()
    a, m = matrix.double(), torch.tensor(MEAN).double()
    gain = prior @ a.T @ torch.linalg.inv(a @ prior @ a.T + sigma**2 * torch.eye(2, dtype=torch.float64))
    mean, covariance = m + gain @ (y[0].double() - a @ m), prior - gain @ a @ prior
    operator = Matrix(matrix, (3,))
    if method == "condition":
        x = standard(CODEC).condition(operator, y[0], sigma=sigma).sample(n, inference_steps=2, seed=0)
    else:
        likelihood = Measurement(operator, y, GaussianNoise(sigma))
        x = standard(CODEC).chain(likelihood, n, steps=30, seed=0).samples
    deviation = covariance.diagonal().sqrt()
    assert (((x.double().mean(0) - mean) / deviation).abs() < 0.05).all()
    assert ((x.double().std(0) / deviation).log().abs() < 0.05).all()


@pytest.mark.parametrize("sigma", [0.02, 0.3, 2.0])
def test_a_measurement_beyond_what_noise_explains_is_refused(sigma):
    sampler, x = images(), Noise.of(1, 1).uniform(1, 8, 8) * 2 - 1
    for operator in (Mask(half_mask((1, 8, 8))), average_pool((1, 8, 8), 2), Blur.gaussian(1.0)):
        clean = operator.A(x.sign())  # the longest that there is
        for k in range(5):
            noisy = clean + sigma * Noise.of(2, 1).fold(k).normal(*clean.shape[1:])
            sampler.condition(operator, noisy, sigma=sigma)
        bytes_of = operator.A((x + 1) * 127.5)
        with pytest.raises(InvalidArgumentError, match="scale images to"):
            sampler.condition(operator, bytes_of, sigma=sigma)
        with pytest.raises(InvalidArgumentError, match="scale images to"):
            sampler.chain(Measurement(operator, bytes_of, GaussianNoise(sigma)), 4, steps=1, seed=0)


def test_measurements_that_are_complex_are_refused():
    class Fourier:
        A = staticmethod(torch.fft.fft2)
        A_adjoint = A_dagger = staticmethod(torch.fft.ifft2)

    with pytest.raises(InvalidArgumentError, match="must be real numbers"):
        images().condition(Fourier(), torch.fft.fft2(torch.zeros(1, 8, 8)))


def pure(x):
    return -((x - 1) ** 2).sum(1)


def in_place(x):
    x -= 1
    return -(x**2).sum(1)


def test_functions_that_work_in_place_change_nothing_but_their_own_copy():
    sampler = standard()
    one, two = (sampler.steer(f, particles=200, inference_steps=3, seed=0) for f in (pure, in_place))
    assert torch.equal(one.samples, two.samples)
    assert one.log_evidence == two.log_evidence
    one, two = (sampler.chain(f, 100, steps=20, seed=0) for f in (pure, in_place))
    assert torch.equal(one.samples, two.samples)
    guides = (LikelihoodGuide(f, sampler.spec.schedule, 1.0) for f in (pure, in_place))
    one, two = (sampler.guided(guide).sample(10, inference_steps=2, seed=0) for guide in guides)
    assert torch.equal(one, two)


def test_values_that_are_no_numbers_are_refused():
    for values in (lambda x: x.sum(1) > 0, lambda x: x.sum(1) * 1j):
        with pytest.raises(InvalidArgumentError, match="must be real numbers"):
            values_of(values, torch.zeros(3, 2))


def test_samples_that_are_not_finite_are_refused():
    spec = standard().spec

    def broken(x, times):
        return torch.where(torch.arange(len(x))[:, None] == 1, torch.nan, torch.zeros_like(x[:, :3]))

    with pytest.raises(InferenceError, match="1 of 4 samples have values that are not finite"):
        Sampler(broken, spec, CPU).sample(4, seed=0, inference_steps=1)
