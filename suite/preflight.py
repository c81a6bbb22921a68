"""What must hold on a node before a study begins there: what the driver expects, what a node answers, what is
wrong with that. Imports no ray: suite.schedule carries the question to the nodes and the answers back.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from suite import estimate, provenance, registry, tools
from suite.data.store import open_dataset
from suite.errors import UnfitNode, UserError
from suite.lease import CHECK, Lease
from suite.plan import Job, Workplace
from suite.records import read_json, write_text

PACKAGES = ("python", "torch", "entmax", "numpy")
"""Those whose version can change a number. Ray looks after its own."""
PATIENCE = 5.0
"""Seconds that a file may take from one node to another: network file systems keep old listings for a while."""


@dataclass(frozen=True)
class Expected:
    """What the driver has and every node must have; plain values."""

    file: str
    """The driver's in the run folder, for as long as it expects something."""
    word: str
    """What is in it, nowhere twice: another file system has another, or none."""
    data: str
    datasets: Mapping[str, str]
    """Name -> digest."""
    plugins: tuple[str, ...]
    methods: Mapping[str, str]
    """Variant -> digest of its source."""
    pretrained: Mapping[str, str]
    """Path or hub id -> identity of the weights."""
    packages: Mapping[str, str | None]
    engine: str


@contextlib.contextmanager
def expected_of(jobs: Sequence[Job], workplace: Workplace) -> Iterator[Expected]:
    """What the driver expects of nodes that run ``jobs``; as long as it asks, the file by which they know it."""
    study, data = Path(workplace.study), Path(workplace.data)
    # Who this is: what a driver that was killed leaves is known by it (suite.lease.sweep).
    holder = Lease(study, workplace.launch).holder
    file, word = study / f"{CHECK}{holder.token}", json.dumps(dataclasses.asdict(holder))
    try:
        write_text(file, word)
        yield Expected(
            file=str(file),
            word=word,
            data=workplace.data,
            datasets={name: open_dataset(data / name).digest for name in {job.cell.dataset for job in jobs}},
            plugins=workplace.plugins,
            methods={name: registry.source_digest(name) for name in {job.cell.variant for job in jobs}},
            pretrained={job.cell.pretrained: job.pretrained for job in jobs if job.pretrained},
            packages=provenance.packages(),
            engine=provenance.engine_digest(),
        )
    finally:
        # A run folder that does not answer must not hide why the launch ends.
        with contextlib.suppress(OSError):
            for left in study.glob(f"{file.name}*"):
                left.unlink(missing_ok=True)


def look(plain: dict[str, Any]) -> dict[str, Any]:
    """The answer of the node that this runs on to ``Expected`` as plain values; plain values too.

    What can go wrong there is an answer: a pair of what was found and, where nothing was, the reason.
    """
    expected = Expected(**plain)
    return {
        "engine": provenance.engine_digest(),
        "packages": provenance.packages(),
        "folder": _tried(lambda: _leave_word(Path(expected.file), expected.word)),
        "plugins": {path: _tried(lambda path=path: registry.load_kept_plugin(path)) for path in expected.plugins},
        "methods": {name: _tried(lambda name=name: registry.source_digest(name)) for name in expected.methods},
        "datasets": {
            name: _tried(lambda name=name: open_dataset(Path(expected.data) / name).digest)
            for name in expected.datasets
        },
        "pretrained": {source: _tried(lambda source=source: _identity(source)) for source in expected.pretrained},
        "processor": provenance.processor(),
        "gpus": gpu_names(),
    }


