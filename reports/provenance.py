"""What a report was made from: ``provenance.json`` beside it, and whether it is still what the records give.

Digests are sha256, as ``sha256sum`` prints them. Without what is measured two runs of the same cells give the same
bytes: digests of records are then of what they hold but for times and machines.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from suite.errors import UserError
from suite.records import StudyFolder, read_json, read_lines, write_json

NAME = "provenance.json"
MEASURED = ("cost.json", "segments.jsonl", "faults.jsonl", "log.txt")
"""The files of a cell that no second run repeats."""
RECORDS = (
    *("config.json", "result.json", "failure.json", "stopped.json"),
    *("metrics.jsonl", "sites.jsonl", "predictions.parquet", "submissions.jsonl", "server.jsonl"),
    *MEASURED,
)
"""Those that reports read, beside its examples."""
OF_ONE_RUN: Mapping[str, frozenset[str]] = {
    "config.json": frozenset({"hardware", "placement"}),
    "result.json": frozenset({"seconds"}),
    "metrics.jsonl": frozenset({"seconds"}),
    "failure.json": frozenset({"where", "log"}),
}
"""Fields of the others that no second run repeats."""
PACKAGES = ("matplotlib", "numpy", "pandas", "pyarrow", "rich", "scipy")
"""What bytes depend on besides our own source."""

Stamps = Mapping[str, tuple[int, int]]


def stamps(output: Path) -> Stamps:
    """What tells a file under ``output`` from one that is written in its place later: inode and time."""
    files = [(path, path.stat()) for path in output.rglob("*") if path.is_file()]
    return {_name(path, output): (status.st_ino, status.st_mtime_ns) for path, status in files}


def write_provenance(study_folder: Path, output: Path, before: Stamps, options: Mapping[str, Any]) -> None:
    """Writes provenance.json: what went in, and which files under ``output`` are not as they were ``before``.

    ``options`` are those that the report was built with, ``measured`` among them. Holds neither times nor paths of
    this machine.
    """
    measured = options["measured"]
    written = [name for name, stamp in stamps(output).items() if before.get(name) != stamp and name != NAME]
    inputs = {
        name: _digest(path) if measured else _digest_of_lasting(path)
        for name, path in _inputs(study_folder)
        if measured or path.name not in MEASURED
    }
    write_json(
        output / NAME,
        {
            "options": dict(options),
            "inputs": dict(sorted(inputs.items())),
            "program": program(),
            "outputs": {name: _digest(output / name) for name in sorted(written)},
        },
    )


def check(build: Callable[..., Any], output: Path) -> str:
    """What tells the report at ``output`` from what ``build`` (output, **options) makes of the records now.

    Files that differ, are missing or are extra, and the inputs that have changed, a line each; empty where there is
    nothing. Raises UserError where there is no report.
    """
    told = output / NAME
    if not told.exists():
        raise UserError(f"There is no report to check: expected {told}. Make it first with `ablate report`.")
    old = read_json(told)
    with tempfile.TemporaryDirectory() as temporary:
        again = Path(temporary)
        build(again, **old["options"])
        new, made, here = read_json(again / NAME), _contents(again), _contents(output)
    lines = [
        f"{'missing' if name not in here else 'extra' if name not in made else 'differs'}: {name}"
        for name in sorted({*made, *here})
        if made.get(name) != here.get(name)
    ]
    if not lines:
        return ""
    changed = [f"input {line}" for line in _changes(old["inputs"], new["inputs"])]
    changed += [f"program {line}" for line in _changes(old["program"], new["program"])]
    why = changed or ["No input has changed, and no program: somebody has changed the report's own files."]
    return "\n".join([*lines, *why, "Make it again with `ablate report`."])


def _contents(folder: Path) -> dict[str, str]:
    """Name -> digest of every file."""
    return {_name(path, folder): _digest(path) for path in folder.rglob("*") if path.is_file()}


def _changes(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    return [
        f"{'changed' if name in old and name in new else 'added' if name in new else 'removed'}: {name}"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]


def program() -> dict[str, str]:
    """What made the report: a digest of our source, and the versions of the packages that draw and write."""
    digest = hashlib.sha256()
    here = Path(__file__).parent
    for path in sorted(path for path in here.rglob("*") if path.suffix in (".py", ".js", ".css")):
        digest.update(f"{_name(path, here)} {_digest(path)}\n".encode())
    return {"reports": digest.hexdigest()} | {name: importlib.metadata.version(name) for name in PACKAGES}


def _inputs(study_folder: Path) -> Iterator[tuple[str, Path]]:
    """Everything that a report reads, by names that are the same on every machine."""
    folder = StudyFolder(study_folder)
    yield "published.json", Path(__file__).with_name("published.json")
    yield "study.json", folder.path / "study.json"
    for entry in folder.study()["cells"]:
        cell = folder.path / entry["id"]
        for path in (*(cell / name for name in RECORDS), *sorted(cell.glob("examples/*"))):
            if path.is_file():
                yield _name(path, folder.path), path


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest_of_lasting(path: Path) -> str:
    """Of what a second run of the same cell would record too."""
    dropped = OF_ONE_RUN.get(path.name)
    if dropped is None:
        return _digest(path)
    parts = read_lines(path) if path.suffix == ".jsonl" else [read_json(path)]
    lasting = [{name: value for name, value in part.items() if name not in dropped} for part in parts]
    return hashlib.sha256(json.dumps(lasting, sort_keys=True).encode()).hexdigest()


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()
