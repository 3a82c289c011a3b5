"""Model files: a bitwise round trip, and one clear error for every file that is not one."""

import json
import os
import threading
import time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from stmd_sdk import CheckpointError, ModelSpec, OutputError
from stmd_sdk.codecs.codec import PixelCodec, VectorCodec
from stmd_sdk.models import checkpoint, tensors
from stmd_sdk.models.checkpoint import bundled_models, load_model, read_spec, resolve_model, save_model
from stmd_sdk.models.objective import DDPM, STMD, MeanFlow
from stmd_sdk.networks import DiTConfig, MLPConfig, UNetConfig

SPECS = {
    "unet": ModelSpec(
        "a",
        STMD(),
        (1, 8, 8),
        UNetConfig(channels=(8, 16), groups=4, embedding_width=16),
        PixelCodec(),
        sigma_data=0.7,
    ),
    "dit": ModelSpec("b", MeanFlow(), (2, 8, 4), DiTConfig(depth=1, width=8, heads=2), PixelCodec()),
    "mlp": ModelSpec("c", DDPM(), (3,), MLPConfig(width=8, depth=2), VectorCodec(), training={"steps": 3}),
}


def _saved(tmp_path, kind="mlp"):
    path, spec = tmp_path / "model.safetensors", SPECS[kind]
    network = spec.build_network()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    save_model(path, spec, network.state_dict())
    return path, network


def _rewrite(path, tensors=None, metadata=None):
    """The same file with other tensors or metadata."""
    old = {checkpoint.SPEC_KEY: read_spec(path).to_json()}
    save_file(tensors or load_file(path), path, metadata=old if metadata is None else metadata)


@pytest.mark.parametrize("kind", SPECS)
def test_a_model_comes_back_bit_by_bit(tmp_path, kind):
    path, network = _saved(tmp_path, kind)
    spec, loaded = load_model(path)
    assert spec == read_spec(path) == SPECS[kind]
    for name, tensor in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    x, times = torch.randn(2, spec.in_channels, *spec.shape[1:]), torch.rand(2, spec.times)
    # PyTorch multiplies weights that want gradients by another routine, which rounds otherwise.
    assert torch.equal(loaded(x, times), network.eval().requires_grad_(False)(x, times))
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_saving_a_loaded_model_gives_the_same_bytes(tmp_path):
    path, _ = _saved(tmp_path)
    spec, network = load_model(path)
    save_model(tmp_path / "again.safetensors", spec, network.state_dict())
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_loading_draws_nothing_from_the_global_generator(tmp_path):
    path, _ = _saved(tmp_path, "dit")
    state = torch.get_rng_state()
    load_model(path)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_loaded_model_does_not_change_with_its_file(tmp_path):
    path, network = _saved(tmp_path)
    _, loaded = load_model(path)
    with path.open("r+b") as file:
        file.seek(-64, 2)
        file.write(bytes(64))
    for name, tensor in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)


def test_other_floating_point_weights_are_read_as_float32(tmp_path):
    path, network = _saved(tmp_path)
    _rewrite(path, {name: tensor.bfloat16() for name, tensor in network.state_dict().items()})
    _, loaded = load_model(path)
    for name, tensor in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor.bfloat16().float())


def test_every_truncation_is_an_error(tmp_path):
    path, _ = _saved(tmp_path)
    whole = path.read_bytes()
    for size in [*range(0, 40), 200, len(whole) // 2, len(whole) - 1]:
        path.write_bytes(whole[:size])
        for read in (load_model, read_spec):
            with pytest.raises(CheckpointError, match=r"model\.safetensors: not a whole safetensors file"):
                read(path)


@pytest.mark.parametrize("content", [b"PK\x03\x04 a zip, as of torch.save", b"\x80\x02}q\x00.", b"\xff" * 1000])
def test_other_formats_are_errors(tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        load_model(path)


@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        ({}, "no STMD spec"),
        ({"format": "pt"}, "no STMD spec"),
        ({checkpoint.SPEC_KEY: "{}"}, "foreign or damaged spec"),
    ],
)
def test_a_foreign_file_is_an_error(tmp_path, metadata, says):
    path, _ = _saved(tmp_path)
    _rewrite(path, metadata=metadata)
    for read in (load_model, read_spec):
        with pytest.raises(CheckpointError, match=says):
            read(path)


def _with_nan(tensors):
    tensors["leave.bias"][1] = torch.nan


def _with_infinity(tensors):
    tensors["leave.bias"][1] = -torch.inf


def _with_integers(tensors):
    tensors["leave.bias"] = torch.zeros(3, dtype=torch.int64)


def _of_another_shape(tensors):
    tensors["leave.bias"] = torch.zeros(4)


