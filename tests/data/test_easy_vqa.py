"""The prepared easy-VQA: its counts, splits, regions, and the floor that needs no picture."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from suite.data import easy_vqa, store
from suite.data.scoring import question_prior
from suite.data.store import DataError, DataSet


def test_counts(dataset: DataSet) -> None:
    splits = dataset.information["splits"]
    assert {split: entry["images"] for split, entry in splits.items()} == {
        "start": 1950,
        "train": 1950,
        "validation": 100,
        "test": 1000,
    }
    assert splits["test"]["questions"] == 9673
    assert sum(entry["questions"] for entry in splits.values()) == 38_575 + 9_673
    assert len(dataset.answers) == 13
    assert dataset.digest == easy_vqa.digest()


def test_splits_share_no_image(dataset: DataSet) -> None:
    images = {split: set(dataset.image[dataset.rows(split)].tolist()) for split in dataset.split_names}
    assert sum(map(len, images.values())) == len(set.union(*images.values())) == 5000
    names = dataset.images("image_id")["image_id"].to_numpy()
    assert all(name.startswith("test/") for name in names[sorted(images["test"])])
    assert all(name.startswith("train/") for name in names[sorted(set.union(*images.values()) - images["test"])])


def test_every_question_has_one_answer_and_its_type(dataset: DataSet) -> None:
    questions = dataset.questions("labels", "question_type", "answer_type")
    assert (dataset.scores == 1).all()
    answers = [dataset.answers[label] for (label,) in questions["labels"]]
    yes_no = np.isin(answers, ["yes", "no"])
    assert (yes_no == (questions["answer_type"] == "yes/no")).all()
    assert (yes_no == (questions["question_type"] == "yes/no")).all()
    assert set(questions["question_type"]) == {"yes/no", "shape", "color"}


def test_most_frequent_answer_of_each_text(dataset: DataSet) -> None:
    assert question_prior(dataset, ("start", "train", "validation"), "test") == pytest.approx(67.0, abs=0.01)


def test_regions(dataset: DataSet) -> None:
    assert dataset.regions.shape == (5000, 6, easy_vqa.FEATURES)
    assert (dataset.boxes[:, :, 2:] > dataset.boxes[:, :, :2]).all()
    seen = dataset.regions[:4000].astype(np.float64)
    np.testing.assert_allclose(seen.mean(axis=(0, 1)), 0, atol=1e-3)
    deviation = seen.std(axis=(0, 1))
    assert (deviation < 1.001).all()
    assert (deviation > 0.999).mean() > 0.8  # the rest hardly vary, and are not made loud


def test_the_crop_alone_tells_shape_and_colour(dataset: DataSet) -> None:
    """The nearest training crop, by its features, has the same shape and the same colour."""
    questions = dataset.questions("image", "labels", "text")
    crops = dataset.regions[:, 0].astype(np.float32)
    for text in ("what shape is present?", "what color is the shape?"):
        asked = questions[questions["text"] == text]
        image, label = asked["image"].to_numpy(), np.array([labels[0] for labels in asked["labels"]])
        known, new = image < 4000, image >= 4000
        distance = (crops[image[known]] ** 2).sum(axis=1) - 2 * crops[image[new]] @ crops[image[known]].T
        assert (label[known][distance.argmin(axis=1)] == label[new]).mean() > 0.97


def test_pictures_are_found(dataset: DataSet) -> None:
    path = dataset.picture(4001)
    assert path is not None
    assert path.as_posix().endswith("easy_vqa/data/test/images/1.png")


def test_a_shape_in_a_corner_is_boxed() -> None:
    picture = np.full((64, 64, 3), (240, 250, 235), dtype=np.uint8)
    picture[40:64, 50:64] = (128, 128, 128)
    mask, box = easy_vqa.shape_box(picture)
    assert box == (50, 40, 64, 64)
    assert mask[40:64, 50:64].min() == 1
    assert mask.sum() == 24 * 14


def test_a_picture_without_a_shape_is_one_region() -> None:
    picture = np.full((64, 64, 3), 240, dtype=np.uint8)
    features, boxes = easy_vqa.picture_regions(picture)
    assert boxes[0].tolist() == [0, 0, 1, 1]
    assert np.isfinite(features).all()


def test_preparing_again_changes_nothing(prepared: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in prepared.iterdir()}
    easy_vqa.prepare(prepared)
    assert {path: path.stat().st_mtime_ns for path in prepared.iterdir()} == before


def test_a_missing_package_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "package_folder", lambda package: None)
    with pytest.raises(DataError, match=r"not installed\. Run `pip install easy-vqa"):
        easy_vqa.prepare(tmp_path / "easy_vqa")
    monkeypatch.setattr(store, "package_folder", lambda package: tmp_path)
    with pytest.raises(DataError, match=r"not whole: .*answers.txt is missing"):
        easy_vqa.prepare(tmp_path / "easy_vqa")


def test_the_data_needs_no_torch() -> None:
    code = "import sys, suite.data.easy_vqa, suite.data.scoring; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0
