"""Many samples to disk: every form holds the samples, a stopped run goes on, two processes make what one makes."""

import io
import json
import os
import subprocess
import sys
import tarfile
import threading

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from stmd_sdk import ModelSpec, to_images
from stmd_sdk.cli import app as cli
from stmd_sdk.codecs.codec import VectorCodec
from stmd_sdk.errors import InvalidArgumentError, OutputError
from stmd_sdk.models.checkpoint import save_model
from stmd_sdk.models.objective import STMD
from stmd_sdk.networks import MLPConfig
from stmd_sdk.runs import outputs, stream

FORMS = ["folder", "draws.tar", "draws.npz"]


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch):
    monkeypatch.setattr(stream, "SHARD", 4)


def a_run(shape=(3,), **changes):
    return stream.StreamedRun(**{"model": "m", "shape": shape, "steps": "4", "seed": 1, "first": 5, "n": 18} | changes)


def drawn(shape=(3,)):
    """Sample k is filled with numbers of k alone."""

    def draw(first, n):
        k = np.arange(first, first + n, dtype=np.float32).reshape(n, *[1] * len(shape))
        return np.sin(k + np.arange(np.prod(shape), dtype=np.float32).reshape(shape))

    return draw


def content(folder):
    """Every file below a folder, but for the record of the run."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".json")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_holds_the_samples_and_their_indices(tmp_path, form):
    output, run = outputs.open_output(tmp_path / form, 1), a_run()
    assert stream.stream(drawn(), run, output) == 18
    expected = drawn()(5, 18)
    if form == "draws.npz":
        assert np.array_equal(np.load(tmp_path / form)["x"], expected)
        assert [path.name for path in tmp_path.iterdir()] == ["draws.npz"]
        return
    found = content(tmp_path)
    if form == "draws.tar":
        assert sorted(found) == [f"draws-{i:06d}.tar" for i in range(5)]
        shards, found = found, {}
        for data in shards.values():
            with tarfile.open(fileobj=io.BytesIO(data)) as tar:
                found |= {member.name: tar.extractfile(member).read() for member in tar}
    arrays = {int(name.split("/")[-1].split(".")[0]): np.load(io.BytesIO(data)) for name, data in found.items()}
    assert sorted(arrays) == list(range(5, 23))
    assert all(np.array_equal(arrays[5 + i], expected[i]) for i in range(18))


def test_images_are_pictures_of_themselves(tmp_path):
    shape = (3, 4, 4)
    stream.stream(drawn(shape), a_run(shape), outputs.open_output(tmp_path / "folder", 1))
    images = to_images(drawn(shape)(5, 18))
    for i in range(18):
        assert np.array_equal(np.asarray(Image.open(tmp_path / "folder" / f"{5 + i:010d}.png")), images[i])


@pytest.mark.parametrize("form", FORMS)
def test_a_stopped_run_draws_what_is_missing_and_no_more(tmp_path, form):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    stream.stream(drawn(), a_run(), outputs.open_output(whole / form, 1))
    output, starts = outputs.open_output(stopped / form, 1), []

    def failing(first, n):
        if first == 13:
            raise RuntimeError("killed")
        return drawn()(first, n)

    def counting(first, n):
        starts.append(first)
        return drawn()(first, n)

    with pytest.raises(RuntimeError, match="killed"):
        stream.stream(failing, a_run(), output)
    assert stream.run_seed(output, 1) == 1
    assert stream.stream(counting, a_run(), output) == 10
    assert starts == [13, 17, 21]
    assert content(stopped) == content(whole)


def test_the_output_of_another_run_is_refused(tmp_path):
    output = outputs.open_output(tmp_path / "folder", 1)
    stream.stream(drawn(), a_run(), output)
    before = content(tmp_path)
    for changes, says in (({"seed": 2}, "seed 1"), ({"model": "other"}, "model m"), ({"n": 19}, "n 18")):
        with pytest.raises(OutputError, match=says):
            stream.stream(drawn(), a_run(**changes), output)
    output.record.write_text("not JSON")
    with pytest.raises(OutputError, match="not the record of a run"):
        stream.stream(drawn(), a_run(), output)
    assert content(tmp_path) == before
    output.record.unlink()
    with pytest.raises(OutputError, match="says of which run"):
        stream.stream(drawn(), a_run(seed=2), output)


def test_a_shard_is_encoded_while_the_next_is_drawn(tmp_path, monkeypatch):
    second_is_drawn = threading.Event()
    output = outputs.open_output(tmp_path / "draws.tar", 1)
    write = outputs.TarOutput.write

    def waiting(self, number, shard, x):
        assert second_is_drawn.wait(10)
        write(self, number, shard, x)

    def draw(first, n):
        if first > 5:
            second_is_drawn.set()
        return drawn()(first, n)

    monkeypatch.setattr(outputs.TarOutput, "write", waiting)
    assert stream.stream(draw, a_run(), output) == 18


def test_what_cannot_be_written_is_an_error(tmp_path):
    def draw(first, n):
        (tmp_path / "folder" / f"{first + 1:010d}.npy").mkdir(parents=True)
        return drawn()(first, n)

    with pytest.raises(OutputError, match=r"cannot write .*0000000006\.npy"):
        stream.stream(draw, a_run(), outputs.open_output(tmp_path / "folder", 1))


def test_a_folder_of_somebodys_files_is_left_alone_and_one_with_a_dot_is_a_folder(tmp_path):
    (tmp_path / "exp.v2").mkdir()
    (tmp_path / "exp.v2" / ".hidden").touch()
    assert stream.stream(drawn(), a_run(), outputs.open_output(tmp_path / "exp.v2", 1)) == 18
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "cat.png").touch()
    with pytest.raises(OutputError, match="is not empty"):
        stream.stream(drawn(), a_run(), outputs.open_output(tmp_path / "mine", 1))
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["cat.png"]


def test_shards_of_large_samples_are_small():
    assert [len(shard) for shard in a_run((3, 2048, 2048)).shards()] == [1] * 18
    assert [shard.start for shard in a_run().shards()] == [5, 9, 13, 17, 21]


@pytest.mark.parametrize(("rank", "world"), [("2", "2"), ("-1", "2"), ("one", "2"), ("0", "0")])
def test_a_senseless_environment_is_refused(monkeypatch, rank, world):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", world)
    with pytest.raises(InvalidArgumentError, match="RANK"):
        stream.process()


def test_several_processes_need_a_seed_and_a_form_that_they_can_share(tmp_path):
    with pytest.raises(InvalidArgumentError, match="give --seed"):
        stream.run_seed(outputs.open_output(tmp_path / "folder", 2), 2)
    with pytest.raises(InvalidArgumentError, match="one process"):
        outputs.open_output(tmp_path / "draws.npz", 2)


@pytest.mark.parametrize("form", ["folder", "draws.tar"])
def test_the_union_of_two_shares_is_the_whole(tmp_path, monkeypatch, form):
    stream.stream(drawn(), a_run(), outputs.open_output(tmp_path / "one" / form, 1))
    monkeypatch.setenv("WORLD_SIZE", "2")
    shares = []
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        shares.append(stream.stream(drawn(), a_run(), outputs.open_output(tmp_path / "two" / form, 2)))
    assert shares == [8, 10]
    assert content(tmp_path / "two") == content(tmp_path / "one")


def test_two_processes_of_the_command_write_what_one_writes(tmp_path):
    spec = ModelSpec("line", STMD(), (3,), MLPConfig(width=8, depth=1), VectorCodec())
    save_model(tmp_path / "line.safetensors", spec, spec.build_network().state_dict())
    program = "from stmd_sdk.cli import app; from stmd_sdk.runs import stream; stream.SHARD = 4; app.main()"
    options = [
        str(o) for o in ("sample", "-m", tmp_path / "line.safetensors", "-n", 18, "--seed", 3, "--device", "cpu")
    ]
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", program, *options, "-o", tmp_path / "two" / "draws.tar"],
            env=os.environ | {"OMP_NUM_THREADS": "1", "RANK": str(rank), "WORLD_SIZE": "2"},
        )
        for rank in range(2)
    ]
    assert [run.wait() for run in runs] == [0, 0]
    assert CliRunner().invoke(cli.app, [*options, "-o", str(tmp_path / "one" / "draws.tar")]).exit_code == 0
    assert len(content(tmp_path / "one")) == 5
    assert content(tmp_path / "two") == content(tmp_path / "one")
    record = json.loads((tmp_path / "one" / "draws.json").read_text())
    assert (record["seed"], record["n"], record["steps"]) == (3, 18, "4 inference steps x 1 Mean Flow steps")


@pytest.mark.parametrize("form", FORMS)
def test_two_runs_into_one_output_never_mix(tmp_path, form):
    """The second one comes while the first draws its first shard: whatever its seed, it says who is there."""

    def second(seed):
        with pytest.raises(OutputError, match=rf"is being written by process {os.getpid()} on .* since "):
            stream.stream(drawn(), a_run(seed=seed), outputs.open_output(tmp_path / form, 1))

    def draw(first, n):
        if first == 5:
            second(1)
            second(2)
        return drawn()(first, n)

    assert stream.stream(draw, a_run(), outputs.open_output(tmp_path / form, 1)) == 18
    assert not [path for path in tmp_path.rglob(".*") if path.is_file()]
    if form != "draws.npz":  # whose record is gone with its parts
        with pytest.raises(OutputError, match="of another run"):
            stream.stream(drawn(), a_run(seed=2), outputs.open_output(tmp_path / form, 1))


def test_the_shares_of_two_runs_never_mix(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")

    def draw(first, n):
        if first == 5:  # of rank 0; meanwhile rank 1 of a run of another seed begins, and ends
            monkeypatch.setenv("RANK", "1")
            stream.stream(drawn(), a_run(seed=2), outputs.open_output(tmp_path / "folder", 2))
        return drawn()(first, n)

    monkeypatch.setenv("RANK", "0")
    with pytest.raises(OutputError, match="of another run"):
        stream.stream(draw, a_run(seed=1), outputs.open_output(tmp_path / "folder", 2))


def test_a_run_that_fails_at_once_leaves_nothing(tmp_path):
    def failing(first, n):
        raise RuntimeError("no")

    for form in FORMS:
        with pytest.raises(RuntimeError, match="no"):
            stream.stream(failing, a_run(), outputs.open_output(tmp_path / "new" / form, 1))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("record", ["[1, 2]", "7", '{"seed": 1', "[" * 100_000])
def test_a_record_that_is_none_is_said_to_be(tmp_path, record):
    (tmp_path / "draws.json").write_text(record)
    output = outputs.open_output(tmp_path / "draws.tar", 1)
    for use in (lambda: stream.run_seed(output, 1), lambda: stream.stream(drawn(), a_run(), output)):
        with pytest.raises(OutputError, match="not the record of a run"):
            use()


def test_a_damaged_part_is_named(tmp_path, monkeypatch):
    output = outputs.open_output(tmp_path / "draws.npz", 1)
    with monkeypatch.context() as patch:
        patch.setattr(outputs.NpzOutput, "finish", lambda self, shards: None)
        stream.stream(drawn(), a_run(), output)
    part = output.parts / "000002.npy"
    part.write_bytes(part.read_bytes()[:70])
    with pytest.raises(OutputError, match=r"000002\.npy: damaged"):
        stream.stream(drawn(), a_run(), output)
    part.unlink()
    assert stream.stream(drawn(), a_run(), output) == 4
    assert np.array_equal(np.load(tmp_path / "draws.npz")["x"], drawn()(5, 18))
