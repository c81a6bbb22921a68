"""The examples that a finished cell keeps, held against its model, its data and its predictions."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from small_grid import write_small_data

from reports.examples import read_attention, read_examples
from suite.config import Cell, ModelSize, Protocol
from suite.data.store import DataError, DataSet, open_dataset
from suite.examples import EXAMPLES, chosen
from suite.plan import Job, Workplace
from suite.records import CellFolder, RecordError, StudyFolder
from suite.running import run_cell
from suite.training import load_trained

CELL = Cell(
    variant="entmax",
    dataset="easy_vqa",
    protocol=Protocol(steps=4, batch_size=8, evaluations=1, learning_rate=1e-2),
    model=ModelSize(width=8, heads=2, intermediate=8),
    layers=(2, 2, 2),
)


@pytest.fixture
def dataset(data_folder: Path) -> DataSet:
    return open_dataset(data_folder / "easy_vqa")


def run(study: StudyFolder, data: Path, cell: Cell = CELL) -> CellFolder:
    record = study.cell("cell")
    assert run_cell(Job("cell", cell, "row", None), Workplace(str(study.path), str(data)), lambda _: None), (
        record.log.read_text()
    )
    return record


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, data_folder: Path) -> StudyFolder:
    """A study with one finished cell, to read and not to change."""
    study = StudyFolder(tmp_path_factory.mktemp("finished") / "study")
    run(study, data_folder)
    return study


def test_the_first_and_the_last_question_are_chosen_and_none_twice() -> None:
    rows = 7 + 3 * np.arange(1000)
    kept = chosen(rows)
    assert len(set(kept)) == len(kept) == EXAMPLES
    assert {rows[0], rows[-1]} < set(kept) < set(rows)
    assert chosen(rows[:3]).tolist() == rows[:3].tolist()


def test_examples_are_questions_of_the_test_split_with_what_was_predicted(
    finished: StudyFolder, dataset: DataSet
) -> None:
    record = finished.cell("cell")
    kept = read_examples(record)
    rows = chosen(dataset.rows("test"))
    asked, predicted = dataset.questions(rows=rows), record.predictions().set_index("question_id")
    assert [one.question_id for one in kept] == asked["question_id"].tolist()
    assert [one.text for one in kept] == asked["text"].tolist()
    for one, row in zip(kept, rows, strict=True):
        line = predicted.loc[one.question_id]
        assert one.image_id == line["image_id"]
        assert one.top_answers == tuple(line["top_answers"])
        assert one.top_confidences == tuple(line["top_confidences"])
        assert len(one.words) == dataset.lengths[row]
        assert (one.words[0], one.words[-1]) == ("[CLS]", "[SEP]")
        assert np.array_equal(np.float32(one.boxes), dataset.boxes[dataset.image[row]])
        assert max(one.answers.values()) == 1.0
        assert one.picture is None


def test_attention_is_that_of_the_trained_model(finished: StudyFolder, dataset: DataSet) -> None:
    record = finished.cell("cell")
    model, batch = load_trained(finished, "cell", dataset), dataset.batch(chosen(dataset.rows("test")))
    names = ("words", "regions", "boxes", "word_mask")
    with torch.no_grad():
        recorded = model.outputs(**{name: torch.from_numpy(getattr(batch, name)) for name in names}).attention
    kept = read_attention(record)
    assert kept.keys() == recorded.keys()
    for name, weights in kept.items():
        queries = name.split(".")[2].split("-")[0]
        present = batch.word_mask if queries == "words" else np.ones(batch.boxes.shape[:2], dtype=bool)
        expected = recorded[name].numpy() * present[:, None, :, None]
        assert weights == pytest.approx(expected, abs=5e-4), name
        # A row of the weights of a word or box that is there sums to 1; of padding it is empty.
        sums = weights.astype(np.float64).sum(3)
        assert sums == pytest.approx(np.broadcast_to(present[:, None, :].astype(float), sums.shape), abs=5e-3)


def test_pictures_are_kept_but_beside_the_weights_of_a_blind_cell(tmp_path: Path) -> None:
    data = write_small_data(tmp_path / "data", "package:easy_vqa/data/test/images/3.png")
    seeing = run(StudyFolder(tmp_path / "seeing"), data)
    pictures = [one.picture for one in read_examples(seeing)]
    assert len(pictures) == EXAMPLES
    assert all(picture and picture.read_bytes().startswith(b"\x89PNG") for picture in pictures)
    blind = run(StudyFolder(tmp_path / "blind"), data, dataclasses.replace(CELL, pictures="mean"))
    assert {one.picture for one in read_examples(blind)} == {None}


def test_a_damaged_tokenizer_is_named(dataset: DataSet, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match=r"is damaged: tokenizer\.json"):
        dataclasses.replace(dataset, folder=tmp_path).tokens(np.array([0]))


def test_damaged_examples_are_named(finished: StudyFolder, tmp_path: Path) -> None:
    record = CellFolder(shutil.copytree(finished.cell("cell").path, tmp_path / "cell"))
    (record.path / "examples" / "attention.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(RecordError, match=r"attention\.npz is damaged"):
        read_attention(record)
    (record.path / "examples" / "questions.json").write_text('[{"text": "?"}]')
    with pytest.raises(RecordError, match=r"questions\.json is damaged"):
        read_examples(record)


def test_a_record_without_examples_has_none(tmp_path: Path) -> None:
    assert read_examples(CellFolder(tmp_path)) == ()