def faults(expected: Expected, answer: Mapping[str, Any], node: str) -> list[str]:
    """What is wrong with the answer of ``node``: expected, received, what to do, each in a sentence or two."""
    found = [*_folder_faults(expected, answer, node), *_version_faults(expected, answer, node)]
    for path, (_, reason) in answer["plugins"].items():
        # The driver keeps them in the run folder: where that is not shared, it is said already.
        if reason and not (answer["folder"][1] and Path(path).is_relative_to(Path(expected.file).parent)):
            found.append(f"{node} cannot load the plug-in {Path(path).name}: {reason} Install there what it needs.")
    for name, digest in expected.methods.items():
        received, reason = answer["methods"][name]
        if received != digest and not any(reason for _, reason in answer["plugins"].values()):
            had = reason or f"received {received}, expected {digest}."
            found.append(
                f"{node} has another source of the variant {name} than the driver: {had} Bring that node to the "
                "same version: it would train another method under the same name."
            )
    for name, digest in expected.datasets.items():
        received, reason = answer["datasets"][name]
        if reason:
            found.append(f"{node} cannot read the data set {name}: {reason} Give it the driver's {expected.data}.")
        elif received != digest:
            found.append(
                f"{node} has another data set {name} in {expected.data}: expected the digest {digest[:12]}, "
                f"received {received[:12]}. Give it the driver's."
            )
    for source, identity in expected.pretrained.items():
        received, reason = answer["pretrained"][source]
        if received != identity:
            had = reason or f"expected {identity[:12]}, received {received[:12]}."
            found.append(f"{node} lacks the planned weights {source}: {had} Give all nodes the same file.")
    return found


def check(expected: dict[str, Any], node: str) -> None:
    """Raises UnfitNode where this process, a worker on ``node``, has not what the driver expects.

    Nodes come and code is edited after a launch has begun.
    """
    if found := faults(Expected(**expected), look(expected), node):
        raise UnfitNode(
            "\n  ".join(["The launch ends: a worker found another node than the driver expects.", *found])
        )


def _folder_faults(expected: Expected, answer: Mapping[str, Any], node: str) -> list[str]:
    runs = Path(expected.file).parent
    left, reason = answer["folder"]
    if reason:
        return [
            f"{node} does not share the run folder {runs}: {reason} Mount the file system there that the driver "
            "has it on, at the same path, or give --runs a folder that all nodes see."
        ]
    if not _within(lambda: (runs / left).read_text() == expected.word):
        return [
            f"{node} has a run folder {runs} of its own: what it writes does not arrive at the driver. Mount the "
            "driver's file system there, or give --runs a folder that all nodes see."
        ]
    return []


def _version_faults(expected: Expected, answer: Mapping[str, Any], node: str) -> list[str]:
    found = []
    for name in PACKAGES:
        wanted, received = expected.packages[name], answer["packages"][name]
        # Builds for processors and for GPUs differ in what stands behind the plus sign.
        if (wanted or "").partition("+")[0] != (received or "").partition("+")[0]:
            found.append(
                f"{node} has {name} {received or '(not installed)'}, expected the driver's {wanted}. Install the "
                "same requirements.lock on all nodes."
            )
    if answer["engine"] != expected.engine:
        found.append(
            f"{node} has another version of the suite: expected the engine {expected.engine}, received "
            f"{answer['engine']}. Bring all nodes to the same commit."
        )
    return found


def disk_faults(jobs: Sequence[Job], workplace: Workplace, slots: int) -> list[str]:
    """Whether the checkpoints of ``jobs`` fit into the run folder, which is one for all nodes."""
    needed = estimate.disk([job.cell for job in jobs], descriptions(jobs, workplace), slots)
    free = shutil.disk_usage(workplace.study).free
    if needed <= free:
        return []
    return [
        f"The checkpoints of {len(jobs)} cells, {slots} at a time, take about {_gib(needed)}; the file system of "
        f"{workplace.study} has {_gib(free)} free. Free space there, give --runs another, or run fewer with "
        "--variants."
    ]


def memory_needed(jobs: Sequence[Job], workplace: Workplace) -> int:
    """Bytes that the largest of ``jobs`` takes of a node's memory at least."""
    known = descriptions(jobs, workplace)
    gpus = workplace.placement.gpus or 0.0
    return max((estimate.memory(job.cell, known[job.cell.dataset], gpus) for job in jobs), default=0)


def descriptions(jobs: Sequence[Job], workplace: Workplace) -> dict[str, dict[str, Any]]:
    """The dataset.json of each data set of ``jobs``."""
    names = {job.cell.dataset for job in jobs}
    return {name: read_json(Path(workplace.data) / name / "dataset.json") for name in names}


