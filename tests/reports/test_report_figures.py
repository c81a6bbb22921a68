"""Every figure: its words can be read, its lines told apart without colours, and its bytes repeated."""

from __future__ import annotations

import dataclasses
import itertools
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from figure_records import cost_of, estimate_of, finished, thin_out, with_high_accuracies, with_rows, write_answers
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text

from reports import figures
from reports.figures import Drawn, draw_all
from reports.figures.answers import answers
from reports.figures.draw import OWN
from reports.figures.drawing import DASHES, LINES, MARKERS, look, wrapped
from reports.figures.rows import FURTHER, choose
from reports.figures.write import FORMATS, encode
from reports.report import Report, Row
from reports.tables import build_report
from suite.look import style
from suite.records import StudyFolder

NAMES = [
    "span-span-9-5-5",
    "span-span-entmax-9-5-5",
    "layerdrop",
    "alpha-entmax-9-5-5",
    "alpha-span-entmax-9-5-5",
    "answers",
    "test-accuracy",
    "training",
    "cost",
    "types",
    "density",
    "density-entmax-9-5-5",
    "density-span-entmax-9-5-5",
]
IN_ONE = ("test-accuracy", "training", "layerdrop", "density")
DEVICE = "AMD EPYC 7763 64-Core Processor, 2 threads"


def full(study: Path) -> Report:
    """A report of ``study`` with everything that a figure can show."""
    for record in finished(study):
        write_answers(record)
    for name in ("entmax-s0", "span_entmax-s0"):
        thin_out(StudyFolder(study).cell(name), heads=12)
    report, changed = build_report(study), {}
    for number, row in enumerate(row for row in report.rows if row.measured):
        assert row.measured is not None
        changed[row.key] = dataclasses.replace(
            row,
            costs=(cost_of(row.cells[0].id, DEVICE, 0.2 + 0.01 * number),),
            estimate=estimate_of(row.measured.accuracy, 0.5),
        )
    return with_rows(report, changed)


@pytest.fixture(scope="module")
def report(write_small: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Report:
    return full(write_small(tmp_path_factory.mktemp("runs") / "small"))


@pytest.fixture(scope="module")
def drawn(report: Report) -> dict[str, Drawn]:
    return {one.name: one for one in draw_all(report)}


def words(figure: Figure) -> list[Text]:
    """All text that is seen in a figure."""
    found = list(figure.texts)
    for legend in figure.legends:
        found += [*legend.get_texts(), legend.get_title()]
    for axes in figure.axes:
        found += [axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
        found += [axes.get_legend().get_title()] if axes.get_legend() else []
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            found += [
                tick.label1
                for tick in axis.get_major_ticks()
                if tick.label1.get_visible() and low - 1e-9 <= tick.get_loc() <= high + 1e-9
            ]
        # Of titles at the left.
        found += [text for text in axes.get_children() if isinstance(text, Text) and text not in found]
    return [text for text in found if text.get_visible() and text.get_text().strip()]


@pytest.mark.parametrize("name", NAMES)
def test_words_are_large_enough_inside_the_figure_and_on_no_other_words(name: str, drawn: dict[str, Drawn]) -> None:
    figure = drawn[name].figure
    with style():
        figure.draw_without_rendering()
    assert figure.get_size_inches()[0] == pytest.approx(3.35)
    texts = words(figure)
    assert len(texts) > 5
    assert min(text.get_fontsize() for text in texts) >= 6
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts]
    width, height = figure.bbox.width, figure.bbox.height
    for text, box in boxes:
        # A pixel of 300 an inch is what rounding takes.
        assert box.x0 >= -1, text
        assert box.x1 <= width + 1, text
        assert box.y0 >= -1, text
        assert box.y1 <= height + 1, text
    for (one, first), (other, second) in itertools.combinations(boxes, 2):
        across = min(first.x1, second.x1) - max(first.x0, second.x0)
        along = min(first.y1, second.y1) - max(first.y0, second.y0)
        assert min(across, along) <= 1.5, (one, other)


@pytest.mark.parametrize("name", NAMES)
def test_lines_and_points_lie_inside_their_panels(name: str, drawn: dict[str, Drawn]) -> None:
    for axes in drawn[name].figure.axes:
        (left, right), (low, high) = sorted(axes.get_xlim()), sorted(axes.get_ylim())
        for line in axes.lines:
            if line.get_transform() == axes.transData:
                for x, y in line.get_xydata():
                    assert left <= x <= right, line.get_label()
                    assert low <= y <= high, line.get_label()


def test_all_figures_are_drawn_and_captioned(drawn: dict[str, Drawn]) -> None:
    assert list(drawn) == NAMES
    for one in drawn.values():
        assert one.title
        assert re.fullmatch(r"[A-Z“a-z].*\.", one.caption)
        assert "  " not in one.caption
        assert len(one.caption) > 80


def test_no_two_looks_are_alike_without_colours_either() -> None:
    looks = [look(number) for number in range(35)]
    assert len({(one.colour, str(one.dash)) for one in looks}) == 35
    assert len({(look(number).colour, look(number).marker) for number in range(77)}) == 77
    neighbours = itertools.pairwise(looks)
    assert all(one.dash != other.dash and one.marker != other.marker for one, other in neighbours)
    assert len({str(dash) for dash in DASHES}) == len(DASHES)
    assert len(set(MARKERS)) == len(MARKERS)


def test_colours_are_apart_for_eyes_that_lack_a_cone() -> None:
    """Simulated with Viénot's matrices (1999), in linear light; distances of Okabe and Ito's are above 0.1."""
    protan = [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]]
    deutan = [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]]
    for matrix in (protan, deutan):
        seen = []
        for colour in LINES:
            linear = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in to_rgb(colour)]
            seen.append([sum(share * one for share, one in zip(line, linear, strict=True)) for line in matrix])
        for one, other in itertools.combinations(seen, 2):
            assert sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) ** 0.5 > 0.1


