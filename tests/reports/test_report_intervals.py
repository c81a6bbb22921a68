"""Intervals, p values and verdicts in every format, and the same numbers read back."""

from __future__ import annotations

import csv
import io
import re
import shutil
from pathlib import Path

import pytest
from changed import change
from latex_document import compile_log
from scored import add_seed, write_all

from reports.formats.comma_separated import comma_separated
from reports.formats.latex import latex
from reports.formats.markdown import markdown
from reports.formats.terminal import terminal
from reports.layout import lay_out
from reports.report import Report, Row
from reports.statistics import Estimate
from reports.tables import build_report
from suite.records import read_json, write_json


@pytest.fixture
def report(study_folder: Path) -> Report:
    for seed in (1, 2):
        add_seed(study_folder, "span-s0", seed)
        add_seed(study_folder, "layerdrop-s0", seed)
    add_seed(study_folder, "softmax-s1", 2)
    write_all(study_folder)
    path = study_folder / "study.json"
    pairs = [{"label": "span", "base": f"softmax-s{seed}", "changed": f"span-s{seed}"} for seed in range(3)]
    write_json(path, read_json(path) | {"comparisons": pairs})
    return build_report(study_folder)


def rows_of(report: Report) -> list[Row]:
    return [row for block in report.blocks for row in block.rows]


def test_csv_reads_back_into_the_reports_numbers(report: Report) -> None:
    lines = list(csv.DictReader(io.StringIO(comma_separated(report))))
    rows = rows_of(report)

    def number(text: str) -> float | None:
        return float(text) if text else None

    def difference(line: dict[str, str]) -> tuple[float | None, ...]:
        names = ("low", "high", "standard_error", "degrees_of_freedom", "seeds")
        tested = ("p", "p_adjusted", "detectable")
        return tuple(number(line[name]) for name in (*(f"difference_{name}" for name in names), *tested))

    def expected(paired: Estimate | None) -> tuple[float | None, ...]:
        if paired is None:
            return (None,) * 8
        return (
            *(paired.low, paired.high, paired.error, paired.freedom, paired.seeds),
            *(paired.p, paired.adjusted, paired.detectable),
        )

    for line, row in zip(lines, rows, strict=False):
        assert line["label"].lstrip("'") == row.label
        estimate = row.estimate
        assert tuple(
            number(line[name]) for name in ("estimate_low", "estimate_high", "standard_error", "degrees_of_freedom")
        ) == ((estimate.low, estimate.high, estimate.error, estimate.freedom) if estimate else (None,) * 4)
        assert number(line["test_accuracy"]) == (row.measured.accuracy if row.measured else None)
        assert number(line["difference"]) == row.difference
        assert difference(line) == expected(row.paired)
        assert (line["verdict"], line["verdict_reason"]) == (
            (row.verdict.word, row.verdict.reason) if row.verdict else ("", "")
        )
        assert line["cells"].split() == [cell.id for cell in row.cells]
    change = report.comparisons[0]
    assert change.paired
    assert difference(lines[-1]) == expected(change.paired)


def read_markdown(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| Method")]
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]
    return [[re.sub(r"\\(.)", r"\1", cell.strip()) for cell in line] for line in cells]


def read_interval(text: str) -> tuple[float, float | None]:
    value, _, half = text.removesuffix(" (stale)").partition(" ± ")
    return float(value), float(half) if half else None


def test_markdown_reads_back_into_the_reports_numbers(report: Report) -> None:
    table = read_markdown(markdown(report))
    rows = rows_of(report)
    columns = [column.title for column in lay_out(report).tables[0].columns]
    test, diff, p, verdict = columns.index("test"), 6, columns.index("p (Holm)"), columns.index("verdict")
    assert columns[diff] == "diff."
    for line, row in zip(table[: len(rows)], rows, strict=True):
        assert len(line) == len(columns)
        if row.measured is None:
            assert line[test] == row.state
            continue
        assert row.estimate
        value, half = read_interval(line[test])
        assert value == pytest.approx(row.measured.accuracy, abs=0.005001)
        assert half == pytest.approx(row.estimate.half, abs=0.005001)
        value, half = read_interval(line[diff])
        assert value == pytest.approx(row.difference, abs=0.005001)
        assert line[verdict] == (row.verdict.word if row.verdict else "-")
        if row.paired is None:
            assert (half, line[p]) == (None, "-")
            continue
        assert half == pytest.approx(row.paired.half, abs=0.005001)
        assert row.paired.adjusted is not None
        assert line[p] == ("<0.001" if row.paired.adjusted < 0.001 else f"{row.paired.adjusted:.3f}")
    worth = report.comparisons[0].paired
    assert worth
    assert read_interval(table[-1][3])[1] == pytest.approx(worth.half, abs=0.005001)


