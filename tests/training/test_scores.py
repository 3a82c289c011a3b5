"""Laws of the energy score of fine scales: proper, blind to what it does not look at, one patch is the whole."""

import pytest
import torch

from stmd_sdk.diffusion.noise import Noise
from stmd_sdk.errors import InvalidArgumentError
from stmd_training.recipe import load_recipe
from stmd_training.scores import EnergyScore

SHAPE = (1, 6, 6)


def field(key, smoothness):
    """Gaussian images with a pixel variance of 1 whose neighbours along a row correlate by ``smoothness``."""
    white = key.normal(*SHAPE)
    columns = [white[..., 0]]
    for k in range(1, SHAPE[2]):
        columns.append(smoothness * columns[-1] + (1 - smoothness**2) ** 0.5 * white[..., k])
    return torch.stack(columns, dim=-1)


def scored(score, n, smoothness=0.9, shift=0.0):
    noise = Noise.of(3, n)
    x_0 = field(noise.fold(0), 0.9)

    def posterior(x_t, t, key):
        return field(key, smoothness) + shift

    return score(posterior, x_0, x_0, torch.ones(n), noise.fold(1)).double()


@pytest.mark.parametrize(
    "score",
    [
        EnergyScore(differences=0.5),
        EnergyScore(patches=0.5, patch_sizes=(2, 3)),
        EnergyScore(differences=0.3, patches=0.6, patch_sizes=(2, 3)),
    ],
)
def test_the_shares_keep_the_score_least_for_the_true_law(score):
    exact = scored(score, 20_000)
    for wrong in ({"smoothness": 0.3}, {"smoothness": 0.6}, {"shift": 0.3}):
        difference = scored(score, 20_000, **wrong) - exact
        assert difference.mean() > 3 * difference.std() / 20_000**0.5, wrong


def test_fine_scales_tell_a_wrong_texture_more_surely_than_the_whole():
    def certainty(score):
        difference = scored(score, 20_000, smoothness=0.8) - scored(score, 20_000)
        return difference.mean() / difference.std()

    whole = certainty(EnergyScore())
    assert certainty(EnergyScore(differences=0.9)) > 1.5 * whole
    assert certainty(EnergyScore(patches=0.9, patch_sizes=(2,))) > 1.2 * whole


def test_differences_do_not_see_a_shift_and_one_patch_is_the_whole():
    moved, still = (scored(EnergyScore(differences=1 - 1e-9), 100, shift=shift) for shift in (5.0, 0.0))
    torch.testing.assert_close(moved, still, atol=1e-5, rtol=0)
    whole, patch = scored(EnergyScore(), 100), scored(EnergyScore(patches=0.7, patch_sizes=(6,)), 100)
    torch.testing.assert_close(patch, whole, atol=1e-6, rtol=0)


def test_images_of_one_pixel_have_no_differences():
    for shape in ((1, 1, 2), (1, 2, 1)):
        EnergyScore(differences=0.5).check_shape(shape)
    with pytest.raises(InvalidArgumentError, match="have no neighbours"):
        EnergyScore(differences=0.5).check_shape((3, 1, 1))


@pytest.mark.parametrize("shape", [(1, 5, 7), (3, 7, 8), (2, 1, 9)])
def test_sides_that_are_odd_are_scored_in_full(shape):
    n, score = 50, EnergyScore(differences=0.4, patches=0.4, patch_sizes=(1,))
    x_0 = Noise.of(0, n).normal(*shape)

    def one_corner(x_t, t, key):
        moved = x_t.clone()
        moved[..., -1, -1] += 3.0
        return moved

    def right(x_t, t, key):
        return x_t

    of = {draw: score(draw, x_0, x_0, torch.ones(n), Noise.of(1, n)) for draw in (one_corner, right)}
    assert (of[one_corner] > of[right] + 0.01).all()


@pytest.mark.parametrize(
    ("recipe", "setting", "says"),
    [
        ("mixture2d-calibrated", "differences=0.5", "scores of images"),
        ("mixture2d-calibrated", "patches=0.5", "scores of images"),
        ("digits-calibrated", "patches=0.5", "9 is more than images of shape"),
        ("mnist-calibrated", "patches=1.0", "leave some for the whole"),
        ("mnist-calibrated", "differences=-0.1", "leave some for the whole"),
    ],
)
def test_shares_that_cannot_be_scored_are_refused(recipe, setting, says):
    sizes = ("energy_score.patch_sizes=[4, 9]",) if recipe.startswith("digits") else ()
    with pytest.raises(InvalidArgumentError, match=says):
        load_recipe(recipe, (f"energy_score.{setting}", *sizes))
