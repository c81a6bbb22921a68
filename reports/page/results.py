"""The report's tables, claims, findings, costs and list of cells as HTML that reads without a script."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from urllib.parse import quote

from reports.cells import CellRecord
from reports.cost_tables import cost_remarks, cost_tables
from reports.layout import COMPARISONS, DAGGER, TYPES, Layout
from reports.page.markup import Markup, element, joined
from reports.report import Claim, Comparison, Finding, Report, Row
from reports.text import ABSENT, Column, Note, TextTable, plain
from reports.trust import CLAIMS, CLAIMS_REMARK, FINDINGS
from suite.records import depth_text

Cells = Sequence[CellRecord]


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of a table: its texts, the state to filter by, and the cells that its numbers are from."""

    texts: Sequence[str | Markup]
    state: str
    cells: Cells = ()
    said: str = ""
    """What is told beside the cells when the line is opened."""


def tables(report: Report, layout: Layout) -> Markup:
    """The tables of accuracies with what must be known of them; claims, findings and costs have their sections.

    Notes on what is published are folded, once for all tables.
    """
    elsewhere = {CLAIMS, FINDINGS, *(table.title for table in cost_tables(report))}
    # What bears a dagger nobody may miss.
    published = [
        note
        for note in dict.fromkeys(note for table in layout.tables[: len(report.blocks)] for note in table.notes)
        if note.mark != DAGGER
    ]
    parts = [
        _table(table, sources, [note for note in table.notes if note not in published])
        for table, sources in zip(layout.tables, _sources(report, layout.tables), strict=True)
        if table.title not in elsewhere
    ]
    parts.insert(len(report.blocks), _folded(published))
    told = {CLAIMS_REMARK, *map(plain, cost_remarks(report))}
    remarks = [text for text in (*layout.floors, *layout.remarks) if text not in told]
    return element("div", *parts, element("h3", "How to read the tables"), _notes(remarks), class_="filtered")


def costs(report: Report) -> Markup:
    """One table per device: numbers of two devices are never in one."""
    devices = dict.fromkeys(cost.device for row in report.rows for cost in row.costs)
    parts = [
        _table(table, [_costed(row, device) for row in report.rows if row.measured], table.notes)
        for device, table in zip(devices, cost_tables(report), strict=True)
    ]
    remarks = _notes([plain(text) for text in cost_remarks(report)])
    return element("div", *parts, remarks, class_="filtered") if parts else Markup()


def _costed(row: Row, device: str) -> Source:
    measured = {cost.cell for cost in row.costs if cost.device == device}
    return row.state, [cell for cell in row.cells if cell.id in measured], ""


def _notes(texts: Sequence[str]) -> Markup:
    return element("div", *(element("p", text) for text in texts), class_="notes many")


def _folded(notes: Sequence[Note]) -> Markup:
    """Nothing where there are none."""
    if not notes:
        return Markup()
    marks = notes[0].mark if len(notes) == 1 else f"{notes[0].mark} to {notes[-1].mark}"
    summary = element("summary", f"Note{'s' if len(notes) > 1 else ''} {marks} on the published numbers")
    return element("details", summary, element("div", *map(_note, notes), class_="notes many"), class_="folded")


def _note(note: Note) -> Markup:
    return element("p", element("b", note.mark), " ", note.text)


Source = tuple[str, Cells, str]
"""Of a line its state, its cells, and what else is to be said of it."""


def _table(table: TextTable, sources: Sequence[Source], notes: Sequence[Note]) -> Markup:
    """With ``notes`` right below it."""
    lines = [Line(texts, *source) for texts, source in zip(table.rows, sources, strict=True)]
    below = [element("div", *map(_note, notes), class_="notes")] if notes else []
    return joined(data_table(table.title, table.columns, lines), *below)


def _sources(report: Report, texts: Sequence[TextTable]) -> list[list[Source]]:
    """Of every table's every line what it is from."""
    blocks = [[_source(row) for row in block.rows] for block in report.blocks]
    found = []
    for place, table in enumerate(texts):
        if place < len(blocks):
            found.append(blocks[place])
        elif table.title.startswith(TYPES):
            found.append([_source(row) for row in report.rows])
        elif table.title == COMPARISONS:
            found.append([(_compared(one), (*one.base, *one.changed), "") for one in report.comparisons])
        else:
            found.append([("", (), "")] * len(table.rows))
    return found


