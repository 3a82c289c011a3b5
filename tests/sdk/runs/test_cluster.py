"""Work spread over a Ray cluster: one of two workers on this machine, started once, stopped by this file."""

import os
import signal
import socket

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from stmd_sdk.cli.app import app
from stmd_sdk.errors import DeviceError, InferenceError
from stmd_sdk.runs import cluster
from stmd_sdk.runs.cluster import one_by_one, workers_at

runner = CliRunner()


@pytest.fixture(scope="module")
def workers():
    with workers_at("local", None) as every:
        yield every


def _square(k):
    return k * k


def _killed_once(flag, k):
    """Dies as a worker that is lost does, the first time that it sees 3."""
    if k == 3 and not os.path.exists(flag):
        open(flag, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return k


def _wrong(k):
    raise InferenceError("no such posterior")


def test_every_piece_is_done_once_and_named_by_its_number(workers):
    pieces = [(k,) for k in range(50)]
    found = list(workers(_square, iter(pieces)))
    assert sorted(found) == list(one_by_one(_square, pieces))


def test_pieces_are_made_as_they_are_asked_for(workers):
    made = []
    results = workers(_square, ((made.append(k) or k,) for k in range(1000)))
    next(results)
    assert len(made) < 100
    results.close()


def test_a_lost_worker_costs_time_alone(workers, tmp_path):
    flag = str(tmp_path / "killed")
    assert sorted(workers(_killed_once, [(flag, k) for k in range(6)])) == [(k, k) for k in range(6)]
    assert os.path.exists(flag)


def test_errors_are_the_projects_own(workers):
    with pytest.raises(InferenceError, match=r"^no such posterior$"):
        list(workers(_wrong, [(1,)]))


def ran(*arguments):
    result = runner.invoke(app, [*map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.output


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "stmd-run.json"}


def test_samples_of_a_cluster_are_those_of_one_process_and_a_stopped_run_goes_on(workers, tmp_path, monkeypatch):
    monkeypatch.setattr("stmd_sdk.runs.stream.SHARD", 20)
    asked = ["sample", "-m", "digits", "-n", 90, "--first", 5, "--steps", 1, "--seed", 3]
    ran(*asked, "-o", tmp_path / "alone")
    assert "90 samples" in ran(*asked, "-o", tmp_path / "spread", "--ray", "local")
    assert content(tmp_path / "alone") == content(tmp_path / "spread")
    assert len(content(tmp_path / "spread")) == 90
    for k in (5, 30, 94):  # of three shards
        (tmp_path / "spread" / f"{k:010d}.png").unlink()
    assert "(50 now)" in ran(*asked, "-o", tmp_path / "spread", "--ray", "local")  # 20, 20 and the last 10
    assert content(tmp_path / "alone") == content(tmp_path / "spread")


def test_restorations_of_a_cluster_are_those_of_one_process(workers, tmp_path):
    (tmp_path / "in").mkdir()
    for k in range(5):
        shades = np.random.default_rng(k).integers(0, 255, (8, 8), np.uint8)
        Image.fromarray(shades).save(tmp_path / "in" / f"{k}.png")
    mask = np.full((8, 8), 255, np.uint8)
    mask[:, 4:] = 0
    Image.fromarray(mask).save(tmp_path / "mask.png")
    asked = ["restore", tmp_path / "in", "-m", "digits", "--operator", f"mask:{tmp_path / 'mask.png'}"]
    asked += ["--draws", 3, "--steps", 2, "--seed", 1]
    alone = ["-o", tmp_path / "alone", "--save-draws", tmp_path / "alone-draws"]
    ran(*asked, *alone)
    ran(*asked, "--ray", "local", "-o", tmp_path / "spread", "--save-draws", tmp_path / "draws")
    assert content(tmp_path / "alone") == content(tmp_path / "spread")
    assert content(tmp_path / "alone-draws") == content(tmp_path / "draws")
    (tmp_path / "spread" / "3.png").unlink()
    again = ran(*asked, "--ray", "local", "-o", tmp_path / "spread", "--save-draws", tmp_path / "draws")
    assert "1 of 5 images" in again
    assert content(tmp_path / "alone") == content(tmp_path / "spread")


def test_what_a_cluster_does_not_do_is_said_first(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "x.png")
    for arguments, said in (
        (["sample", "--ray", "local", "-o", tmp_path / "x.png"], "--ray draws into a folder"),
        (["restore", tmp_path / "x.png", "--operator", "gray", "--ray", "local"], "images of a folder"),
    ):
        result = runner.invoke(app, [*map(str, arguments)])
        assert (result.exit_code, said in result.output) == (2, True), result.output


@pytest.mark.parametrize("address", ["127.0.0.1:{port}", "no such host:1", "auto", "nonsense"])
def test_a_head_that_cannot_be_reached_is_one_line(monkeypatch, address):
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(cluster, "PATIENCE", 1.0)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def no_cluster(*arguments, **options):
        raise ConnectionError("Could not find any running Ray instance.\nPlease specify the one to connect to.")

    monkeypatch.setattr(ray, "init", no_cluster)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(DeviceError, match=r"^--ray .*: no Ray (head answers|cluster can be reached) there") as error:
        workers_at(address.format(port=port), None).__enter__()
    assert "\n" not in str(error.value)
