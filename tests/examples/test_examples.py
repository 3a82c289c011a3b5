"""The examples run as they stand, at small settings, and print what is right."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def run(tmp_path):
    """A function that runs an example in a folder of its own, and gives what it printed and that folder."""

    def run(name, *arguments):
        command = [sys.executable, EXAMPLES / f"{name}.py", *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout, tmp_path

    return run


def size(path):
    with Image.open(path) as picture:
        return picture.size


def number(pattern, text):
    return float(re.search(pattern, text).group(1))


def test_every_example_is_tested():
    tested = re.findall(r'run\("(\w+)"', Path(__file__).read_text())
    assert sorted(tested) == sorted(path.stem for path in EXAMPLES.glob("*.py"))


def test_draw_gives_the_sample_of_a_seed_alone_or_among_others(run):
    printed, folder = run("draw", "-n", "16")
    assert number(r"differs from sample 7 of 16 by (\S+)", printed) < 1e-4
    assert number(r"deviation (\S+) a pixel", printed) > 0.1
    assert size(folder / "digits.png") == (16 * 56, 2 * 56)


@pytest.mark.long
def test_a_folder_of_images_trains_a_model_that_draws_its_size(run):
    printed, folder = run("train_on_a_folder", "--steps", "4")
    low, high = map(float, re.search(r"between (\S+) and (\S+)", printed).groups())
    assert -1 <= low < high <= 1  # bounded
    assert len(list((folder / "discs").glob("*.png"))) == 400
    assert (folder / "runs" / "discs" / "model.safetensors").is_file()


def test_a_restoration_is_uncertain_where_pixels_are_hidden_alone(run):
    printed, folder = run("restore_with_uncertainty", "--draws", "11", "--steps", "5")
    assert number(r"met to (\S+);", printed) < 1e-5
    hidden, shown = map(float, re.search(r"deviation (\S+) where hidden, (\S+) where shown", printed).groups())
    assert hidden > 0.1 > shown
    assert size(folder / "restored.png") == (7 * 56, 2 * 56)


def test_steering_finds_the_exact_evidence(run):
    printed, folder = run("steer", "--particles", "1024")
    found, exact = map(float, re.search(r"reward\)\]: (\S+), exact (\S+)", printed).groups())
    # log (1/8) Σ exp(2·1.4 cos(jπ/4) + 2·0.15²) = log I_0(2.8) + 0.045 to 1e-5, I_0(2.8) = 4.1573.
    assert exact == pytest.approx(1.470, abs=1e-3)
    assert found == pytest.approx(exact, abs=0.2)
    assert number(r"(\d+)% after", printed) > 90
    assert (folder / "steered.png").is_file()


@pytest.mark.long
def test_the_certificate_tells_a_bootstrap_from_the_exact_posterior(run):
    printed, _ = run("certify_any_sampler", "--pairs", "1000")
    few, _, exact = map(int, re.findall(r"(\d+) of \d+ tests tell", printed))
    assert few > 5
    assert exact == 0


@pytest.mark.long
def test_an_exported_sampler_runs_without_pytorch(run):
    printed, folder = run("export_and_run", "--rows", "1")
    assert "PyTorch imported: False" in printed
    low, high = map(float, re.search(r"between (\S+) and (\S+);", printed).groups())
    assert -1 <= low < -0.9 < 0.9 < high <= 1
    assert size(folder / "exported.png") == (4 * 128, 32)
