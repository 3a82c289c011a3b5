"""What clients get: the library's own samples, the keys to draw them again, and one clear line for what is wrong."""

import asyncio
import io
import json
import re

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from stmd_sdk import Sampler
from stmd_sdk.cli.app import app as stmd
from stmd_sdk.images import grid
from stmd_serving.app import build_app
from stmd_serving.limits import Limits


def samples(**asked):
    return "POST", "/v1/samples", {"json": {"model": "digits", "format": "npz", **asked}}


def arrays(answer):
    assert answer.status_code == 200, answer.text
    return dict(np.load(io.BytesIO(answer.content), allow_pickle=False))


def error(answer, status):
    assert (answer.status_code, list(answer.json())) == (status, ["error"]), answer.text
    said = answer.json()["error"]
    assert "\n" not in said
    return said


def png(array, mode=None):
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(array)).convert(mode or "L").save(buffer, "png")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def digits():
    return Sampler.from_pretrained("digits")


def test_a_crowd_gets_what_each_would_alone(client, digits):
    asks = [
        {"seed": 3, "first": 0, "n": 5},
        {"seed": 3, "first": 5, "n": 20},
        {"seed": 3, "first": 4, "n": 3, "inference_steps": 2},
        {"seed": 4, "first": 30, "n": 4, "inference_steps": [1.0, 0.4, 0.0]},
        {"seed": 2**64 - 1, "first": 2**32 - 2, "n": 2},
    ]
    for ask, answer in zip(asks, client(*(samples(**ask) for ask in asks)), strict=True):
        expected = digits.sample(**ask, batch_invariant=True).numpy()
        assert np.array_equal(arrays(answer)["x"], expected)
        assert answer.headers["X-STMD-Seed"] == str(ask["seed"])
        assert answer.headers["X-STMD-First"] == str(ask["first"])


def test_several_evaluations_a_draw_are_drawn_where_the_model_takes_them(client, digits_of_any_m):
    asked = {"seed": 4, "n": 4, "inference_steps": [1.0, 0.4, 0.0], "mean_flow_steps": 2}
    own, refused = client(samples(model="any-m", **asked), samples(**asked))
    expected = Sampler.from_pretrained(digits_of_any_m).sample(**asked, batch_invariant=True).numpy()
    assert np.array_equal(arrays(own)["x"], expected)
    assert "mean_flow_steps: digits takes 1 alone" in error(refused, 422)


def test_labels_of_a_crowd_are_those_asked_for(client):
    mnist = Sampler.from_pretrained("mnist")
    asks = [
        {"seed": 1, "first": 0, "n": 3, "labels": [7, "two", 0]},
        {"seed": 1, "first": 3, "n": 2},
        {"seed": 1, "first": 5, "n": 2, "labels": "nine"},
        {"seed": 1, "first": 7, "n": 3, "labels": "random"},
    ]
    asks = [{"inference_steps": 1, **ask} for ask in asks]
    busy = samples(model="mnist", n=1, seed=9, inference_steps=1)
    _, *answers = client(busy, *(samples(model="mnist", **ask) for ask in asks))
    for ask, answer in zip(asks, answers, strict=True):
        assert np.array_equal(arrays(answer)["x"], mnist.sample(**ask, batch_invariant=True).numpy())


def test_what_is_drawn_without_a_seed_can_be_drawn_again(client, digits):
    answers = client(*[samples(n=4) for _ in range(5)])
    keys = [(int(one.headers["X-STMD-Seed"]), int(one.headers["X-STMD-First"])) for one in answers]
    assert len(set(keys)) == 5
    for (seed, first), answer in zip(keys, answers, strict=True):
        assert np.array_equal(arrays(answer)["x"], digits.sample(4, seed=seed, first=first, batch_invariant=True))


@pytest.mark.parametrize(("labels", "drawn"), [(7, [7, 7, 7]), ("random", [4, 0, 0])])
def test_the_command_of_an_answer_draws_the_same_at_home(client, tmp_path, labels, drawn):
    ask = samples(model="mnist", n=3, seed=5, first=2, labels=labels, guidance=2, inference_steps=1, format="json")
    (answer,) = client(ask)
    said = answer.json()
    command = said["command"].split()
    assert command[:2] == ["stmd", "sample"]
    result = CliRunner().invoke(stmd, [*command[1:], "-o", str(tmp_path / "x.npz")])
    assert result.exit_code == 0, result.output
    home = np.load(tmp_path / "x.npz", allow_pickle=False)["x"]
    assert np.array_equal(np.float32(said["x"]), home)
    assert (said["labels"], said["n"], said["seed"], said["first"]) == (drawn, 3, 5, 2)
    assert answer.headers["X-STMD-Digest"] == said["digest"]


