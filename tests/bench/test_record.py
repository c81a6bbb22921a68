"""Medians, quartiles and ratios by hand, and a record that survives its file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from suite.bench.record import Record, Row, Spread, digits

SAMPLES = st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=12)


def record(*rows: Row) -> Record:
    return Record("attention", "softmax", {}, {}, rows=list(rows))


def test_a_spread_is_the_median_and_the_quartiles() -> None:
    assert Spread.of([5.0, 1.0, 2.0, 4.0, 3.0]) == Spread(2.0, 3.0, 4.0)
    assert Spread.of([1.0, 2.0]) == Spread(1.25, 1.5, 1.75)
    assert Spread.of([7.0]) == Spread(7.0, 7.0, 7.0)


@given(SAMPLES)
def test_a_spread_is_numpys_percentiles(samples: list[float]) -> None:
    spread = Spread.of(samples)
    expected = np.percentile(samples, [25, 50, 75])
    assert [spread.low, spread.middle, spread.high] == pytest.approx(expected.tolist(), rel=1e-12)


def test_a_spread_is_written_in_its_unit() -> None:
    assert Spread(0.0121, 0.01234, 0.1).text(1e-3) == "12.3 (12.1-100)"


@pytest.mark.parametrize(
    ("number", "text"),
    [(0.0, "0.00"), (0.012345, "0.0123"), (1.0, "1.00"), (99.94, "99.9"), (99.96, "100"), (1234.5, "1,234")],
)
def test_digits(number: float, text: str) -> None:
    assert digits(number) == text


@given(st.floats(1e-4, 1e9))
def test_digits_keep_a_number_to_half_a_per_cent(number: float) -> None:
    assert float(digits(number).replace(",", "")) == pytest.approx(number, rel=5.1e-3)


def test_a_step_is_the_sum_of_its_parts() -> None:
    assert Row({}, "softmax", seconds={"forward": [1.0, 2.0], "backward": [3.0, 5.0]}).totals() == [4.0, 7.0]


def test_a_ratio_is_taken_within_a_round_and_a_case() -> None:
    """The machine is twice as slow in the second round: the ratio of the medians would be 1.5, or hide it."""
    measured = record(
        Row({"keys": 20}, "softmax", seconds={"forward": [1.0, 2.0, 1.0]}),
        Row({"keys": 20}, "entmax", seconds={"forward": [3.0, 6.0, 1.5]}),
        Row({"keys": 36}, "softmax", seconds={"forward": [10.0, 10.0, 10.0]}),
        Row({"keys": 36}, "entmax", seconds={"forward": [5.0, 5.0, 5.0]}),
    )
    assert [measured.ratios(row) for row in measured.rows] == [[1, 1, 1], [3, 3, 1.5], [1, 1, 1], [0.5, 0.5, 0.5]]


def test_a_row_without_times_is_not_measured() -> None:
    left_out = Row({"keys": 20}, "entmax", {"left_out": "may need 90 GiB"})
    measured = Row({"keys": 20}, "softmax", seconds={"forward": [1.0]})
    assert record(left_out, measured).measured() == [measured]


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = record(Row({"keys": 20}, "softmax", {"peak_bytes": 7}, {"forward": [0.1, 1 / 3]}))
    written.write(tmp_path / "samples.json")
    assert Record.read(tmp_path / "samples.json") == written
