"""A cell's folder: its state is what exists, and no reader sees half of anything."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from suite import checkpoints
from suite.config import Cell, Protocol, to_plain
from suite.files import checked_lines, parse_json, parse_lines, write_document
from suite.lease import Lease
from suite.records import (
    CellFolder,
    RecordError,
    StudyFolder,
    load_cells,
    read_json,
    read_lines,
    write_bytes,
    write_json,
)

START = Cell(variant="softmax", dataset="easy_vqa", protocol=Protocol(steps=8, batch_size=4))
ROW = dataclasses.replace(START, variant="span", arguments={"ramp": 2}, start=START, seed=2)
RESULT = {
    "accuracy": {"validation": 50.0, "test": 40.0},
    "macs": 10,
    "macs_reference": 11,
    "uncounted_operators": {"aten::softmax": 1},
    "parameters": 12,
    "steps": 8,
    "seconds": 1.5,
}


@pytest.fixture
def cell(tmp_path: Path) -> CellFolder:
    return CellFolder(tmp_path / "span-s0-0123456789")


# One cell


def test_the_state_is_what_the_last_file_says(cell: CellFolder) -> None:
    states = [cell.state]
    cell.write_config({})
    states.append(cell.state)
    cell.write_failure({"message": "no"})
    states.append(cell.state)
    cell.write_result(RESULT)
    states.append(cell.state)
    assert states == ["missing", "started", "failed", "finished"]


def test_a_new_try_clears_the_failure_of_the_last(cell: CellFolder) -> None:
    cell.write_config({})
    cell.write_failure({"message": "no"})
    cell.write_config({})
    assert (cell.state, cell.failure()) == ("started", None)


def test_what_does_not_exist_yet_is_none_or_empty(cell: CellFolder) -> None:
    assert (cell.result(), cell.failure()) == (None, None)
    assert cell.metrics().empty
    assert cell.sites().empty


def test_lines_come_back_as_written(cell: CellFolder) -> None:
    cell.write_config({})
    cell.append("metrics", [{"step": 0, "accuracy": 0.1 + 0.2, "train_loss": None}])
    cell.append("metrics", [{"step": 2, "accuracy": 1e-300, "train_loss": 0.5}])
    assert cell.metrics()["accuracy"].tolist() == [0.1 + 0.2, 1e-300]


def test_a_number_that_json_does_not_have_is_not_written(cell: CellFolder) -> None:
    cell.write_config({})
    with pytest.raises(ValueError, match="not JSON compliant"):
        cell.append("metrics", [{"step": 0, "loss": float("nan")}])
    with pytest.raises(ValueError, match="not JSON compliant"):
        cell.write_result(RESULT | {"seconds": float("inf")})
    assert cell.metrics().empty
    assert cell.state == "started"


def flipped(content: bytes) -> Iterator[bytes]:
    """With each bit the other way, in turn."""
    for bit in range(8 * len(content)):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        yield bytes(changed)


def test_no_flipped_bit_of_a_document_passes_for_what_was_written(tmp_path: Path) -> None:
    """Neither one of its check, or of that one's name."""
    path, value = tmp_path / "one.json", {"accuracy": 61.25, "answer": "two"}
    write_document(path, value)
    whole = path.read_bytes()
    assert parse_json(path, whole) == value
    for changed in flipped(whole.removesuffix(b"\n")):
        with pytest.raises(RecordError, match="not JSON as it was written"):
            parse_json(path, changed)


def test_no_flipped_bit_of_a_line_passes_for_what_was_written(tmp_path: Path) -> None:
    line = {"split": "test-dev", "score": 61.25}
    whole = checked_lines([line])
    assert parse_lines(tmp_path / "one.jsonl", whole) == [line]
    for changed in flipped(whole.removesuffix(b"\n")):
        with pytest.raises(RecordError, match="not JSON as it was written"):
            parse_lines(tmp_path / "one.jsonl", changed + b"\n")


def test_a_line_that_a_kill_cut_off_is_left_out(cell: CellFolder) -> None:
    cell.write_config({})
    cell.append("metrics", [{"step": 0}, {"step": 2}])
    path = cell.path / "metrics.jsonl"
    path.write_text(path.read_text()[:-4])
    assert read_lines(path) == [{"step": 0}]


