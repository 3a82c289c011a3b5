"""Operators: adjoints are adjoint, pseudoinverses invert, noise has its law, nonsense is refused."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from stmd_sdk import InvalidArgumentError, Noise
from stmd_sdk.operators import (
    Blur,
    Clip,
    GaussianNoise,
    Grayscale,
    Jpeg,
    Mask,
    Matrix,
    Measurement,
    PhaseRetrieval,
    PoissonNoise,
    RandomFourier,
    average_pool,
    bicubic,
    box_mask,
    check_linear,
    check_measurement,
    check_reachable,
    gaussian_projections,
    half_mask,
    latent_mask,
    random_mask,
    strokes_mask,
)

CPU = torch.device("cpu")
SHAPE, COLOUR = (1, 16, 16), (3, 16, 16)
LINEAR = {
    "box": (Mask(box_mask(SHAPE, 6)), SHAPE),
    "random": (Mask(random_mask(COLOUR, 0.3, 0)), COLOUR),
    "half": (Mask(half_mask(SHAPE)), SHAPE),
    "strokes": (Mask(strokes_mask(COLOUR, 4, 0)), COLOUR),
    "pool x2": (average_pool(SHAPE, 2), SHAPE),
    "pool x4": (average_pool(COLOUR, 4), COLOUR),
    "bicubic x2": (bicubic(SHAPE, 2), SHAPE),
    "bicubic x4": (bicubic(COLOUR, 4), COLOUR),
    "gaussian blur": (Blur.gaussian(1.0), COLOUR),
    "motion blur": (Blur.motion(7, 30.0), SHAPE),
    "grayscale": (Grayscale(), COLOUR),
    "projections": (gaussian_projections((20,), 7, 0), (20,)),
    "fourier": (RandomFourier(COLOUR, 100), COLOUR),
}


@pytest.mark.parametrize("name", LINEAR)
def test_linear_operators_are_linear_with_their_adjoint_and_pseudoinverse(name):
    operator, shape = LINEAR[name]
    noise = Noise.of(1, 3)
    x, z = noise.fold(0).normal(*shape), noise.fold(1).normal(*shape)
    a_x = operator.A(x)
    y = noise.fold(2).normal(*a_x.shape[1:])
    torch.testing.assert_close(operator.A(2 * x - z), 2 * a_x - operator.A(z), rtol=1e-4, atol=1e-4)
    left, right = ((u * v).flatten(1).sum(1) for u, v in ((a_x, y), (x, operator.A_adjoint(y))))
    torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-3)
    # The four conditions of Penrose: A A⁺ A = A, A⁺ A A⁺ = A⁺, and both products symmetric.
    dagger = operator.A_dagger(y)
    torch.testing.assert_close(operator.A(operator.A_dagger(a_x)), a_x, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(
        operator.A_dagger(operator.A(dagger)), dagger, rtol=1e-3, atol=1e-3 * float(dagger.abs().max())
    )
    projected = [(operator.A_dagger(operator.A(u)) * v).flatten(1).sum(1) for u, v in ((x, z), (z, x))]
    torch.testing.assert_close(*projected, rtol=1e-3, atol=1e-2)
    onto = [(operator.A(operator.A_dagger(u)) * v).flatten(1).sum(1) for u, v in ((y, a_x), (a_x, y))]
    torch.testing.assert_close(*onto, rtol=1e-3, atol=1e-2)
    check_linear(operator, shape, CPU)


def test_bicubic_is_pillows_antialiased_reduction():
    x = Noise.of(0, 1).uniform(1, 16, 16) * 255
    small = Image.fromarray(x[0, 0].numpy()).resize((4, 4), Image.Resampling.BICUBIC)
    # Pillow's kernel has a = -0.5 as PyTorch's antialiased one has; both work in float32 here.
    np.testing.assert_allclose(bicubic(SHAPE, 4).A(x)[0, 0], np.asarray(small), atol=1e-2)


def test_average_pool_and_blur_are_pytorchs():
    x = Noise.of(0, 2).normal(*COLOUR)
    torch.testing.assert_close(average_pool(COLOUR, 4).A(x), torch.nn.functional.avg_pool2d(x, 4))
    blur = Blur.motion(5, 20.0)
    side = blur.kernel.shape[0] // 2
    wrapped = torch.nn.functional.pad(x, (side,) * 4, mode="circular").reshape(6, 1, 16 + 2 * side, -1)
    direct = torch.nn.functional.conv2d(wrapped, blur.kernel.flip(0, 1)[None, None]).reshape(x.shape)
    torch.testing.assert_close(blur.A(x), direct, rtol=0, atol=5e-3)  # frequencies below 1e-3 are cut


def test_a_motion_blur_spreads_a_point_along_its_stroke():
    kernel = Blur.motion(9, 0.0).kernel
    middle = kernel.shape[0] // 2
    assert kernel.sum().item() == pytest.approx(1)
    assert kernel[middle].sum().item() == pytest.approx(1)
    rising = Blur.motion(9, 45.0).kernel
    assert rising[middle - 2, middle + 2] > 10 * rising[middle + 2, middle + 2]  # up is towards row 0


def test_jpeg_loses_more_at_lower_quality_and_nothing_of_a_flat_image():
    smooth = Blur.gaussian(2.0).A(Noise.of(0, 4).normal(1, 20, 20)).clamp(-1, 1)
    errors = [float((Jpeg(quality).A(smooth) - smooth).square().mean()) for quality in (5, 25, 75, 100)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 2e-5  # at quality 100 every step is 1 of 255 grey levels
    flat = torch.full((1, 1, 28, 28), 0.25)
    assert (Jpeg(50).A(flat) - flat).abs().max() <= 16 / 8 / 255 + 1e-6  # half a step of the mean, 16 / 8 levels


def test_phase_retrieval_sees_no_shift_and_no_sign():
    x = torch.zeros(1, 1, 16, 16)
    x[..., 2:6, 3:9] = Noise.of(0, 1).normal(1, 4, 6)
    operator = PhaseRetrieval()
    torch.testing.assert_close(operator.A(-x), operator.A(x))
    torch.testing.assert_close(operator.A(x.roll((5, 4), (2, 3))), operator.A(x), rtol=1e-4, atol=1e-5)
    assert operator.A(x).square().sum().item() == pytest.approx(float(x.square().sum()), rel=1e-4)  # Parseval


def test_clipping_keeps_what_is_in_range():
    x = torch.tensor([[-0.9, -0.2, 0.3, 0.8]])
    torch.testing.assert_close(Clip(2.0).A(x), torch.tensor([[-1.0, -0.4, 0.6, 1.0]]))


def test_poisson_noise_draws_the_law_of_its_likelihood():
    noise_model, clean = PoissonNoise(8.0), torch.full((1, 1), 0.5)
    rate, n = 6.0, 40_000
    k = ((noise_model.draw(clean.expand(n, 1), Noise.of(3, n)) + 1) * 4).round().long().flatten()
    counts = torch.arange(20)
    law = torch.tensor([math.exp(-rate) * rate**i / math.factorial(i) for i in counts.tolist()])
    likelihood = torch.cat([noise_model.log_likelihood(clean, (2 * i / 8 - 1).reshape(1, 1)) for i in counts])
    torch.testing.assert_close(likelihood.exp(), law, rtol=1e-4, atol=1e-7)
    # Pearson's chi-square over the 14 counts of expectation above 5; 1e-4 quantile of 13 degrees is 41.
    expected = law * n
    likely = expected > 5
    statistic = ((torch.bincount(k, minlength=20)[:20] - expected).square() / expected)[likely].sum()
    assert float(statistic) < 45
    noise_model.check(noise_model.draw(clean, Noise.of(0, 1)))


def test_a_measurement_is_the_log_density_of_its_noise():
    operator = gaussian_projections((5,), 3, 0)
    x = Noise.of(0, 4).normal(5)
    measurement = Measurement.of(operator, x[:1], GaussianNoise(0.3), Noise.of(1, 1))
    law = torch.distributions.Normal(operator.A(x), 0.3)
    torch.testing.assert_close(measurement(x), law.log_prob(measurement.y).sum(1))


class ForeignPhysics(torch.nn.Module):
    """What deepinv's LinearPhysics looks like from outside: a module whose methods take keyword arguments."""

    def A(self, x, **kwargs):
        return x[:, :, ::2]

    def A_adjoint(self, y, **kwargs):
        return torch.stack([y, torch.zeros_like(y)], dim=3).flatten(2, 3)

    def A_dagger(self, y, **kwargs):
        return self.A_adjoint(y)


