"""The report as one folder of web pages that open from a disk, without a network or a server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from reports.cells import told_of
from reports.figures import Drawn
from reports.page import index
from reports.page.cells import cell_data, sites
from reports.page.charts import row_curves, row_data
from reports.page.data import script
from reports.page.example_data import Examples
from reports.page.figures import shown
from reports.report import Report
from suite.records import write_text


def write_page(report: Report, output: Path, figures: Sequence[Drawn]) -> None:
    """Writes index.html and cell.html under ``output``, and what they load under ``output / "page"``.

    ``figures`` are those that lie as files under ``output / "figures"``. The files depend on the records alone.
    What a cell's page shows is a file of its own, loaded when the page is opened, so that the index of a thousand
    cells stays small.
    """
    examples = Examples(report)
    folders = set[Path]()
    for name, content in _files(report, examples):
        path = output / "page" / name
        if path.parent not in folders:
            path.parent.mkdir(parents=True, exist_ok=True)
            folders.add(path.parent)
        path.write_bytes(content)
    write_text(output / "index.html", index.index_html(report, shown(output, figures), examples))
    write_text(output / "cell.html", index.cell_html(report))


def _files(report: Report, examples: Examples) -> Iterator[tuple[str, bytes]]:
    """Name under ``page`` and content of each file."""
    for name in (*index.SCRIPTS, index.STYLE):
        yield name, (Path(__file__).parent / name).read_bytes()
    labels = {cell.id: row.label for row in (*report.rows, *report.floors) for cell in row.cells}
    learned: dict[str, list[str]] = {}
    for cell in report.cells:
        with told_of(cell.folder):
            columns = sites(cell)
            learned[cell.id] = list(columns)
            data = cell_data(cell, labels.get(cell.id, ""), learned[cell.id], report.measured)
        yield _script(f"cells/{cell.id}", data)
        if columns:
            yield _script(f"sites/{cell.id}", columns)
    yield _script("ids", [cell.id for cell in report.cells])
    curves = {place: value for place, row in enumerate(report.rows) if (value := row_curves(row)) is not None}
    for place, value in curves.items():
        yield _script(f"rows/{place}", value)
    yield _script("study", row_data(report, learned) | {"drawn": list(curves)} | examples.listed())
    for name, value in examples.files():
        yield _script(name, value)
    for name, content in examples.pictures():
        yield f"pictures/{name}", content


def _script(name: str, value: Any) -> tuple[str, bytes]:
    return f"{name}.js", script(name, value).encode()
