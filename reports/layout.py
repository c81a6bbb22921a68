"""The report as text cells, before any format: which columns there are, how numbers and marks are written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from reports.by_type import KINDS, Kind
from reports.cells import CellRecord
from reports.certainty import certainty, completeness
from reports.cost_tables import cost_remarks, cost_tables
from reports.published import SERVER_SPLITS
from reports.report import Report, Row
from reports.statistics import Estimate
from reports.text import ABSENT, Column, Note, TextTable, plain
from reports.trust import CLAIMS_REMARK, trust_tables
from reports.verdicts import LEVELS, differences_rule

DAGGER = "†"
COMPARISONS = "What each change is worth"
TYPES = "Accuracy by type of answer and question"
FEW = 8
"""Types of one kind that a table has room for."""


@dataclass(frozen=True)
class Layout:
    heading: str
    tables: tuple[TextTable, ...]
    floors: tuple[str, ...]
    remarks: tuple[str, ...]
    """Sentences that hold for all tables."""

    @property
    def notes(self) -> list[Note]:
        """The notes of all tables, daggers last."""
        notes = dict.fromkeys(note for table in self.tables for note in table.notes)
        return sorted(notes, key=lambda note: (note.mark == DAGGER, len(note.mark), note.mark))


@dataclass(frozen=True)
class Unit:
    """How the numbers of one column are written: four digits for the largest."""

    name: str
    scale: float
    decimals: int

    def format(self, number: float) -> str:
        return f"{number / self.scale:,.{self.decimals}f}"


def lay_out(report: Report) -> Layout:
    """The report as text: one string per table cell, clean of control characters, not yet escaped."""
    macs = _unit([row.measured.macs_reference for row in report.rows if row.measured])
    parameters = _unit([row.measured.parameters for row in report.rows if row.measured])
    server = any(row.measured and row.measured.server for row in report.rows)
    official = any(row.measured and row.measured.official is not None for row in report.rows)
    columns = (
        Column("", "Method"),
        Column("paper", "test-dev"),
        Column("paper", "test-std"),
        Column("paper", "diff."),
        *(Column("ours", split) for split in SERVER_SPLITS if server),
        *([Column("ours", "official")] if official else []),
        Column("ours", "test"),
        Column("ours", "seeds"),
        Column("ours", "diff."),
        Column("ours", "p (Holm)"),
        Column("ours", "verdict"),
        Column("ours", f"MACs ({macs.name})"),
        Column("ours", "change (%)"),
        Column("ours", f"params ({parameters.name})"),
        *([Column("ours", "seconds")] if report.measured else []),
    )
    costs = len(columns) - 3 - report.measured
    # A narrow page has the paper's beside our accuracy, then our difference, then costs.
    accuracies = [costs - 5 - official] if server or official else []
    breaks = (*accuracies, costs - 3, costs)
    marks = _marks(report)
    tables = []
    for block in report.blocks:
        rows = tuple(
            (
                _marked_label(row, marks),
                *_published(row),
                *(_server(row) if server else ()),
                *([_official(row)] if official else []),
                *_measured(row, macs, parameters, report.measured),
            )
            for row in block.rows
        )
        used = {note for row in block.rows for note in row.notes}
        notes = [Note(mark, plain(text)) for text, mark in marks.items() if text in used]
        if any(row.looked is False for row in block.rows):
            notes.append(_not_looked(report))
        tables.append(TextTable(block.title, columns, rows, tuple(notes), breaks))
    if any(_few_types(report)):
        tables.append(_types_table(report))
    if report.comparisons:
        tables.append(_comparison_table(report))
    tables += trust_tables(report)
    tables += cost_tables(report)
    of_claims = [CLAIMS_REMARK] if report.claims else []
    remarks = (*_remarks(report, server, official), *of_claims, *map(plain, cost_remarks(report)))
    return Layout(plain(report.heading), tuple(tables), _floors(report), remarks)


def _few_types(report: Report) -> list[tuple[Kind, str, int | None]]:
    """The types that have a column, each with its number of questions: those of a kind that has few."""
    if report.by_type is None:
        return []
    return [
        (kind, name, questions)
        for kind in KINDS
        if len(types := report.by_type.types(kind)) <= FEW
        for name, questions in types.items()
    ]


def _types_table(report: Report) -> TextTable:
    assert report.by_type is not None
    columns, rows = [Column("", "Method")], []
    types = _few_types(report)
    for kind, name, questions in types:
        count = f" ({questions:,})" if questions is not None else ""
        columns.append(Column(kind.removesuffix("_type"), (plain(name) or "untyped") + count))
    for row in report.rows:
        accuracies = (report.by_type.accuracy(row.key, kind, name) for kind, name, _ in types)
        cells = [ABSENT if accuracy is None else f"{accuracy:.2f}" for accuracy in accuracies]
        if row.measured is None:
            cells[0] = row.state
        rows.append((plain(row.label) + (" (stale)" if row.stale else ""), *cells))
    score = "official accuracy" if report.by_type.official else "LXMERT's soft score"
    # Any column but the first two may begin a new part.
    return TextTable(f"{TYPES}: {score}", tuple(columns), tuple(rows), (), tuple(range(2, len(columns))))


def _comparison_table(report: Report) -> TextTable:
    columns = (
        Column("", "Change"),
        Column("ours", "test without"),
        Column("ours", "test with"),
        Column("ours", "diff."),
        Column("ours", "p (Holm)"),
        Column("ours", "seeds"),
    )
    rows = []
    for line in report.comparisons:
        finished, pairs = len(line.finished), len(line.base)
        rows.append(
            (
                plain(line.label),
                _side(report, line.base, [without for without, _ in line.finished]),
                _side(report, line.changed, [with_it for _, with_it in line.finished]),
                _with_interval(line.difference, line.paired, signed=True),
                _p(line.paired),
                f"{finished}" if finished == pairs else f"{finished} of {pairs}",
            )
        )
    marked = any(DAGGER in cell for row in rows for cell in row[1:])
    return TextTable(COMPARISONS, columns, tuple(rows), (_not_looked(report),) if marked else ())


def _side(report: Report, cells: Sequence[CellRecord], accuracies: Sequence[float]) -> str:
    """Of the finished pairs; where there are none, of what is finished on this side, or why nothing is."""
    accuracies = accuracies or [cell.accuracy for cell in cells if cell.result is not None]
    if not accuracies:
        return ", ".join(dict.fromkeys(cell.state for cell in cells))
    number = fmean(accuracies)
    return (
        f"{number:.2f}"
        + (" (stale)" if any(cell.stale for cell in cells) else "")
        + (f" {DAGGER}" if report.looked is not None and number < report.looked else "")
    )


def _not_looked(report: Report) -> Note:
    return Note(DAGGER, f"Below {report.looked:g} % on {plain(report.dataset)}: has not learned to look.")


def _marks(report: Report) -> dict[str, str]:
    """Note -> its letter, in the order in which a reader meets them."""
    texts = dict.fromkeys(note for block in report.blocks for row in block.rows for note in row.notes)
    return {text: _letters(number) for number, text in enumerate(texts)}


def _letters(number: int) -> str:
    """a to z, then aa, ab and so on."""
    before, last = divmod(number, 26)
    return (_letters(before - 1) if before else "") + chr(ord("a") + last)


def _marked_label(row: Row, marks: dict[str, str]) -> str:
    letters = [mark for text, mark in marks.items() if text in row.notes]
    return (
        plain(row.label)
        + (f" [{','.join(letters)}]" if letters else "")
        + (f" {DAGGER}" if row.looked is False else "")
    )


def _published(row: Row) -> tuple[str, str, str]:
    if row.published is None:
        return "not published", ABSENT, ABSENT
    return (
        f"{row.published.test_dev:.2f}",
        ABSENT if row.published.test_std is None else f"{row.published.test_std:.2f}",
        f"{row.published.difference:+.2f}",
    )


def _server(row: Row) -> list[str]:
    answered = row.measured.server if row.measured else {}
    return [f"{answered[split]:.2f}" if split in answered else ABSENT for split in SERVER_SPLITS]


def _official(row: Row) -> str:
    official = row.measured.official if row.measured else None
    return ABSENT if official is None else f"{official:.2f}"


def _measured(row: Row, macs: Unit, parameters: Unit, seconds: bool) -> tuple[str, ...]:
    measured = row.measured
    if measured is None:
        return (row.state, *[ABSENT] * (7 + seconds))
    return (
        _with_interval(measured.accuracy, row.estimate) + (" (stale)" if row.stale else ""),
        f"{row.finished}" if row.finished == len(row.cells) else f"{row.finished} of {len(row.cells)}",
        _with_interval(row.difference, row.paired, signed=True),
        _p(row.paired),
        row.verdict.word if row.verdict else ABSENT,
        macs.format(measured.macs_reference),
        ABSENT if row.macs_change is None else f"{row.macs_change:+.2f}",
        parameters.format(measured.parameters),
        *([f"{measured.seconds:,.0f}" if row.trained else ABSENT] if seconds else []),
    )


def _with_interval(number: float | None, estimate: Estimate | None, signed: bool = False) -> str:
    """``93.12 ± 0.41``: with half the 95 % interval, or without where that cannot be had."""
    if number is None:
        return ABSENT
    return f"{number:{'+' if signed else ''}.2f}" + (f" ± {estimate.half:.2f}" if estimate else "")


def _p(estimate: Estimate | None) -> str:
    if estimate is None or estimate.adjusted is None:
        return ABSENT
    return "<0.001" if estimate.adjusted < 0.001 else f"{estimate.adjusted:.3f}"


def _unit(numbers: Sequence[float]) -> Unit:
    """One unit and one precision for a column, so that its rows can be compared at a glance."""
    largest = max(numbers, default=0.0)
    name, scale = next(((name, scale) for name, scale in (("G", 1e9), ("M", 1e6)) if largest >= scale), ("k", 1e3))
    return Unit(name, scale, decimals=3 if largest < 10 * scale else 2 if largest < 100 * scale else 1)


def _floors(report: Report) -> tuple[str, ...]:
    prior = "not known" if report.question_prior is None else f"{report.question_prior:.2f} %"
    lines = [f"Floor, question prior (each question text's most frequent training answer): {prior}."]
    for row in report.floors:
        number = row.state if row.measured is None else f"{_with_interval(row.measured.accuracy, row.estimate)} %"
        seeds = f"{row.finished} of {len(row.cells)} seeds" if len(row.cells) > 1 else ""
        aside = ", ".join(filter(None, [seeds, "stale" if row.stale else ""]))
        lines.append(f"Floor, {row.label}: {number}{f' ({aside})' if aside else ''}.")
        lines += [f"Floor, {cell.id} failed: {cell.failure}" for cell in row.cells if cell.failure is not None]
    return tuple(map(plain, lines))


def _uncounted(report: Report) -> list[str]:
    """What multiply-adds say nothing of."""
    counts = [row.measured.uncounted_operators for row in report.rows if row.measured]
    if not counts:
        return []
    operators = sorted({name.rpartition("::")[2] for one in counts for name in one})
    named = f" {', '.join(operators)}, which take time and energy all the same, and" if operators else ""
    return [plain(f"MACs leave out{named} the detector: the features of the pictures' regions are stored.")]


def _remarks(report: Report, server: bool, official: bool) -> tuple[str, ...]:
    levels = any(row.measured and row.measured.server for row in report.rows if row.published)
    return (
        plain(report.reference),
        f"Paper: {report.paper.citation}; accuracy in % on {report.paper.dataset}. Its code: {report.paper.code}.",
        "Ours: test accuracy in %, mean over seeds; MACs are multiply-adds of one question, padded as in the "
        f"paper{'; seconds of training' if report.measured else ''}.",
        *_uncounted(report),
        *map(plain, certainty(report)),
        *([LEVELS] if levels else []),
        *([differences_rule(report.comparable)] if any(row.verdict for row in report.rows) else []),
        plain(completeness(report)),
        *(
            [
                "Ours, test: LXMERT's soft score, of raw strings inside the vocabulary of answers; official: the "
                "official evaluator's rules on all ten humans' answers. Our differences are of test."
            ]
            if official
            else []
        ),
        *(
            [
                f"Ours, {' and '.join(SERVER_SPLITS)}: what the VQA test server answered, mean over the seeds that "
                "have it; not computed here."
            ]
            if server
            else []
        ),
        *(
            [
                "By type: ours, accuracy in % on the test split, mean over seeds; in brackets, questions. "
                "types.csv has all types."
            ]
            if report.by_type
            else []
        ),
        *(
            ["Changes: test accuracy with the change minus without it, each pair of equal seeds, mean over seeds."]
            if report.comparisons
            else []
        ),
        *map(plain, report.searches),
        *report.paper.notes,
    )
