"""Many reports of one study at once: while it is trained, when it is finished, and while its cells are others.

All must exit with 0 and without a traceback. Once nothing else happens the report must be what its records give.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import warm
from place import Given, Place, conclude, told

REPORTS, SHORT = 50, 4
"""Side by side."""
LIMIT = 1800.0
"""Seconds: fifty reports share what cores there are."""


def run(place: Place, given: Given) -> int:
    """How many commands went wrong."""
    count = SHORT if given.short else given.tries or REPORTS
    found = trained(place, count) + finished(place, count) + changing(place, max(count // 5, 2))
    found = [one | {"number": number} for number, one in enumerate(found)]
    for one in found:
        told(one, given)
    return conclude("at-once", found, given)


def trained(place: Place, count: int) -> list[dict[str, Any]]:
    """Reports and looks at the state from the study's first moment on, until it is trained."""
    runs = place.begin("trained", None)
    training = warm.fork(warm.ablate(place.words(runs)), place.folder / "training.txt")
    while not (runs / "demo/study.json").exists():
        time.sleep(0.01)
    commands = [_fork(place, f"report-{number}", ["report", "--runs", runs]) for number in range(count)]
    commands += [_fork(place, f"status-{number}", ["status", "--runs", runs]) for number in range(count)]
    found = [_ended("while it is trained", child) for child in (training, *commands)]
    found += _built(place, runs)
    shutil.rmtree(runs)
    return found


def finished(place: Place, count: int) -> list[dict[str, Any]]:
    runs = place.begin("reported", place.expected)
    commands = [_fork(place, f"report-{number}", ["report", "--runs", runs]) for number in range(count)]
    found = [_ended("when it is finished", child) for child in commands]
    checked = warm.command(["report", "--runs", runs, "--check"], place.folder / "check.txt", limit=LIMIT)
    found.append(_of("when it is finished, check", checked))
    shutil.rmtree(runs)
    return found


def changing(place: Place, count: int) -> list[dict[str, Any]]:
    """Launches that give the study other cells, in turn, each of which builds a report."""
    runs = place.begin("changing", place.expected)
    other = ["--set=seed=7", "--set=steps=2", "--set=evaluations=1"]
    first = warm.command(place.words(runs, *other), place.folder / "other.txt")
    assert first.code == 0, first.text
    commands = [
        _fork(place, f"launch-{number}", place.words(runs, *(other if number % 2 else [])))
        for number in range(2 * count)
    ]
    commands += [_fork(place, f"report-{number}", ["report", "--runs", runs]) for number in range(count)]
    found = [_ended("while its cells change", child) for child in commands]
    found += _built(place, runs)
    shutil.rmtree(runs)
    return found


def _built(place: Place, runs: Path) -> list[dict[str, Any]]:
    """One report more: after it, all that lies there is what the records give."""
    found = []
    for more in ([], ["--check"]):
        ended = warm.command(["report", "--runs", runs, *more], place.folder / "check.txt", limit=LIMIT)
        found.append(_of("afterwards", ended))
    return found


def _fork(place: Place, name: str, words: list[Any]) -> warm.Child:
    return warm.fork(warm.ablate(words), place.folder / f"{name}.txt")


def _ended(kind: str, child: warm.Child) -> dict[str, Any]:
    return _of(f"{kind}, {child.out.stem.partition('-')[0]}", child.ended(LIMIT))


def _of(kind: str, ended: warm.Ended) -> dict[str, Any]:
    said, wrong = ended.text.strip()[-300:], []
    if ended.hung:
        wrong.append(f"hang: {said}")
    elif ended.has_traceback:
        wrong.append(f"traceback: {said}")
    elif ended.code:
        wrong.append(f"exit code: {ended.code}: {said}")
    return {"kind": kind, "what": kind, "wrong": wrong}
