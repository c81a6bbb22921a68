"""Records in, report out: tables in every format, all figures and the page of one study."""

from __future__ import annotations

import dataclasses
import functools
import sys
from pathlib import Path

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
from reports.provenance import stamps, write_provenance
from reports.tables import build_report
from suite.records import write_text


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

    Raises UserError for an id that is not in the records.
    """
    if check:
        return check_report(functools.partial(build, study_folder, width=width), output)
    report = build_report(study_folder, measured)
    report = dataclasses.replace(report, claims=claims(report), findings=checks(report))
    drawn = draw_all(report, Options(question, all_heads))
    output.mkdir(parents=True, exist_ok=True)
    before = stamps(output)
    write_text(output / "tables.md", markdown(report))
    write_text(output / "tables.tex", latex(report))
    write_text(output / "tables.csv", comma_separated(report))
    some = {"types": types_comma_separated, "claims": claims_comma_separated, "costs": costs_comma_separated}
    for name, form in some.items():
        if (text := form(report)) is None:
            (output / f"{name}.csv").unlink(missing_ok=True)
        else:
            write_text(output / f"{name}.csv", text)
    write_figures(drawn, output / "figures")
    write_page(report, study_folder, output, drawn)
    options = {"measured": measured, "question": question, "all_heads": all_heads}
    write_provenance(study_folder, output, before, options)
    return terminal(report, width, styled=bool(sys.stdout and sys.stdout.isatty()))
