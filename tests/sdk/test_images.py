"""From samples to pictures: values, places, and what is refused."""

import numpy as np
import pytest
import torch
from PIL import Image

from stmd_sdk import InvalidArgumentError, Noise, grid, to_images


def test_the_range_is_spread_over_eight_bits_and_clipped():
    x = torch.tensor([-5.0, -1.0, -0.5, 0.0, 0.5, 1.0, 5.0]).reshape(1, 1, 1, 7)
    assert to_images(x).ravel().tolist() == [0, 0, 64, 128, 191, 255, 255]


def test_eight_bit_images_come_back():
    pixels = torch.arange(256).reshape(1, 1, 16, 16)
    assert np.array_equal(to_images(pixels / 127.5 - 1)[0, :, :, 0], pixels[0, 0].numpy())


def test_channels_go_last():
    x = Noise.of(0, 2).uniform(3, 4, 5) * 2 - 1
    images = to_images(x)
    assert images.shape == (2, 4, 5, 3)
    assert np.array_equal(images[1, 2, 3], to_images(x[1:2, :, 2:3, 3:4]).ravel())


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
@pytest.mark.parametrize(("n", "columns", "expected"), [(6, None, 3), (5, 2, 2), (3, 10, 3), (1, None, 1)])
def test_tile_i_of_the_grid_is_image_i(channels, mode, n, columns, expected):
    x = Noise.of(1, n).uniform(channels, 4, 6) * 2 - 1
    picture = grid(x, columns=columns, scale=2)
    rows = -(-n // expected)
    assert (picture.mode, picture.size) == (mode, (expected * 6 * 2, rows * 4 * 2))
    pixels = np.asarray(picture).reshape(rows * 8, expected * 12, channels)
    images = to_images(x)
    for i in range(rows * expected):
        row, column = divmod(i, expected)
        tile = pixels[row * 8 : row * 8 + 8 : 2, column * 12 : column * 12 + 12 : 2]
        assert np.array_equal(tile, images[i] if i < n else np.zeros_like(images[0]))


def test_small_images_are_enlarged_and_large_ones_left():
    assert grid(torch.zeros(1, 1, 28, 28)).size == (56, 56)
    assert grid(torch.zeros(1, 1, 8, 8)).size == (56, 56)
    assert grid(torch.zeros(1, 3, 300, 200)).size == (200, 300)


def test_points_are_dark_first_coordinate_to_the_right_second_upwards():
    # Nearly all points at (1, 0.5); one opposite, so that both ends of the range are used.
    points = torch.tensor([[1.0, 0.5]] * 99 + [[-1.0, -1.0]])
    picture = grid(points)
    shade = np.asarray(picture.resize((8, 8), Image.Resampling.BOX))
    row, column = np.unravel_index(shade.argmin(), shade.shape)
    assert (row, column) == (2, 7)
    assert shade.max() == 255


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (torch.zeros(28, 28), "images have shape"),
        (torch.zeros(1, 28, 28), "images have shape"),
        (torch.zeros(4, 2, 8, 8), "images have shape"),
        (torch.zeros(4, 3), "images have shape"),
        (torch.zeros(0, 1, 8, 8), "no samples"),
        (torch.zeros(0, 2), "no samples"),
        (torch.full((1, 1, 8, 8), torch.nan), "not finite"),
        (torch.tensor([[1.0, torch.inf]]), "not finite"),
    ],
)
def test_what_is_no_picture_is_refused(as_users_call, x, says):
    with pytest.raises(InvalidArgumentError, match=says):
        grid(x)


@pytest.mark.parametrize("arguments", [{"columns": 0}, {"columns": 1.5}, {"scale": 0}, {"scale": -1}, {"scale": "2"}])
def test_senseless_layouts_are_refused(as_users_call, arguments):
    with pytest.raises(InvalidArgumentError, match=next(iter(arguments))):
        grid(torch.zeros(4, 1, 8, 8), **arguments)
