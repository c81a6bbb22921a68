"""The form on disk: what is written comes back, batches equal the rows, damage is told in one sentence."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_set import LABELS, content

from suite.data.store import (
    FILES,
    DataError,
    DataSet,
    already_prepared,
    open_dataset,
    source_digest,
    write_dataset,
)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    write_dataset(tmp_path / "small", **content())
    return tmp_path / "small"


def test_what_is_written_comes_back(small: Path) -> None:
    opened, written = open_dataset(small), content()
    assert opened.answers == ("yes", "no", "red")
    assert opened.information["splits"] == {
        "train": {"questions": 3, "images": 2},
        "validation": {"questions": 2, "images": 1},
        "test": {"questions": 2, "images": 2},
    }
    np.testing.assert_array_equal(opened.words, written["words"])
    np.testing.assert_array_equal(opened.regions, np.concatenate([regions for regions, _ in written["pictures"]]))
    np.testing.assert_array_equal(opened.boxes, np.concatenate([boxes for _, boxes in written["pictures"]]))
    questions = opened.questions()
    for column in ("question_id", "image", "split", "text", "question_type", "answer_type"):
        assert questions[column].tolist() == written["questions"][column].tolist()
    for column in ("labels", "humans"):
        assert [list(entry) for entry in questions[column]] == written["questions"][column].tolist()
    assert opened.images("image_id")["image_id"].tolist() == list("abcde")
    assert opened.picture(0) is None


def test_a_folder_holds_the_form_and_nothing_else(small: Path) -> None:
    assert sorted(path.name for path in small.iterdir()) == sorted((*FILES, "dataset.json"))
    assert [path.name for path in small.parent.iterdir()] == ["small"]


def check_batch(dataset: DataSet, rows: list[int]) -> None:
    batch = dataset.batch(rows)
    questions = dataset.questions("image", "labels", "scores").iloc[rows]
    longest = max(int((dataset.words[row] != 0).sum()) for row in rows)
    assert batch.words.shape == (len(rows), longest)
    assert [array.dtype for array in (batch.words, batch.word_mask, batch.regions, batch.boxes, batch.targets)] == [
        np.int64,
        np.bool_,
        np.float32,
        np.float32,
        np.float32,
    ]
    for place, (row, image, labels, scores) in enumerate(
        zip(rows, questions["image"], questions["labels"], questions["scores"], strict=True)
    ):
        assert batch.rows[place] == row
        np.testing.assert_array_equal(batch.words[place], dataset.words[row, :longest])
        np.testing.assert_array_equal(batch.word_mask[place], dataset.words[row, :longest] != 0)
        np.testing.assert_array_equal(batch.regions[place], dataset.regions[image].astype(np.float32))
        np.testing.assert_array_equal(batch.boxes[place], dataset.boxes[image])
        expected = np.zeros(len(dataset.answers), dtype=np.float32)
        expected[labels] = scores
        np.testing.assert_array_equal(batch.targets[place], expected)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.integers(0, len(LABELS) - 1), min_size=1, max_size=12))
def test_a_batch_equals_its_rows(small: Path, rows: list[int]) -> None:
    check_batch(open_dataset(small), rows)


def test_a_batch_of_easy_vqa_equals_its_rows(dataset: DataSet) -> None:
    check_batch(dataset, np.random.default_rng(0).choice(dataset.rows("train"), 64).tolist())


@pytest.mark.parametrize("rows", [[], [-1], [len(LABELS)], [[0, 1]]])
def test_rows_that_do_not_exist_are_refused(small: Path, rows: list[Any]) -> None:
    with pytest.raises(DataError, match="expected at least one row from 0 to 6"):
        open_dataset(small).batch(rows)


def test_rows_of_splits(small: Path) -> None:
    opened = open_dataset(small)
    assert opened.rows("test").tolist() == [5, 6]
    assert opened.rows("test", "train").tolist() == [0, 1, 2, 5, 6]
    with pytest.raises(DataError, match=r"no split 'trian'.*'train', 'validation', 'test'.*mean 'train'"):
        opened.rows("trian")
    with pytest.raises(DataError, match="at least one split"):
        opened.rows()


def test_mean_pictures_are_the_mean_of_the_images_of_the_splits(small: Path) -> None:
    opened = open_dataset(small)
    blind = opened.with_mean_pictures("train", "validation")
    batch = blind.batch(np.arange(len(LABELS)))
    # images 0, 1 and 2, each once, however many questions ask about it
    regions, boxes = opened.regions[:3].astype(np.float32), opened.boxes[:3]
    for place in range(len(LABELS)):
        np.testing.assert_allclose(batch.regions[place], regions.mean(axis=0), atol=1e-6)
        np.testing.assert_allclose(batch.boxes[place], boxes.mean(axis=0), atol=1e-6)
    assert blind.regions.shape == opened.regions.shape
    assert blind.regions.strides[0] == blind.boxes.strides[0] == 0
    np.testing.assert_array_equal(batch.targets, opened.batch(np.arange(len(LABELS))).targets)


@pytest.mark.parametrize("file", FILES)
def test_a_truncated_file_is_told(small: Path, file: str) -> None:
    size = (small / file).stat().st_size
    (small / file).write_bytes((small / file).read_bytes()[:1])
    with pytest.raises(DataError) as told:
        open_dataset(small)
    assert str(told.value) == (
        f"{small} is incomplete: {file} should have {size} bytes, has 1. "
        "Copy it again from where it is whole (is its disk mounted, was a copy of it ended?), or prepare it in "
        "another folder: `ablate data prepare small --data OTHER`."
    )


def test_missing_files_are_told(small: Path) -> None:
    (small / "words.npy").unlink()
    with pytest.raises(DataError, match=r"words.npy should have \d+ bytes, is missing. Copy it again"):
        open_dataset(small)
    (small / "dataset.json").unlink()
    with pytest.raises(DataError, match=r"incomplete: dataset.json.*is missing. Copy it again"):
        open_dataset(small)
    with pytest.raises(DataError, match=r"incomplete"):
        already_prepared(small, "")
    shutil.rmtree(small)
    with pytest.raises(DataError, match=r"does not exist.*Run `ablate data prepare small`"):
        open_dataset(small)


@pytest.mark.parametrize(("text", "message"), [("{", "damaged"), ("[]", "damaged"), ("{}", "damaged")])
def test_a_damaged_description_is_told(small: Path, text: str, message: str) -> None:
    (small / "dataset.json").write_text(text)
    with pytest.raises(DataError, match=message):
        open_dataset(small)


def test_another_form_is_refused(small: Path) -> None:
    information = json.loads((small / "dataset.json").read_text()) | {"form": 99}
    (small / "dataset.json").write_text(json.dumps(information))
    with pytest.raises(DataError, match="has form 99"):
        open_dataset(small)


def test_another_set_in_the_folder_is_refused_and_kept(small: Path) -> None:
    before = {path: path.read_bytes() for path in small.iterdir()}
    with pytest.raises(DataError, match=r"holds a data set with digest .* in another folder"):
        write_dataset(small, **content(preparation=2))
    assert {path: path.read_bytes() for path in small.iterdir()} == before


def test_two_writers_at_once_both_end_well(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(write_dataset, tmp_path / "small", **content()) for _ in range(4)]
        for job in jobs:
            job.result()
    assert [path.name for path in tmp_path.iterdir()] == ["small"]
    check_batch(open_dataset(tmp_path / "small"), list(range(len(LABELS))))


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="regions of 5 pictures, as many as rows of images, got 2"):
        write_dataset(tmp_path / "small", **content(pictures=content()["pictures"][:1]))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("image", [0, 0, 1, 2, 2, 3, 5], "image rows from 0 to 4"),
        ("labels", [[3], *LABELS[1:]], "labels from 0 to 2"),
        ("labels", [[0, 0], *LABELS[1:]], "each label once"),
        ("question_id", [1, 1, 2, 3, 4, 5, 6], "each question_id once, got 1"),
    ],
)
def test_questions_that_do_not_fit_are_refused(tmp_path: Path, column: str, values: list, message: str) -> None:
    questions = content()["questions"].assign(**{column: values})
    with pytest.raises(DataError, match=message):
        write_dataset(tmp_path / "small", **content(questions=questions))


def test_source_digest_sees_names_and_bytes_and_no_order(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_text("one")
    second.write_text("two")
    digest = source_digest(tmp_path, [first, second])
    assert digest == source_digest(tmp_path, [second, first])
    second.write_text("two!")
    assert digest != source_digest(tmp_path, [first, second])
    second.write_text("two")
    assert digest != source_digest(tmp_path, [first, second.rename(tmp_path / "c")])
