"""Restorations over HTTP: those of ``stmd restore``, followed while they run; no picture or operator does harm."""

import asyncio
import io
import json
import zlib

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from stmd_sdk import Sampler
from stmd_sdk.operators import GaussianNoise, Mask, Measurement
from stmd_serving.app import build_app
from stmd_serving.limits import Limits


def png(array, mode="L", kind="png"):
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(array, np.uint8)).convert(mode).save(buffer, kind)
    return buffer.getvalue()


SHADES = (np.arange(64).reshape(8, 8) * 4).astype(np.uint8)
DIGIT = png(SHADES)
HALF = png(np.repeat([[255] * 4 + [0] * 4], 8, axis=0))


def restoration(image=DIGIT, mask=None, **fields):
    files = {"image": ("../x.png", image)} | ({} if mask is None else {"mask": ("m", mask)})
    data = {"model": "digits", "operator": "deblur:1", "draws": 2, "levels": 2, "seed": 0, "format": "npz", **fields}
    return "POST", "/v1/restorations", {"data": data, "files": files}


def refusal(answer, status=422):
    assert (answer.status_code, list(answer.json())) == (status, ["error"]), answer.text
    return answer.json()["error"]


def test_the_draws_are_those_of_the_library(client):
    (answer,) = client(restoration(mask=HALF, operator="mask", draws=5, levels=3, sigma=0.05, seed=4))
    assert answer.status_code == 200, answer.text
    found = np.load(io.BytesIO(answer.content), allow_pickle=False)
    mask = torch.ones(1, 8, 8)
    mask[..., 4:] = 0
    y = (torch.from_numpy(SHADES).float() / 127.5 - 1)[None, None] * mask
    measured = Measurement(Mask(mask), y, GaussianNoise(0.05))
    expected = Sampler.from_pretrained("digits").gibbs(measured, 5, steps=3, seed=4)
    assert np.array_equal(found["draws"], expected.samples)
    assert np.array_equal(found["y"], y)
    assert np.allclose(found["mean"], expected.samples.mean(0), atol=1e-6)
    assert np.allclose(found["deviation"], expected.samples.std(0), atol=1e-6)
    assert answer.headers["X-STMD-Seed"] == "4"


def test_a_picture_is_labelled(client):
    (answer,) = client(restoration(format="png"))
    assert answer.headers["Content-Type"] == "image/png"
    picture = Image.open(io.BytesIO(answer.content))
    assert picture.mode == "RGB"
    assert picture.width > 500


def test_who_follows_hears_every_level_before_the_answer(worker, served):
    async def work():
        transport = httpx.ASGITransport(build_app(worker, served, Limits(), 2, None))
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as inside:
            follow = asyncio.create_task(inside.get("/v1/restorations/mine/events"))  # before it has begun
            await asyncio.sleep(0.05)
            method, path, options = restoration(id="mine", levels=4)
            answer = await inside.request(method, path, **options)
            late = await inside.get("/v1/restorations/mine/events")
            return answer, await follow, late

    answer, followed, late = asyncio.run(work())
    assert answer.headers["X-STMD-Restoration"] == "mine"
    assert followed.headers["Content-Type"].startswith("text/event-stream")
    events = [dict(line.split(": ", 1) for line in one.splitlines()) for one in followed.text.strip().split("\n\n")]
    levels = [json.loads(one["data"]) for one in events if one["event"] == "level"]
    assert levels == [{"done": k, "total": 4} for k in (1, 2, 3, 4)]
    assert (events[-1]["event"], json.loads(events[-1]["data"])["seed"]) == ("done", 0)
    assert late.text.strip().split("\n\n")[-1] == followed.text.strip().split("\n\n")[-1]


def test_what_nobody_restores_cannot_be_followed(client, monkeypatch):
    monkeypatch.setattr("stmd_serving.following.PATIENCE", 0.05)
    lost, odd = client(("GET", "/v1/restorations/other/events", {}), ("GET", "/v1/restorations/a%20b/events", {}))
    assert "no restoration 'other'" in refusal(lost, 404)
    refusal(odd)


