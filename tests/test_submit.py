"""Answers for the test server, and its answers."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import pytest

from suite import plan
from suite.config import Cell, ModelSize, Protocol, Study
from suite.data import vqa2
from suite.data.generate import write_vqa2
from suite.data.official import read_results
from suite.data.store import open_dataset
from suite.errors import UserError
from suite.records import CellFolder, StudyFolder
from suite.running import run_cell
from suite.submit import add_server_score, write_submission

CELL = Cell(
    variant="softmax",
    dataset="vqa2",
    protocol=Protocol(steps=2, batch_size=4, evaluations=1),
    model=ModelSize(width=8, heads=2, intermediate=8),
    layers=(1, 1, 1),
    train=("train", "nominival"),
    validation="minival",
    test="minival",
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lxmert")
    write_vqa2(folder, seed=3, boxes=4, features=8)
    return folder


@pytest.fixture(scope="module")
def data(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    vqa2.prepare(folder / "vqa2", files=vqa2.find_files(source, shape=(4, 8)))
    return folder


@pytest.fixture
def cell(data: Path, tmp_path: Path) -> CellFolder:
    """A finished cell of the study ``runs/paper``."""
    study, folder = Study("paper", "?", (CELL,)), StudyFolder(tmp_path / "runs/paper")
    (job,) = plan.plan(study, data)
    plan.write_study(folder, study, [job], data)
    assert run_cell(job, plan.Workplace(str(folder.path), str(data)), lambda progress: None)
    return folder.cell(job.id)


def submit(cell: CellFolder, data: Path, out: Path, split: str = "test", **options: Path) -> str:
    return write_submission(StudyFolder(cell.path.parent), cell.id, data, split, out, **options)


def test_a_submission_answers_every_question_of_the_split_in_its_order(
    cell: CellFolder, data: Path, source: Path, tmp_path: Path
) -> None:
    said = submit(cell, data, tmp_path / "out.json", questions=source / "vqa/test.json")
    sent = read_results(tmp_path / "out.json")
    asked = [record["question_id"] for record in json.loads((source / "vqa/test.json").read_text())]
    assert list(sent) == asked
    assert set(sent.values()) <= set(open_dataset(data / "vqa2").answers)
    (line,) = cell.submissions()
    assert line["sha256"] == hashlib.sha256((tmp_path / "out.json").read_bytes()).hexdigest()
    assert (line["split"], line["questions"], line["file"]) == ("test", len(asked), "out.json")
    assert f"all {len(asked)} questions of test" in said


def test_answers_are_those_that_the_cells_test_gave(cell: CellFolder, data: Path, tmp_path: Path) -> None:
    submit(cell, data, tmp_path / "out.json", split="minival")
    tested = cell.predictions()
    assert read_results(tmp_path / "out.json") == dict(zip(tested["question_id"], tested["answer"], strict=True))


def test_a_file_that_exists_is_not_overwritten(cell: CellFolder, data: Path, tmp_path: Path) -> None:
    (tmp_path / "out.json").write_text("sent already")
    with pytest.raises(UserError, match="may have been sent"):
        submit(cell, data, tmp_path / "out.json")
    assert (tmp_path / "out.json").read_text() == "sent already"


def test_a_part_of_the_questions_is_no_submission(
    cell: CellFolder, data: Path, source: Path, tmp_path: Path
) -> None:
    records = json.loads((source / "vqa/test.json").read_text())
    more = tmp_path / "more.json"
    more.write_text(json.dumps([*records, records[0] | {"question_id": 1}]))
    with pytest.raises(UserError, match=r"1 are missing, 0 are others"):
        submit(cell, data, tmp_path / "out.json", questions=more)
    assert not (tmp_path / "out.json").exists()
    assert cell.submissions() == []


def test_questions_that_were_left_out_are_no_submission(source: Path, tmp_path: Path) -> None:
    copied = tmp_path / "test.json"
    records = json.loads((source / "vqa/test.json").read_text())
    del records[0]["sent"]
    copied.write_text(json.dumps(records))
    files = vqa2.find_files(source, shape=(4, 8), skip_bad=True)
    files = dataclasses.replace(files, splits=dict(files.splits) | {"test": [copied]})
    vqa2.prepare(tmp_path / "data/vqa2", files=files)
    study, folder = Study("paper", "?", (CELL,)), StudyFolder(tmp_path / "runs/paper")
    (job,) = plan.plan(study, tmp_path / "data")
    plan.write_study(folder, study, [job], tmp_path / "data")
    assert run_cell(job, plan.Workplace(str(folder.path), str(tmp_path / "data")), lambda progress: None)
    with pytest.raises(UserError, match=r"lacks 1 questions that were left out"):
        submit(folder.cell(job.id), tmp_path / "data", tmp_path / "out.json")


def test_a_cell_of_another_data_set_is_refused(cell: CellFolder, source: Path, tmp_path: Path) -> None:
    files = vqa2.find_files(source, shape=(4, 8), dtype="float32")
    vqa2.prepare(tmp_path / "other/vqa2", files=files)
    with pytest.raises(UserError, match="has changed since it was trained"):
        submit(cell, tmp_path / "other", tmp_path / "out.json")


def test_the_servers_answer_is_kept_with_what_was_sent(cell: CellFolder, data: Path, tmp_path: Path) -> None:
    submit(cell, data, tmp_path / "out.json")
    submit(cell, data, tmp_path / "minival.json", split="minival")  # Not for the server.
    said = add_server_score(tmp_path / "runs", cell.id, "test-dev", 71.9)
    sent = cell.submissions()[0]["sha256"]
    assert sent[:12] in said
    kept = cell.server()["test-dev"]
    assert (kept["accuracy"], kept["submission"]) == (71.9, sent)
    assert "instead of 71.9" in add_server_score(tmp_path / "runs", cell.id, "test-dev", 72.1)
    assert cell.server()["test-dev"]["accuracy"] == 72.1
    assert "test-std" not in cell.server()


@pytest.mark.parametrize("accuracy", [-0.1, 100.5, float("nan")])
def test_what_is_no_accuracy_is_refused(cell: CellFolder, tmp_path: Path, accuracy: float) -> None:
    with pytest.raises(UserError, match="in per cent, from 0 to 100"):
        add_server_score(tmp_path / "runs", cell.id, "test-dev", accuracy)


def test_a_cell_that_is_unknown_unfinished_or_in_two_studies_is_told(cell: CellFolder, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    with pytest.raises(UserError, match=f"Did you mean '?{cell.id}"):
        add_server_score(runs, cell.id[:-1], "test-dev", 70.0)
    other = CellFolder(runs / "other" / cell.id)
    other.write_config(cell.config())
    with pytest.raises(UserError, match="in several studies: other, paper"):
        add_server_score(runs, cell.id, "test-dev", 70.0)
    with pytest.raises(UserError, match="is started"):
        add_server_score(runs, cell.id, "test-dev", 70.0, study="other")
    add_server_score(runs, cell.id, "test-dev", 70.0, study="paper")
