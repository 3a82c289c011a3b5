"""Laws of cached latents: those of the codec, in an order that neither shards nor interruptions change."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from stmd_sdk.codecs.codec import LatentCodec, PixelCodec
from stmd_sdk.data.arrays import ArrayData, ShardedData
from stmd_sdk.data.labels import load_labelled_data
from stmd_sdk.data.latents import cache_latents
from stmd_sdk.data.load import load_data
from stmd_sdk.data.pictures import stream_pictures
from stmd_sdk.diffusion.noise import Noise
from stmd_sdk.errors import DataError, InvalidArgumentError
from stmd_sdk.models.tensors import read_tensors, write_tensors

COLOUR = np.random.default_rng(1).integers(0, 256, (11, 16, 16, 3), dtype=np.uint8)


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i, pixels in enumerate(COLOUR):
        Image.fromarray(pixels).save(folder / f"{i:03d}.png")
    return folder


@pytest.fixture
def codec(vae_folder):
    return LatentCodec(vae=str(vae_folder), factor=2)


def everything(data):
    return data[torch.arange(len(data))]


def test_cached_latents_are_the_codecs_own_draws(tmp_path, pictures, codec):
    assert cache_latents(str(pictures), tmp_path / "latents", codec, 16, seed=3, shard_size=4) == 11
    data = load_data(tmp_path / "latents")
    assert isinstance(data, ShardedData)
    assert [len(shard) for shard in data.shards] == [4, 4, 3]
    x = torch.from_numpy(COLOUR).permute(0, 3, 1, 2).float() / 127.5 - 1
    expected = codec.encode(x, Noise.of(3, 11))
    torch.testing.assert_close(everything(data), expected, rtol=2**-10, atol=1e-4)
    assert data.codec.sha256 is not None
    assert data.root_mean_square() == pytest.approx(float(expected.square().mean().sqrt()), rel=1e-3)


def in_folders(pictures):
    """The eleven pictures as four of cats, then seven of dogs."""
    for i, path in enumerate(sorted(pictures.iterdir())):
        (kind := pictures / ("cat" if i < 4 else "dog")).mkdir(exist_ok=True)
        path.rename(kind / path.name)
    return [0] * 4 + [1] * 7


def test_pictures_in_folders_of_classes_keep_their_labels(tmp_path, pictures, codec):
    plain, folder = tmp_path / "plain", tmp_path / "latents"
    cache_latents(str(pictures), plain, codec, 16, shard_size=4)
    with pytest.raises(DataError, match="latents without labels"):
        load_labelled_data(plain)
    expected = in_folders(pictures)
    cache_latents(str(pictures), folder, codec, 16, shard_size=4)
    assert cache_latents(str(pictures), folder, codec, 16, shard_size=4) == 11  # all there
    data = load_labelled_data(folder)
    assert (data.labels.tolist(), data.class_names) == (expected, ("cat", "dog"))
    assert torch.equal(everything(data), everything(load_data(plain)))
    latents = read_tensors(folder / "latents-00000.safetensors")[0]["latents"]
    for labels in (torch.full((4,), 2), torch.zeros(3, dtype=torch.int64), torch.zeros(4)):
        write_tensors(folder / "latents-00000.safetensors", {"latents": latents, "labels": labels}, {})
        with pytest.raises(DataError, match="its labels are not 4 of 0 to 1"):
            load_data(folder)


def test_an_interrupted_cache_goes_on_to_the_same_files(tmp_path, pictures, codec):
    cache_latents(str(pictures), tmp_path / "whole", codec, 16, shard_size=4)
    done = []

    def killed(count):
        done.append(count)
        if count > 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache_latents(str(pictures), tmp_path / "parts", codec, 16, shard_size=4, report=killed)
    with pytest.raises(DataError, match="not all cached yet"):
        load_data(tmp_path / "parts")
    done.clear()
    cache_latents(str(pictures), tmp_path / "parts", codec, 16, shard_size=4, report=done.append)
    assert min(done) > 8
    names = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert len(names) == 4
    for name in names:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()
    done.clear()
    assert cache_latents(str(pictures), tmp_path / "parts", codec, 16, shard_size=4, report=done.append) == 11
    assert done == []


def test_a_folder_of_other_latents_is_refused(tmp_path, pictures, codec):
    folder = tmp_path / "latents"
    cache_latents(str(pictures), folder, codec, 16)
    with pytest.raises(DataError, match="seed: 0 there, 1 here"):
        cache_latents(str(pictures), folder, codec, 16, seed=1)
    with pytest.raises(InvalidArgumentError, match="factor 2"):
        cache_latents(str(pictures), folder, codec, 15)
    with pytest.raises(DataError, match="not empty"):
        cache_latents(str(pictures), pictures, codec, 16)
    index = json.loads((folder / "latents.json").read_text())
    (folder / "latents.json").write_text(json.dumps({**index, "count": 12}))
    with pytest.raises(DataError, match="says 12 latents and its shards hold 11"):
        load_data(folder)
    (folder / "latents.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read as the index"):
        load_data(folder)


def test_shards_are_one_data_set():
    array = Noise.of(0, 10).normal(1, 2, 2)
    whole = ArrayData("whole", array, PixelCodec())
    parts = ShardedData("parts", tuple(ArrayData("part", part, PixelCodec()) for part in array.split(4)))
    assert parts.labels is None
    rows = torch.tensor([9, 0, 4, 3, 4, 8])
    assert torch.equal(parts[rows], whole[rows])
    assert (len(parts), parts.shape) == (len(whole), whole.shape)
    assert parts.root_mean_square() == pytest.approx(whole.root_mean_square())


def test_celebas_splits_are_those_of_its_list_and_its_faces_are_cropped_about_the_centre(tmp_path):
    (tmp_path / "img_align_celeba").mkdir()
    tall = np.zeros((22, 18, 3), np.uint8)
    tall[2:20] = np.arange(18)[:, None, None] * 10
    for i in range(1, 5):
        Image.fromarray(tall + i).save(tmp_path / "img_align_celeba" / f"{i}.png")
    with pytest.raises(DataError, match=r"list_eval_partition\.txt"):
        next(stream_pictures(tmp_path, 18))
    (tmp_path / "list_eval_partition.txt").write_text("2.png 0\n1.png 0\n3.png 1\n4.png 2\n")
    train = torch.stack(list(stream_pictures(tmp_path, 18)))
    assert torch.equal(train[0], torch.from_numpy(tall[2:20] + 2).permute(2, 0, 1))
    assert train[:, 0, 0, 0].tolist() == [2, 1]
    (test,) = stream_pictures(tmp_path, 9, split="test")
    assert test.shape == (3, 9, 9)
    assert [int(x[0, 0, 0]) for x in stream_pictures(tmp_path, 18, first=1)] == [1]
    (tmp_path / "img_align_celeba" / "1.png").unlink()
    with pytest.raises(DataError, match=r"1\.png: no such file"):
        list(stream_pictures(tmp_path, 18))


def test_sources_of_no_pictures_are_named(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="no such folder"):
        next(stream_pictures(tmp_path / "nowhere", 8))
    with pytest.raises(DataError, match="holds no pictures"):
        next(stream_pictures(tmp_path, 8))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"stmd-sdk\[datasets\]"):
        next(stream_pictures("hf:some/images", 8))


@pytest.mark.filterwarnings("ignore")  # of the package, none of this project's business
def test_hugging_face_streams_are_those_of_the_data_set(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    features = datasets.Features({"picture": datasets.Image()})
    rows = {"picture": [Image.fromarray(pixels) for pixels in COLOUR]}
    (tmp_path / "set").mkdir()
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "set" / "train.parquet")
    streamed = list(stream_pictures(f"hf:{tmp_path / 'set'}", 16, first=3))
    assert torch.equal(torch.stack(streamed), torch.from_numpy(COLOUR[3:]).permute(0, 3, 1, 2))
    with pytest.raises(DataError, match="no column of images label"):
        next(stream_pictures(f"hf:{tmp_path / 'set'}:label", 16))


def test_a_cache_that_was_killed_before_its_count_goes_on(tmp_path, pictures, codec):
    folder = tmp_path / "latents"
    for size in (4, 16):  # with a last shard of three of four, and with one shard that is not full
        cache_latents(str(pictures), folder / str(size), codec, 16, shard_size=size)
        whole = {path.name: path.read_bytes() for path in (folder / str(size)).iterdir()}
        index = json.loads((folder / str(size) / "latents.json").read_text())
        (folder / str(size) / "latents.json").write_text(json.dumps({**index, "count": None}))
        (folder / str(size) / ".stmd-0123456789abcdef.json").write_text("{")
        assert cache_latents(str(pictures), folder / str(size), codec, 16, shard_size=size) == 11
        assert {path.name: path.read_bytes() for path in (folder / str(size)).iterdir()} == whole
        assert len(load_data(folder / str(size))) == 11


def test_a_folder_that_holds_nothing_but_hidden_files_is_empty_and_a_wrong_source_leaves_nothing(
    tmp_path, pictures, codec
):
    folder = tmp_path / "latents"
    with pytest.raises(DataError, match="no such folder of pictures"):
        cache_latents(str(tmp_path / "mistyped"), folder, codec, 16)
    assert not folder.exists()
    folder.mkdir()
    (folder / ".stmd-0123456789abcdef.json").touch()
    assert cache_latents(str(pictures), folder, codec, 16) == 11
    assert sorted(path.name for path in folder.iterdir()) == ["latents-00000.safetensors", "latents.json"]


def test_damaged_shards_and_senseless_indices_are_named(tmp_path, pictures, codec):
    folder = tmp_path / "latents"
    cache_latents(str(pictures), folder, codec, 16)
    shard, index = folder / "latents-00000.safetensors", json.loads((folder / "latents.json").read_text())
    whole = shard.read_bytes()
    flipped = bytearray(whole)
    flipped[-5] ^= 4
    shard.write_bytes(flipped)
    with pytest.raises(DataError, match=r"latents-00000\.safetensors: damaged"):
        load_data(folder)
    for values in ({"others": torch.zeros(11, 4, 8, 8)}, {"latents": torch.full((11, 4, 8, 8), torch.nan)}):
        write_tensors(shard, values, {})
        with pytest.raises(DataError, match=r"latents-00000\.safetensors: damaged"):
            load_data(folder)
    shard.write_bytes(whole)
    for key in ("count", "shard_size", "size"):
        (folder / "latents.json").write_text(json.dumps({**index, key: 0}))
        with pytest.raises(DataError, match=f"index .*{key}"):
            load_data(folder)