def test_cutting_back_forgets_later_and_torn_lines(cell: CellFolder) -> None:
    cell.write_config({})
    for name in ("metrics", "sites"):
        cell.append(name, [{"step": step} for step in (0, 2, 4, 6)])
        with (cell.path / f"{name}.jsonl").open("a") as file:
            file.write('{"step": 8, "acc')
    cell.cut_back(4)
    cell.append("metrics", [{"step": 5}])
    assert cell.metrics()["step"].tolist() == [0, 2, 4, 5]
    assert [line["step"] for line in read_lines(cell.path / "sites.jsonl")] == [0, 2, 4]


def test_cutting_back_before_the_first_step_leaves_no_line(cell: CellFolder) -> None:
    cell.write_config({})
    cell.append("metrics", [{"step": 0}])
    cell.cut_back(-1)
    assert cell.metrics().empty


def test_cutting_back_keeps_every_segment_but_a_torn_one(cell: CellFolder) -> None:
    """They say where the run was; half a line before the next one would make the file unreadable."""
    cell.write_config({})
    cell.append("segments", [{"step": 0}])
    with (cell.path / "segments.jsonl").open("a") as file:
        file.write('{"step": 2, "dev')
    cell.cut_back(-1)
    cell.append("segments", [{"step": 0}])
    assert read_lines(cell.path / "segments.jsonl") == [{"step": 0}, {"step": 0}]


