"""Records in, report out: tables in every format and all figures of one study."""

from __future__ import annotations

import dataclasses
import functools
import re
import sys
from pathlib import Path

from reports.checks import checks
from reports.claims import claims
from reports.provenance import check as check_report
from reports.provenance import stamps, write_provenance
from reports.render import comma_separated, latex, markdown, terminal, types_comma_separated
from reports.tables import Report, build_report
from suite.records import write_bytes, write_text


def build(study_folder: Path, output: Path, width: int = 100, measured: bool = True, check: bool = False) -> str:
    """Writes tables.md, tables.tex, tables.csv and figures/ under ``output``; returns the tables as text.

    Where questions have types, types.csv too. ``width`` is that of the terminal, in characters. The files depend on
    the records alone: the same records give the same bytes, and without what is ``measured`` so do the records of
    two runs. With ``check`` nothing is written: returns what tells the report that is there from what would be, and
    nothing where it is the same.
    """
    if check:
        return check_report(functools.partial(build, study_folder, width=width), study_folder, output)
    report = build_report(study_folder, measured)
    report = dataclasses.replace(report, claims=claims(report), findings=checks(report))
    output.mkdir(parents=True, exist_ok=True)
    before = stamps(output)
    write_text(output / "tables.md", markdown(report))
    write_text(output / "tables.tex", latex(report))
    write_text(output / "tables.csv", comma_separated(report))
    if (types := types_comma_separated(report)) is None:
        (output / "types.csv").unlink(missing_ok=True)
    else:
        write_text(output / "types.csv", types)
    write_figures(report, output / "figures")
    write_provenance(study_folder, output, before, {"measured": measured})
    return terminal(report, width, styled=sys.stdout.isatty())


def write_figures(report: Report, folder: Path) -> None:
    """Every figure that the records allow, as PDF, SVG and PNG; those of an earlier build are replaced."""
    from reports import figures

    drawn = {"test-accuracy": figures.test_accuracy(report)}
    if (curves := figures.curves(report)) is not None:
        drawn["training"] = curves
    if (depth := figures.over_depth(report)) is not None:
        drawn["depth"] = depth
    for row, cell, name in figures.learned_columns(report):
        drawn[f"{_slug(name)}-{_slug(row.key)}"] = figures.learned(report, row, cell, name)
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{name}.{form}" for name in drawn for form in figures.FORMATS]
    for name in _listed(folder):
        if name not in names:
            (folder / name).unlink(missing_ok=True)
    # Listed before they are written, so that a build that was cut short leaves nothing unlisted.
    write_text(folder / LIST, "".join(f"{name}\n" for name in names))
    for name, figure in drawn.items():
        for form in figures.FORMATS:
            write_bytes(folder / f"{name}.{form}", figures.encode(figure, form))


LIST = "built.txt"
"""Names the figures of the last build: the next one removes those that it does not draw, and nothing else."""


def _listed(folder: Path) -> list[str]:
    path = folder / LIST
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [name for name in lines if Path(name).name == name]


def _slug(text: str) -> str:
    """``text`` as part of a file name."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("-.") or "unnamed"
