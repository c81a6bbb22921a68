"""What two runs of the same cells must have in common, whatever form records have: all but times and digests."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

TIMES = frozenset({"seconds", "check"})
"""Fields that no second run repeats, and the digests that are over them."""
DIGEST = re.compile(r"[0-9a-f]{16,64}")
LIVE = frozenset({"log.txt", "live.json"})
"""What a process that has lost its cell may still write to."""
OTHERS = frozenset({"report", "lease"})
"""Folders of a study that are no record: the report shows the ends of logs."""


def plain(value: Any, without: Callable[[Any], bool] = lambda value: False) -> Any:
    """A JSON value without times, and without the values of its fields that ``without`` is true of."""
    if isinstance(value, dict):
        kept = {key: plain(one, without) for key, one in value.items() if key not in TIMES and not without(one)}
        return {key: one for key, one in kept.items() if one != {} or value[key] == {}}
    return [plain(one, without) for one in value] if isinstance(value, list) else value


def is_digest(value: Any) -> bool:
    return isinstance(value, str) and DIGEST.fullmatch(value) is not None


def lines(path: Path) -> list[Any]:
    return [plain(json.loads(line)) for line in path.read_text().splitlines()]


def cells(study: Path) -> list[str]:
    """Ids of the cells that have a folder, in the study's order."""
    listed = json.loads((study / "study.json").read_text())["cells"]
    return [cell["id"] for cell in listed if (study / cell["id"]).exists()]


def content(cell: Path) -> dict[str, Any]:
    """Everything that a finished cell's record says but when, where and how long."""
    config = plain(json.loads((cell / "config.json").read_text()))
    config["code"] = config["code"]["engine"]  # Somebody may commit meanwhile.
    parts: dict[str, Any] = {
        "config": config,
        # It has digests of files that hold times.
        "result": plain(json.loads((cell / "result.json").read_text()), is_digest),
        "metrics": lines(cell / "metrics.jsonl"),
        "sites": lines(cell / "sites.jsonl"),
        "predictions": (cell / "predictions.parquet").read_bytes(),
    }
    for path in sorted(cell.glob("examples/*")):
        parts[f"examples/{path.name}"] = path.read_bytes()
    for path in sorted(cell.glob("checkpoint/*/model.safetensors")):
        parts[f"checkpoint/{path.parent.name}"] = path.read_bytes()
    return parts


def differences(study: Path, expected: Path) -> list[str]:
    """What the cells of two runs do not have in common, in words."""
    found = []
    for cell in cells(expected):
        try:
            ours, theirs = content(study / cell), content(expected / cell)
        except (OSError, ValueError) as error:
            found.append(f"{cell} is not whole: {error}")
            continue
        found += [f"{name} of {cell}" for name in sorted({*ours, *theirs}) if ours.get(name) != theirs.get(name)]
    return found


def names(study: Path) -> set[str]:
    return {str(path.relative_to(study)) for path in study.rglob("*")}


def left_over(study: Path, expected: Path) -> list[str]:
    """Files and folders that the other run did not leave, or that only it left."""
    ours, theirs = names(study), names(expected)
    return [f"left over: {name}" for name in sorted(ours - theirs)] + [
        f"not there: {name}" for name in sorted(theirs - ours)
    ]


def snapshot(study: Path) -> dict[str, str]:
    """Name -> digest of every file of the records, but of those that say what a process does now."""
    found = {}
    for path in study.rglob("*"):
        parts = path.relative_to(study).parts
        is_own = OTHERS.isdisjoint(parts) and not any(part.startswith(".") for part in parts)
        if is_own and path.is_file() and path.name not in LIVE:
            found["/".join(parts)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def changes(before: dict[str, str], after: dict[str, str]) -> list[str]:
    return [
        f"{'changed' if name in before and name in after else 'added' if name in after else 'removed'}: {name}"
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    ]