def refuse(found: Sequence[str]) -> None:
    """Raises UserError with everything that was found, if anything."""
    if found:
        raise UserError("\n  ".join(["Nothing was started:", *found]))


def gpu_names() -> list[str]:
    """Of this machine, whatever part of them this process may use; none where NVIDIA's driver does not say."""
    return _nvidia_smi("--query-gpu=name", "--format=csv,noheader")


def visible_gpu_names() -> list[str]:
    """Of the GPUs of this machine that CUDA_VISIBLE_DEVICES leaves to this process."""
    visible, names = visible_gpus(), gpu_names()
    if visible is None or not names:
        return names
    listed = {} if all(entry.isdigit() for entry in visible) else _listed()
    found = []
    for entry in visible:
        if entry.isdigit():
            name = names[int(entry)] if int(entry) < len(names) else None
        else:  # The head of an id suffices.
            name = next((name for uuid, name in listed.items() if uuid.startswith(entry)), None)
            name = name or (None if listed else names[0])
        if name is None:
            break  # As CUDA does: what follows one that is not there is not visible either.
        found.append(name)
    return found


def visible_gpus() -> list[str] | None:
    """What CUDA_VISIBLE_DEVICES lists, numbers or ids; None where it is not set and hides nothing."""
    text = os.environ.get("CUDA_VISIBLE_DEVICES")
    if text is None:
        return None
    entries = []
    for entry in map(str.strip, text.split(",")):
        if not (entry.isdecimal() or entry.startswith(("GPU-", "MIG-"))):
            break  # -1, NoDevFiles and the like, after which CUDA looks no further.
        entries.append(entry)
    return entries


def check_gpus(gpus: int | None) -> None:
    """Raises UserError where a launch on this machine is to use more GPUs than it may see."""
    visible = visible_gpus()
    if gpus and visible is not None and gpus > len(visible):
        raise UserError(
            f"Ray cannot start here with --gpus {gpus}: CUDA_VISIBLE_DEVICES shows {len(visible)}, "
            f"'{os.environ['CUDA_VISIBLE_DEVICES']}'. Give fewer --gpus, or set it to the numbers of as many."
        )


def _listed() -> dict[str, str]:
    """The id of each GPU, and of each part that one is split into, with its name."""
    listed, whole = {}, ""
    for line in _nvidia_smi("-L"):
        if found := re.match(r"\s*(?:GPU \d+: )?(.+?)(?: +Device +\d+:)? \(UUID: (\S+)\)", line):
            name, uuid = found.groups()
            whole = name if uuid.startswith("GPU-") else whole
            listed[uuid] = name if name == whole else f"{whole} {name}"
    return listed


def _nvidia_smi(*arguments: str) -> list[str]:
    try:
        done = tools.ask(["nvidia-smi", *arguments])
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.split("\n")[:-1] if done.returncode == 0 else []


def _leave_word(file: Path, word: str) -> str:
    """The name of a file with ``word`` that this node has written beside the driver's."""
    if not _within(lambda: file.read_text() == word):
        raise UserError(f"expected {file}, which the driver wrote; it is not there.")
    answer = file.with_name(f"{file.name}.{uuid.uuid4().hex}")
    with answer.open("x", encoding="utf-8") as written:
        written.write(word)
        written.flush()
        os.fsync(written.fileno())  # A full or failing disk says so here.
    return answer.name


def _within(true: Callable[[], bool]) -> bool:
    """Whether it becomes true while files travel."""
    until = time.monotonic() + PATIENCE
    while True:
        with contextlib.suppress(OSError):
            if true():
                return True
        if time.monotonic() > until:
            return False
        time.sleep(0.2)


def _identity(source: str) -> str:
    from suite.models.pretrained import identity

    return identity(source)


def _tried(find: Callable[[], Any]) -> tuple[Any, str | None]:
    try:
        return find(), None
    except Exception as error:
        text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}."
        return None, text


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"
