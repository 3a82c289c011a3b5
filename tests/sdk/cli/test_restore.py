"""``stmd restore``: what it writes shows the measurement, and bad requests are one line."""

import os
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from stmd_sdk import DataError, InferenceWarning, InvalidArgumentError, Sampler
from stmd_sdk.cli.app import app
from stmd_sdk.cli.restoring import as_the_network_sees, parse_operator
from stmd_sdk.codecs.codec import LatentCodec
from stmd_sdk.data.load import load_data
from stmd_sdk.data.pictures import read_picture
from stmd_sdk.images import grid
from stmd_sdk.models.checkpoint import save_model
from stmd_sdk.models.objective import STMD
from stmd_sdk.models.spec import ModelSpec
from stmd_sdk.networks import DiTConfig
from stmd_sdk.operators import Blur, GaussianNoise, Mask, Measurement, average_pool, check_linear

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


def _masked(folder):
    """A held-out digit of 8 x 8, a mask that hides its middle, and the command that restores it."""
    pixels = ((load_data("digits", split="test")[torch.tensor([3])][0, 0] + 1) * 127.5).round().numpy().astype(np.uint8)
    mask = np.full((8, 8), 255, np.uint8)
    mask[2:6, 2:6] = 0
    Image.fromarray(pixels).save(folder / "image.png")
    Image.fromarray(mask).save(folder / "mask.png")
    rest = ["-m", "digits", "--operator", f"mask:{folder / 'mask.png'}", "--draws", "4", "--steps", "2", "--seed", "0"]
    return pixels, mask, ["restore", str(folder / "image.png"), *rest]


@pytest.mark.parametrize(("method", "off"), [("condition", 1), ("gibbs", 16), ("chain", 16)])
def test_a_restored_image_keeps_what_the_mask_shows(tmp_path, method, off):
    """To rounding without noise; else as near as the model's own draws at small noise come."""
    out = tmp_path / "restored.png"
    pixels, mask, command = _masked(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InferenceWarning)  # two steps of a chain mix nothing
        run = CliRunner().invoke(app, [*command, "--method", method, "-o", str(out)])
    assert run.exit_code == 0, run.output
    assert "4 draws given" in run.output
    with Image.open(out) as sheet:
        mean = np.asarray(sheet.convert("L"))[20 : 20 + 168, 12 + 180 : 12 + 180 + 168][10::21, 10::21]
    assert np.abs(mean.astype(int) - pixels)[mask == 255].max() <= off  # the mean's panel, 21 pixels to one


def test_saved_draws_are_the_samplers_own(tmp_path):
    pixels, mask, command = _masked(tmp_path)
    saved = tmp_path / "draws.npz"
    run = CliRunner().invoke(app, [*command, "--save-draws", str(saved), "-o", str(tmp_path / "out.png")])
    assert run.exit_code == 0, run.output
    assert "2 evaluations a draw" in run.output
    shown = Mask(torch.from_numpy((mask > 0).astype(np.float32))[None])
    y = shown.A(torch.from_numpy(pixels.astype(np.float32))[None, None] / 127.5 - 1)
    sampler = Sampler.from_pretrained("digits", device="cpu")
    draws = sampler.gibbs(Measurement(shown, y, GaussianNoise(0.02)), 4, steps=2, seed=0)
    with np.load(saved) as file:
        np.testing.assert_allclose(file["x"], draws.samples.numpy(), atol=1e-5)
        np.testing.assert_array_equal(file["y"], y.numpy())


def test_a_folder_is_restored_image_by_image_and_goes_on_where_it_stopped(tmp_path):
    pixels, _, command = _masked(tmp_path)
    images, out, saved = tmp_path / "images", tmp_path / "restored", tmp_path / "draws"
    images.mkdir()
    for name, turned in (("a", pixels), ("b", pixels[::-1]), ("c", pixels.T)):
        Image.fromarray(np.ascontiguousarray(turned)).save(images / f"{name}.png")
    alone = CliRunner().invoke(app, [*command, "-o", str(tmp_path / "alone.png")])
    assert alone.exit_code == 0, alone.output
    command = ["restore", str(images), *command[2:]]
    several = [*command, "-o", str(out), "--save-draws", str(saved)]
    assert "3 of 3 images" in CliRunner().invoke(app, several).output.replace("\n", " ")
    assert (out / "a.png").read_bytes() == (tmp_path / "alone.png").read_bytes()
    assert (out / "b.png").read_bytes() != (out / "a.png").read_bytes()
    made = {path: path.stat().st_mtime_ns for path in (out / "a.png", out / "c.png")}
    (out / "b.png").unlink()
    assert "1 of 3 images" in CliRunner().invoke(app, several).output.replace("\n", " ")
    assert made == {path: path.stat().st_mtime_ns for path in made}
    assert sorted(path.name for path in saved.iterdir()) == ["a.npz", "b.npz", "c.npz"]
    other = CliRunner().invoke(app, [*command, "-o", str(out), "--sigma", "0.3"])
    assert other.exit_code == 2
    assert "is of another run (sigma None)" in other.output.replace("\n", " ")
    theirs = CliRunner().invoke(app, [*command, "-o", str(images)])
    assert theirs.exit_code == 2
    assert "holds the images to restore" in theirs.output.replace("\n", " ")


def test_what_makes_no_sense_together_is_one_line(tmp_path):
    _, _, command = _masked(tmp_path)
    empty, twins = tmp_path / "empty", tmp_path / "twins"
    empty.mkdir()
    twins.mkdir()
    for name in ("a.png", "a.bmp"):
        Image.new("L", (8, 8), 128).save(twins / name)
    for arguments, message in [
        ([*command, "--sigma", "0"], "is for measurements with noise"),
        ([*command, "--sigma", "-1"], "sigma"),
        ([*command, "--method", "best"], "--method must be one of gibbs, condition, chain"),
        ([*command, "--method", "chain", "--resample"], "--resample is of --method gibbs"),
        ([*command, "--label", "3"], "no classes"),
        ([*command, "--steps", "0"], "steps"),
        ([*command, "--save-draws", "x.npy"], "--save-draws must end in .npz"),
        (["restore", str(empty), *command[2:]], "holds no pictures"),
        (["restore", str(twins), *command[2:]], "2 pictures named a"),
        (["restore", str(tmp_path), *command[2:], "-o", "x.png"], "--out must be a folder"),
    ]:
        run = CliRunner().invoke(app, arguments)
        assert run.exit_code == 2, run.output
        assert message in run.output.replace("\n", " ")


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
    masked = [*command, f"mask:{tmp_path / 'mask.png'}", "-o", str(tmp_path / "out.png")]
    run = CliRunner().invoke(app, [*masked, "--method", "condition"])
    assert run.exit_code == 0, run.output
    run = CliRunner().invoke(app, masked)
    assert run.exit_code == 2
    assert "give --method condition" in run.output.replace("\n", " ")
    run = CliRunner().invoke(app, [*command, "sr2", "--simulate", "--method", "condition"])
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
        ([str(deep), "--operator", "sr2"], "must be an 8-bit grey or RGB image, is of mode I"),
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
