"""Records in, report out: tables in every format, all figures and the page of one study."""

from __future__ import annotations

import dataclasses
import functools
import sys
from pathlib import Path

from reports.cells import read_records
from reports.checks import checks
from reports.claims import claims
from reports.figures import Options, draw_all, write_figures
from reports.formats.comma_separated import (
    claims_comma_separated,
    comma_separated,
    costs_comma_separated,
    types_comma_separated,
)
from reports.formats.latex import latex
from reports.formats.markdown import markdown
from reports.formats.terminal import terminal
from reports.page import write_page
from reports.provenance import check as check_report
from reports.provenance import write_provenance
from reports.publish import drafted, publish
from reports.report import Report
from reports.tables import report_of
from suite.errors import UserError
from suite.lease import LeaseLost
from suite.records import RecordError, write_text

TRIES = 5
"""Times that a report is built of records that change while they are read."""


def build(
    study_folder: Path,
    output: Path,
    width: int = 100,
    measured: bool = True,
    question: str | None = None,
    all_heads: bool = False,
    check: bool = False,
) -> str:
    """Writes index.html, tables.md, tables.tex, tables.csv and figures/ under ``output``; returns the tables.

    Where there is something to say there are types.csv, claims.csv and costs.csv too. ``width`` is that of the
    terminal, in characters. The files depend on the records alone: the same records give the same bytes, and
    without what is ``measured`` so do the records of two runs. ``question`` is the id of the one whose answers are
    drawn, ``all_heads`` draws every head's alpha. With ``check`` nothing is written: returns what tells the report
    that is there from what its options would give now, and nothing where it is the same.

    Any number of builds may go on at once, and launches beside them: the report that is there in the end is whole,
    and of one study.json.

    Raises UserError for an id that is not in the records, RecordError for records that are damaged.
    """
    if check:
        return check_report(functools.partial(build, study_folder, width=width), output)
    told = ""
    for left in reversed(range(TRIES)):
        try:
            records = read_records(study_folder)
            with drafted(output) as draft:
                report = report_of(records, measured)
                report = dataclasses.replace(report, claims=claims(report), findings=checks(report))
                _write(report, draft, Options(question, all_heads))
                options = {"measured": measured, "question": question, "all_heads": all_heads}
                write_provenance(records, draft, options)
                if left and not records.same():  # Another launch has written its study meanwhile.
                    continue
                publish(draft, output)
            return terminal(report, width, styled=bool(sys.stdout and sys.stdout.isatty()))
        except (RecordError, FileNotFoundError) as error:
            # A launch may have set a cell aside, or begun it anew, while it was read. What is damaged stays so.
            if not left or str(error) == told:
                raise
            told = str(error)
        except LeaseLost:
            continue
    raise UserError(f"Another process has put its report to {output} while this one stood still. Build it again.")


def _write(report: Report, folder: Path, options: Options) -> None:
    """All files of a report but provenance.json, to a folder that no other process knows."""
    drawn = draw_all(report, options)
    texts = {
        "tables.md": markdown(report),
        "tables.tex": latex(report),
        "tables.csv": comma_separated(report),
        "types.csv": types_comma_separated(report),
        "claims.csv": claims_comma_separated(report),
        "costs.csv": costs_comma_separated(report),
    }
    for name, text in texts.items():
        if text is not None:
            write_text(folder / name, text)
    write_figures(drawn, folder / "figures")
    write_page(report, folder, drawn)