def _without_one(tensors):
    del tensors["leave.bias"]


def _with_one_more(tensors):
    tensors["leave.offset"] = torch.zeros(3)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_with_nan, r"leave\.bias has values that are not finite"),
        (_with_infinity, r"leave\.bias has values that are not finite"),
        (_with_integers, r"leave\.bias has values that are not finite floating-point numbers"),
        (_of_another_shape, r"leave\.bias has shape \(4,\), not \(3,\)"),
        (_without_one, r"its tensors are not those of its spec's network, as leave\.bias"),
        (_with_one_more, r"its tensors are not those of its spec's network, as leave\.offset"),
    ],
)
def test_damaged_tensors_are_named(tmp_path, damage, says):
    path, _ = _saved(tmp_path)
    tensors = load_file(path)
    damage(tensors)
    _rewrite(path, tensors)
    with pytest.raises(CheckpointError, match=says):
        load_model(path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        # 120 gigabytes, were they allocated before the shapes are compared.
        ({"network": {"kind": "mlp", "width": 50_000, "depth": 6}}, "has shape|are not those"),
        ({"network": {"kind": "mlp", "width": 50_000_000, "depth": 2}}, "width must be an integer from 1 to"),
        ({"shape": [3, 8, 8]}, "its spec describes no network .*takes vectors"),
        ({"network": {"kind": "dit", "depth": 1, "width": 8, "heads": 1}}, "its spec describes no network"),
    ],
)
def test_a_spec_that_does_not_fit_its_tensors_is_an_error(tmp_path, change, says):
    path, _ = _saved(tmp_path)
    spec = json.loads(read_spec(path).to_json()) | change
    _rewrite(path, metadata={checkpoint.SPEC_KEY: json.dumps(spec)})
    with pytest.raises(CheckpointError, match=says):
        load_model(path)


def test_an_interrupted_write_leaves_the_old_model(tmp_path, monkeypatch):
    path, network = _saved(tmp_path)
    old = path.read_bytes()

    def interrupted(*unused):
        raise KeyboardInterrupt

    monkeypatch.setattr(tensors, "_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_model(path, SPECS["mlp"], network.state_dict())
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


def test_a_model_that_cannot_be_written_is_an_output_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write"):
        save_model(tmp_path / "file" / "model.safetensors", SPECS["mlp"], {"a": torch.zeros(1)})
    with pytest.raises(OutputError, match="cannot write"):
        save_model(tmp_path, SPECS["mlp"], {"a": torch.zeros(1)})


def test_a_name_is_a_bundled_model_or_a_file(tmp_path, monkeypatch):
    path, _ = _saved(tmp_path)
    assert resolve_model(path) == resolve_model(str(path)) == path
    with pytest.raises(CheckpointError, match="is a folder; name a file in it"):
        resolve_model(tmp_path)
    monkeypatch.setattr(checkpoint, "BUNDLED", tmp_path)
    assert bundled_models() == ["model"]
    assert resolve_model("model") == path
    with pytest.raises(CheckpointError, match=r"no model 'modle': neither a file nor one of .*\(model\)"):
        resolve_model("modle")


@pytest.mark.parametrize("read", [load_model, read_spec])
def test_what_is_no_file_is_an_error(tmp_path, read):
    with pytest.raises(CheckpointError, match="no such file"):
        read(tmp_path / "absent.safetensors")
    with pytest.raises(CheckpointError):
        read(tmp_path)


UNET = {"kind": "unet", "channels": [8, 16], "groups": 4}
DIT = {"kind": "dit", "depth": 1, "width": 8, "heads": 2}


# Each would be built for hours, or fill the memory, or is a number that PyTorch stumbles over.
@pytest.mark.parametrize(
    "change",
    [
        {"network": {"kind": "mlp", "depth": 10**9}},
        {"network": {"kind": "mlp", "octaves": 10**18}},
        {"network": {"kind": "mlp", "width": 65_536, "depth": 512}},
        {"shape": [10**18]},
        {"shape": [1, 28_000_000, 28], "network": UNET},
        {"shape": [1, 8, 8], "network": UNET | {"channels": [2**31, 2**31]}},
        {"shape": [1, 8, 8], "network": UNET | {"channels": [8] * 10_000}},
        {"shape": [1, 8, 8], "network": UNET | {"layers_per_block": 10**18}},
        {"shape": [1, 8, 8], "network": UNET | {"embedding_width": 2**62}},
        {"shape": [1, 10**6, 10**6], "network": DIT},
        {"shape": [1, 4096, 4096], "network": DIT | {"width": 4096}},
        {"shape": [1, 8, 8], "network": DIT | {"depth": 10**9}},
        {"sigma_data": 10**400},
        {"sigma_data": -(10**4000)},
        {"training": {"note": "x" * 70_000, "steps": []}},
    ],
)
def test_what_a_spec_asks_for_is_bounded_before_anything_is_built(tmp_path, change):
    path, _ = _saved(tmp_path)
    spec = json.loads(read_spec(path).to_json())
    codec = {"kind": "pixels"} if len(change.get("shape", ())) == 3 else spec["codec"]
    _rewrite(path, metadata={checkpoint.SPEC_KEY: json.dumps(spec | {"codec": codec} | change)})
    started = time.perf_counter()
    with pytest.raises(CheckpointError) as caught:
        load_model(path)
    assert time.perf_counter() - started < 5
    assert len(str(caught.value)) < 1000


def test_what_git_lfs_leaves_is_named(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    with pytest.raises(CheckpointError, match=r"Git LFS pointer.*git lfs pull"):
        resolve_model(path)


@pytest.mark.parametrize("name", ["a" * 5000, "zero\0", "half\ud800", "pipe", "/dev/zero"])
def test_what_cannot_be_a_model_is_one_line(tmp_path, name):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError) as caught:
        resolve_model(tmp_path / name)
    assert len(str(caught.value)) < 1000


def test_equal_tensors_are_equal_bytes_that_the_formats_own_library_reads(tmp_path):
    values = {
        "a": torch.randn(3, 2),
        "b": torch.randn(5).bfloat16(),
        "c": torch.arange(4),
        "d": torch.tensor([True]),
        "e": torch.zeros(0, 3),
        "f": torch.tensor(2.0),
    }
    for name in ("one", "two"):
        tensors.write_tensors(tmp_path / name, dict(reversed(values.items())), {"x": "1", "y": "ß"})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    for found in (load_file(tmp_path / "one"), tensors.read_tensors(tmp_path / "one")[0]):
        assert found.keys() == values.keys()
        assert all(torch.equal(found[key], value) and found[key].dtype == value.dtype for key, value in values.items())
    assert tensors.read_tensors(tmp_path / "one")[1] == tensors.read_metadata(tmp_path / "one") == {"x": "1", "y": "ß"}


def test_no_flipped_bit_is_accepted_with_other_numbers(tmp_path):
    path, network = _saved(tmp_path)
    whole, spec = path.read_bytes(), read_spec(path)
    noise = torch.Generator().manual_seed(1)
    places = torch.randint(len(whole), (300,), generator=noise).tolist()
    bits = torch.randint(8, (300,), generator=noise).tolist()
    for place, bit in zip(places, bits, strict=True):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << bit
        path.write_bytes(damaged)
        try:
            found, loaded = load_model(path)
        except CheckpointError:
            continue
        assert found == spec  # as where the bit was in the padding, or made JSON of the same meaning
        assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in network.state_dict().items())


