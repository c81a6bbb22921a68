"""``ablate predict`` and ``ablate score add``: answers for the VQA test server, and what it said to them.

The server takes a JSON list of {question_id, answer} over the whole test split, and scores test-dev, which is part
of it, and test-std. What it answered is typed in, and kept in the cell's record beside what was sent.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from suite import plan
from suite.data.questions import read_questions
from suite.data.store import DataError, DataSet
from suite.destination import destination
from suite.errors import UserError, unknown
from suite.records import CellFolder, RecordError, StudyFolder, write_text
from suite.training import load_trained, predict

ANSWER_BYTES = 64
"""A line of a result file is shorter: its question's number and an answer of a few words."""


def write_submission(
    study: StudyFolder,
    cell_id: str,
    data: Path,
    split: str,
    out: Path,
    questions: Path | None = None,
    device: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> str:
    """Writes the answers of a finished cell to all questions of ``split`` to ``out``; returns a sentence about it.

    ``questions`` is the file of questions that the answers must be of, all of them and no others; without it those
    of the data set's source count. ``device`` is by default a GPU where there is one. ``progress`` is told how many
    questions of how many are answered.

    Raises UserError where the cell is not finished or has changed since, an answer is missing, ``out`` exists or
    cannot be written, or the record cannot: before the first question.
    """
    cell, dataset = plan.trained_cell(study, cell_id, data)
    rows, record = dataset.rows(split), study.cell(cell_id)
    target = destination(out, ANSWER_BYTES * len(rows), "may have been sent")
    _check_appendable(record, "submissions")
    ids = dataset.questions("question_id", rows=rows)["question_id"]
    _check_complete(dataset, split, set(ids.tolist()), questions)
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = load_trained(study, cell_id, dataset).to(chosen)
    label = np.empty(len(rows), dtype=np.int64)
    done = 0
    for part, logits, _ in predict(model, dataset, rows, cell):
        if not logits.isfinite().all():
            raise UserError(f"{cell_id} answers with numbers that are none: it diverged. Take another cell.")
        label[np.searchsorted(rows, part)] = logits.argmax(1).numpy()
        done += len(part)
        if progress is not None:
            progress(done, len(rows))
    listed = [
        {"question_id": question, "answer": dataset.answers[answer]}
        for question, answer in zip(ids.tolist(), label.tolist(), strict=True)
    ]
    text = json.dumps(listed)
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    said = f"Answers of {cell_id} to all {len(listed):,} questions of {split}, sha256 {sha256[:12]}."
    if target.exists():
        target = target.with_name(f"{target.stem}-{sha256[:12]}{target.suffix}")
        said += f" They are in {target}: meanwhile another wrote {out}."
    write_text(target, text, settled=True)
    line = {"split": split, "questions": len(listed), "sha256": sha256, "file": target.name, "written": _now()}
    try:
        record.append("submissions", [line])
    except (OSError, RecordError) as error:
        why = getattr(error, "strerror", None) or str(error).removesuffix(".")
        raise UserError(
            f"{target} has all answers and can be sent, but {record.path} does not say so: {why}. "
            "`ablate score add` will not name them."
        ) from error
    return said


def _check_appendable(record: CellFolder, name: Literal["submissions", "server"]) -> None:
    """Raises UserError where a line cannot be added to a file of the record, or would be added to another."""
    record.check_links()
    record.lines(name)
    try:
        plan.probe(record.path)
    except OSError as error:
        raise UserError(
            f"The record {record.path} cannot be written: {error.strerror}. It keeps what was sent to the server: "
            "mend that, or copy the study's folder to where you may write and give --runs."
        ) from error


def _check_complete(dataset: DataSet, split: str, ids: set, questions: Path | None) -> None:
    """Raises UserError where the split's questions are not all that the server asks."""
    if questions is not None:
        asked = set(read_questions({split: [questions]}).frame["question_id"].tolist())
        if asked != ids:
            raise DataError(
                f"{questions} asks {len(asked):,} questions, and the split {split!r} has {len(ids):,}: "
                f"{len(asked - ids):,} are missing, {len(ids - asked):,} are others. Prepare the data set with "
                "that file."
            )
    elif left_out := dataset.information["splits"][split].get("left_out", 0):
        raise DataError(
            f"The split {split!r} lacks {left_out:,} questions that were left out when it was prepared, and the "
            f"server refuses a part ({dataset.folder / 'left_out.txt'} lists them). Prepare it again, whole."
        )


def add_server_score(runs: Path, cell_id: str, split: str, accuracy: float, study: str | None = None) -> str:
    """Keeps what the test server answered for a cell; returns a sentence about it.

    ``accuracy`` is in per cent. It is held to be of the last answers that were made of the cell, if any, for a
    split that it does not test on itself. Raises UserError where no finished cell, or several, have that id, and
    for an accuracy that is none.
    """
    if not 0 <= accuracy <= 100:
        raise UserError(f"An accuracy is in per cent, from 0 to 100; received {accuracy}.")
    record = _find(runs, cell_id, study)
    if record.state != "finished":
        raise UserError(f"The cell {cell_id} is {record.state}: the server cannot have scored it. Check the id.")
    _check_appendable(record, "server")
    try:
        cell = record.config()["cell"]
        own = {*cell["train"], cell["validation"], cell["test"]}
        submissions = [str(line["sha256"]) for line in record.submissions() if line["split"] not in own]
        sent = submissions[-1] if submissions else None
        before = record.server().get(split)
    except (KeyError, TypeError) as error:
        raise RecordError(
            f"{record.path}: config.json, submissions.jsonl or server.jsonl is damaged: it lacks {error}. Copy the "
            "record again from where it is whole."
        ) from None
    record.append("server", [{"split": split, "accuracy": accuracy, "added": _now(), "submission": sent}])
    instead = f", instead of {before.get('accuracy')}" if before else ""
    of = f"submission {sent[:12]}" if sent else "a submission that was not made with `ablate predict`"
    return f"{cell_id}: {split} {accuracy} % as the server answered for {of}{instead}. `ablate report` shows it."


def _find(runs: Path, cell_id: str, study: str | None) -> CellFolder:
    cells = sorted(path.parent for path in runs.glob(f"{study or '*'}/*/config.json"))
    found = [path for path in cells if path.name == cell_id]
    if not found:
        raise unknown("cell", cell_id, {path.name for path in cells})
    if len(found) > 1:
        studies = ", ".join(path.parent.name for path in found)
        raise UserError(f"The cell {cell_id} is in several studies: {studies}. Say which with --study NAME.")
    return CellFolder(found[0])


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S %z")
