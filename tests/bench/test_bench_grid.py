"""The grid's bench: what a placement takes at least, and a launch of empty cells as people run it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from suite.bench.grid import makespan


def test_cells_wait_for_their_start_and_for_a_slot() -> None:
    """The start ends at 5; a and b begin there, c when a ends at 7, and d needs no start."""
    durations = {"start": 5.0, "a": 2.0, "b": 4.0, "c": 1.0, "d": 3.0}
    starts = {"start": None, "a": "start", "b": "start", "c": "start", "d": None}
    assert makespan(durations, starts, 2) == 9.0
    assert makespan(durations, starts, 1) == 15.0
    assert makespan(durations, starts, 5) == 9.0


def test_a_start_that_was_finished_before_is_not_waited_for() -> None:
    assert makespan({"a": 2.0, "b": 3.0}, {"a": "earlier", "b": "earlier"}, 1) == 5.0


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=12), st.integers(1, 5))
def test_it_is_between_what_no_placement_beats_and_what_any_greedy_one_keeps(
    durations: list[float], slots: int
) -> None:
    """Graham 1966: a greedy placement takes less than twice the best."""
    named = {str(number): seconds for number, seconds in enumerate(durations)}
    least = max(max(durations), sum(durations) / slots)
    taken = makespan(named, dict.fromkeys(named), slots)
    assert least * 0.999999 <= taken <= (2 - 1 / slots) * least * 1.000001


@pytest.mark.long
def test_a_launch_of_empty_cells_is_measured(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "suite", "bench", "grid", "--cells", "2", "--slots", "2", "--out", "out"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    samples = json.loads((tmp_path / "out/samples.json").read_text())
    greedy, ours = samples["rows"]
    assert (greedy["name"], ours["name"]) == ("greedy placement", "ablate run")
    assert 0 < greedy["seconds"]["launch"][0] < ours["seconds"]["launch"][0]
    assert ours["facts"]["driver_bytes"] > 50 * 2**20
    assert (tmp_path / "out/figure.png").exists()
    assert "| 2 empty cells |" in done.stdout
    assert "Peak memory" not in done.stdout


def test_an_unknown_study_is_told(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "suite",
        "bench",
        "grid",
        "dmo",
        "--cells",
        "2",
        "--data",
        str(tmp_path / "data"),
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("ablate: There is no study 'dmo'. Did you mean 'demo'?")


@pytest.mark.parametrize("cells", ["0", "two"])
def test_a_number_that_is_none_is_told(cells: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "suite", "bench", "grid", "--cells", cells]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert "expected a whole number of at least 1" in done.stderr