def test_a_file_without_a_seal_is_read(tmp_path):
    path, network = _saved(tmp_path)
    _rewrite(path)
    assert "stmd_sha256" not in path.read_bytes().decode("latin-1")
    _, loaded = load_model(path)
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in network.state_dict().items())


def test_a_model_that_is_replaced_while_it_loads_is_the_old_or_the_new_one(tmp_path):
    """Files with and without a seal, of two sizes: a thread swaps them while they are loaded."""
    path, stop = tmp_path / "model.safetensors", threading.Event()
    kinds = []
    for value, width in ((0.25, 8), (0.5, 16)):
        spec = replace(SPECS["mlp"], network=MLPConfig(width=width, depth=2), sigma_data=value)
        state = {name: torch.full_like(tensor, value) for name, tensor in spec.build_network().state_dict().items()}
        save_file(state, tmp_path / f"{value}", metadata={checkpoint.SPEC_KEY: spec.to_json()})
        kinds.append(tmp_path / f"{value}")

    def swap():
        while not stop.is_set():
            for kind in kinds:
                (tmp_path / "next").write_bytes(kind.read_bytes())
                (tmp_path / "next").replace(path)

    path.write_bytes(kinds[0].read_bytes())
    swapping = threading.Thread(target=swap)
    swapping.start()
    try:
        for _ in range(150):
            spec, network = load_model(path)
            assert all(bool((tensor == spec.sigma_data).all()) for tensor in network.state_dict().values())
    finally:
        stop.set()
        swapping.join()


def test_a_bundled_name_that_is_a_model_here_too_is_in_doubt(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()  # of data
    assert resolve_model("digits") == resolve_model("bundled:digits")
    (tmp_path / "digits" / "model.safetensors").touch()
    with pytest.raises(CheckpointError, match=r"\./digits/model\.safetensors or bundled:digits"):
        resolve_model("digits")
    assert resolve_model("bundled:digits").name == "digits.safetensors"
