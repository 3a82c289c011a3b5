"""The service as a user starts it: ``stmd serve`` in a process of its own, on loopback, on a free port."""

import asyncio
import importlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from stmd_sdk import Sampler
from stmd_sdk.cli.app import app
from stmd_sdk.errors import CheckpointError, InvalidArgumentError, StmdError
from stmd_sdk.models.checkpoint import resolve_model
from stmd_serving.catalogue import opened
from stmd_serving.limits import Limits
from stmd_serving.plan import Plan, limits_of
from stmd_serving.worker import Worker

pytestmark = pytest.mark.slow
runner = CliRunner()
TOKEN = {"Authorization": "Bearer of-the-test"}


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


def below(root):
    """The processes that ``root`` started, those that they started, and so on: {id: what it is called}."""
    parents, names = {}, {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(process.name)] = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            names[int(process.name)] = (process / "cmdline").read_text().replace("\0", " ")
        except (OSError, IndexError):
            continue

    def belongs(process):
        while process in parents and process != root:
            process = parents[process]
        return process == root

    return {process: names[process] for process in names if process != root and belongs(process)}


@pytest.fixture(scope="module")
def server():
    port = free_port()
    command = [sys.executable, "-m", "stmd_sdk", "serve", "digits", "--port", str(port), "--replicas", "2"]
    environment = {**os.environ, "STMD_TOKEN": "of-the-test", "PYTHONWARNINGS": "default"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            assert process.poll() is None, process.stdout.read().decode()
            try:
                if httpx.get(f"{url}/healthz", timeout=5).status_code == 200:
                    break
            except httpx.HTTPError:
                time.sleep(0.2)
        yield process, url
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        process.stdout.close()


async def asked(url, asks):
    async with httpx.AsyncClient(base_url=url, headers=TOKEN, timeout=120) as client:
        return await asyncio.gather(*(client.post("/v1/samples", json={**ask, "format": "npz"}) for ask in asks))


def test_a_killed_replica_loses_no_request_and_changes_no_sample(server):
    process, url = server
    asks = [{"model": "digits", "n": 16, "seed": seed, "first": 8, "inference_steps": 8} for seed in range(12)]

    async def load():
        answers = asyncio.create_task(asked(url, asks))
        await asyncio.sleep(0.5)
        replicas = [
            one for one, name in below(process.pid).items() if name.startswith("ray::ServeReplica:stmd-workers:Workers")
        ]
        assert len(replicas) == 2
        os.kill(replicas[0], signal.SIGKILL)
        return await answers

    answers = asyncio.run(load())
    assert [one.status_code for one in answers] == [200] * len(asks)
    digits = Sampler.from_pretrained("digits")
    for ask, answer in list(zip(asks, answers, strict=True))[::4]:
        ask.pop("model")
        expected = digits.sample(**ask, batch_invariant=True)
        assert np.array_equal(np.load(io.BytesIO(answer.content), allow_pickle=False)["x"], expected)


def test_errors_come_through_as_the_projects_own_and_the_token_is_asked_for(server):
    _, url = server
    assert httpx.get(f"{url}/v1/models").status_code == 401
    answer = httpx.post(f"{url}/v1/samples", json={"model": "mnist", "n": 1}, headers=TOKEN)
    assert (answer.status_code, answer.json()) == (404, {"error": "no model 'mnist' here; there are digits"})


def test_a_restoration_is_followed_through_ray(server):
    _, url = server
    picture = io.BytesIO()
    Image.new("L", (8, 8), 99).save(picture, "png")

    async def work():
        async with httpx.AsyncClient(base_url=url, headers=TOKEN, timeout=60) as client:
            follow = asyncio.create_task(client.get("/v1/restorations/mine/events"))
            data = {"operator": "deblur:1", "draws": 2, "levels": 5, "id": "mine", "format": "npz"}
            answer = await client.post("/v1/restorations", data=data, files={"image": picture.getvalue()})
            return answer, await follow

    answer, followed = asyncio.run(work())
    assert answer.status_code == 200, answer.text
    assert np.load(io.BytesIO(answer.content), allow_pickle=False)["draws"].shape == (2, 1, 8, 8)
    assert 'event: level\ndata: {"done": 5, "total": 5}' in followed.text
    assert "event: done" in followed.text


def test_a_client_that_vanishes_ends_its_restoration(server):
    _, url = server
    picture = io.BytesIO()
    Image.new("L", (8, 8), 99).save(picture, "png")
    data = {"operator": "deblur:1", "draws": 256, "levels": 1000, "id": "long"}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{url}/v1/restorations", data=data, files={"image": picture.getvalue()}, headers=TOKEN, timeout=1)
    began = time.monotonic()
    followed = httpx.get(f"{url}/v1/restorations/long/events", headers=TOKEN, timeout=60).text
    assert followed.strip().splitlines()[-2:] == ["event: error", 'data: {"error": "it was given up"}']
    assert time.monotonic() - began < 30  # the whole of it takes minutes


def test_the_end_answers_what_is_being_answered_and_leaves_nothing(server):
    process, url = server
    started = below(process.pid)
    ask = {"model": "digits", "n": 64, "seed": 1, "inference_steps": 30}

    async def load():
        answers = asyncio.create_task(asked(url, [ask]))
        await asyncio.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        return await answers

    (answer,) = asyncio.run(load())
    assert answer.status_code == 200, answer.text
    assert process.wait(60) == 0
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{one}").exists() for one in started) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert [name for one, name in started.items() if Path(f"/proc/{one}").exists()] == []


def test_a_port_in_use_and_a_host_without_a_token_are_said_before_ray_starts(monkeypatch):
    monkeypatch.delenv("STMD_TOKEN", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        busy = runner.invoke(app, ["serve", "digits", "--port", str(port)])
    assert (busy.exit_code, "cannot be listened on" in busy.output) == (2, True), busy.output
    for host in ("0.0.0.0", "::", "192.168.0.7", "example.org"):
        opened = runner.invoke(app, ["serve", "digits", "--host", host])
        assert (opened.exit_code, "set STMD_TOKEN" in opened.output) == (2, True), opened.output
    Plan(("digits",), host="::1")
    monkeypatch.setenv("STMD_TOKEN", "secret")
    assert Plan(("digits",), host="0.0.0.0").token == "secret"
    monkeypatch.setenv("STMD_TOKEN", "two\nlines")
    with pytest.raises(InvalidArgumentError, match="STMD_TOKEN must be printable"):
        Plan(("digits",))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["digits", "--replicas", "0"], "replicas must be an integer from 1"),
        (["digits", "--limit", "samples"], "--limit takes a bound and its value"),
        (["digits", "--limit", "people=3"], "--limit knows samples, evaluations"),
        (["digits", "--limit", "seconds=0"], "limit seconds must be positive"),
    ],
)
def test_wrong_options_are_one_line(arguments, said):
    result = runner.invoke(app, ["serve", *arguments])
    assert (result.exit_code, said in result.output) == (2, True), result.output


