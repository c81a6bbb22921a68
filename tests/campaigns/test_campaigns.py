"""The most telling tries of each campaign; `make faults` has all of them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("campaign.py")
LEAST = {"kills": 8, "stalls": 6, "flips": 16, "hostile": 20, "at-once": 20}
"""Tries without which a campaign has looked at nothing."""

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("cc") is None, reason="counting calls needs Linux and a C compiler"
)


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the campaigns print, one after another in one process: it imports the suite once."""
    folder = tmp_path_factory.mktemp("campaigns")
    command = [sys.executable, SCRIPT, *LEAST, "--short", "--jobs", "2", "--folder", folder]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    shutil.rmtree(folder)
    return done.stdout + done.stderr


@pytest.mark.parametrize("name", LEAST)
def test_no_try_of_the_campaign_goes_wrong(name: str, said: str) -> None:
    counts = re.search(rf"^{name}: (\d+) tries, (\d+) wrong", said, re.MULTILINE)
    assert counts is not None, said
    assert int(counts[1]) >= LEAST[name], said
    assert int(counts[2]) == 0, said