def test_who_goes_away_ends_the_work(worker, served):
    async def work():
        async def told():
            async for one in said:
                seen.append(one)

        from stmd_serving.engine import Restoration

        y = np.zeros((1, 1, 8, 8), np.float32)
        said, seen = worker.restore(Restoration("digits", "deblur:1", None, y, 0.05, 2, 10_000, 0)), []
        client = asyncio.create_task(told())
        while not seen:
            await asyncio.sleep(0.01)
        client.cancel()
        with pytest.raises(asyncio.CancelledError):
            await client
        await said.aclose()
        assert 0 < len(seen) < 10_000
        # The thread is free: another is answered at once.
        async for one in worker.restore(Restoration("digits", "deblur:1", None, y, 0.05, 2, 1, 0)):
            last = one
        assert last.draws.shape == (2, 1, 8, 8)

    asyncio.run(asyncio.wait_for(work(), 60))


def _bomb():
    """A PNG of a few kilobytes that says it has 10,000 x 10,000 pixels."""

    def chunk(name, data):
        return len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")

    head = (10_000).to_bytes(4, "big") * 2 + b"\x08\x00\x00\x00\x00"
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(10**6))) + chunk(b"IEND", b"")
    )


def _sixteen_bits():
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(buffer, "png")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (b"just a text", "image: cannot be read as an image"),
        (b"", "image: "),
        (_bomb(), "image: has 10000×10000 pixels, more than 4194304"),
        (png(SHADES, "CMYK", "jpeg"), "8-bit grey or RGB image, is of mode CMYK"),
        (_sixteen_bits(), "8-bit grey or RGB image, is of mode I"),
        (png([[7]]), "has 1×1 pixels, 8×8 are needed"),
        (png(SHADES, "RGBA")[:-30], "image: cannot be read"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>", "cannot be read as an"),
    ],
)
def test_wrong_pictures(client, image, said):
    (answer,) = client(restoration(image))
    assert said in refusal(answer)


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (None, "operator mask and a picture `mask` go together"),
        (DIGIT, "mask: a mask must be black (0), which hides, and white (255) alone"),
        (png(np.zeros((4, 4))), "mask: has 4×4 pixels, 8×8 are needed"),
        (b"no picture", "mask: cannot be read"),
    ],
)
def test_wrong_masks(client, mask, said):
    (answer,) = client(restoration(operator="mask", mask=mask))
    assert said in refusal(answer)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"operator": "mask:/etc/passwd"}, "operator must be one of mask, sr2"),
        ({"operator": "mask:"}, "operator must be one of"),
        ({"operator": "sr3"}, "operator must be one of"),
        ({"operator": "x" * 101}, "operator: "),
        ({"operator": "deblur:1e9"}, "a blur must be narrower than the image, 8 pixels"),
        ({"operator": "deblur:nan"}, "a blur must be narrower"),
        ({"operator": "motion:100000000"}, "a blur must be narrower"),
        ({"operator": "motion:3:inf"}, "operator must be one of"),
        ({"operator": "deblur:2.5"}, "kernel [17, 17] is larger than the image"),
        ({"operator": "gray"}, "gray restores colour"),
        ({"draws": 1}, "draws: Input should be greater than or equal to 2"),
        ({"draws": 10**6}, "draws: at most 256 here"),
        ({"levels": 10**6}, "levels: at most 1000 here"),
        ({"sigma": 0}, "sigma: Input should be greater than 0"),
        ({"sigma": "nan"}, "sigma: "),
        ({"seed": -1}, "seed: "),
        ({"id": "../x"}, "id: "),
        ({"format": "json"}, "format: "),
        ({"model": "mixture2d"}, "mixture2d restores no pictures"),
        ({"model": ""}, "which model"),
    ],
)
def test_what_means_nothing_is_said_in_a_line(client, as_users_call, fields, said):
    (answer,) = client(restoration(**fields))
    assert said in refusal(answer)


def test_two_of_one_name_do_not_run_together(client):
    one, two = client(restoration(id="same", levels=30), restoration(id="same", levels=30))
    assert sorted([one.status_code, two.status_code]) == [200, 409]


def test_nothing_of_a_client_is_opened(client, monkeypatch):
    """Neither names of files nor operators reach the disk."""
    opened = []
    monkeypatch.setattr("stmd_sdk.data.pictures.read_bytes", lambda *arguments: opened.append(arguments))
    client(restoration(), restoration(operator="mask:../../secret.png"), restoration(mask=HALF, operator="mask"))
    assert opened == []
