"""The built page in a headless browser: what it draws is Python's, and what people need of it is there."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from threading import Thread

import pytest
import torch

from stmd_sdk import Sampler
from stmd_sdk.cli.page_server import CHECKOUT, page_server
from stmd_sdk.operators import GaussianNoise, Mask, Measurement

DEMO = CHECKOUT.parent
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
MOST_BYTES = 8_000_000

pytestmark = pytest.mark.skipif(
    not ((CHECKOUT / "index.html").exists() and CHROMIUM and shutil.which("node")),
    reason="needs the built page (in demo: npm ci, npm run models, npm run build), node and chromium",
)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What the browser found, all in one go: tests/browser.mjs."""
    shots = os.environ.get("STMD_SCREENSHOTS") or str(tmp_path_factory.mktemp("shots"))
    with page_server(None, 0) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        done = subprocess.run(
            ["node", str(DEMO / "tests" / "browser.mjs"), f"http://127.0.0.1:{server.server_port}/", shots],
            env={**os.environ, "CHROMIUM": CHROMIUM},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        server.shutdown()
        thread.join()
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    print("milliseconds in headless Chromium:", facts["milliseconds"])
    return facts


@pytest.fixture(scope="module")
def sampler():
    return Sampler.from_pretrained("mnist", device="cpu")


def pictures(values):
    return torch.tensor(values).reshape(-1, 1, 28, 28)


@pytest.mark.slow
@pytest.mark.parametrize(("steps", "label"), [(1, 3), (4, None)])
def test_the_first_samples_of_a_seed_are_pythons(found, sampler, steps, label):
    expected = sampler.sample(8, labels=label, inference_steps=steps, seed=0)
    torch.testing.assert_close(pictures(found["samples"][str(steps)]), expected, atol=1e-3, rtol=0)


@pytest.mark.slow
def test_threads_draw_the_same(found):
    assert found["threads"].endswith("2 threads.")
    torch.testing.assert_close(pictures(found["threaded"]), pictures(found["samples"]["1"]), atol=1e-5, rtol=0)


@pytest.mark.slow
def test_what_a_hidden_part_may_have_been_is_pythons_too(found, sampler):
    digit, mask = pictures(found["digit"]), torch.ones(1, 28, 28)
    mask[..., 14:] = 0
    measured = Measurement(Mask(mask), mask * digit, GaussianNoise(0.1))
    expected = sampler.gibbs(measured, 16, steps=12, seed=0).samples
    drawn = pictures(found["restored"])
    torch.testing.assert_close(drawn, expected, atol=1e-3, rtol=0)
    assert float(drawn[..., 14:].std(dim=0).max()) > 0.2  # they differ where nothing was seen


@pytest.mark.slow
def test_people_can_use_it(found):
    assert found["problems"] == []  # errors and warnings of the console
    assert found["violations"] == []  # of axe-core: labels, contrast, landmarks; light, dark, phone
    assert found["brush"] == "ink"
    assert found["painted_by_keys"]
    assert found["undone"]
    assert found["while_painting"] == 4
    assert found["touched"] == 16
    assert found["seed_refused"]
    assert found["drawn_of_no_seed"] == 0
    assert not found["wider_than_the_phone"]


@pytest.mark.slow
def test_it_says_how_certain_it_is(found):
    assert "the sixteen draws agree on" in found["certainty"]
    assert "hidden pixels" in found["certainty"]
    assert found["nothing_known"].startswith("Nothing is known")


@pytest.mark.slow
def test_it_works_without_a_network_and_says_what_is_missing(found):
    assert found["offline"] == 16
    assert found["isolated"]
    assert found["unsupported"]
    assert found["lost"].startswith("The model could not be loaded")


def test_the_page_is_small_and_asks_nobody_else():
    files = [path for path in CHECKOUT.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < MOST_BYTES
    kept = (CHECKOUT / "sw.js").read_text()
    for path in files:
        name = path.relative_to(CHECKOUT).as_posix()
        assert name in ("index.html", "sw.js") or f'"{name}"' in kept
    page = (CHECKOUT / "index.html").read_text()
    assert "http" not in page.replace("http://www.w3.org", "")
    assert Path(CHECKOUT / "assets").is_dir()