def _source(row: Row) -> Source:
    return row.state, row.cells, row.verdict.reason if row.verdict else ""


def _compared(comparison: Comparison) -> str:
    return "finished" if comparison.finished else "missing"


def data_table(title: str, columns: Sequence[Column], lines: Sequence[Line], titled: bool = True) -> Markup:
    """A table that scrolls in a box of its own; its first column names each line, with links to its cells.

    Without a visible title where it is the only table of its section.
    """
    sides = [(side, len(list(group))) for side, group in groupby(column.side for column in columns)]
    head = []
    if any(side for side, _ in sides):
        spans = [
            element("th", side, scope="colgroup", colspan=span, class_=f"side {side}" if side else None)
            if side
            else element("td", colspan=span)
            for side, span in sides
        ]
        head.append(element("tr", *spans, class_="sides"))
    first = {sum(span for _, span in sides[:place]) for place in range(1, len(sides))}
    looks = [
        Look(numeric=place > 0 and _is_numeric(lines, place), first=place in first, paper=column.side == "paper")
        for place, column in enumerate(columns)
    ]
    titles = zip(columns, looks, strict=True)
    head.append(
        element(
            "tr", *(element("th", _title(column), scope="col", class_=look.classes()) for column, look in titles)
        )
    )
    body = [_line(line, looks) for line in lines]
    table = element(
        "table",
        element("caption", title, class_=None if titled else "unseen"),
        element("thead", *head),
        element("tbody", *body),
        class_="data",
    )
    return element("div", table, class_="box", tabindex=0, role="region", aria_label=title)


def _title(column: Column) -> Markup:
    """Broken at its spaces only: ``test-dev`` is one word."""
    return joined(column.title) if " " in column.title else element("span", column.title, class_="whole")


@dataclasses.dataclass(frozen=True)
class Look:
    """How a column looks."""

    numeric: bool
    first: bool
    """Whether a line is drawn before it, where a side begins."""
    paper: bool

    def classes(self, text: str = "") -> str | None:
        names = {"number": self.numeric, "first": self.first, "paper": self.paper}
        names |= {"absent": text == ABSENT, "short": 0 < len(text) < SHORT}
        return " ".join(name for name, holds in names.items() if holds) or None


SHORT = 24
"""Characters of a text that is never broken into lines."""


def _is_numeric(lines: Sequence[Line], place: int) -> bool:
    texts = [line.texts[place] for line in lines]
    return any(map(is_number, texts)) or all(text == ABSENT for text in texts)


def _line(line: Line, looks: Sequence[Look]) -> Markup:
    title = _from(line.cells) if line.cells else None
    cells = [element("th", _about(line), scope="row")]
    for text, look in zip(line.texts[1:], looks[1:], strict=True):
        ours = title if not look.paper and text != ABSENT else None
        cells.append(element("td", text, class_=look.classes(text), title=ours))
    return joined("\n", element("tr", *cells, data_state=line.state or None))


NAMED = 3
"""Cells that a tooltip names; the line, opened, has all."""


def _from(cells: Cells) -> str:
    names, more = [cell.id for cell in cells[:NAMED]], len(cells) - NAMED
    return f"From {', '.join(names)}" + (f" and {more} more" if more > 0 else "")


def _about(line: Line) -> Markup:
    name = _whole(line.texts[0])
    if not line.cells:
        return name
    states = (element("span", _state(cell), class_="quiet") for cell in line.cells)
    links = (element("li", cell_link(cell.id), " ", state) for cell, state in zip(line.cells, states, strict=True))
    said = [element("p", line.said, class_="quiet")] if line.said else []
    return element("details", element("summary", name), element("ul", *links), *said)


