"""Labels are read beside the samples they are of, in their order, under the names that the data have."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from stmd_sdk import DataError
from stmd_sdk.codecs.codec import VectorCodec
from stmd_sdk.data.arrays import ArrayData
from stmd_sdk.data.cifar import CIFAR_NAMES
from stmd_sdk.data.labels import labels_for, load_labelled_data, load_labels
from stmd_sdk.diffusion.classes import Classes


def picture(path, grey):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4), grey, np.uint8)).save(path)


def test_folders_of_pictures_are_classes_in_the_order_of_their_names(tmp_path):
    for i, name in enumerate(("zebra", "ant", "mole")):
        for k in range(3):
            picture(tmp_path / name / f"{k}.png", 50 * i + k + 2)
    data = load_labelled_data(tmp_path)
    assert data.class_names == ("ant", "mole", "zebra")
    greys = data.array[:, 0, 0, 0].tolist()
    assert [(grey - 2) // 50 for grey in greys] == [(1, 2, 0)[label] for label in data.labels.tolist()]


def test_each_split_has_classes_of_its_own_below_it(tmp_path):
    for split, grey in (("train", 10), ("test", 90)):
        for i, name in enumerate(("cat", "dog")):
            picture(tmp_path / split / name / "deep" / "a.png", grey + 40 * i)
    for split, grey in (("train", 10), ("test", 90)):
        data = load_labelled_data(tmp_path, split=split)
        assert (data.class_names, data.labels.tolist()) == (("cat", "dog"), [0, 1])
        assert data.array[:, 0, 0, 0].tolist() == [grey, grey + 40]


def test_the_bundled_digits_have_the_labels_of_scikit_learn():
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    for split, rows in (("train", slice(None, -297)), ("test", slice(-297, None))):
        assert np.array_equal(load_labels("digits", split=split), digits.target[rows])
        data = load_labelled_data("bundled:digits", split=split)
        torch.testing.assert_close(data.array[:, 0].double(), torch.tensor(digits.images[rows] / 8 - 1))


def test_cifars_classes_are_called_by_their_names(tmp_path):
    records = np.zeros((3, 3073), np.uint8)
    records[:, 0], records[:, 1:] = (9, 0, 3), 7
    for i in range(1, 6):
        (tmp_path / f"data_batch_{i}.bin").write_bytes(records.tobytes())
    data = load_labelled_data(tmp_path)
    assert [data.class_names[label] for label in data.labels[:3]] == ["truck", "airplane", "cat"]
    assert data.class_names == CIFAR_NAMES


@pytest.mark.filterwarnings("ignore")  # of the package, none of this project's business
def test_labels_of_a_hugging_face_data_set_are_its_first_column_of_class_labels(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    pictures = [Image.fromarray(np.full((4, 4), shade, np.uint8)) for shade in (0, 90, 200)]
    classes = datasets.ClassLabel(names=["dark", "light"])
    for folder, kind in (("set", classes), ("bare", datasets.Value("int64"))):
        (tmp_path / folder).mkdir()
        features = datasets.Features({"picture": datasets.Image(), "shade": kind})
        rows = datasets.Dataset.from_dict({"picture": pictures, "shade": [0, 0, 1]}, features=features)
        rows.to_parquet(tmp_path / folder / "train.parquet")
    data = load_labelled_data(f"hf:{tmp_path / 'set'}")
    assert (data.labels.tolist(), data.class_names) == ([0, 0, 1], ("dark", "light"))
    assert data.array[:, 0, 0, 0].tolist() == [0, 90, 200]
    with pytest.raises(DataError, match="has no column of class labels; its columns are picture, shade"):
        load_labelled_data(f"hf:{tmp_path / 'bare'}")


def test_data_without_labels_or_with_others_are_refused(tmp_path):
    picture(tmp_path / "flat" / "a.png", 9)
    with pytest.raises(DataError, match="would lie in folders, one a class"):
        load_labelled_data(tmp_path / "flat")
    np.savez(tmp_path / "x.npz", x=np.zeros((4, 2), np.float32), labels=np.arange(3))
    with pytest.raises(DataError, match="has 4 samples and 3 labels"):
        load_labelled_data(tmp_path / "x.npz")
    np.savez(tmp_path / "x.npz", x=np.zeros((4, 2), np.float32), labels=np.array([0, 1, -1, 0]))
    with pytest.raises(DataError, match="labels are integers from 0 on"):
        load_labelled_data(tmp_path / "x.npz")
    with pytest.raises(DataError, match="is a law, and has no labels"):
        load_labelled_data("mixture2d")


def test_a_model_s_numbers_of_classes_are_found_by_name():
    labels = torch.tensor([0, 1, 1, 0])
    data = ArrayData("d", torch.zeros(4, 2), VectorCodec(), labels, ("bee", "dog"))
    classes = Classes(4, ("ant", "bee", "cow", "dog"))
    assert labels_for(data, classes).tolist() == [1, 3, 3, 1]
    assert torch.equal(labels_for(replace(data, class_names=()), classes), labels)
    assert torch.equal(labels_for(data, Classes(2)), labels)
    with pytest.raises(DataError, match="has a class dog, and the model's are ant, bee"):
        labels_for(data, Classes(2, ("ant", "bee")))
    with pytest.raises(DataError, match="labels up to 1, and the model's are 0 to 0"):
        labels_for(data, Classes(1))
    with pytest.raises(DataError, match="has no labels"):
        labels_for(replace(data, labels=None), classes)
