"""The report as one folder of web pages that open from a disk, without a network or a server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from reports.cells import CellRecord, read_cells
from reports.figures import Drawn
from reports.page import index
from reports.page.cells import cell_data, sites
from reports.page.charts import row_curves, row_data
from reports.page.data import script
from reports.page.example_data import Examples
from reports.page.figures import shown
from reports.report import Report
from suite.records import StudyFolder, write_bytes, write_text


def write_page(report: Report, study_folder: Path, output: Path, figures: Sequence[Drawn]) -> None:
    """Writes index.html and cell.html under ``output``, and what they load under ``output / "page"``.

    ``figures`` are those that lie as files under ``output / "figures"``. The files depend on the records alone.
    What a cell's page shows is a file of its own, loaded when the page is opened, so that the index of a thousand
    cells stays small. The folder ``page`` is the pages' alone: what an earlier build left there goes.
    """
    study, cells, examples = StudyFolder(study_folder).study(), read_cells(study_folder), Examples(report)
    folder, written = output / "page", set[Path]()
    for name, content in _files(report, cells, examples):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, content)
        written.add(path)
    write_text(output / "index.html", index.index_html(report, study, cells, shown(output, figures), examples))
    write_text(output / "cell.html", index.cell_html(study))
    for path in [path for path in folder.rglob("*") if path.is_file() and path not in written]:
        path.unlink()


def _files(report: Report, cells: Sequence[CellRecord], examples: Examples) -> Iterator[tuple[str, bytes]]:
    """Name under ``page`` and content of each file."""
    for name in (*index.SCRIPTS, index.STYLE):
        yield name, (Path(__file__).parent / name).read_bytes()
    labels = {cell.id: row.label for row in (*report.rows, *report.floors) for cell in row.cells}
    learned: dict[str, list[str]] = {}
    for cell in cells:
        columns = sites(cell.folder)
        learned[cell.id] = list(columns)
        yield _script(
            f"cells/{cell.id}", cell_data(cell, labels.get(cell.id, ""), learned[cell.id], report.measured)
        )
        if columns:
            yield _script(f"sites/{cell.id}", columns)
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
