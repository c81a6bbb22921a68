"""What is shown obeys nobody's names, and a command works however it was started: real processes and streams."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from small_grid import run_command

from suite import cli, terminal
from suite.errors import clean
from suite.records import StudyFolder

ROOT = Path(__file__).parent.parent
EVIL = "\x1b]0;owned\x07\x1b[2Jsoftmax\x9b31m\u202ekcatta\r\nnext"


def test_what_a_terminal_would_obey_is_not_shown() -> None:
    shown = clean(EVIL)
    assert shown.endswith("\nnext")
    assert "softmax" in shown
    assert all(character == "\n" or character.isprintable() for character in shown)
    assert clean("entmax é 注意\tα\n") == "entmax é 注意\tα\n"


def test_what_is_said_is_clean(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    terminal.say(EVIL)
    stream = io.StringIO()
    console = terminal.Terminal(stream)
    console.print("plain", style="bold red")
    assert stream.getvalue() == "plain\n"
    said = capsys.readouterr().err
    assert not set(said) & set("\x1b\x07\x9b\u202e\r")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert not terminal.Terminal(io.StringIO()).is_terminal


def test_a_run_folder_from_elsewhere_moves_no_terminal(
    small_study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied(small_study, tmp_path / "runs")
    cell = folder.cell(folder.study()["cells"][0]["id"])
    (cell.path / "result.json").unlink()
    cell.write_failure({"kind": "code", "message": EVIL, "where": EVIL, "log": EVIL})
    with cell.log.open("a") as log:
        log.write(EVIL)
    monkeypatch.chdir(tmp_path)
    for words in (["status"], ["status", "--watch"], ["logs", cell.path.name]):
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
        assert cli.main(words) == 0
        shown = capsys.readouterr()
        assert "softmax" in shown.out
        # rich moves the cursor where it draws a table again; nothing of the records does.
        assert not set(shown.out + shown.err) & set("\x07\x9b\u202e")
        assert "\x1b]" not in shown.out + shown.err
        assert "\x1b[2J" not in shown.out + shown.err


@pytest.fixture(scope="module")
def small_study(tmp_path_factory: pytest.TempPathFactory, data_folder: Path) -> Path:
    """A study of one finished row and its start."""
    runs = tmp_path_factory.mktemp("small") / "runs"
    command = run_command(runs, data_folder, "--no-ray", variants="softmax", report=True, steps=2, evaluations=1)
    # As from the cell of a notebook whose packages are not installed here.
    notebook = {"MPLBACKEND": "module://matplotlib_inline.not_here", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=os.environ | notebook, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (runs / "demo" / "report" / "figures").is_dir()
    return runs / "demo"


def copied(study: Path, runs: Path) -> StudyFolder:
    """The study with the cells that ran, and no others."""
    shutil.copytree(study, runs / "demo")
    folder = StudyFolder(runs / "demo")
    known = folder.study()
    ran = [cell for cell in known["cells"] if folder.cell(cell["id"]).state == "finished"]
    (folder.path / "study.json").write_text(json.dumps(known | {"cells": ran}))
    return folder


def ablate(shell: str, *words: object, expect: int = 0) -> subprocess.CompletedProcess[str]:
    command = ["sh", "-c", f'"$@" {shell}', "sh", sys.executable, "-m", "suite", *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == expect, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "Exception ignored" not in done.stderr
    return done


@pytest.mark.parametrize(
    ("closed", "command"),
    [(">&-", "report"), ("2>&-", "status"), ("<&-", "status"), (">&- 2>&- <&-", "status")],
)
def test_a_command_works_with_closed_streams(closed: str, command: str, small_study: Path) -> None:
    before = {path: path.read_bytes() for path in small_study.rglob("*.json*") if "report" not in path.parts}
    done = ablate(closed, command, "--runs", small_study.parent)
    assert bool(done.stdout) == (">&-" not in closed.split())
    assert done.stderr == ""
    assert {path: path.read_bytes() for path in before} == before


def test_what_is_said_does_not_go_to_the_data_where_stderr_is_closed(small_study: Path) -> None:
    done = ablate("2>&-", "status", "--json", "--watch", "--runs", small_study.parent, expect=2)
    assert done.stdout == ""
    assert json.loads(ablate("2>&-", "status", "--json", "--runs", small_study.parent).stdout)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a full device is Linux's")
def test_a_full_disk_under_the_output_is_told(small_study: Path) -> None:
    done = ablate(">/dev/full", "status", "--runs", small_study.parent, expect=2)
    assert done.stderr == "ablate: No space left on device: no file named.\n"


def test_a_folder_that_goes_between_two_looks_ends_no_watching(small_study: Path, tmp_path: Path) -> None:
    folder = copied(small_study, tmp_path / "runs")
    study, cell = folder.path, folder.cell(folder.study()["cells"][0]["id"])
    result = (cell.path / "result.json").read_bytes()
    (cell.path / "result.json").unlink()  # Else the first look is the last.
    codes: list[int] = []
    watching = threading.Thread(
        target=lambda: codes.append(cli.main(["status", "--watch", "--runs", str(study.parent)]))
    )
    watching.start()
    time.sleep(1)
    study.rename(tmp_path / "away")
    time.sleep(4)
    assert watching.is_alive()
    (tmp_path / "away").rename(study)
    (cell.path / "result.json").write_bytes(result)
    watching.join(timeout=20)
    assert codes == [0]
