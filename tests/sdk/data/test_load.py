"""Laws of the loaders: what was written is what is read, and nothing damaged is read at all."""

from __future__ import annotations

import gzip
import io
import os
import struct
import sys
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from stmd_sdk.data import pictures
from stmd_sdk.data.load import ArrayData, load_data
from stmd_sdk.errors import DataError, InvalidArgumentError, MissingExtraError
from stmd_sdk.mixtures.law import GaussianMixture

GREY = np.random.default_rng(0).integers(0, 256, (5, 6, 7), dtype=np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (5, 6, 7, 3), dtype=np.uint8)


def idx(images, magic=b"\x00\x00\x08\x03"):
    return magic + struct.pack(">3I", *images.shape) + images.tobytes()


def everything(data):
    return data[torch.arange(len(data))].numpy()


def floats(pixels):
    """Pixels [n, h, w, c] as the network sees them, by NumPy."""
    return (pixels.transpose(0, 3, 1, 2) / 127.5 - 1).astype(np.float32)


def test_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    train, test = load_data("digits"), load_data("digits", split="test")
    assert len(test) == 297
    np.testing.assert_array_equal(
        np.concatenate([everything(train), everything(test)])[:, 0], load_digits().images / 8 - 1
    )


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_idx_files_and_folders_hold_what_was_written(tmp_path, compress):
    suffix = "" if compress is bytes else ".gz"
    for stem, images in (("train-images-idx3-ubyte", GREY), ("t10k-images-idx3-ubyte", GREY[:2])):
        (tmp_path / f"{stem}{suffix}").write_bytes(compress(idx(images)))
    train, test = load_data(tmp_path), load_data(str(tmp_path), split="test")
    single = load_data(tmp_path / f"train-images-idx3-ubyte{suffix}")
    np.testing.assert_allclose(everything(train), floats(GREY[..., None]), atol=1e-7)
    np.testing.assert_array_equal(everything(single), everything(train))
    np.testing.assert_array_equal(everything(test), everything(train)[:2])
    assert train.codec.bound == 1.0


def test_idx_files_are_found_as_other_archives_name_them(tmp_path):
    (tmp_path / "train-images.idx3-ubyte").write_bytes(idx(GREY))
    np.testing.assert_allclose(everything(load_data(tmp_path)), floats(GREY[..., None]), atol=1e-7)


def corrupted(content):
    """A gzip stream whose checksum is wrong."""
    packed = bytearray(gzip.compress(content))
    packed[-8] ^= 1
    return bytes(packed)


BAD_IDX = {
    "empty": (b"", "not an IDX"),
    "labels": (b"\x00\x00\x08\x01" + struct.pack(">I", 3) + b"abc", "not an IDX"),
    "float pixels": (idx(GREY, b"\x00\x00\x0d\x03"), "not an IDX"),
    "text": (b"hello world, this is no image", "not an IDX"),
    "short header": (idx(GREY)[:13], "header"),
    "truncated": (idx(GREY)[:-1], "damaged"),
    "too long": (idx(GREY) + b"x", "damaged"),
    "huge dimensions": (b"\x00\x00\x08\x03" + b"\xff" * 12 + b"x" * 64, "damaged"),
    "no images": (idx(GREY[:0]), "holds no images"),
    "truncated gzip": (gzip.compress(idx(GREY))[:-20], "cannot be read"),
    "damaged gzip": (corrupted(idx(GREY)), "cannot be read"),
}


@pytest.mark.parametrize("case", BAD_IDX)
def test_damaged_idx_files_are_named(tmp_path, case):
    content, message = BAD_IDX[case]
    path = tmp_path / "broken-images"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"broken-images: .*{message}"):
        load_data(path)


def test_an_absent_split_is_named(tmp_path):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(GREY))
    with pytest.raises(DataError, match="t10k-images-idx3-ubyte"):
        load_data(tmp_path, split="test")


