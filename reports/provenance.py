"""What a report was made from: ``provenance.json`` beside it, and whether it is still what the records give.

Digests are sha256, as ``sha256sum`` prints them. Without what is measured two runs of the same cells give the same
bytes: digests of records are then of what they hold but for times and machines.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from reports.cells import MEASURED, Records
from reports.publish import contents, settled_contents
from suite import forms
from suite.errors import UserError
from suite.files import digest
from suite.forms import Named, Some
from suite.records import RecordError, read_json, read_lines, write_json

NAME = "provenance.json"
OF_ONE_RUN: Mapping[str, frozenset[str]] = {
    "config.json": frozenset({"hardware", "placement"}),
    "result.json": frozenset({"seconds", "files"}),
    "metrics.jsonl": frozenset({"seconds"}),
    "failure.json": frozenset({"where", "log"}),
    "manifest.json": frozenset({"lines"}),
}
"""Fields of the others that no second run repeats."""
PACKAGES = ("matplotlib", "numpy", "pandas", "pyarrow", "rich", "scipy")
"""What bytes depend on besides our own source."""

FORM = {
    "options": {"measured": bool, "question?": Some(str), "all_heads?": bool},
    "inputs": Named(str),
    "program": Named(str),
    "outputs": Named(str),
}
TRIES = 5
"""Times that a report is checked that other builds replace meanwhile."""


def write_provenance(records: Records, output: Path, options: Mapping[str, Any]) -> None:
    """Writes provenance.json: what went in, and the files under ``output``, which are those of one build.

    ``options`` are those that the report was built with, ``measured`` among them. Holds neither times nor paths of
    this machine.
    """
    inputs = {"published.json": digest(Path(__file__).with_name("published.json"))}
    for name, one in records.digests.items():
        path = records.folder / name
        if options["measured"]:
            inputs[name] = one
        elif path.name not in MEASURED:
            with contextlib.suppress(FileNotFoundError):
                inputs[name] = _digest_of_lasting(path, one)
    write_json(
        output / NAME,
        {
            "options": dict(options),
            "inputs": dict(sorted(inputs.items())),
            "program": program(),
            "outputs": dict(sorted(contents(output).items())),
        },
    )


def check(build: Callable[..., Any], output: Path) -> str:
    """What tells the report at ``output`` from what ``build`` (output, **options) makes of the records now.

    Files that differ, are missing or are extra, and the inputs that have changed, a line each; empty where there is
    nothing. Raises UserError where there is no report.
    """
    tries = 0
    while True:
        tries += 1
        here, old = _there(output)
        with tempfile.TemporaryDirectory() as temporary:
            again = Path(temporary)
            build(again, **old["options"])
            new, made = read_json(again / NAME), contents(again)
        if here == made:
            return ""
        # Another build may have put its report there meanwhile, of records that have changed.
        if tries == TRIES or settled_contents(output) == here:
            break
    lines = [
        f"{'missing' if name not in here else 'extra' if name not in made else 'differs'}: {name}"
        for name in sorted({*made, *here})
        if made.get(name) != here.get(name)
    ]
    changed = [f"input {line}" for line in _changes(old["inputs"], new["inputs"])]
    changed += [f"program {line}" for line in _changes(old["program"], new["program"])]
    why = changed or ["No input has changed, and no program: somebody has changed the report's own files."]
    return "\n".join([*lines, *why, "Make it again with `ablate report`."])


def _there(output: Path) -> tuple[dict[str, str], dict[str, Any]]:
    """The files of the report at ``output``, name -> digest, and its provenance."""
    told = output / NAME
    if not told.exists():
        raise UserError(f"There is no report to check: expected {told}. Make it first with `ablate report`.")
    here = settled_contents(output)
    try:
        old = forms.check(told, read_json(told), FORM)
        if unknown := set(old["options"]) - {name.rstrip("?") for name in FORM["options"]}:
            raise RecordError(f"{told} has options that are not known: {sorted(unknown)}.")
    except RecordError:
        raise UserError(
            f"{told} does not say what its report was made from: it is damaged, or another version wrote it. Make "
            "the report again with `ablate report`."
        ) from None
    return here, old


def _changes(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    return [
        f"{'changed' if name in old and name in new else 'added' if name in new else 'removed'}: {name}"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]


def program() -> dict[str, str]:
    """What made the report: a digest of our source, and the versions of the packages that draw and write."""
    source = hashlib.sha256()
    here = Path(__file__).parent
    for path in sorted(path for path in here.rglob("*") if path.suffix in (".py", ".js", ".css")):
        source.update(f"{_name(path, here)} {digest(path)}\n".encode())
    return {"reports": source.hexdigest()} | {name: importlib.metadata.version(name) for name in PACKAGES}


def _digest_of_lasting(path: Path, known: str) -> str:
    """Of what a second run of the same cell would record too; ``known`` is that of the whole file."""
    dropped = OF_ONE_RUN.get(path.name)
    if dropped is None:
        return known
    parts = read_lines(path) if path.suffix == ".jsonl" else [read_json(path)]
    lasting = [{name: value for name, value in part.items() if name not in dropped} for part in parts]
    return hashlib.sha256(json.dumps(lasting, sort_keys=True).encode()).hexdigest()


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()