@pytest.mark.parametrize(
    ("models", "said"),
    [
        (["nowhere"], "no model 'nowhere'"),
        (["digits", "bundled:digits"], "would both be called 'digits'"),
        ([], "there is no model to serve"),
    ],
)
def test_models_that_cannot_be_served(models, said):
    with pytest.raises(StmdError, match=said):
        opened(models)


def test_a_certificate_beside_a_model_is_told_and_a_broken_one_is_an_error(tmp_path):
    model = tmp_path / "eight.safetensors"
    model.write_bytes(resolve_model("mixture2d").read_bytes())
    assert opened([str(model)])[0].described()["certificate"] is None
    beside = tmp_path / "eight-certificate.json"
    beside.write_text('{"verdict": "pass"}')
    assert opened([str(model)])[0].described()["certificate"] == {"verdict": "pass"}
    beside.write_text("{")
    with pytest.raises(StmdError, match="eight-certificate"):
        opened([str(model)])


def test_a_worker_whose_file_is_another_says_so(tmp_path):
    model = tmp_path / "eight.safetensors"
    model.write_bytes(resolve_model("mixture2d").read_bytes())
    served = opened([str(model)])
    model.write_bytes(resolve_model("mixture64").read_bytes())
    with pytest.raises(CheckpointError, match="is not the file here that the server was started with"):
        Worker(served, 1)


def test_limits_are_set_by_name():
    assert limits_of(["samples=7", "seconds=1.5"]) == Limits(samples=7, seconds=1.5)


def test_ray_that_is_not_installed_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    result = runner.invoke(app, ["serve", "digits"])
    assert result.exit_code == 2
    assert "pip install 'stmd-sdk[serve]'" in result.output


def test_a_config_file_is_what_ray_serve_reads_and_holds_no_token(tmp_path, monkeypatch):
    from ray.serve.schema import ServeDeploySchema

    monkeypatch.setenv("STMD_TOKEN", "secret")
    out = tmp_path / "serve.yaml"
    arguments = ["serve", "digits", "mnist", "--host", "0.0.0.0", "--replicas", "3", "--limit", "draws=9"]
    result = runner.invoke(app, [*arguments, "--write-config", str(out)])
    assert result.exit_code == 0, result.output
    assert "secret" not in out.read_text()
    config = ServeDeploySchema.model_validate(yaml.safe_load(out.read_text()))
    assert (config.http_options.host, config.http_options.port) == ("0.0.0.0", 8000)
    assert [one.route_prefix for one in config.applications] == [None, "/"]
    paths = [one.import_path.split(":") for one in config.applications]
    builders = [getattr(importlib.import_module(module), name) for module, name in paths]
    for build, one in zip(builders, config.applications, strict=True):
        assert build(json.loads(json.dumps(one.args))) is not None
    monkeypatch.delenv("STMD_TOKEN")
    for build in builders:
        with pytest.raises(InvalidArgumentError, match="without a token"):
            build(config.applications[0].args)