def _whole(text: str | Markup) -> Markup:
    """``text`` whose depths (9-5-5) are not broken at their hyphens, with the marks of its notes pale."""
    if isinstance(text, Markup):
        return text
    looks = {"depths": "whole", "marks": "marks"}
    parts, end = [], 0
    for found in re.finditer(r"(?P<depths>\d+-\d+-\d+)|(?P<marks>\[[a-z]{1,2}(?:,[a-z]{1,2})*\])", text):
        parts += [text[end : found.start()], element("span", found[0], class_=looks[str(found.lastgroup)])]
        end = found.end()
    return joined(*parts, text[end:])


def _state(cell: CellRecord) -> str:
    return cell.state + (", stale" if cell.stale else "")


def is_number(text: str) -> bool:
    """Whether ``text`` begins with a number: ``+1.25``, ``92.12 (stale)``, ``2 of 3``, not ``9-5-5``."""
    return re.match(r"[<+\-−]?\s*\d[\d,]*(\.\d+)?(?![\d.-])", text) is not None


def cell_link(cell_id: str) -> Markup:
    return element("a", cell_id, href=f"cell.html#{quote(cell_id, safe='')}")


def claims(claims: Sequence[Claim]) -> Markup:
    """How many hold, then each with its verdict, the numbers, the rule and the cells that the numbers are from."""
    if not claims:
        return Markup()
    counts = Counter(claim.verdict for claim in claims)
    told = [
        element(
            "li", _sign(one), f" {counts[one]} {_counted(one, counts[one])}", class_="verdict", data_verdict=one
        )
        for one in SIGNS
        if one in counts
    ]
    return joined(element("ul", *told, class_="verdicts"), *map(_claim, claims), _notes([CLAIMS_REMARK]))


SIGNS = {"holds": "✓", "does not hold": "✗", "cannot tell": "?"}


def _sign(verdict: str) -> Markup:
    return element("span", SIGNS[verdict], class_="sign", aria_hidden="true")


def _counted(verdict: str, count: int) -> str:
    """``2 hold`` where one ``holds``."""
    if count == 1:
        return verdict
    return {"holds": "hold", "does not hold": "do not hold"}.get(verdict, verdict)


def _claim(claim: Claim) -> Markup:
    facts = [("Found", claim.evidence), ("Rule", claim.rule), ("In the paper", claim.source)]
    terms = [part for name, text in facts for part in (element("dt", name), element("dd", _whole(text)))]
    if claim.cells:
        links = element("ul", *(element("li", cell_link(one)) for one in claim.cells))
        count = f"{len(claim.cells)} cell{'s' if len(claim.cells) > 1 else ''}"
        terms += [element("dt", "From"), element("dd", element("details", element("summary", count), links))]
    return element(
        "article",
        element("p", _sign(claim.verdict), " ", claim.said, class_="verdict", data_verdict=claim.verdict),
        element("div", element("h3", _whole(claim.text)), element("dl", *terms)),
        class_="claim",
        id=f"claim-{claim.key}",
    )


def findings(findings: Sequence[Finding]) -> Markup:
    columns = (Column("", "Cell"), Column("", "Check"), Column("", "Found"))
    lines = [Line((cell_link(one.cell), one.check, one.message), "") for one in findings]
    return data_table(FINDINGS, columns, lines, titled=False) if lines else Markup()


def cells(cells: Cells) -> Markup:
    """Every cell, whatever its role and state."""
    titles = ("Cell", "role", "state", "variant", "layers", "seed", "steps", "test", "failure")
    lines = [Line(_cell(cell), cell.state) for cell in cells]
    table = data_table("All cells", [Column("", title) for title in titles], lines, titled=False)
    return element("div", table, class_="filtered")


def _cell(cell: CellRecord) -> list[str]:
    configuration: Mapping = cell.configuration
    failure = (cell.failure or "").split("\n")[0]
    return [
        cell_link(cell.id),
        cell.role,
        _state(cell),
        configuration["variant"],
        depth_text(configuration["layers"], cell.keep),
        str(configuration["seed"]),
        "0" if cell.keep else f"{configuration['protocol']['steps']:,}",
        ABSENT if cell.result is None else f"{cell.accuracy:.2f}",
        failure[:120] + ("…" if len(failure) > 120 else "") or ABSENT,
    ]