def test_a_picture_is_the_grid_of_its_samples(client, digits):
    (answer,) = client(samples(n=9, seed=0, format="png"))
    expected = grid(digits.sample(9, seed=0, batch_invariant=True))
    assert answer.headers["Content-Type"] == "image/png"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(answer.content))), np.asarray(expected))


def test_points_of_the_plane_are_served_too(client):
    expected = Sampler.from_pretrained("mixture2d").sample(3, seed=0, batch_invariant=True)
    picture, points = client(samples(model="mixture2d", n=3, format="png"), samples(model="mixture2d", n=3, seed=0))
    assert picture.headers["Content-Type"] == "image/png"
    assert np.array_equal(arrays(points)["x"], expected)


def test_models_say_what_they_are(client, served, tmp_path):
    (answer,) = client(("GET", "/v1/models", {}))
    models = {one["name"]: one for one in answer.json()}
    assert set(models) == {"digits", "mnist", "mixture2d", "any-m"}
    assert models["mnist"]["sample_shape"] == [1, 28, 28]
    assert models["mnist"]["spec"]["classes"]["names"][7] == "seven"
    assert [models[one.name]["digest"] for one in served] == [one.digest for one in served]


@pytest.mark.parametrize(
    ("asked", "status", "said"),
    [
        ({"n": 0}, 422, "n: .*greater than or equal to 1"),
        ({"n": 10**9}, 422, "n: at most 4096 here, got 1000000000"),
        ({"n": "many"}, 422, "n: "),
        ({"n": 1, "seed": -1}, 422, "seed: .*greater than or equal to 0"),
        ({"n": 1, "seed": 2**64}, 422, "seed: "),
        ({"n": 2, "seed": 0, "first": 2**32 - 1}, 422, "the last possible sample is 4294967295"),
        ({"n": 2, "first": 1}, 422, "first goes with a seed"),
        ({"n": 1, "model": "../../etc/passwd"}, 404, "no model '../../etc/passwd' here; there are digits, mnist, mixt"),
        ({"n": 1, "inference_steps": 0}, 422, "inference_steps must be an integer from 1"),
        ({"n": 1, "inference_steps": 10**9}, 422, "at most 1000 here"),
        ({"n": 1, "model": "any-m", "inference_steps": 600, "mean_flow_steps": 2}, 422, "at most 1000 here, got 1200"),
        ({"n": 1, "inference_steps": [1, 0.5, 0.6, 0]}, 422, "must decrease strictly"),
        ({"n": 1, "labels": 3}, 422, "labels: digits has no classes"),
        ({"n": 1, "guidance": 2}, 422, "no classes to guide to"),
        ({"n": 1, "model": "mnist", "labels": "eleven"}, 422, "no class 'eleven'"),
        ({"n": 3, "model": "mnist", "labels": [1, 2]}, 422, "got 2 for 3 samples"),
        ({"n": 1, "model": "mnist", "guidance": 2}, 422, "guidance goes with labels"),
        ({"n": 1, "model": "mnist", "labels": 1, "guidance": -1}, 422, "guidance must be a finite number"),
        ({"n": 1, "path": "/etc/passwd"}, 422, "path: "),
        ({"n": 1, "format": "pickle"}, 422, "format: "),
    ],
)
def test_what_means_nothing_is_said_in_a_line(client, as_users_call, asked, status, said):
    (answer,) = client(samples(**asked))
    assert re.search(said, error(answer, status))


@pytest.mark.parametrize(
    ("content", "kind", "said"),
    [
        (b'{"model": ', "application/json", "not JSON"),
        (b"[1, 2]", "application/json", "must be a JSON object"),
        (b"\xff\xfe\x00", "application/json", ""),
        (b'{"model": "digits", "n": 1}', "application/x-www-form-urlencoded", "Content-Type: application/json"),
        (b"[" * 100_000, "application/json", ""),
        (b'{"model": "digits", "n": NaN}', "application/json", "n: "),
    ],
)
def test_bodies_that_are_no_request(client, content, kind, said):
    (answer,) = client(("POST", "/v1/samples", {"content": content, "headers": {"Content-Type": kind}}))
    assert answer.status_code in (400, 422)
    assert said in answer.json()["error"]


def test_unknown_pages_and_methods_are_json_too(client):
    lost, wrong = client(("GET", "/v2/samples", {}), ("GET", "/v1/samples", {}))
    error(lost, 404)
    error(wrong, 405)


