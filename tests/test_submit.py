"""Answers for the test server, and its answers."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from suite import checkpoints, plan
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


def submit(cell: CellFolder, data: Path, out: Path, split: str = "test", **options: Any) -> str:
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


def refused_before_the_first_question(cell: CellFolder, data: Path, out: Path) -> str:
    """Why, in words."""
    answered: list[int] = []
    with pytest.raises(UserError) as told:
        submit(cell, data, out, progress=lambda done, _: answered.append(done))
    assert answered == []
    return str(told.value)


def test_answers_go_where_they_are_told_to(cell: CellFolder, data: Path, tmp_path: Path) -> None:
    """Into a folder that is not there yet, and through a link that its user made."""
    submit(cell, data, tmp_path / "new/folder/out.json")
    (tmp_path / "link.json").symlink_to(tmp_path / "other.json")
    submit(cell, data, tmp_path / "link.json")
    written = [(tmp_path / name).read_bytes() for name in ("new/folder/out.json", "other.json")]
    assert written[0] == written[1]
    assert (tmp_path / "link.json").is_symlink()
    assert [line["file"] for line in cell.submissions()] == ["out.json", "other.json"]
    assert [path.name for path in (tmp_path / "new/folder").iterdir()] == ["out.json"]


def test_a_place_that_cannot_be_written_is_told_before_the_first_question(
    cell: CellFolder, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop.json").symlink_to(tmp_path / "loop.json")
    assert "out.json cannot be written: File exists" in refused_before_the_first_question(
        cell, data, tmp_path / "file/out.json"
    )
    assert "File name too long" in refused_before_the_first_question(cell, data, tmp_path / ("n" * 250))
    assert "exists" in refused_before_the_first_question(cell, data, tmp_path / "loop.json")
    if os.getuid():
        (tmp_path / "closed").mkdir(mode=0o500)
        assert "Permission denied" in refused_before_the_first_question(cell, data, tmp_path / "closed/out.json")
    monkeypatch.setattr("suite.submit.ANSWER_BYTES", 1 << 60)  # Of a disk that is too small for the answers.
    assert "Free space there" in refused_before_the_first_question(cell, data, tmp_path / "out.json")
    assert not (cell.path / "submissions.jsonl").exists()


def test_a_record_that_cannot_be_written_is_told_before_the_first_question(
    cell: CellFolder, data: Path, tmp_path: Path
) -> None:
    (cell.path / "submissions.jsonl").mkdir()
    said = refused_before_the_first_question(cell, data, tmp_path / "out.json")
    assert "expected to be a file, and is none" in said
    (cell.path / "submissions.jsonl").rmdir()
    (tmp_path / "notes.txt").write_text("mine")
    for name in ("submissions", "server"):
        (cell.path / f"{name}.jsonl").symlink_to(tmp_path / "notes.txt")
    assert "is a link" in refused_before_the_first_question(cell, data, tmp_path / "out.json")
    with pytest.raises(UserError, match="is a link"):
        add_server_score(tmp_path / "runs", cell.id, "test-dev", 71.9)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert not (tmp_path / "out.json").exists()


def at_the_end(act: Callable[[], Any]) -> Callable[[int, int], None]:
    """A progress that acts once, when the last question is answered."""
    return lambda done, of: act() if done == of else None


def test_answers_of_hours_are_kept_where_another_wrote_the_file(
    cell: CellFolder, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.json"
    said = submit(cell, data, out, progress=at_the_end(lambda: out.write_text("another's")))
    assert out.read_text() == "another's"
    (line,) = cell.submissions()
    ours = tmp_path / f"out-{line['sha256'][:12]}.json"
    assert str(ours) in said
    assert hashlib.sha256(ours.read_bytes()).hexdigest() == line["sha256"]


def test_answers_of_hours_are_kept_where_the_record_takes_no_line(
    cell: CellFolder, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"out\.json has all answers and can be sent"):
        submit(
            cell, data, tmp_path / "out.json", progress=at_the_end((cell.path / "submissions.jsonl").mkdir)
        )  # fmt: skip
    assert len(read_results(tmp_path / "out.json"))


def test_a_bit_of_a_picture_that_is_another_answers_nothing(cell: CellFolder, data: Path, tmp_path: Path) -> None:
    other = tmp_path / "data"
    shutil.copytree(data, other)
    dataset = open_dataset(other / "vqa2")
    (image,) = np.unique(dataset.image[dataset.rows("test")])[:1]
    boxes = np.load(other / "vqa2/boxes.npy", mmap_mode="r+")
    boxes[image, 0, 0] += 0.5
    boxes.flush()
    with pytest.raises(UserError, match=rf"regions\.npy or boxes\.npy is not as it was written .* row {image}"):
        submit(cell, other, tmp_path / "out.json")
    assert not (tmp_path / "out.json").exists()


def test_a_model_that_diverged_answers_nothing(cell: CellFolder, data: Path, tmp_path: Path) -> None:
    (step,) = checkpoints.steps(cell.checkpoints)
    model, _ = checkpoints.read(cell.checkpoints, step)
    shutil.rmtree(cell.checkpoints)
    checkpoints.save(cell.checkpoints, step, {name: one * torch.nan for name, one in model.items()}, None)
    with pytest.raises(UserError, match="it diverged"):
        submit(cell, data, tmp_path / "out.json")
    assert not (tmp_path / "out.json").exists()


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


def test_damaged_lines_of_a_record_are_one_sentence(cell: CellFolder, tmp_path: Path) -> None:
    for name, text in (("submissions", '{"split": "test"}'), ("server", '{"accuracy": 3}'), ("server", "3")):
        (cell.path / f"{name}.jsonl").write_text(f"{text}\n")
        with pytest.raises(UserError, match=r"is damaged: "):
            add_server_score(tmp_path / "runs", cell.id, "test-dev", 71.9)
        (cell.path / f"{name}.jsonl").unlink()


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
