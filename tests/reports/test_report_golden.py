"""The same records give the same bytes, whatever the machine is set to: on the records of a real, small run.

``golden/paper`` is what six cells of the paper's study left, trained for 100 steps on the data of
``python -m suite.data.generate``, without logs and checkpoints. ``golden/expected`` beside it has what its report
is expected to be, in the files that are text.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden"
EXPECTED = sorted(path for path in (GOLDEN / "expected").rglob("*") if path.is_file())
SETTINGS = {
    "one": {
        "LC_ALL": "C",
        "LANG": "C",
        "TZ": "UTC",
        "PYTHONHASHSEED": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "ARROW_IO_THREADS": "1",
    },
    "two": {
        "LC_ALL": "de_DE.UTF-8",
        "LANG": "tr_TR.UTF-8",
        "TZ": "Asia/Kolkata",
        "PYTHONHASHSEED": "20250",
        "OMP_NUM_THREADS": "2",
        "OPENBLAS_NUM_THREADS": "2",
        "ARROW_IO_THREADS": "4",
    },
}


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """File -> bytes of the report under each of the settings, its records in another place."""
    found = {}
    for name, setting in SETTINGS.items():
        runs = tmp_path_factory.mktemp(name)
        shutil.copytree(GOLDEN / "paper", runs / "paper")
        command = [sys.executable, "-m", "suite", "report", "paper", "--runs", str(runs)]
        environment = os.environ | setting | {"PYTHONPATH": str(ROOT), "COLUMNS": "40" if name == "two" else "200"}
        done = subprocess.run(
            command,
            cwd=runs if name == "two" else ROOT,
            env=environment,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        report = runs / "paper" / "report"
        found[name] = {
            path.relative_to(report).as_posix(): path.read_bytes() for path in report.rglob("*") if path.is_file()
        }
    return found


def test_every_file_is_the_same_under_other_settings(reports: dict[str, dict[str, bytes]]) -> None:
    one, two = reports.values()
    assert set(one) == set(two)
    assert [name for name in one if one[name] != two[name]] == []
    assert {"tables.csv", "tables.md", "tables.tex", "types.csv", "provenance.json"} <= set(one)
    assert {f"figures/training.{form}" for form in ("pdf", "png", "svg")} <= set(one)


def test_golden_records_are_small() -> None:
    """They are in everybody's clone."""
    assert sum(path.stat().st_size for path in (GOLDEN / "paper").rglob("*") if path.is_file()) < 300_000


@pytest.mark.parametrize("path", EXPECTED, ids=lambda path: path.relative_to(GOLDEN / "expected").as_posix())
def test_texts_are_as_expected(path: Path, reports: dict[str, dict[str, bytes]]) -> None:
    name = path.relative_to(GOLDEN / "expected").as_posix()
    assert reports["one"][name].decode() == path.read_text(encoding="utf-8")
