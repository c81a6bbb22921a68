"""What a method costs as it was measured, from the ``cost.json`` of cells; one device per column, never two."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from reports.cells import CellRecord
from suite.records import CellFolder, RecordError


@dataclass(frozen=True)
class Target:
    """An accuracy that training is to reach on validation, per cent, and where it comes from."""

    accuracy: float
    rule: str


@dataclass(frozen=True)
class Cost:
    """One cell measured alone on one device by ``ablate bench cost``.

    Of a cell that is evaluated only, what concerns training is None.
    """

    cell: str
    """Id."""
    device: str
    """Name of the processor or GPU, with its threads: numbers of different devices are never compared."""
    batch_size: int
    step_seconds: float | None
    """Median of one training step."""
    questions_per_second: float
    """In prediction, in the batches that evaluation has."""
    latency_p50: float
    """Of one question alone, milliseconds."""
    latency_p99: float
    train_memory: float | None
    """Peak while training, MiB."""
    predict_memory: float
    """Peak while predicting, MiB."""
    step_energy: float | None
    """Of one training step, joules; None where it could not be had."""
    question_energy: float | None
    """Of one question in prediction, joules."""
    energy_source: str
    """How the energy was obtained: a power counter, or an estimate."""
    to_target: float | None = None
    """Seconds of training to ``target``: steps of the record times step_seconds; None where it never got there."""
    step_quartiles: tuple[float, float] | None = None
    """Of one training step, seconds."""
    relative: float | None = None
    """step_seconds over that of the softmax row on the same device with the same batch."""
    target: Target | None = None
    """The study's; None where it has neither a softmax row nor a threshold."""
    other_cores: float = 0.0
    """Processors that other processes kept busy meanwhile."""
    engine: str = ""
    """Digest of the engine that was measured."""


class Costs:
    """The costs of a study's rows, against those of its softmax row.

    The target is the softmax row's final validation accuracy (the mean over its finished seeds) minus one point, or
    where that row is missing ``looked``, the accuracy from which on a row has learned to look.
    """

    def __init__(self, reference: Sequence[CellRecord], looked: float | None) -> None:
        results = [(cell.result, cell.configuration["validation"]) for cell in reference]
        finished = [result["accuracy"][split] for result, split in results if result is not None]
        self.target: Target | None = None
        if finished:
            self.target = Target(fmean(finished) - 1, "the softmax row's last accuracy there minus one point")
        elif looked is not None:
            self.target = Target(looked, "the study's threshold of having learned to look")
        self.softmax = {cost.device: cost for cost in _first_measured(reference)}

    def of(self, cells: Sequence[CellRecord]) -> tuple[Cost, ...]:
        """For each device what the first of the row's finished ``cells`` that was measured on it costs.

        Raises RecordError where a ``cost.json`` is not what ``ablate bench cost`` writes.
        """
        measured = {cell.id: cell for cell in cells}
        return tuple(
            replace(
                cost,
                relative=self._relative(cost),
                target=self.target,
                to_target=self._to_target(cost, measured[cost.cell]),
            )
            for cost in _first_measured(cells)
        )

    def _relative(self, cost: Cost) -> float | None:
        softmax = self.softmax.get(cost.device)
        if softmax is None or not softmax.step_seconds or not cost.step_seconds:
            return None
        return cost.step_seconds / softmax.step_seconds if cost.batch_size == softmax.batch_size else None

    def _to_target(self, cost: Cost, cell: CellRecord) -> float | None:
        if self.target is None or cost.step_seconds is None:
            return None
        reached = [line["step"] for line in cell.metrics if line.get("accuracy", -1.0) >= self.target.accuracy]
        return float(min(reached)) * cost.step_seconds if reached else None


def _first_measured(cells: Sequence[CellRecord]) -> list[Cost]:
    costs: dict[str, Cost] = {}
    for cell in cells:
        if cell.result is not None:
            for cost in read_costs(cell.record):
                costs.setdefault(cost.device, cost)
    return list(costs.values())


def read_costs(record: CellFolder) -> list[Cost]:
    """The costs of a cell, one per device; none where it was not measured.

    Raises RecordError where a field is missing, or is not what it should be.
    """
    file = record.path / "cost.json"
    costs = [_cost(record.id, _Fields(file, measurement)) for measurement in record.costs()]
    devices = [cost.device for cost in costs]
    if len(devices) > len(set(devices)):
        raise _wrong(file, "measurements", devices, "one for each device")
    return costs


def _cost(cell: str, fields: _Fields) -> Cost:
    step = fields.inside("train_step_seconds") if fields.get("train_step_seconds") is not None else None
    latency = fields.inside("latency_ms")
    return Cost(
        cell=cell,
        device=fields.text("device"),
        batch_size=int(fields.number("batch_size", least=1)),
        step_seconds=step.number("median") if step else None,
        step_quartiles=(step.number("low"), step.number("high")) if step else None,
        questions_per_second=fields.inside("questions_per_second").number("median"),
        latency_p50=latency.number("p50"),
        latency_p99=latency.number("p99"),
        train_memory=fields.optional("train_memory_mib"),
        predict_memory=fields.number("predict_memory_mib"),
        step_energy=fields.optional("step_joules"),
        question_energy=fields.optional("question_joules"),
        energy_source=fields.text("energy_source"),
        other_cores=fields.number("other_cores"),
        engine=fields.inside("code").text("engine"),
    )


@dataclass(frozen=True)
class _Fields:
    """The fields of an object in a file; raises RecordError where one is not as it is asked for."""

    file: Path
    plain: Any
    name: str = "a measurement"

    def get(self, name: str) -> Any:
        if not isinstance(self.plain, Mapping):
            raise _wrong(self.file, self.name, self.plain, "an object")
        if name not in self.plain:
            raise _wrong(self.file, name, "nothing", "a value")
        return self.plain[name]

    def inside(self, name: str) -> _Fields:
        return _Fields(self.file, self.get(name), name)

    def text(self, name: str) -> str:
        value = self.get(name)
        if not isinstance(value, str) or not value:
            raise _wrong(self.file, name, value, "a text")
        return value

    def number(self, name: str, least: float = 0.0) -> float:
        value = self.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < math.inf:
            raise _wrong(self.file, name, value, f"a number of at least {least:g}")
        return float(value)

    def optional(self, name: str) -> float | None:
        return None if self.get(name) is None else self.number(name)


def _wrong(file: Path, name: str, received: object, expected: str) -> RecordError:
    return RecordError(
        f"{file}: expected for {name} {expected}, received {repr(received)[:80]}. Restore it from a copy, "
        "or move it away and measure again: ablate bench cost."
    )