def test_bodies_have_a_bound(client):
    body = json.dumps({"model": "digits", "n": 1, "labels": [0] * 5000}).encode()

    async def parts():
        for start in range(0, len(body), 100):
            yield body[start : start + 100]

    headers = {"Content-Type": "application/json"}
    announced = "POST", "/v1/samples", {"content": body, "headers": headers}
    streamed = "POST", "/v1/samples", {"content": parts(), "headers": headers}
    for answer in client(announced, streamed, limits=Limits(size=1000)):
        assert error(answer, 413) == "the request has more than 1000 bytes"


def test_a_token_is_asked_for_where_there_is_one(client):
    paths = ["/v1/models", "/metrics", "/healthz", "/docs", "/openapi.json", "/healthz/../v1/models"]
    asked = [("GET", path, {}) for path in paths]
    found = {path: one.status_code for path, one in zip(paths, client(*asked, token="secret"), strict=True)}
    assert found == {**dict.fromkeys(paths, 401), "/healthz": 200, "/docs": 200, "/openapi.json": 200}
    for wrong in ("Bearer Secret", "Bearer ", "secret", "Bearer secret2"):
        (answer,) = client(asked[0], token="secret", headers={"Authorization": wrong})
        assert "Authorization: Bearer TOKEN" in error(answer, 401)
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    (answer,) = client(asked[0], token="secret", headers={"Authorization": "Bearer secret"})
    assert answer.status_code == 200


class Stuck:
    """An engine that never answers."""

    def __init__(self):
        self.asked = 0

    async def draw(self, bucket):
        self.asked += 1
        await asyncio.Event().wait()

    async def restore(self, work):
        await asyncio.Event().wait()
        yield

    async def ready(self):
        return False


def test_time_and_queue_have_bounds(client):
    limits = Limits(seconds=0.3, waiting=1)
    asks = [samples(n=1, seed=seed) for seed in range(3)]
    one, two, three = client(*asks, engine=Stuck(), limits=limits)
    assert error(one, 408) == error(two, 408) == "not done within 0.3 s; ask for less at once"
    assert "at most 1 wait here" in error(three, 429)
    assert three.headers["Retry-After"] == "1"


def test_health_is_that_of_the_engine(client):
    (well,) = client(("GET", "/healthz", {}))
    (ill,) = client(("GET", "/healthz", {}), engine=Stuck())
    assert well.json() == {"status": "ready"}
    error(ill, 503)


def test_a_slow_client_is_told_so_and_a_vanished_one_costs_nothing(served):
    async def post(app, body):
        """The status of a request whose body arrives as ``body`` says."""
        sent, scope = [], {"type": "http", "method": "POST", "path": "/v1/samples", "query_string": b"", "headers": []}

        async def send(message):
            sent.append(message)

        await app({**scope, "headers": [(b"content-type", b"application/json")]}, body, send)
        return sent[0]["status"]

    async def slow():
        await asyncio.sleep(0.05)
        return {"type": "http.request", "body": b" ", "more_body": True}

    async def gone():
        return {"type": "http.disconnect"}

    engine = Stuck()
    app = build_app(engine, served, Limits(seconds=0.3), 1, None)
    assert asyncio.run(post(app, slow)) == 408
    assert asyncio.run(post(app, gone)) in (400, 422)
    assert engine.asked == 0


def test_prometheus_reads_what_was_answered(client, worker, served):
    async def work():
        import httpx

        app = build_app(worker, served, Limits(), 1, None)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as inside:
            for method, path, options in (samples(n=4), samples(n=4, seed=-1), ("GET", "/secret-path", {})):
                await inside.request(method, path, **options)
            return (await inside.get("/metrics")).text

    text = asyncio.run(work())
    assert 'stmd_answers_total{path="/v1/samples",status="200"} 1.0' in text
    assert 'stmd_answers_total{path="/v1/samples",status="422"} 1.0' in text
    assert "secret-path" not in text  # or whoever asks could fill the memory
    assert "stmd_bucket_fill 0.25" in text


def test_the_pages_need_no_other_server_and_name_all_that_there_is(client):
    page, schema = client(("GET", "/docs", {}), ("GET", "/openapi.json", {}))
    assert "http" not in page.text.replace("http-equiv", "").replace("http://here", "")
    paths = schema.json()["paths"]
    assert set(paths) == {
        "/v1/models", "/v1/samples", "/v1/restorations", "/v1/restorations/{id}/events", "/healthz", "/metrics",
    }  # fmt: skip
    assert all(one["description"] for path in paths.values() for one in path.values())
    example = schema.json()["components"]["schemas"]["SampleRequest"]["examples"][0]
    (answer,) = client(("POST", "/v1/samples", {"json": {**example, "n": 1, "inference_steps": 1}}))
    assert answer.status_code == 200