@pytest.mark.parametrize("text", ["$\\frac{$", "_hidden", "<b>&", "\x1b[31mred\u202e", "a" * 90, "w " * 90])
def test_text_from_data_is_shown_as_it_is_in_few_lines(text: str) -> None:
    lines = wrapped(text, 27).split("\n")
    assert len(lines) <= 4
    assert all(len(line) <= 28 for line in lines)
    assert not lines[0].startswith("_")
    assert lines[0].strip()[:5] in "$\\frac _hidden <b>& red aaaaa w w w"


def test_names_of_every_kind_can_be_read_in_legends(write_small: Callable[..., Path], tmp_path: Path) -> None:
    study = write_small(tmp_path / "small")
    path = study / "study.json"
    path.write_text(path.read_text().replace("near|window_*", "_$\\\\frac{$ <b>W</b> " + "W" * 60))
    one = figures.curves(build_report(study))
    assert one is not None
    (label,) = [text.get_text() for text in one.figure.legends[0].get_texts() if "frac" in text.get_text()]
    assert label.startswith(" _$\\frac{$ <b>W</b>")
    box = one.figure.legends[0].get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= one.figure.bbox.width


def test_the_same_records_give_the_same_bytes(report: Report, drawn: dict[str, Drawn]) -> None:
    again = answers(report)
    assert again is not None
    for form in FORMATS:
        assert encode(drawn["answers"].figure, form) == encode(again.figure, form)


@pytest.mark.skipif(shutil.which("pdfimages") is None, reason="needs poppler")
def test_nothing_but_the_picture_is_made_of_pixels(drawn: dict[str, Drawn], tmp_path: Path) -> None:
    for name, images in (("answers", 1), ("density-entmax-9-5-5", 0), ("density", 0), ("cost", 0)):
        path = tmp_path / f"{name}.pdf"
        path.write_bytes(encode(drawn[name].figure, "pdf"))
        listed = subprocess.run(["pdfimages", "-list", path], capture_output=True, text=True, check=True).stdout
        found = [line.split()[2] for line in listed.splitlines()[2:]]
        # matplotlib draws a colour bar's steps as a mesh.
        assert found.count("image") == images, (name, listed)
        assert b"<image" not in encode(drawn[name].figure, "svg") or images


def test_figures_are_words_of_the_pdf(drawn: dict[str, Drawn], tmp_path: Path) -> None:
    (tmp_path / "one.pdf").write_bytes(encode(drawn["answers"].figure, "pdf"))
    text = subprocess.run(
        ["pdftotext", tmp_path / "one.pdf", "-"], capture_output=True, text=True, check=True
    ).stdout
    assert "light_brown $x^2$" in text


def many(report: Report, count: int) -> Report:
    """The report with ``count`` further rows, copies of one that has all."""
    row = next(row for row in report.rows if row.key == "span-9-5-5")
    copies = tuple(
        dataclasses.replace(row, key=f"copy-{number}", short=f"copy {number}", published=None)
        for number in range(count)
    )
    blocks = [
        dataclasses.replace(block, rows=copies) if block.title == "Further variants" else block
        for block in report.blocks
    ]
    return dataclasses.replace(report, blocks=tuple(blocks))