def test_a_record_is_on_the_disk_before_it_has_its_name(cell: CellFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a power cut a file that was renamed first may be there and empty."""
    on_disk: set[int] = set()
    named: dict[str, bool] = {}
    fsync, replace = os.fsync, os.replace

    def noted_fsync(file: int) -> None:
        fsync(file)
        on_disk.add(os.fstat(file).st_ino)

    def noted_replace(source: Path, target: Path) -> None:
        named[Path(target).name] = os.stat(source).st_ino in on_disk
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    cell.write_config({})
    cell.append("metrics", [{"step": 1}])
    assert (cell.path / "metrics.jsonl").stat().st_ino in on_disk
    cell.cut_back(1)
    cell.write_live({"step": 1, "steps": 2, "questions_per_second": 1.0})
    cell.write_predictions(pd.DataFrame({"question_id": [1]}))
    checkpoints.save(cell.checkpoints, 1, {"weight": torch.ones(1)}, {"seed": 1})
    assert {path.stat().st_ino for path in cell.checkpoints.glob("*/*")} <= on_disk
    cell.write_result(RESULT)
    assert named.pop("live.json") is False  # Every two seconds, and nobody needs it.
    assert named.pop("step-00000001") is False  # A folder: its files are.
    assert len(named) == 6
    assert all(named.values()), named


def test_a_line_that_is_not_text_is_named(cell: CellFolder) -> None:
    cell.write_config({})
    (cell.path / "metrics.jsonl").write_bytes(b'{"step": 1}\n\xff\xfe\n')
    with pytest.raises(RecordError, match=r"metrics\.jsonl:2 is damaged: not JSON .*Restore it from a copy"):
        cell.metrics()


def test_a_line_in_the_middle_that_is_not_json_is_named(cell: CellFolder) -> None:
    cell.write_config({})
    path = cell.path / "metrics.jsonl"
    path.write_text('{"step": 0}\nrubbish\n{"step": 2}\n')
    with pytest.raises(RecordError, match=r"metrics\.jsonl:2 is damaged: not JSON"):
        cell.metrics()


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"a": 1'], ids=repr)
def test_a_file_that_is_not_json_is_named_with_what_to_do(cell: CellFolder, content: bytes) -> None:
    cell.write_config({})
    (cell.path / "result.json").write_bytes(content)
    with pytest.raises(RecordError, match=r"result\.json is damaged: not JSON .*Restore it from a copy"):
        cell.result()


def test_a_file_that_is_missing_is_named(cell: CellFolder) -> None:
    with pytest.raises(RecordError, match=r"config\.json is missing"):
        cell.config()


def test_predictions_come_back_as_written(cell: CellFolder) -> None:
    cell.write_config({})
    table = pd.DataFrame(
        {"question_id": [7], "answer": ["no"], "top_answers": [["no", "yes"]], "top_confidences": [[0.9, 0.1]]}
    )
    cell.write_predictions(table)
    received = cell.predictions()
    assert received["question_id"].tolist() == [7]
    assert received["top_answers"].iloc[0].tolist() == ["no", "yes"]
    assert received["top_confidences"].iloc[0].tolist() == [0.9, 0.1]


# Whole files


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "result.json"
    write_json(path, {"a": 1})

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_json(path, {"a": 2})
    assert read_json(path) == {"a": 1}


def test_a_file_appears_only_when_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[bool, bytes]] = []
    replace = os.replace

    def look(source: Path, target: Path) -> None:
        seen.append((Path(target).exists(), Path(source).read_bytes()))
        replace(source, target)

    monkeypatch.setattr(os, "replace", look)
    write_bytes(tmp_path / "file", b"content")
    assert seen == [(False, b"content")]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# A study


def study(folder: Path, *cells: tuple[str, str, str | None, Cell], engine: str = "now") -> StudyFolder:
    written = StudyFolder(folder)
    written.write_study(
        {
            "name": "test",
            "question": "Which?",
            "dataset": {"name": "easy_vqa", "title": "easy-VQA", "splits": {}},
            "floors": {"question_prior": None, "looked": None},
            "engine": engine,
            "cells": [
                {"id": name, "role": role, "start": start, "cell": to_plain(cell)}
                for name, role, start, cell in cells
            ],
        }
    )
    return written


def finish(record: CellFolder, engine: str = "now") -> None:
    record.write_config({"code": {"engine": engine}})
    record.write_result(RESULT)


def test_a_study_that_was_never_launched_is_refused_with_the_command(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"expected .*study\.json.*ablate run"):
        load_cells(tmp_path)


def test_cells_of_every_state_are_rows_in_the_studys_order(tmp_path: Path) -> None:
    folder = study(
        tmp_path,
        ("d", "start", None, START),
        ("c", "row", "d", ROW),
        ("b", "row", "d", ROW),
        ("a", "floor", None, START),
    )
    finish(folder.cell("d"))
    folder.cell("c").write_config({})
    folder.cell("b").write_config({})
    folder.cell("b").write_failure({"message": "ValueError: no"})
    cells = load_cells(tmp_path)
    assert cells["id"].tolist() == ["d", "c", "b", "a"]
    assert cells["state"].tolist() == ["finished", "started", "failed", "missing"]
    assert cells["role"].tolist() == ["start", "row", "row", "floor"]
    assert cells["failure"].tolist() == [None, None, "ValueError: no", None]
    assert cells["macs"].tolist() == [10, None, None, None]


def test_a_row_holds_the_configuration_and_the_result(tmp_path: Path) -> None:
    folder = study(tmp_path, ("d", "start", None, START), ("c", "row", "d", ROW))
    finish(folder.cell("c"))
    row = load_cells(tmp_path).iloc[1].to_dict()
    assert row.pop("record").path == tmp_path / "c"
    assert row == {
        "id": "c",
        "role": "row",
        "state": "finished",
        "stale": False,
        "variant": "span",
        "arguments": {"ramp": 2},
        "layers": (9, 5, 5),
        "seed": 2,
        "dataset": "easy_vqa",
        "steps": 8,
        "batch_size": 4,
        "start": "d",
        "cell": to_plain(ROW),
        "failure": None,
        **{name: value for name, value in RESULT.items() if name != "steps"},
    }


def stale(folder: Path) -> dict[str, bool]:
    return load_cells(folder).set_index("id")["stale"].to_dict()


def test_a_finished_cell_of_another_engine_is_stale(tmp_path: Path) -> None:
    folder = study(tmp_path, ("a", "row", None, START), ("b", "row", None, START))
    finish(folder.cell("a"), engine="before")
    finish(folder.cell("b"))
    assert stale(tmp_path) == {"a": True, "b": False}


def test_a_cell_that_did_not_finish_is_not_stale(tmp_path: Path) -> None:
    folder = study(tmp_path, ("a", "row", None, START))
    folder.cell("a").write_config({"code": {"engine": "before"}})
    assert stale(tmp_path) == {"a": False}


def test_what_started_from_a_stale_cell_is_stale(tmp_path: Path) -> None:
    folder = study(tmp_path, ("a", "start", None, START), ("b", "start", "a", ROW), ("c", "row", "b", ROW))
    finish(folder.cell("a"), engine="before")
    finish(folder.cell("b"))
    finish(folder.cell("c"))
    assert stale(tmp_path) == {"a": True, "b": True, "c": True}


def test_a_stranger_can_read_the_records_with_json_and_pandas_alone(tmp_path: Path) -> None:
    folder = study(tmp_path, ("a", "row", None, START))
    finish(folder.cell("a"))
    folder.cell("a").append("metrics", [{"step": 2, "accuracy": 50.0}])
    result: dict[str, Any] = json.loads((tmp_path / "a" / "result.json").read_text())
    assert {name: result[name] for name in RESULT} == RESULT
    assert result["id"] == "a"
    assert result["files"] == {"config.json": hashlib.sha256((tmp_path / "a/config.json").read_bytes()).hexdigest()}
    assert pd.read_json(tmp_path / "a" / "metrics.jsonl", lines=True)["accuracy"].tolist() == [50.0]


# Trouble


def test_a_file_that_goes_while_it_is_looked_for_is_no_file(
    cell: CellFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell.write_config({})
    cell.write_live({"step": 1})
    exists = Path.exists

    def goes(path: Path) -> bool:
        there = exists(path)
        if path.name == "live.json" and there:
            path.unlink()
        return there

    monkeypatch.setattr(Path, "exists", goes)
    assert cell.live() is None


def test_a_full_disk_leaves_no_half_line_and_no_temporary_file(tmp_path: Path) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", tmp_path], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        cell = CellFolder(tmp_path / "cell")
        cell.write_config({})
        cell.append("segments", [{"step": 0}])
        before = sorted(path.name for path in cell.path.iterdir())
        table = pd.DataFrame({"score": [1 / (1 + n) for n in range(9999)]})
        for write in (
            lambda: cell.append("segments", [{"step": 1, "spans": list(range(9999))}]),
            lambda: cell.write_predictions(table),
            lambda: cell.write_result({"all": "a" * (1 << 16)}),
        ):
            with pytest.raises(OSError, match="No space left"):
                write()
            assert sorted(path.name for path in cell.path.iterdir()) == before
        cell.append("segments", [{"step": 1}])
        assert [line["step"] for line in read_lines(cell.path / "segments.jsonl")] == [0, 1]
    finally:
        subprocess.run(["umount", "-l", tmp_path], check=True)


def test_what_a_kill_left_beside_a_finished_record_goes(cell: CellFolder) -> None:
    cell.write_config({})
    cell.append("metrics", [{"step": 0}])
    cell.write_result(RESULT)
    whole = sorted(cell.path.rglob("*"))
    final = cell.checkpoints / "step-00000008"
    final.mkdir(parents=True)
    for left in (
        "lease/000001.json",
        "checkpoint/.step-00000008.7/model.safetensors",
        "checkpoint/step-00000004/a",
    ):
        (cell.path / left).parent.mkdir(parents=True, exist_ok=True)
        (cell.path / left).touch()
    for left in (".probe", ".live.json.7", "live.json"):
        (cell.path / left).touch()
    cell.tidy()
    assert sorted(cell.path.rglob("*")) == sorted([*whole, cell.checkpoints, final])
    cell.tidy()


def test_tidying_leaves_alone_what_is_not_the_suite_s(cell: CellFolder) -> None:
    """Such as folders that editors make."""
    cell.write_config({})
    cell.write_result(RESULT)
    for name in (
        "checkpoint/step-00000008",
        "checkpoint/step-00000008.bak",
        "checkpoint/step-4",
        ".ipynb_checkpoints",
    ):
        (cell.path / name).mkdir(parents=True)
    theirs = [".notes", ".result.json.old", ".config.json.12ab.7-8", "examples.txt"]
    for name in (*theirs, ".result.json.17"):
        (cell.path / name).touch()
    kept = sorted(path for path in cell.path.rglob("*") if path.name != ".result.json.17")
    cell.tidy()
    assert sorted(cell.path.rglob("*")) == kept


@pytest.mark.parametrize("link", ["lease", "lease/000001", "lease/000001/token"])
def test_who_runs_a_cell_is_written_where_no_link_leads(cell: CellFolder, tmp_path: Path, link: str) -> None:
    """Not by tidying, by setting aside or by what is added to a finished record."""
    cell.write_config({})
    cell.write_result(RESULT)
    outside = tmp_path / "outside"
    (outside / "000001" / "token").mkdir(parents=True)
    (outside / "000001.json").touch()
    before = sorted(outside.rglob("*"))
    (cell.path / link).parent.mkdir(parents=True, exist_ok=True)
    (cell.path / link).symlink_to(outside)
    for writes in (
        cell.tidy,
        cell.set_aside,
        lambda: cell.append("submissions", [{"split": "test", "sha256": ""}]),
        lambda: Lease(cell.path).take(),
    ):
        with pytest.raises(RecordError, match=f"{link} is a link"):
            writes()
        assert sorted(outside.rglob("*")) == before
    assert cell.state == "finished"