def test_at_a_hundred_columns_the_papers_ours_and_the_verdict_are_side_by_side(report: Report) -> None:
    text = terminal(report, 100)
    assert max(map(len, text.splitlines())) <= 100
    header = next(line for line in text.splitlines() if "test-dev" in line)
    assert header.split() == ["test-dev", "test-std", "diff.", "test", "seeds", "diff.", "p", "verdict"]
    for row in rows_of(report):
        if row.estimate and row.measured:
            assert f"{row.measured.accuracy:.2f} ± {row.estimate.half:.2f}" in text


@pytest.mark.parametrize("width", [40, 80, 120, 250])
def test_an_interval_is_never_broken(report: Report, width: int) -> None:
    text = terminal(report, width)
    for table in lay_out(report).tables:
        for row in table.rows:
            for cell in row:
                if "±" in cell:
                    assert cell.removesuffix(" (stale)") in text
    if width >= 80:
        assert max(map(len, text.splitlines())) <= width


def test_remarks_say_what_the_numbers_hold_for(report: Report) -> None:
    remarks = " ".join(lay_out(report).remarks)
    assert "10,000 bootstrap resamples of 30 images" in remarks
    assert "With one seed an interval and its p hold for the questions only" in remarks
    assert "by Holm's rule over all rows that have one; of changes, over all changes" in remarks
    assert "same sign or opposite sign = our p (Holm) is below 0.05; else cannot tell. How large" in remarks
    assert "the test server answered" not in remarks
    span = next(row for row in report.rows if row.key == "span-9-5-5")
    assert span.paired
    assert f"{span.short} {span.paired.detectable:.2f}" in remarks
    assert "Minimum detectable difference (points; 80 % power, 5 % two-sided, before Holm)" in remarks
    cells = sum(len(row.cells) for row in (*report.rows, *report.floors))
    assert (
        f"{cells - 3} of {cells} cells finished; 1 failed (entmax-s0); 1 missing (default-deep-s0); 1 started "
        "(layerdrop-deep-s0). Nothing is imputed"
    ) in remarks


def test_without_predictions_the_remarks_say_so(study_folder: Path) -> None:
    layout = lay_out(build_report(study_folder))
    assert "No intervals: the finished cells have no predictions, or of one image alone." in layout.remarks
    assert not any("±" in cell for table in layout.tables for row in table.rows for cell in row)


def test_many_rows_have_their_detectable_differences_in_the_file(study_folder: Path) -> None:
    study = read_json(study_folder / "study.json")
    entry = next(entry for entry in study["cells"] if entry["id"] == "window-s0")
    for reach in range(20):
        cell = entry["cell"] | {"arguments": {"reach": 100 + reach}}
        study["cells"].append(entry | {"id": f"window{reach}-s0", "cell": cell})
        shutil.copytree(study_folder / "window-s0", study_folder / f"window{reach}-s0")
        change(study_folder / f"window{reach}-s0" / "config.json", id=f"window{reach}-s0")
    missing = [entry | {"id": f"gone-s{seed}", "cell": entry["cell"] | {"seed": seed}} for seed in range(1, 31)]
    study["cells"] += missing
    write_json(study_folder / "study.json", study)
    write_all(study_folder)
    report = build_report(study_folder)
    (least,) = [line for line in lay_out(report).remarks if line.startswith("Minimum detectable")]
    detectable = sorted(row.paired.detectable or 0 for row in report.rows if row.paired)
    assert f"{detectable[0]:.2f} to {detectable[-1]:.2f} over 25 rows" in least
    (cells,) = [line for line in lay_out(report).remarks if "imputed" in line]
    assert "31 missing (default-deep-s0, gone-s1, " in cells
    assert "gone-s7 and 23 more)" in cells


def test_latex_has_the_intervals_in_mathematics(report: Report) -> None:
    text = latex(report)
    span = next(row for row in report.rows if row.key == "span-9-5-5")
    assert span.paired
    assert span.difference is not None
    assert f"${span.difference:+.2f} \\pm {span.paired.half:.2f}$" in text
    assert "U+00B1" not in text


def test_latex_with_intervals_compiles_within_the_page(report: Report, tmp_path: Path) -> None:
    assert "Overfull" not in compile_log(latex(report), tmp_path)
