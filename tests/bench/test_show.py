"""Tables that parse as Markdown, and figures whose labels can be read."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

from suite.bench import show
from suite.bench.record import Spread


def test_markdown() -> None:
    rows = [{"method": "softmax", "ms": "1.0"}, {"method": "span", "ms": "12.5", "MiB": "3"}]
    assert show.markdown(rows).splitlines() == [
        "| method  | ms   | MiB |",
        "| ------- | ---- | --- |",
        "| softmax | 1.0  |     |",
        "| span    | 12.5 | 3   |",
    ]


ENDS = st.lists(st.floats(0, 1), min_size=1, max_size=20).map(sorted)


@given(ENDS)
def test_labels_are_apart_and_inside(wanted: list[float]) -> None:
    places = show.apart(wanted, 0.05)
    assert all(upper - lower > 0.05 - 1e-9 for lower, upper in itertools.pairwise(places))
    assert min(places) >= 0
    assert max(places) <= 1 + 1e-9


@given(ENDS)
def test_labels_that_have_room_stay_where_they_belong(wanted: list[float]) -> None:
    least = min((upper - lower for lower, upper in itertools.pairwise(wanted)), default=1.0)
    assert show.apart(wanted, least) == pytest.approx(wanted, abs=1e-9)


def test_labels_of_equal_ends_lie_around_them() -> None:
    assert show.apart([0.5, 0.5, 0.5, 0.9], 0.1) == pytest.approx([0.4, 0.5, 0.6, 0.9])


def test_labels_without_room_keep_their_distance() -> None:
    assert show.apart([1.0, 1.0, 1.0], 0.6) == pytest.approx([0.0, 0.6, 1.2])


def boxes(figure: Figure) -> list[tuple[str, Bbox]]:
    """Every text that is drawn beside a line or a dot, and where."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    texts = [text for axes in figure.axes for text in axes.texts if isinstance(text, Annotation)]
    # Of the text alone: an annotation's own extent has its leader.
    return [(text.get_text(), Text.get_window_extent(text, canvas.get_renderer())) for text in texts]


def assert_readable(figure: Figure) -> None:
    drawn = boxes(figure)
    whole = figure.bbox
    for name, box in drawn:
        assert whole.x0 <= box.x0
        assert box.x1 <= whole.x1, f"{name} is cut off"
        assert whole.y0 <= box.y0
        assert box.y1 <= whole.y1, f"{name} is cut off"
    for (one, first), (other, second) in itertools.combinations(drawn, 2):
        assert not (first.shrunk(0.95, 0.7).overlaps(second)), f"{one} lies on {other}"


def lines(count: int, keys: Sequence[int]) -> dict[str, list[tuple[float, Spread]]]:
    """Lines that all end at the same height but for one far above."""
    return {
        f"a method called {number}": [(x, Spread(0.9, 1.0 if number else 60.0, 60.1)) for x in keys]
        for number in range(count)
    }


@pytest.mark.parametrize(("count", "keys"), [(2, (36,)), (16, (20, 36)), (24, (20, 36, 64, 128, 256, 512, 4096))])
def test_every_line_has_a_name_that_can_be_read(count: int, keys: Sequence[int]) -> None:
    drawn = lines(count, keys)
    panels = [show.Panel("12 heads", unit, drawn, below) for unit, below in (("time", "faster"), ("MiB", ""))]
    figure = show.curves([panels], "keys", (36, "VQA: 36 boxes"), list(drawn)[:3], list(drawn)[3:4])
    assert_readable(figure)
    assert {name for name, _ in boxes(figure)} == {*drawn, "faster", "VQA: 36 boxes"}


def test_a_place_outside_of_what_was_measured_is_not_marked() -> None:
    panel = show.Panel("12 heads", "time", lines(2, (64, 128)))
    figure = show.curves([[panel]], "keys", (36, "VQA: 36 boxes"), [], [])
    assert_readable(figure)
    assert "VQA: 36 boxes" not in {name for name, _ in boxes(figure)}


def test_what_a_reader_looks_for_stands_out() -> None:
    drawn = lines(12, (20, 36))
    first, second, replaced, *others = drawn
    panel = show.Panel("12 heads", "time", drawn)
    (axes,) = show.curves([[panel]], "keys", (36, "VQA"), ["missing", first, second], [replaced]).axes
    looks = {name: data(axes, number) for number, name in enumerate(drawn)}
    assert looks[first] == (show.BLACK, 1.3, "-")
    assert looks[second] == (show.COLOURS[0], 1.3, "-")
    assert looks[replaced] == (show.DARK, 1.3, "--")
    assert {looks[name] for name in others} == {(show.PALE, 0.6, "-")}


def data(axes: Axes, number: int) -> tuple[object, float, object]:
    line = axes.containers[number].lines[0]  # pyright: ignore[reportAttributeAccessIssue]
    return line.get_color(), line.get_linewidth(), line.get_linestyle()


def test_dots_have_their_numbers_beside_them() -> None:
    marks = [show.Mark(f"method {n}", Spread(n, n + 0.5, n + 1), f"{n} (12,345 ms)", n > 0) for n in range(12)]
    figure = show.dots({"training": marks, "evaluation": marks[:2]}, "time, softmax = 1", line=1.0)
    assert_readable(figure)
    assert len(boxes(figure)) == 14
