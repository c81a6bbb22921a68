"""The four formats show the records' numbers, and text from data stays text."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from latex_document import compile_log

from reports.formats.comma_separated import COLUMNS, comma_separated
from reports.formats.latex import escape_latex, latex
from reports.formats.markdown import escape_markdown, markdown
from reports.formats.terminal import terminal
from reports.layout import lay_out
from reports.report import Report
from reports.tables import build_report
from reports.text import plain
from suite.records import StudyFolder

HOSTILE = "a|b *c* _d_ `e` <f> [g](h) #i $j$ ~k~ ^l & 100% {m} \\n ! \"o\" 'p'"


@pytest.fixture
def report(study_folder: Path) -> Report:
    return build_report(study_folder)


def read_markdown(text: str) -> list[list[str]]:
    """The cells of all pipe tables, unescaped."""
    rows = []
    for line in text.splitlines():
        if line.startswith("| "):
            cells = re.split(r"(?<!\\)\|", line)[1:-1]
            rows.append([re.sub(r"\\(.)", r"\1", cell.strip()) for cell in cells])
    return [cells for cells in rows if cells[0] != "Method"]


def read_csv(report: Report) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(comma_separated(report))))


def test_csv_holds_the_records_unrounded(report: Report, study_folder: Path) -> None:
    lines = {line["cells"]: line for line in read_csv(report) if line["cells"]}
    for row in [*report.rows, *report.floors]:
        if row.measured is None:
            continue
        line = lines[" ".join(cell.id for cell in row.cells)]
        results = [StudyFolder(study_folder).cell(cell.id).result() or {} for cell in row.cells]
        accuracies = [result["accuracy"]["test"] for result in results]
        assert [float(text) for text in line["test_accuracies"].split()] == accuracies
        assert float(line["test_accuracy"]) == pytest.approx(sum(accuracies) / len(accuracies), rel=1e-15)
        for column in ("macs", "macs_reference", "parameters"):
            assert float(line[column]) == results[0][column]
        assert float(line["seconds"]) == sum(result["seconds"] for result in results) / len(results)


def test_csv_has_one_line_per_table_row_and_floor(report: Report) -> None:
    lines = read_csv(report)
    assert len(lines) == 9 + 3 + 2 + 2
    assert all(None not in line and set(line) == set(COLUMNS) and line["state"] for line in lines)
    assert float(lines[5]["published_test_dev"]) == 72.42
    assert lines[2]["published_test_std"] == ""


def test_markdown_shows_the_records_rounded(report: Report) -> None:
    cells = read_markdown(markdown(report))
    rows = [row for block in report.blocks for row in block.rows]
    assert len(cells) == len(rows)
    assert all(len(line) == 13 for line in cells)
    for line, row in zip(cells, rows, strict=True):
        assert line[0].startswith(row.label)
        if row.published:
            assert float(line[1]) == row.published.test_dev
        if row.measured is None:
            assert line[4] == row.state
            continue
        assert float(line[4].removesuffix(" (stale)")) == pytest.approx(row.measured.accuracy, abs=0.005)
        assert line[4].endswith("(stale)") == row.stale
        assert float(line[6]) == pytest.approx(row.difference, abs=0.005)
        assert float(line[9]) * 1e6 == pytest.approx(row.measured.macs_reference, rel=1e-3)
        assert float(line[11]) * 1e6 == pytest.approx(row.measured.parameters, rel=1e-3)


@pytest.mark.parametrize("width", [40, 80, 100, 200])
def test_the_terminal_shows_every_number_at_every_width(report: Report, width: int) -> None:
    text = terminal(report, width)
    for table in lay_out(report).tables:
        for row in table.rows:
            for cell in row[1:]:
                assert all(word in text for word in cell.split())
    assert "\x1b" not in text
    if width >= 80:
        assert max(map(len, text.splitlines())) <= width


def test_styles_are_only_for_terminals(report: Report) -> None:
    styled = terminal(report, 100, styled=True)
    assert "\x1b[" in styled
    assert "\x1b[31m" not in styled, "an escape sequence in an error message must not reach the terminal"


def test_published_and_measured_columns_have_different_names(report: Report) -> None:
    assert "| paper: test-dev |" in markdown(report)
    assert "| ours: test |" in markdown(report)
    assert "\\multicolumn{3}{c}{paper} & \\multicolumn{5}{c}{ours}" in latex(report)


@pytest.mark.parametrize("render", [terminal, markdown, latex])
def test_marks_and_floors_are_below(report: Report, render: Callable[..., str]) -> None:
    text = " ".join((render(report, 200) if render is terminal else render(report)).split())
    dagger = "\\textdagger{}" if render is latex else "†"
    assert re.search(rf"span and entmax, 9-5-5 .{{0,40}}{re.escape(dagger)}", text)
    assert "67.00" in text
    assert "66.80" in text
    assert "has not learned to look" in text


def test_an_error_is_shown_as_text(report: Report) -> None:
    shown = "loss|is *NaN* _at_ $step$ #4 & 50% {of} <b>it</b>"
    assert f"entmax-s0 failed: [red]{shown}" in " ".join(terminal(report).split())
    assert escape_markdown(f"[red]{shown}") in markdown(report)
    assert escape_latex(f"[red]{shown}") in latex(report)
    assert any(f"[red]{shown}" in line["notes"] for line in read_csv(report))


def test_markdown_escapes_can_be_undone() -> None:
    escaped = escape_markdown(HOSTILE)
    assert re.sub(r"\\(.)", r"\1", escaped) == HOSTILE
    assert not re.search(r"(?<!\\)[|*_`<\[#$~]", escaped)


def test_latex_leaves_no_special_character() -> None:
    escaped = escape_latex(HOSTILE + " 中")
    commands = r"\\textbackslash\{\}|\\text[a-z]+\{\}|\{\\char\d+\}|\{[\[\]*]\}|\\[{}$&#%_]"
    assert not re.search(r"[\\{}$&#%_~^<>|\"`\[\]*]", re.sub(commands, "", escaped))
    assert escaped.isascii()
    assert "(U+4E2D)" in escaped


def test_latex_rows_have_as_many_cells_as_the_table_has_columns(report: Report) -> None:
    text = latex(report)
    for body in re.findall(r"\\midrule\n(.*?)\\bottomrule", text, re.DOTALL):
        for line in body.strip().splitlines():
            assert len(re.findall(r"(?<!\\)&", line)) in (8, 4), "the paper's with our accuracies, or costs"
            assert line.endswith(" \\\\")
    bare = re.sub(r"\\[{}\\]", "", text)
    assert bare.count("{") == bare.count("}")


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@a", "\t=1"])
def test_spreadsheets_run_no_formula(study_folder: Path, name: str) -> None:
    path = study_folder / "study.json"
    path.write_text(path.read_text().replace('"near|window_*"', json.dumps(name)))
    lines = read_csv(build_report(study_folder))
    assert f"'{name.strip()}" in [line["variant"] for line in lines]
    assert not any(line["label"].startswith(("=", "+", "-", "@")) for line in lines)


def test_plain_drops_what_a_terminal_would_obey() -> None:
    assert plain("\x1b[2Ja\x07b\u202ec\n d\x9b") == "a b c d"


def test_latex_compiles(report: Report, tmp_path: Path) -> None:
    compile_log(latex(report), tmp_path)
