"""What cells will take: time from steps that were measured, room on disk and in memory from the model's size.

Steps are measured where cells were trained: between two evaluations of a record, one of the evaluations included.
What a cell needs before its first step and after its last is in no figure. Imports neither torch nor ray.
"""

from __future__ import annotations

import heapq
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, Literal

from suite.config import Cell, Placement, to_plain
from suite.records import CellFolder, RecordError

STATES = {"adamw": 2, "lookahead_lamb": 3, "lookahead_lamb_published": 3}
"""Numbers that an optimiser keeps for each weight."""
BYTES = 4
"""Of a number: weights and the optimiser's states stay in float32."""
CHECKPOINTS = 3
"""Of a cell that runs: two are kept, and a third is written before the oldest goes."""

Source = Literal["measured", "other methods", "unknown"]


# Size


def parameters(cell: Cell, dataset: Mapping[str, Any]) -> int:
    """Weights of the cell's model without its variant's own, which are few; ``dataset`` is its dataset.json."""
    width, inner, answers = cell.model.width, cell.model.intermediate, dataset["answers"]
    norm = 2 * width
    attention = 4 * (width * width + width) + norm
    feed = 2 * width * inner + inner + width + norm
    language, vision, cross = cell.layers
    words = (dataset["vocabulary"] + 512 + 2) * width + norm
    regions = (dataset["features"] + 1 + 4 + 1) * width + 2 * norm
    head = width * 2 * width + 2 * width + 2 * norm + 2 * width * answers + answers
    layers = (language + vision) * (attention + feed) + cross * (3 * attention + 2 * feed)
    return words + regions + layers + width * width + width + head


def memory(cell: Cell, dataset: Mapping[str, Any], gpus: float) -> int:
    """Bytes of a node's memory that training the cell takes at least: what depends on the batch comes on top."""
    # A model is made in the node's memory; gradients and the optimiser's states lie where it is trained.
    copies = 1 if gpus else 2 + STATES[cell.protocol.optimizer]
    return BYTES * parameters(cell, dataset) * copies


def disk(cells: Iterable[Cell], datasets: Mapping[str, Mapping[str, Any]], slots: int) -> int:
    """Bytes of the checkpoints of ``cells``, ``slots`` of which run at once: each leaves its final model."""
    trained = [cell for cell in cells if cell.keep is None]
    final = [BYTES * parameters(cell, datasets[cell.dataset]) for cell in trained]
    training = sorted(
        (
            size * CHECKPOINTS * (1 + STATES[cell.protocol.optimizer])
            for size, cell in zip(final, trained, strict=True)
        ),
        reverse=True,
    )
    return sum(final) + sum(training[:slots])


# Time


@dataclass(frozen=True)
class Device:
    """What trains a cell, as far as it decides how fast."""

    kind: str
    """As torch names it: cpu, cuda."""
    name: str
    threads: int
    """Of the processor; 0 where a GPU does the work."""
    workers: int

    @staticmethod
    def planned(placement: Placement, processor: str, gpus: Sequence[str]) -> Device:
        """Where a cell would be trained on a node of that processor and those GPUs."""
        if placement.gpus:
            return Device("cuda", gpus[0] if gpus else "", 0, placement.workers)
        return Device("cpu", processor, placement.threads, placement.workers)


@dataclass(frozen=True)
class Estimate:
    """How long the steps take that a cell has left."""

    seconds: float | None
    """None where no step like its own was measured."""
    source: Source


class Measured:
    """Seconds per step of everything that is recorded in the folder ``runs``, whatever its study."""

    def __init__(self, runs: Path) -> None:
        self.same: defaultdict[Any, list[float]] = defaultdict(list)
        self.alike: defaultdict[Any, list[float]] = defaultdict(list)
        """The same but for the method."""
        for path in sorted(runs.glob("*/*/config.json")):
            self._add(CellFolder(path.parent))

    def _add(self, record: CellFolder) -> None:
        try:
            metrics = record.lines("metrics")
            if len(metrics) < 2:
                return
            config, segments = record.config(), record.lines("segments")
            method, rest = _key(config["cell"])
            steps = [(_device(one, config["hardware"]), seconds) for one, seconds in _steps(metrics, segments)]
        except (RecordError, KeyError, TypeError):  # Of whatever study: `ablate status` of that one tells.
            return
        for device, seconds in steps:
            self.same[method, rest, device].append(seconds)
            self.alike[rest, device].append(seconds)

    def left(self, cell: Cell, steps: int, devices: Iterable[Device]) -> Estimate:
        """Of ``steps`` steps of the cell on the slowest of ``devices`` on which such steps were measured."""
        if steps == 0:
            return Estimate(0.0, "measured")
        method, rest = _key(to_plain(cell))
        devices = set(devices)
        same = [median(found) for device in devices if (found := self.same.get((method, rest, device)))]
        if same:
            return Estimate(steps * max(same), "measured")
        alike = [median(found) for device in devices if (found := self.alike.get((rest, device)))]
        return Estimate(steps * max(alike), "other methods") if alike else Estimate(None, "unknown")


def _key(cell: Mapping[str, Any]) -> tuple[str, str]:
    """What decides how fast a cell (as in config.json) trains: its method, and all else."""
    protocol = cell["protocol"]
    rest = [cell["layers"], cell["model"], cell["dataset"], protocol["batch_size"], protocol.get("precision")]
    rest += [protocol.get("accumulate", 1), protocol.get("share_pictures", False)]
    return json.dumps([cell["variant"], cell["arguments"]], sort_keys=True), json.dumps(rest, sort_keys=True)


def _device(segment: Mapping[str, Any], hardware: Mapping[str, Any]) -> Device:
    workers = segment.get("workers", 1)
    if segment["device"] == "cpu":
        return Device("cpu", segment["processor"], segment["threads"], workers)
    # GPUs are recorded for the machine that the cell ran on last.
    names = hardware.get("gpus") if segment["host"] == hardware["host"] else None
    return Device(segment["device"].partition(":")[0], names[0] if names else "", 0, workers)


def _steps(
    metrics: Sequence[Mapping[str, Any]], segments: Sequence[Mapping[str, Any]]
) -> Iterable[tuple[Mapping[str, Any], float]]:
    """The segment and the seconds per step of each stretch between two evaluations that lies in one segment."""
    for before, after in pairwise(metrics):
        within = [segment for segment in segments if segment["step"] <= before["step"]]
        broken = any(before["step"] < segment["step"] < after["step"] for segment in segments)
        if within and not broken and after["step"] > before["step"]:
            yield within[-1], (after["seconds"] - before["seconds"]) / (after["step"] - before["step"])


def steps_left(record: CellFolder, cell: Cell) -> int:
    """Steps that the cell has yet to train; those since its last evaluation count again."""
    if cell.keep is not None or record.state == "finished":
        return 0
    try:
        lines = record.lines("metrics")
    except RecordError:  # `ablate status` tells of it, and the cell when it runs.
        lines = []
    return max(cell.protocol.steps - (lines[-1]["step"] if lines else 0), 0)


def makespan(durations: Mapping[str, float], starts: Mapping[str, str | None], slots: int) -> float:
    """The seconds until the last cell ends: on each free slot the first cell in order whose start has ended."""
    waiting, unfinished = list(durations), set(durations)
    running: list[tuple[float, str]] = []
    now = 0.0
    while unfinished:
        while len(running) < slots and (ready := next((c for c in waiting if starts[c] not in unfinished), None)):
            waiting.remove(ready)
            heapq.heappush(running, (now + durations[ready], ready))
        now, ended = heapq.heappop(running)
        unfinished.remove(ended)
    return now
