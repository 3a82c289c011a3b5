"""Laws of the evaluation: a perfect sampler sits at the floor, worse ones above; what cannot be measured is said."""

import json

import pytest
import torch
from safetensors.torch import save_file

from stmd_sdk.data.load import load_data
from stmd_sdk.diffusion.noise import Noise
from stmd_sdk.errors import CheckpointError, InvalidArgumentError
from stmd_sdk.evaluation.features import (
    BUNDLED_CLASSIFIERS,
    CLASSIFIERS,
    FACTS_KEY,
    SUFFIX,
    load_classifier,
    load_features,
)
from stmd_sdk.evaluation.quality import evaluate_model, reference, spread
from stmd_sdk.models.tensors import read_tensors


def test_the_bundled_classifier_is_as_its_facts_say():
    assert "mnist" in BUNDLED_CLASSIFIERS
    facts, classifier = load_classifier("mnist")
    assert (facts.shape, facts.classes) == ((1, 28, 28), 10)
    assert facts.accuracy > 0.985
    assert [type(layer).__name__ for layer in classifier.children()] == ["Conv2d", "Conv2d", "Linear", "Linear"]
    x = 2 * Noise.of(0, 3).uniform(1, 28, 28) - 1
    features = classifier.features(x)
    assert features.shape == (3, 128)
    assert (features < 0).any()  # before the ReLU
    torch.testing.assert_close(classifier(x), classifier.out(features.relu()))


def test_the_bundled_classifier_reads_the_bundled_models_digits():
    """Digits of the `mnist` model are told apart with confidence (median 0.97 over 1,000), and are of every class."""
    from stmd_sdk.sampler import Sampler

    _, classifier = load_classifier("mnist")
    drawn = Sampler.from_pretrained("mnist").sample(256, inference_steps=2, seed=0)
    sure = classifier(drawn).softmax(1).max(1).values
    assert float(sure.median()) > 0.9
    assert len(classifier(drawn).argmax(1).unique()) == 10


@pytest.fixture(scope="module")
def digits():
    return reference("digits", features="pixels")


def test_real_samples_sit_at_the_floor_and_noisy_ones_above(digits):
    train = load_data("digits")
    assert digits.floor is not None

    def real(count):
        return train[torch.arange(count)]

    def noisy(count):
        return real(count) + 0.3 * Noise.of(1, count).normal(1, 8, 8)

    exact, worse = digits.measure(real, 1, 1, 0), digits.measure(noisy, 1, 1, 0)
    assert exact.frechet < 1.5 * digits.floor
    assert worse.frechet > exact.frechet + 1
    assert worse.neighbourhood.coverage < exact.neighbourhood.coverage


def test_a_report_holds_a_row_for_each_sweep_and_seed(digits, digits_of_any_m, tmp_path):
    report = evaluate_model(digits_of_any_m, digits, steps=(1, 2), mean_flow_steps=(1, 2), seeds=(0, 1))
    keys = [(row.inference_steps, row.mean_flow_steps, row.seed) for row in report.rows]
    assert keys == [(n, m, seed) for n in (1, 2) for m in (1, 2) for seed in (0, 1)]
    again = evaluate_model("digits", digits, steps=(2,), seeds=(1,), batch_size=50)
    assert again.rows[0].frechet == pytest.approx(report.rows[keys.index((2, 1, 1))].frechet, rel=1e-3)
    report.write_json(tmp_path / "report.json")
    facts = json.loads((tmp_path / "report.json").read_text())
    assert facts["floor"] == digits.floor
    assert facts["rows"][0]["frechet"] == report.rows[0].frechet
    assert facts["training"]["steps"] == 1800
    assert spread([1.0, 3.0], 1) == "2.0 ±1.4"


def test_what_cannot_be_measured_is_said_before_anything_is_drawn(digits, tmp_path):
    with pytest.raises(InvalidArgumentError, match=r"no bundled classifier sees samples of shape \[1, 8, 8\]"):
        reference("digits")
    with pytest.raises(InvalidArgumentError, match=r"sees images of shape \[1, 28, 28\]"):
        reference("digits", features="mnist")
    with pytest.raises(InvalidArgumentError, match="297 images in its test split, fewer than 400"):
        reference("digits", features="pixels", n=400)
    with pytest.raises(InvalidArgumentError, match="too few for 64 features"):
        reference("digits", features="pixels", n=64)
    with pytest.raises(CheckpointError, match="stmd-train-classifier"):
        reference("digits", features=str(tmp_path / "none.safetensors"))
    with pytest.raises(InvalidArgumentError, match=r"draws samples of shape \[1, 28, 28\]"):
        evaluate_model("mnist", digits)
    with pytest.raises(InvalidArgumentError, match="RGB"):
        load_features("inception", (1, 28, 28))
    with pytest.raises(CheckpointError, match="nothing is downloaded unasked"):
        load_features(f"inception:{tmp_path / 'none.pth'}", (3, 32, 32))
    (tmp_path / "other.pth").write_bytes(b"cposix\nsystem\n(S'touch pwned'\ntR.")
    with pytest.raises(CheckpointError, match="is not the Inception network"):
        load_features(f"inception:{tmp_path / 'other.pth'}", (3, 32, 32))
    (tmp_path / "damaged.safetensors").write_bytes(b"x" * 40)
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        load_classifier(tmp_path / "damaged.safetensors")


@pytest.mark.parametrize(
    "change",
    [
        {"classes": 10**9},
        {"classes": 60_000},
        {"classes": -1},
        {"shape": [1, 28 * 10**6, 28 * 10**6]},
        {"shape": [28, 28]},
        {"accuracy": 10**400},
        {"seed": "x" * 70_000},
    ],
)
def test_what_a_classifier_says_of_itself_is_bounded_before_anything_is_allocated(tmp_path, change):
    tensors, metadata = read_tensors(CLASSIFIERS / f"mnist{SUFFIX}")
    facts = json.loads(metadata[FACTS_KEY]) | change
    path = tmp_path / "classifier.safetensors"
    save_file(tensors, path, metadata={FACTS_KEY: json.dumps(facts)})
    with pytest.raises(CheckpointError) as caught:
        load_classifier(path)
    assert len(str(caught.value)) < 1000
