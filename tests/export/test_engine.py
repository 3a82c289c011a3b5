"""Engines, built for real by TensorRT-RTX without a GPU: what they say, what is cached, and every refusal."""

import hashlib
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import onnx
import pytest
from onnx import TensorProto, helper

from stmd_export import EngineError, engine, engine_export, export_engine
from stmd_export.engine_export import default_cache, engine_key
from stmd_export.onnx_export import report_path
from stmd_sdk.backends.flavours import load_flavour
from stmd_sdk.backends.tensorrt import BatchProfile, manifest_path, read_engine
from stmd_sdk.errors import CheckpointError, InvalidArgumentError, OutputError
from stmd_sdk.models.artefact import read_onnx, sealed

trt = pytest.importorskip("tensorrt_rtx")
BATCH = BatchProfile(1, 4, 8)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def build(onnx_file, out, cache, **options):
    return export_engine(onnx_file, out, **{"batch": BATCH, "architectures": ("sm120",), "cache": cache, **options})


@pytest.mark.parametrize(
    ("name", "precision", "kind"),
    [pytest.param("unet", "fp16", "HALF", marks=pytest.mark.long), ("dit", "fp32", "FLOAT"), ("mlp", "bf16", "BF16")],
)
def test_an_engine_and_all_that_its_validity_depends_on(exported, tmp_path, cache, name, precision, kind):
    made = exported(name, precision=precision)
    said = []
    file = build(made.onnx, tmp_path, cache, say=said.append)
    spec, manifest, data = read_engine(file)
    assert spec == made.spec
    assert int.from_bytes(data[:4], "little") == 1953657974  # which the runtime's own error says it expects
    assert manifest.sha256 == hashlib.sha256(data).hexdigest()
    assert manifest.onnx_sha256 == hashlib.sha256(made.onnx.read_bytes()).hexdigest()
    assert (manifest.flavour, manifest.tensorrt) == ("tensorrt-rtx", trt.__version__)
    assert (manifest.architectures, manifest.batch) == (("sm120",), BATCH)
    assert manifest.artefact == read_onnx(made.onnx)[1]
    assert kind in manifest.layers["matrix_multiply"]
    assert set(manifest.layers.get("convolution", {kind: 0})) == {kind}
    assert set(manifest.layers.get("normalization", {"FLOAT": 0})) == {"FLOAT"}
    assert ("TF32" in manifest.flags) == (precision != "fp32")
    assert any(line.startswith("TensorRT: ") for line in said)
    parity = json.loads(manifest_path(file).read_text())["parity"]
    assert parity == json.loads(report_path(made.onnx).read_text())["parity"]
    if not manifest.verified:
        assert "without a GPU" in manifest.why


@pytest.mark.long
def test_a_whole_sampler_becomes_one_engine(exported, tmp_path, cache):
    made = exported("mlp", whole=(4, 2))
    file = build(made.onnx, tmp_path, cache)
    _, manifest, _ = read_engine(file)
    assert manifest.artefact.kind == "sampler"
    assert manifest.artefact.times == (1.0, 0.75, 0.5, 0.25, 0.0)


def test_the_cache_gives_the_same_engine_until_forced(exported, tmp_path, cache, monkeypatch):
    made, builds = exported("mlp"), []
    real = engine.build
    monkeypatch.setattr(engine_export, "build", lambda *args, **named: builds.append(1) or real(*args, **named))
    first = build(made.onnx, tmp_path / "a", cache)
    second = build(made.onnx, tmp_path / "b", cache)
    assert first.read_bytes() == second.read_bytes()
    assert len(builds) == 1
    build(made.onnx, tmp_path / "b", cache, force=True)
    assert len(builds) == 2


@pytest.mark.parametrize(
    "damage", [lambda engine: engine.write_bytes(b"half"), lambda engine: manifest_path(engine).unlink()]
)
def test_a_damaged_cache_entry_is_built_again(exported, tmp_path, damage):
    made, cache = exported("mlp"), tmp_path / "cache"
    build(made.onnx, tmp_path / "a", cache)
    (entry,) = cache.glob("*.engine")
    damage(entry)
    read_engine(build(made.onnx, tmp_path / "b", cache))
    read_engine(entry)


def test_two_builders_of_one_engine_build_it_once(exported, tmp_path, monkeypatch):
    made, builds = exported("mlp"), []
    real = engine.build
    monkeypatch.setattr(engine_export, "build", lambda *args, **named: builds.append(1) or real(*args, **named))
    with ThreadPoolExecutor(2) as pool:
        files = list(pool.map(lambda name: build(made.onnx, tmp_path / name, tmp_path / "cache"), "ab"))
    assert len(builds) == 1
    assert files[0].read_bytes() == files[1].read_bytes()


def test_whatever_changes_the_engine_changes_its_address():
    base = ("0" * 64, "tensorrt-rtx", "1", BATCH, ("sm120",))
    changes = [(0, "1" * 64), (1, "tensorrt"), (2, "2"), (3, BatchProfile(1, 4, 9)), (4, ("sm89",)), (4, ())]
    keys = {engine_key(*base), *(engine_key(*base[:i], value, *base[i + 1 :]) for i, value in changes)}
    assert len(keys) == 1 + len(changes)
    assert engine_key(*base[:4], ("sm89", "sm120")) == engine_key(*base[:4], ("sm120", "sm89"))


