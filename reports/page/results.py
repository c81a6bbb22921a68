"""The report's tables, claims, findings, costs and list of cells as HTML that reads without a script."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from urllib.parse import quote

from reports.checks import Finding
from reports.claims import Claim
from reports.cost_tables import cost_remarks, cost_tables
from reports.layout import ABSENT, COMPARISONS, TYPES, Column, Layout, TextTable, plain
from reports.page.markup import Markup, element, joined
from reports.tables import CellRecord, Comparison, Report, Row
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
    """The tables of accuracies with what must be known of them; claims, findings and costs have their sections."""
    elsewhere = {CLAIMS, FINDINGS, *(table.title for table in cost_tables(report))}
    parts = [
        _with_notes(table, sources)
        for table, sources in zip(layout.tables, _sources(report, layout.tables), strict=True)
        if table.title not in elsewhere
    ]
    told = {CLAIMS_REMARK, *map(plain, cost_remarks(report))}
    remarks = [text for text in (*layout.floors, *layout.remarks) if text not in told]
    return element("div", *parts, _notes(remarks), class_="filtered")


def costs(report: Report) -> Markup:
    """One table per device: numbers of two devices are never in one."""
    devices = dict.fromkeys(cost.device for row in report.rows for cost in row.costs)
    parts = [
        _with_notes(table, [_costed(row, device) for row in report.rows if row.measured])
        for device, table in zip(devices, cost_tables(report), strict=True)
    ]
    remarks = _notes([plain(text) for text in cost_remarks(report)])
    return element("div", *parts, remarks, class_="filtered") if parts else Markup()


def _costed(row: Row, device: str) -> Source:
    measured = {cost.cell for cost in row.costs if cost.device == device}
    return row.state, [cell for cell in row.cells if cell.id in measured], ""


def _notes(texts: Sequence[str]) -> Markup:
    return element("div", *(element("p", text) for text in texts), class_="notes")


Source = tuple[str, Cells, str]
"""Of a line its state, its cells, and what else is to be said of it."""


def _with_notes(table: TextTable, sources: Sequence[Source]) -> Markup:
    lines = [Line(texts, *source) for texts, source in zip(table.rows, sources, strict=True)]
    notes = [element("p", element("b", note.mark), " ", note.text) for note in table.notes]
    below = [element("div", *notes, class_="notes")] if notes else []
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
        element("tr", *(element("th", column.title, scope="col", class_=look.classes()) for column, look in titles))
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
    if not line.cells:
        return joined(line.texts[0])
    states = (element("span", _state(cell), class_="quiet") for cell in line.cells)
    links = (element("li", cell_link(cell.id), " ", state) for cell, state in zip(line.cells, states, strict=True))
    said = [element("p", line.said, class_="quiet")] if line.said else []
    return element("details", element("summary", line.texts[0]), element("ul", *links), *said)


def _state(cell: CellRecord) -> str:
    return cell.state + (", stale" if cell.stale else "")


def is_number(text: str) -> bool:
    """Whether ``text`` begins with a number: ``+1.25``, ``92.12 (stale)``, ``2 of 3``, not ``9-5-5``."""
    return re.match(r"[<+\-−]?\s*\d[\d,]*(\.\d+)?(?![\d.-])", text) is not None


def cell_link(cell_id: str) -> Markup:
    return element("a", cell_id, href=f"cell.html#{quote(cell_id, safe='')}")


def claims(claims: Sequence[Claim]) -> Markup:
    """Each claim with its verdict, the rule, the numbers and the cells that they are from."""
    return joined(*(_claim(claim) for claim in claims), *([_notes([CLAIMS_REMARK])] if claims else []))


SIGNS = {"holds": "✓", "does not hold": "✗", "cannot tell": "?"}


def _claim(claim: Claim) -> Markup:
    facts = [("Rule", claim.rule), ("Evidence", claim.evidence), ("Source", claim.source)]
    terms = [part for name, text in facts for part in (element("dt", name), element("dd", text))]
    if claim.cells:
        links = element("ul", *(element("li", cell_link(one)) for one in claim.cells))
        count = f"{len(claim.cells)} cell{'s' if len(claim.cells) > 1 else ''}"
        terms += [element("dt", "From"), element("dd", element("details", element("summary", count), links))]
    sign = element("span", SIGNS[claim.verdict], class_="sign", aria_hidden="true")
    return element(
        "article",
        element("p", sign, " ", claim.said, class_="verdict"),
        element("div", element("h3", claim.text), element("dl", *terms)),
        class_="claim",
        data_verdict=claim.verdict,
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
