"""Laws of the classifier's training: it learns, twice the same, and is read back as it was written."""

import struct
import sys

import numpy as np
import pytest
import torch

from stmd_sdk.data.labels import load_labels
from stmd_sdk.data.load import load_data
from stmd_sdk.errors import DataError, InvalidArgumentError
from stmd_sdk.evaluation.features import load_classifier
from stmd_sdk.progress import followed
from stmd_training.classifier import train_classifier

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, 300).astype(np.uint8)
# Class k is bright in the k-th third of the rows: a convolution's first lesson.
IMAGES = RNG.integers(0, 60, (300, 12, 8, 3)).astype(np.uint8)
for i, label in enumerate(LABELS):
    IMAGES[i, 4 * label : 4 * label + 4] += 150


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def folder(tmp_path):
    for split in ("train", "test"):
        np.savez(tmp_path / f"shapes_{split}.npz", images=IMAGES, labels=LABELS)
    return tmp_path


def test_one_command_trains_a_classifier_that_evaluation_reads(folder, monkeypatch, capsys):
    from stmd_training import classify as command

    path = folder / "shapes.safetensors"
    arguments = ["stmd-train-classifier", "--data", str(folder), "--out", str(path), "--epochs", "8"]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as stopped:
        command.main()
    assert stopped.value.code == 0
    facts, classifier = load_classifier(path)
    assert (facts.shape, facts.classes, facts.epochs) == ((3, 12, 8), 3, 8)
    data, labels = load_data(folder), load_labels(folder)
    right = float((classifier(data[torch.arange(300)]).argmax(1) == labels).float().mean())
    assert right == pytest.approx(facts.accuracy, abs=1e-9)
    assert right > 0.95
    assert f"{100 * right:.2f} %" in capsys.readouterr().out


def test_a_seed_gives_the_same_classifier_again(folder):
    data, labels = load_data(folder), load_labels(folder)
    first, again, other = (train_classifier(data, labels, epochs=1, seed=seed)[1] for seed in (0, 0, 1))
    assert torch.equal(first.out.weight, again.out.weight)
    assert not torch.equal(first.out.weight, other.out.weight)


def test_training_tells_how_far_it_is(folder):
    told = []
    with followed(lambda done, total: told.append((done, total))):
        train_classifier(load_data(folder), load_labels(folder), epochs=2)
    steps = 2 * 300 // 128
    assert told == [(i, steps) for i in range(1, steps + 1)]


def test_cifars_binary_files_are_read_with_their_labels(tmp_path):
    pixels = RNG.integers(0, 256, (6, 3, 32, 32)).astype(np.uint8)
    labels = np.arange(6, dtype=np.uint8)
    records = np.concatenate([labels[:, None], pixels.reshape(6, -1)], axis=1)
    for i in range(1, 6):
        (tmp_path / f"data_batch_{i}.bin").write_bytes(records[i - 1 : i].tobytes())
    with pytest.raises(DataError, match=r"test_batch\.bin"):
        load_data(tmp_path, split="test")
    (tmp_path / "test_batch.bin").write_bytes(records[5:].tobytes())
    train, test = load_data(tmp_path), load_data(tmp_path, split="test")
    assert np.array_equal(train.array.numpy(), pixels[:5])
    assert np.array_equal(test.array.numpy(), pixels[5:])
    assert load_labels(tmp_path).tolist() == [0, 1, 2, 3, 4]
    assert load_labels(tmp_path, split="test").tolist() == [5]
    (tmp_path / "test_batch.bin").write_bytes(records[5:].tobytes()[:-1])
    with pytest.raises(DataError, match="no whole number of records"):
        load_data(tmp_path, split="test")


def test_labels_are_those_of_the_files_and_their_absence_is_named(tmp_path, folder):
    assert np.array_equal(load_labels(folder, split="test"), LABELS)
    mnist = tmp_path / "mnist"
    mnist.mkdir()
    (mnist / "train-labels-idx1-ubyte").write_bytes(idx(LABELS))
    assert np.array_equal(load_labels(mnist), LABELS)
    with pytest.raises(DataError, match="t10k-labels-idx1-ubyte"):
        load_labels(mnist, split="test")
    np.savez(tmp_path / "bare.npz", images=IMAGES, other=LABELS)
    with pytest.raises(DataError, match="an array called labels"):
        load_labels(tmp_path / "bare.npz")
    with pytest.raises(DataError, match="has no labels"):
        load_labels("mixture2d")
    np.savez(tmp_path / "odd.npz", images=IMAGES[:, :, :7], labels=LABELS)
    with pytest.raises(InvalidArgumentError, match="sides divisible by 4, got 12x7"):
        train_classifier(load_data(tmp_path / "odd.npz"), torch.from_numpy(LABELS).long())
    with pytest.raises(DataError, match="300 images and 2 labels"):
        train_classifier(load_data(folder), torch.tensor([0, 1]))