@pytest.mark.skipif(
    tuple(map(int, trt.__version__.split(".")[:2])) < (1, 7), reason="1.4 builds for Turing what 1.7 refuses"
)
def test_what_the_builder_only_logs_is_raised_and_leaves_nothing(exported, tmp_path):
    made = exported("mlp")
    with pytest.raises(EngineError, match=r"Turing \(SM75\): FP32 GEMM is not supported"):
        build(made.onnx, tmp_path / "out", tmp_path / "cache", architectures=("sm75",))
    assert not (tmp_path / "out").exists()
    assert not list((tmp_path / "cache").glob("*.engine*"))


def graph_of(*nodes, shape=("b", 4)):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("u", TensorProto.FLOAT, None)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def raw_build(path):
    flavour, module = load_flavour("tensorrt-rtx")
    return engine.build(
        path, flavour, module, kind="network", precision="fp32", decoder=False, batch=BATCH,
        architectures=("sm120",), timing_cache=b"", say=lambda _: None,
    )  # fmt: skip


def test_an_unsupported_operator_is_named_with_its_node(tmp_path):
    onnx.save(
        graph_of(helper.make_node("Det", ["x"], ["u"], name="the_odd_one"), shape=("b", 3, 3)),
        tmp_path / "x.onnx",
    )
    with pytest.raises(EngineError, match=r"the_odd_one \(Det\)"):
        raw_build(tmp_path / "x.onnx")


def test_a_file_that_the_parser_cannot_read_is_an_error(tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"GIF89a" * 30)
    with pytest.raises(EngineError, match="TensorRT cannot read"):
        raw_build(tmp_path / "x.onnx")


def test_a_missing_profile_is_an_error(exported, monkeypatch):
    monkeypatch.setattr(
        engine,
        "_profile",
        lambda *_: trt.Builder(engine.tensorrt_log("tensorrt-rtx")).create_optimization_profile(),
    )
    with pytest.raises(EngineError, match=r"[Pp]rofile"):
        raw_build(exported("mlp").onnx)


def test_an_unknown_architecture_names_the_known_ones(exported, tmp_path):
    with pytest.raises(InvalidArgumentError, match=r"sm90.*sm75.*sm120"):
        build(exported("mlp").onnx, tmp_path, tmp_path, architectures=("sm90",))


def test_an_opset_that_is_too_low_is_refused(exported, tmp_path):
    from dataclasses import replace

    source = exported("mlp").onnx
    spec, artefact = read_onnx(source)
    model = onnx.load(source)
    del model.metadata_props[:]
    old = tmp_path / "old.onnx"
    old.write_bytes(sealed(model.SerializeToString(), spec, replace(artefact, opset=17)))
    with pytest.raises(CheckpointError, match="opset 17"):
        build(old, tmp_path, tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_cache_that_cannot_be_written_is_an_error(exported, tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    with pytest.raises(OutputError, match="--cache-dir"):
        build(exported("mlp").onnx, tmp_path, locked / "cache")


def test_a_cache_that_is_a_file_is_an_error(exported, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(OutputError, match=r"cache.*--cache-dir"):
        build(exported("mlp").onnx, tmp_path, tmp_path / "cache")


def test_a_full_disk_while_caching_leaves_the_cache_intact(exported, tmp_path, monkeypatch):
    made, cache = exported("mlp"), tmp_path / "cache"
    build(made.onnx, tmp_path / "a", cache)
    before = {path.name: path.read_bytes() for path in cache.iterdir()}

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(engine_export, "_cannot_run", full)
    with pytest.raises(OutputError, match="No space left"):
        build(made.onnx, tmp_path / "b", cache, force=True)
    assert {path.name: path.read_bytes() for path in cache.iterdir()} == before


def test_the_cache_can_be_moved(monkeypatch, tmp_path):
    monkeypatch.setenv("STMD_CACHE", str(tmp_path))
    assert default_cache() == tmp_path / "engines"


def test_a_machine_with_only_the_data_centre_flavour_builds_for_its_own_gpu():
    with pytest.raises(InvalidArgumentError, match="GPU at hand"):
        engine.check_architectures("tensorrt", object(), ("sm90",))


@pytest.mark.long
def test_another_models_pair_under_this_ones_key_is_built_again(exported, tmp_path):
    made, other, cache = exported("mlp"), exported("mlp", whole=(4, 2)), tmp_path / "cache"
    build(made.onnx, tmp_path / "a", cache)
    build(other.onnx, tmp_path / "b", tmp_path / "others")
    (entry,), (foreign,) = cache.glob("*.engine"), (tmp_path / "others").glob("*.engine")
    shutil.copy(foreign, entry)
    shutil.copy(manifest_path(foreign), manifest_path(entry))  # they fit each other
    _, manifest, _ = read_engine(build(made.onnx, tmp_path / "c", cache))
    assert manifest.onnx_sha256 == hashlib.sha256(made.onnx.read_bytes()).hexdigest()
