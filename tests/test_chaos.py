"""A few runs of tests/chaos.py with every kind of fault; `make chaos` does 50."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "chaos.py"


@pytest.mark.long
def test_grids_whose_workers_nodes_drivers_and_disks_fail_end_as_without_faults(tmp_path: Path) -> None:
    # With this seed two runs have every kind of fault.
    command = [sys.executable, SCRIPT, "--runs", "2", "--seed", "2", "--folder", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 runs wrong" in done.stdout
