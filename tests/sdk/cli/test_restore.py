"""``stmd restore``: what it writes shows the measurement, and bad requests are one line."""

import os

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from stmd_sdk import DataError, InvalidArgumentError, Sampler
from stmd_sdk.cli.app import app
from stmd_sdk.cli.restoring import as_the_network_sees, parse_operator
from stmd_sdk.codecs.codec import LatentCodec
from stmd_sdk.data.pictures import read_picture
from stmd_sdk.images import grid
from stmd_sdk.models.checkpoint import save_model
from stmd_sdk.models.objective import STMD
from stmd_sdk.models.spec import ModelSpec
from stmd_sdk.networks import DiTConfig
from stmd_sdk.operators import Blur, Mask, average_pool, check_linear

SHAPE = (1, 28, 28)


@pytest.mark.parametrize("text", ["sr2", "sr4", "bicubic4", "deblur", "deblur:1", "motion", "motion:5:45"])
def test_named_operators_are_linear_on_the_models_images(text):
    operator, sigma = parse_operator(text, SHAPE)
    check_linear(operator, SHAPE, torch.device("cpu"))
    assert (sigma > 0) == isinstance(operator, Blur)


def test_names_mean_what_they_say():
    x = torch.randn(1, *SHAPE)
    torch.testing.assert_close(parse_operator("sr4", SHAPE)[0].A(x), average_pool(SHAPE, 4).A(x))
    torch.testing.assert_close(parse_operator("deblur:2", SHAPE)[0].A(x), Blur.gaussian(2.0).A(x))


@pytest.mark.parametrize("text", ["sr3", "deblur:thick", "motion:1:2:3", "mask", "", "sr4:2"])
def test_unknown_operators_are_refused(text):
    with pytest.raises(InvalidArgumentError, match="--operator must be one of"):
        parse_operator(text, SHAPE)


def test_a_restored_image_keeps_what_the_mask_shows(tmp_path):
    pixels = (np.arange(64, dtype=np.uint8).reshape(8, 8) * 4).astype(np.uint8)
    mask = np.full((8, 8), 255, np.uint8)
    mask[2:6, 2:6] = 0
    Image.fromarray(pixels).save(tmp_path / "image.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    out = tmp_path / "restored.png"
    command = ["restore", str(tmp_path / "image.png"), "-m", "digits", "--operator", f"mask:{tmp_path / 'mask.png'}"]
    run = CliRunner().invoke(app, [*command, "--draws", "4", "--steps", "2", "--seed", "0", "-o", str(out)])
    assert run.exit_code == 0, run.output
    assert "4 draws given" in run.output
    with Image.open(out) as sheet:
        mean = np.asarray(sheet.convert("L"))[20 : 20 + 168, 12 + 180 : 12 + 180 + 168][10::21, 10::21]
    assert np.abs(mean.astype(int) - pixels)[mask == 255].max() <= 1  # the mean's panel, 21 pixels to one


def test_latents_keep_the_cells_whose_pixels_all_show(vae_folder, tmp_path):
    """The paper's figure 6 at a small size: an odd mask, so that some cells show in part."""
    codec = LatentCodec(vae=str(vae_folder), factor=2)
    network = DiTConfig(depth=1, width=16, heads=2)
    spec = ModelSpec("latents", STMD("residual"), (4, 8, 8), network, codec, sigma_data=0.9)
    model = tmp_path / "latents.safetensors"
    save_model(model, spec, spec.build_network().state_dict())
    sampler, mask = Sampler.from_pretrained(model, device="cpu"), torch.ones(1, 16, 16)
    mask[:, 3:12, 5:] = 0
    y = Mask(mask).A(2 * torch.rand(1, 3, 16, 16) - 1)
    cells, given = as_the_network_sees(Mask(mask), y, sampler)
    assert int(cells.mask.sum()) == 64 - 5 * 6
    *_, (_, x_0, _) = sampler.condition(cells, given).trajectory(2, inference_steps=3, seed=0)
    kept = cells.mask.expand(2, 4, -1, -1) == 1
    torch.testing.assert_close(x_0[kept], codec.encode(y).expand_as(x_0)[kept], atol=1e-6, rtol=0)
    assert (x_0[0] - x_0[1])[~kept[0]].abs().min() > 1e-4  # while the others are drawn

    grid(y, scale=1).save(tmp_path / "image.png")
    grid(2 * mask[None] - 1, scale=1).save(tmp_path / "mask.png")
    command = ["restore", str(tmp_path / "image.png"), "-m", str(model), "--draws", "2", "--steps", "2", "--operator"]
    run = CliRunner().invoke(app, [*command, f"mask:{tmp_path / 'mask.png'}", "-o", str(tmp_path / "out.png")])
    assert run.exit_code == 0, run.output
    run = CliRunner().invoke(app, [*command, "sr2", "--simulate"])
    assert run.exit_code == 2
    assert "restores masked images alone" in run.output.replace("\n", " ")


def test_bad_files_are_one_line(tmp_path):
    gray = tmp_path / "gray.png"
    Image.fromarray(np.full((8, 8), 128, np.uint8)).save(gray)
    row, deep = tmp_path / "row.png", tmp_path / "deep.png"
    Image.fromarray(np.full((8, 1), 255, np.uint8)).save(row)
    Image.fromarray(np.full((8, 8), 40000, np.uint16)).save(deep)
    for arguments, message in [
        ([str(tmp_path / "absent.png"), "--operator", "sr2"], "no such file"),
        ([str(gray), "--operator", f"mask:{gray}"], "a mask must be black"),
        ([str(gray), "--operator", f"mask:{row}"], "row.png: has 1×8 pixels, 8×8 are needed"),
        ([str(gray), "--operator", "sr2"], "gray.png: has 8×8 pixels, 4×4 are needed"),
        ([str(row), "--operator", "sr2", "--simulate"], "row.png: has 1×8 pixels, 8×8 are needed"),
        ([str(deep), "--operator", "sr2"], "must be an 8-bit grey or RGB image, is of mode I;16"),
        ([str(gray), "--operator", "gray"], "gray restores colour"),
        ([str(gray), "--operator", "sr2", "-o", "x.jpg"], "must end in .png"),
    ]:
        run = CliRunner().invoke(app, ["restore", *arguments, "-m", "digits"])
        assert run.exit_code == 2
        assert message in run.output.replace("\n", " ")
    assert read_picture(gray, 3).shape == (3, 8, 8)


def test_a_masks_name_may_have_colons(tmp_path):
    Image.new("L", (28, 28), 255).save(tmp_path / "a:b:c.png")
    assert bool((parse_operator(f"mask:{tmp_path / 'a:b:c.png'}", (1, 28, 28))[0].mask == 1).all())


@pytest.mark.parametrize("damage", ["ihdr", "truncated", "bomb", "large", "pipe"])
def test_pictures_that_pillow_stumbles_over_are_one_line(tmp_path, damage):
    path = tmp_path / "x.png"
    side = {"bomb": 20_000, "large": 9_000}.get(damage, 28)
    Image.new("1", (side, side), 1).save(path)
    content = path.read_bytes()
    if damage == "ihdr":
        path.write_bytes(content[:11] + b"\x09" + content[12:])
    elif damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "pipe":
        path.unlink()
        os.mkfifo(path)
    with pytest.raises(DataError):
        parse_operator(f"mask:{path}", (1, 28, 28))