@pytest.mark.parametrize("names", [("images", "labels"), ("x", "labels"), ("anything",)])
def test_npz_images_are_found_by_name(tmp_path, names):
    arrays = dict(zip(names, (COLOUR, np.arange(5)), strict=False))
    np.savez(tmp_path / "some.npz", **arrays)
    data = load_data(tmp_path / "some.npz")
    np.testing.assert_allclose(everything(data), floats(COLOUR), atol=1e-7)


def test_npz_floats_are_read_as_they_are(tmp_path):
    images = np.random.default_rng(2).uniform(-1, 1, (3, 2, 4, 5))
    vectors = np.random.default_rng(3).normal(size=(9, 4)).astype(np.float32) * 5
    np.savez(tmp_path / "images.npz", x=images)
    np.savez(tmp_path / "vectors.npz", x=vectors)
    np.savez(tmp_path / "grey.npz", x=GREY)
    read = load_data(tmp_path / "vectors.npz")
    np.testing.assert_array_equal(everything(read), vectors)
    assert read.codec.bound is None
    np.testing.assert_array_equal(everything(load_data(tmp_path / "images.npz")), images.astype(np.float32))
    grey = load_data(tmp_path / "grey.npz")
    np.testing.assert_allclose(everything(grey), floats(GREY[..., None]), atol=1e-7)


BAD_NPZ = {
    "NaN": ({"x": np.array([[0.0, np.nan]])}, "NaN"),
    "infinite": ({"x": np.array([[0.0, np.inf]])}, "infinite"),
    "infinite as float32": ({"x": np.array([[0.0, 1e300]])}, "infinite"),
    "from 0 to 1": ({"x": np.full((2, 1, 4, 4), 0.5)}, "none of these is negative"),
    "range": ({"x": np.full((2, 1, 4, 4), 1.5)}, r"\[-1, 1\], got values from 1.5 to 1.5"),
    "channels last": ({"x": np.zeros((2, 8, 8, 3))}, "channels first"),
    "channels first": ({"x": np.zeros((2, 3, 8, 8), np.uint8)}, r"1 or 3\], got \[2, 3, 8, 8\]"),
    "integers": ({"x": np.zeros((2, 8, 8), np.int64)}, "uint8 or floating"),
    "dimensions": ({"x": np.zeros(8)}, "got shape"),
    "nothing": ({"x": np.zeros((0, 8))}, "no samples"),
    "names": ({"a": np.zeros((2, 2)), "b": np.zeros((2, 2))}, "called images or x, has a, b"),
    "objects": ({"x": np.array([[{}]], dtype=object)}, "cannot be read"),
}


@pytest.mark.parametrize("case", BAD_NPZ)
def test_unfit_npz_files_are_named(tmp_path, case):
    arrays, message = BAD_NPZ[case]
    np.savez(tmp_path / "unfit.npz", **arrays)
    with np.errstate(over="ignore"), pytest.raises(DataError, match=rf"unfit\.npz: .*{message}"):
        load_data(tmp_path / "unfit.npz")


