"""What several rows answered to one question, and which question tells them apart."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow

from reports.examples import LONGEST, Example, read_examples
from reports.figures.rows import trained
from reports.predictions import damage_explained, predictions_file, read_predictions
from reports.report import Report, Row
from reports.text import shortened
from suite.errors import UserError
from suite.records import CellFolder

KEYS = ("entmax-9-5-5", "span-9-5-5", "layerdrop-10-6-6")
"""The rows of the paper's figure 4, in its order."""


@dataclass(frozen=True)
class Answered:
    """One row's answer to the question, by its first finished seed."""

    row: Row
    answers: tuple[str, ...]
    """The best five, the most confident first; empty where the records have none."""
    confidences: tuple[float, ...]
    """From 0 to 1, one per answer."""
    scores: tuple[float | None, ...]
    """Of each answer, from 0 to 1; None where it is not in the records."""
    seed: int | None


@dataclass(frozen=True)
class Asked:
    """One question with all that the records have of it."""

    question_id: str
    example: Example | None
    """None where no cell keeps its picture and text."""
    answered: tuple[Answered, ...]


def ask(report: Report, question: str | None) -> Asked | None:
    """The question with this id, by default the first kept example that the rows answer differently, or the first.

    None where no row has answers. Raises UserError where no row was asked ``question``.
    """
    rows = _rows(report)
    cells = {row.key: _Answers(record) for row in rows if (record := _record(row)) is not None}
    if not cells:
        if question is None:
            return None
        raise UserError(f"No cell of {report.name} has predictions yet: question '{question}' has no answers.")
    chosen = _default(list(cells.values())) if question is None else _known(question, list(cells.values()))
    examples = [one.examples[chosen] for one in cells.values() if chosen in one.examples]
    example = next((one for one in examples if one.picture), examples[0] if examples else None)
    truth = example.answers if example else None
    answered = [
        cells[row.key].answered(row, chosen, truth) if row.key in cells else Answered(row, (), (), (), None)
        for row in rows
    ]
    return Asked(chosen, example, tuple(answered))


def _rows(report: Report) -> list[Row]:
    """The paper's three, or in a study that is scaled down their variants'; filled up to three that answer."""
    found: dict[str, Row] = {}
    wanted = {row.key: row.published for block in report.blocks for row in block.rows}
    for key in KEYS:
        published = wanted.get(key)
        variant = published.cell["variant"] if published and published.cell else None
        same = [row for row in trained(report) if row.cells[0].configuration["variant"] == variant]
        for row in sorted(same, key=lambda one: one.key != key)[:1]:
            found[row.key] = row
    for row in trained(report):
        if sum(_record(one) is not None for one in found.values()) < len(KEYS) and _record(row) is not None:
            found.setdefault(row.key, row)
    return list(found.values())


def _record(row: Row) -> CellFolder | None:
    """Of its first finished cell that has predictions."""
    finished = (cell.record for cell in row.cells if cell.result is not None)
    return next((record for record in finished if predictions_file(record).exists()), None)


def _default(cells: Sequence[_Answers]) -> str:
    kept = next((list(one.examples) for one in cells if one.examples), None)
    candidates = kept if kept is not None else list(cells[0].best)
    shared = [one for one in candidates if all(one in cell.best for cell in cells)]
    differing = (one for one in shared if len({cell.best[one] for cell in cells}) > 1)
    return next(differing, (shared or candidates)[0])


def _known(question: str, cells: Sequence[_Answers]) -> str:
    known = {one: None for cell in cells for one in (*cell.examples, *cell.best)}
    if question in known:
        return question
    near = difflib.get_close_matches(question, known, n=5, cutoff=0.6)
    hint = f"Close to it: {', '.join(near)}" if near else f"The first are {', '.join(list(known)[:5])}"
    raise UserError(f"There is no question '{question}' among the {len(known):,} that were tested. {hint}.")


class _Answers:
    """What one cell answered; ids are texts."""

    def __init__(self, record: CellFolder) -> None:
        self.record = record

    @functools.cached_property
    def examples(self) -> dict[str, Example]:
        return {str(one.question_id): one for one in read_examples(self.record)}

    @functools.cached_property
    def best(self) -> dict[str, str]:
        """Question -> the answer that the cell is most confident of."""
        with damage_explained(self.record):
            columns = self._read(["question_id", "answer"]).to_pydict()
            return dict(zip(map(str, columns["question_id"]), columns["answer"], strict=True))

    def answered(self, row: Row, question: str, truth: Mapping[str, float] | None) -> Answered:
        seed = next(cell.configuration["seed"] for cell in row.cells if cell.record is self.record)
        if question in self.best:
            place = list(self.best).index(question)
            with damage_explained(self.record):
                table = self._read(["score", "top_answers", "top_confidences"]).slice(place, 1).to_pylist()[0]
                top = list(zip(table["top_answers"], map(float, table["top_confidences"]), strict=True))
            answers, confidences = [shortened(answer, LONGEST) for answer, _ in top], [sure for _, sure in top]
            scores = [table["score"], *[None] * (len(answers) - 1)]
        elif question in self.examples:
            one = self.examples[question]
            answers, confidences, scores = one.top_answers, one.top_confidences, [None] * len(one.top_answers)
        else:
            return Answered(row, (), (), (), seed)
        if truth is not None:
            scores = [float(truth.get(answer, 0.0)) for answer in answers]
        return Answered(row, tuple(answers), tuple(confidences), tuple(scores), seed)

    def _read(self, columns: list[str]) -> pyarrow.Table:
        table = read_predictions(self.record, columns)
        assert table is not None  # ``_record`` gives none but those that have predictions.
        return table