class WrongAdjoint(ForeignPhysics):
    def A_adjoint(self, y, **kwargs):
        return 2 * super().A_adjoint(y)

    def A_dagger(self, y, **kwargs):
        return ForeignPhysics.A_adjoint(self, y)


class WrongDagger(ForeignPhysics):
    def A_dagger(self, y, **kwargs):
        return 0.5 * self.A_adjoint(y)


class Rows(ForeignPhysics):
    def A(self, x, **kwargs):
        return x.reshape(len(x), x.shape[1], -1)[:, :, ::2]


def test_a_foreign_linear_operator_passes_and_broken_ones_are_named():
    shape = (2, 8)
    check_linear(ForeignPhysics(), shape, CPU)
    with pytest.raises(InvalidArgumentError, match="WrongAdjoint: A_adjoint is not the adjoint"):
        check_linear(WrongAdjoint(), shape, CPU)
    with pytest.raises(InvalidArgumentError, match="WrongDagger: A_dagger is no pseudoinverse"):
        check_linear(WrongDagger(), shape, CPU)
    with pytest.raises(InvalidArgumentError, match="Clip has no method A_adjoint"):
        check_linear(Clip(), shape, CPU)


def test_measurements_of_a_wrong_shape_or_range_are_refused():
    mask = Mask(half_mask(SHAPE))
    y = torch.zeros(SHAPE)
    assert check_measurement(mask, y, SHAPE, CPU).shape == (1, *SHAPE)
    with pytest.raises(InvalidArgumentError, match=r"one measurement of shape \[1, 16, 16\], got \[5, 1, 16, 16\]"):
        check_measurement(mask, y.expand(5, *SHAPE), SHAPE, CPU)
    with pytest.raises(InvalidArgumentError, match="not finite"):
        check_measurement(mask, y + torch.nan, SHAPE, CPU)
    with pytest.raises(InvalidArgumentError, match="does not take samples of shape"):
        check_measurement(average_pool(SHAPE, 2), y, (1, 12, 20), CPU)
    check_reachable(mask, mask.A(y[None] - 1), 1.0)
    with pytest.raises(InvalidArgumentError, match="scale images to"):
        check_reachable(mask, mask.A(y[None] + 255), 1.0)
    with pytest.raises(InvalidArgumentError, match="give sigma"):
        check_reachable(mask, y[None] + 0.5, 1.0)
    with pytest.raises(InvalidArgumentError, match="y must be 2 k / peak - 1"):
        Measurement(mask, y[None] + 0.031, PoissonNoise(10.0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Mask(torch.full((1, 4, 4), 255.0)), "must hold 0 and 1 alone"),
        (lambda: Mask(torch.zeros(1, 4, 4)), "hides every pixel"),
        (lambda: average_pool((1, 28, 28), 3), "cannot be reduced 3 times"),
        (lambda: Blur(torch.ones(2, 2)), "odd sides"),
        (lambda: Blur.gaussian(5.0).A(torch.zeros(1, 1, 8, 8)), "larger than the image"),
        (lambda: Matrix(torch.ones(2, 5), (4,)), "does not apply"),
        (lambda: Jpeg(0), "quality must be"),
        (lambda: Clip(0.5), "gain must be"),
        (lambda: GaussianNoise(0.0), "sigma must be positive"),
        (lambda: PoissonNoise(-1.0), "peak must be positive"),
        (lambda: box_mask((2,), 1), "masks are for images"),
        (lambda: random_mask(SHAPE, 1.5, 0), "share of kept pixels"),
        (lambda: latent_mask(half_mask(SHAPE), 5), "does not divide"),
    ],
)
def test_parameters_that_mean_nothing_are_refused(make, message):
    with pytest.raises(InvalidArgumentError, match=message):
        make()