def test_damaged_npz_files_are_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "text.npz", "w") as archive:
        archive.writestr("x", "not an array")
    with pytest.raises(DataError, match=r"text\.npz: cannot be read"):
        load_data(tmp_path / "text.npz")
    np.savez(tmp_path / "whole.npz", x=COLOUR)
    content = bytearray((tmp_path / "whole.npz").read_bytes())
    content[len(content) // 2] ^= 1
    np.save(tmp_path / "bare.npy", COLOUR)
    bare = (tmp_path / "bare.npy").read_bytes()
    for damaged in (content, content[: len(content) // 2], b"", b"no zip", bare):
        (tmp_path / "damaged.npz").write_bytes(damaged)
        with pytest.raises(DataError, match=r"damaged\.npz: cannot be read"):
            load_data(tmp_path / "damaged.npz")


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_a_folder_of_images_is_read_in_the_order_of_names(tmp_path, suffix):
    for i, name in enumerate(["c", "a", "e", "b", "d"]):
        Image.fromarray(COLOUR[i]).save(tmp_path / f"{name}.{suffix}", lossless=True)
    (tmp_path / "notes.txt").write_text("not an image")
    data = load_data(tmp_path)
    np.testing.assert_allclose(everything(data), floats(COLOUR[[1, 3, 0, 4, 2]]), atol=1e-7)


def test_a_folder_of_grey_images_has_one_channel(tmp_path):
    Image.fromarray(GREY[0]).save(tmp_path / "0.PNG")
    Image.fromarray(np.full((6, 7), 200, np.uint8)).save(tmp_path / "1.jpg", quality=95)
    data = everything(load_data(tmp_path))
    np.testing.assert_allclose(data[0], floats(GREY[:1, ..., None])[0], atol=1e-7)
    np.testing.assert_allclose(data[1], np.full((1, 6, 7), 200 / 127.5 - 1), atol=0.02)


def test_unfit_folders_name_the_file(tmp_path):
    with pytest.raises(DataError, match="holds no images, nor MNIST's IDX files"):
        load_data(tmp_path)
    Image.fromarray(COLOUR[0]).save(tmp_path / "0.png")
    unfit = {
        "1.png": (Image.fromarray(COLOUR[1, :3]), "one size"),
        "2.png": (Image.fromarray(GREY[0]), "one size"),
        "3.png": (Image.fromarray(np.dstack([COLOUR[0], GREY[0]])), "RGBA"),
        "4.png": (Image.fromarray(GREY[0].astype(np.uint16) * 256), "mode I"),
    }
    for name, (image, message) in unfit.items():
        image.save(tmp_path / name)
        with pytest.raises(DataError, match=rf"{name}: .*{message}"):
            load_data(tmp_path)
        (tmp_path / name).unlink()
    whole = (tmp_path / "0.png").read_bytes()
    for damaged in (b"", b"text", whole[: len(whole) // 2]):
        (tmp_path / "5.png").write_bytes(damaged)
        with pytest.raises(DataError, match=r"5\.png: cannot be read as an image"):
            load_data(tmp_path)


def test_root_mean_square_does_not_depend_on_chunks():
    array = torch.from_numpy(np.random.default_rng(4).normal(2.0, 3.0, (9001, 3)).astype(np.float32))
    vectors = ArrayData("vectors", array, load_data("mixture2d").codec)
    expected = np.sqrt(np.mean(array.numpy().astype(np.float64) ** 2))
    assert vectors.root_mean_square() == pytest.approx(expected, rel=1e-12)
    pixels = torch.from_numpy(GREY)[:, None]
    images = ArrayData("images", pixels, load_data("digits").codec)
    assert images.root_mean_square() == pytest.approx(np.sqrt(np.mean((GREY / 127.5 - 1) ** 2)), rel=1e-6)


def test_mixtures_are_data_too():
    data = load_data("mixture2d", split="test")
    assert isinstance(data, GaussianMixture)
    assert data.root_mean_square() == pytest.approx(np.sqrt(1.4**2 / 2 + 0.15**2))


def test_unknown_sources_and_splits_say_what_there_is(tmp_path):
    with pytest.raises(DataError, match=r"digits, mixture2d, .*hf:ID"):
        load_data(tmp_path / "nowhere")
    with pytest.raises(InvalidArgumentError, match="'train' or 'test'"):
        load_data("digits", split="validation")


def archive(path, header, flag=0, method=zipfile.ZIP_DEFLATED):
    """An .npz of one array of 400 zero bytes whose header is any text, with a flag and a method that may be false."""
    text = header.encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(400))
    content = bytearray(path.read_bytes())
    central = content.find(b"PK\x01\x02")
    content[6] |= flag
    content[central + 8] |= flag
    content[central + 10] = method
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("shape", "named", "says"),
    [
        ("(10, 10)", {}, None),
        ("(1000000000000,)", {}, r"asks for 4e\+12 bytes"),
        (f"(10, {10**30})", {}, r"asks for 4e\+31 bytes"),
        ("(101,)", {}, "expected 404 bytes got 400"),
        ("(((((", {}, "cannot be read as .npz"),
        ("(-1,)", {}, "cannot be read as .npz"),
        ("(10, 10)", {"flag": 1}, "encrypted"),
        ("(10, 10)", {"flag": 0x40}, "encryption"),
        ("(10, 10)", {"method": 99}, "compression method"),
    ],
)
def test_what_an_archive_asks_for_is_bounded_by_what_it_holds(tmp_path, shape, named, says):
    archive(tmp_path / "x.npz", f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}\n", **named)
    if says is None:
        assert len(load_data(tmp_path / "x.npz")) == 10
    else:
        with pytest.raises(DataError, match=says):
            load_data(tmp_path / "x.npz")


@pytest.mark.parametrize(
    ("rows", "content", "says"),
    [
        (2, bytes(32), None),
        (2**31, bytes(32), "at most .* follow"),
        (2, bytes(31), "at most 31 follow"),
        (2, bytes(2**20), "more follow"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_an_idx_file_is_read_as_far_as_its_header_says(tmp_path, rows, content, says, packed):
    whole = bytes([0, 0, 8, 3]) + struct.pack(">3I", rows, 4, 4) + content
    name = tmp_path / f"train-images-idx3-ubyte{'.gz' if packed else ''}"
    name.write_bytes(gzip.compress(whole) if packed else whole)
    if says is None:
        assert len(load_data(tmp_path)) == 2
    else:
        with pytest.raises(DataError, match=says):
            load_data(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
@pytest.mark.parametrize(
    "name",
    ["x.npz", "x/y_train.npz", "x/train-images-idx3-ubyte.gz", "x/data_batch_1.bin", "x/latents.json", "x/0.png"],
)
def test_pipes_in_the_place_of_data_are_refused_unread(tmp_path, name):
    (tmp_path / "x").mkdir()
    for other in range(2, 6):
        if "batch" in name:
            (tmp_path / f"x/data_batch_{other}.bin").write_bytes(bytes(3073))
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match="is no regular file but a pipe"):
        load_data(tmp_path / name.split("/")[0])


def test_a_missing_package_names_its_pip_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'stmd-sdk\[datasets\]'"):
        load_data("hf:some/images")


@pytest.mark.filterwarnings("ignore")  # of the package, none of this project's business
def test_hugging_face_images_are_those_of_its_data_set(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = {"label": list(range(5)), "picture": [Image.fromarray(pixels) for pixels in COLOUR]}
    features = datasets.Features({"label": datasets.Value("int64"), "picture": datasets.Image()})
    (tmp_path / "set").mkdir()
    made = datasets.Dataset.from_dict(rows, features=features)
    made.to_parquet(tmp_path / "set" / "train.parquet")
    made.select([3]).to_parquet(tmp_path / "set" / "test.parquet")
    first = load_data(f"hf:{tmp_path / 'set'}")
    np.testing.assert_allclose(everything(first), floats(COLOUR), atol=1e-7)
    named = load_data(f"hf:{tmp_path / 'set'}:picture", split="test")
    np.testing.assert_array_equal(everything(named), everything(first)[3:4])
    with pytest.raises(DataError, match="no column of images called label; it has picture"):
        load_data(f"hf:{tmp_path / 'set'}:label")
    with pytest.raises(DataError, match="cannot load"):
        load_data(f"hf:{tmp_path / 'nothing'}")
    with pytest.raises(DataError, match="names no data set"):
        load_data("hf:")


@pytest.mark.filterwarnings("ignore")  # of the package
def test_rows_and_configurations_of_a_hugging_face_data_set_are_named(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    good, bomb = io.BytesIO(), io.BytesIO()
    Image.fromarray(COLOUR[0]).save(good, "PNG")
    Image.new("1", (9000, 9000)).save(bomb, "PNG")
    damaged = good.getvalue()[:11] + b"\x09" + good.getvalue()[12:]
    for name, bad, message in (
        ("none", None, "row 1: holds no picture"),
        ("text", b"no picture", "row 1: cannot be read as an image"),
        ("damaged", damaged, "row 1: cannot be read as an image"),
        ("bomb", bomb.getvalue(), "row 1: has 9000×9000 pixels"),
    ):
        rows = [{"bytes": good.getvalue(), "path": None}, bad and {"bytes": bad, "path": None}]
        made = datasets.Dataset.from_dict({"image": rows}).cast_column("image", datasets.Image())
        made.to_parquet(written(tmp_path / "sets" / name, {}) / "train.parquet")
        with pytest.raises(DataError, match=message):
            load_data(f"hf:{tmp_path / 'sets' / name}")
        streamed = pictures.stream_pictures(f"hf:{tmp_path / 'sets' / name}", 8)
        next(streamed)
        with pytest.raises(DataError, match=message):
            next(streamed)
    several = tmp_path / "several"
    for name, picture in (("small", COLOUR[1]), ("large", COLOUR[2])):
        written(several / name, {"0.png": picture})
    entries = "".join(f"- config_name: {name}\n  data_files: {name}/*.png\n" for name in ("small", "large"))
    (several / "README.md").write_text(f"---\nconfigs:\n{entries}---\n")
    with pytest.raises(DataError, match="hf:ID#CONFIG"):
        load_data(f"hf:{several}")
    np.testing.assert_allclose(everything(load_data(f"hf:{several}#large")), floats(COLOUR[2:3]), atol=1e-7)
    (only,) = pictures.stream_pictures(f"hf:{several}#small:image", COLOUR.shape[1])
    assert only.shape == (3, COLOUR.shape[1], COLOUR.shape[1])


def written(folder, pictures):
    """A folder with these pictures, by name; others are bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture) if isinstance(picture, bytes) else Image.fromarray(picture).save(path)
    return folder


def test_a_picture_is_read_as_it_looks(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a camera held upright: seen turned by a quarter, clockwise
    Image.fromarray(COLOUR[0]).save(tmp_path / "turned.png", exif=exif)
    opaque = np.dstack([COLOUR[0], np.full((6, 7), 255, np.uint8)])
    Image.fromarray(opaque).save(tmp_path / "opaque.png")
    expected = {"turned.png": np.rot90(COLOUR[0], -1), "opaque.png": COLOUR[0]}
    for name, pixels in expected.items():
        read = pictures.read_picture(tmp_path / name, 3)
        np.testing.assert_allclose(read.numpy(), floats(pixels[None])[0], atol=1e-6)
        streamed = pictures.open_picture(tmp_path / name)
        np.testing.assert_array_equal(np.asarray(streamed), pixels)


def hidden_colour():
    """A palette image of one colour, which is fully transparent."""
    picture = Image.new("P", (7, 6), 1)
    picture.putpalette([0] * 3 + [255, 0, 255] + [0] * 762)
    packed = io.BytesIO()
    picture.save(packed, "png", transparency=1)
    return packed.getvalue()


def frames():
    packed = io.BytesIO()
    first, *more = (Image.fromarray(grey) for grey in GREY)
    first.save(packed, "gif", save_all=True, append_images=more)
    return packed.getvalue()


def bomb():
    packed = io.BytesIO()
    Image.new("1", (20_000, 20_000), 1).save(packed, "png")
    return packed.getvalue()


def broken_header():
    packed = io.BytesIO()
    Image.fromarray(GREY[0]).save(packed, "png")
    content = bytearray(packed.getvalue())
    content[11] = 9
    return bytes(content)


MISREAD = {
    "hidden.png": (hidden_colour, "transparent pixels"),
    "masked.png": (lambda: np.dstack([COLOUR[0], GREY[0]]), "transparent pixels"),
    "frames.gif": (frames, "5 frames"),
    "bomb.png": (bomb, "pixels|limit"),
    "broken.png": (broken_header, "cannot be read as an image"),
    "ones.png": (lambda: GREY[0] % 2, "0 and 255"),
    "kind.ppm": (lambda: GREY[0], r"not read, only \.png"),
}


@pytest.mark.parametrize("name", MISREAD)
def test_what_would_be_read_otherwise_than_it_looks_is_refused_by_every_reader(tmp_path, name):
    make, message = MISREAD[name]
    written(tmp_path, {name: make()})
    with pytest.raises(DataError, match=message):
        load_data(tmp_path)
    if name != "ones.png":  # a stream does not know the others
        with pytest.raises(DataError, match=message):
            list(pictures.stream_pictures(tmp_path, 4))
    if name != "kind.ppm":
        with pytest.raises(DataError, match=message):
            pictures.read_picture(tmp_path / name, 1)


def test_other_suffixes_class_folders_and_splits_are_read_and_hidden_files_are_not(tmp_path):
    kinds = {f"{i}.{suffix}": GREY[i] for i, suffix in enumerate(("png", "bmp", "tif", "TIFF", "png"))}
    hidden = {f"._{i}.png": b"\0\5\x16\7" for i in range(3)}
    alone = load_data(written(tmp_path / "kinds", kinds | hidden | {".stmd-0.png": GREY[0]}))
    np.testing.assert_allclose(everything(alone), floats(GREY[..., None]), atol=1e-6)
    classes = load_data(written(tmp_path / "classes", {"b/0.png": GREY[2], "a/1.png": GREY[1], "a/0.png": GREY[0]}))
    np.testing.assert_allclose(everything(classes), floats(GREY[:3, ..., None]), atol=1e-6)
    folder = written(tmp_path / "splits", {"train/a/0.png": GREY[0], "train/b/0.png": GREY[1], "test/a/0.png": GREY[2]})
    for split, expected in (("train", GREY[:2]), ("test", GREY[2:3])):
        np.testing.assert_allclose(everything(load_data(folder, split=split)), floats(expected[..., None]), atol=1e-6)
    with pytest.raises(DataError, match="has no folder test, only train"):
        load_data(written(tmp_path / "one", {"train/0.png": GREY[0]}), split="test")
    with pytest.raises(DataError, match="has pictures, and others in more"):
        load_data(written(tmp_path / "both", {"0.png": GREY[0], "more/1.png": GREY[1]}))


def test_values_of_zero_and_one_are_no_greys_and_a_rounding_beyond_one_is_one(tmp_path):
    np.savez(tmp_path / "mask.npz", x=GREY % 2)
    with pytest.raises(DataError, match="0 and 255"):
        load_data(tmp_path / "mask.npz")
    np.savez(tmp_path / "rounded.npz", x=np.full((1, 1, 4, 4), np.nextafter(np.float32(-1), np.float32(-2))))
    assert everything(load_data(tmp_path / "rounded.npz")).min() == -1


def test_a_bundled_name_that_lies_here_too_is_in_doubt(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(load_data("digits")) == len(load_data("bundled:digits")) == 1500
    written(tmp_path / "digits", {"0.png": GREY[0]})
    with pytest.raises(DataError, match=r"\./digits or bundled:digits"):
        load_data("digits")
    assert len(load_data("./digits")) == 1
    assert len(load_data("bundled:digits")) == 1500
    assert isinstance(load_data("bundled:mixture2d"), GaussianMixture)
    with pytest.raises(DataError, match="nothing of that name is bundled"):
        load_data("bundled:mnist")