def test_two_hundred_rows_are_cut_to_those_that_can_be_read(report: Report) -> None:
    study = many(report, 200)
    found = draw_all(study)
    left_out = 200 - FURTHER
    for names, count in ((IN_ONE, left_out), (("span-copy-0",), 200 - OWN)):
        for name in names:
            (one,) = [one for one in found if one.name == name]
            assert f" {count} further rows are left out." in one.caption
    assert [one.name for one in found if one.name.startswith("span-c")] == [f"span-copy-{n}" for n in range(OWN)]
    assert len(found) == len(NAMES) + OWN
    (accuracy,) = [one.figure for one in found if one.name == "test-accuracy"]
    labels = [text.get_text() for text in accuracy.axes[0].get_yticklabels()]
    assert labels[-1] == f"copy {FURTHER - 1}"
    assert f"{left_out} further rows left out" in [text.get_text() for text in accuracy.legends[0].get_texts()]
    assert max(one.figure.get_size_inches()[1] for one in found) < 11


def test_the_papers_rows_are_always_among_those_chosen(report: Report) -> None:
    rows: list[Row] = many(report, 30).rows
    kept = choose(list(reversed(rows)), 3)
    assert [row.key for row in kept.rows if row.published is None] == ["copy-29", "copy-28", "copy-27"]
    assert {row.key for row in rows if row.published} <= {row.key for row in kept.rows}
    assert kept.left_out == 27
    assert choose(rows[:5]).sentence == ""


def test_a_study_with_one_row_and_one_without_results_are_drawn(make_study: Callable[..., Path]) -> None:
    assert [one.name for one in draw_all(build_report(make_study(run=False)))] == ["test-accuracy"]
    names = [one.name for one in draw_all(build_report(make_study(names=["softmax-small-s0"])))]
    assert names == ["test-accuracy", "training", "cost", "density"]


def test_accuracies_name_every_row_and_floor(report: Report) -> None:
    figure = figures.test_accuracy(report).figure
    (axes,) = figure.axes
    texts = [text.get_text() for text in axes.texts]
    assert texts == [
        *("92.89", "91.25", "failed", "started", "71.50", "missing", "89.75 (stale)", "90.50", "88.00")
    ]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == [
        "floor: question prior, 67.00 %",
        "floor: blind (mean picture) softmax, 9-5-5, 66.80 %",
        "95 % interval of the mean",
        "seeds",
        "below 75 %: has not learned to look",
    ]


def test_accuracies_have_their_seeds_and_intervals(report: Report) -> None:
    (axes,) = figures.test_accuracy(report).figure.axes
    middle = (92.123456 + 93.654321) / 2
    interval = next(line for line in axes.lines if line.get_marker() == "|")
    assert interval.get_xydata().ravel().tolist() == pytest.approx([middle - 0.5, 0, middle + 0.5, 0])
    seeds = next(line for line in axes.lines if line.get_marker() == "o" and len(line.get_xdata()) == 2)
    assert seeds.get_xdata().tolist() == [92.123456, 93.654321]


def test_accuracies_far_above_their_floors_are_told_apart(report: Report) -> None:
    drawn = figures.test_accuracy(with_high_accuracies(report))
    left, right = drawn.figure.axes
    assert left.get_xlim()[1] < 69
    assert (right.get_xlim()[0] > 99, right.get_xlim()[1] < 101) == (True, True)
    assert right.get_position().width > 2 * left.get_position().width
    intervals = [line.get_xdata() for line in right.lines if line.get_marker() == "|"]
    assert max(high for _, high in intervals) == 100, "no accuracy lies beyond 100"
    assert len(intervals) == sum(row.estimate is not None for row in report.rows)
    assert "Two strokes mark where the axis" in drawn.caption
    assert "Two strokes" not in figures.test_accuracy(report).caption


def test_a_break_goes_through_no_interval_and_no_row_is_lost(report: Report) -> None:
    high = with_high_accuracies(report)
    row = next(row for row in high.rows if row.estimate)
    wide = with_rows(high, {row.key: dataclasses.replace(row, estimate=estimate_of(99.9, 40.0))})
    assert len(figures.test_accuracy(wide).figure.axes) == 1
    # One row that has learned nothing stands beside the floors.
    low = dataclasses.replace(row.measured, accuracy=67.5, accuracies=(67.5,))
    lost = with_rows(high, {row.key: dataclasses.replace(row, measured=low, estimate=estimate_of(67.5, 0.3))})
    left, right = figures.test_accuracy(lost).figure.axes
    assert [text.get_text() for text in left.texts] == ["67.50"]
    assert len(right.texts) == len(choose(list(high.rows)).rows) - 1


def test_an_interval_of_two_seeds_does_not_press_the_rows_together(report: Report) -> None:
    row = next(row for row in report.rows if row.key == "softmax-9-5-5")
    wide = with_rows(report, {row.key: dataclasses.replace(row, estimate=estimate_of(92.9, 300.0))})
    (axes,) = figures.test_accuracy(wide).figure.axes
    low, high = axes.get_xlim()
    assert high - low < 4 * (93.654321 - 66.8)
