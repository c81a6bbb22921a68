"""What a bench measured: rows of samples, and what is needed to judge them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles
from typing import Any

from suite.records import read_json, write_json

Seconds = dict[str, float]
"""Of each part of a step, such as ``forward`` and ``backward``."""


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of samples."""

    low: float
    middle: float
    high: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Spread:
        if len(samples) == 1:
            return cls(samples[0], samples[0], samples[0])
        return cls(*quantiles(samples, n=4, method="inclusive"))

    def text(self, unit: float = 1.0) -> str:
        """``12.3 (12.1-12.9)`` in multiples of ``unit``."""
        return f"{digits(self.middle / unit)} ({digits(self.low / unit)}-{digits(self.high / unit)})"


def digits(number: float) -> str:
    """Three significant digits, or all of those before the point."""
    return f"{number:,.0f}" if abs(number) >= 99.95 else f"{number:#.3g}"


@dataclass
class Row:
    """One contender under one condition. Rows whose ``case`` is equal were measured in turn."""

    case: dict[str, Any]
    name: str
    facts: dict[str, Any] = field(default_factory=dict)
    """What is known of it besides its times; ``peak_bytes`` is its peak memory, ``left_out`` why it has no time."""
    seconds: dict[str, list[float]] = field(default_factory=dict)
    """One sample per round, for each part of the step."""

    def totals(self) -> list[float]:
        """Seconds of the whole step in each round."""
        return [sum(parts) for parts in zip(*self.seconds.values(), strict=True)]


@dataclass
class Record:
    """All of a bench. ``samples.json`` is its fields."""

    bench: str
    reference: str
    """Name of the row that ratios are to."""
    arguments: dict[str, Any]
    provenance: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    complete: bool = False
    """False where the bench was stopped."""

    def measured(self) -> list[Row]:
        """The rows that have times, in their order."""
        return [row for row in self.rows if row.seconds]

    def beside(self, row: Row, name: str) -> Row:
        """The row ``name`` that was measured in turn with ``row``."""
        return next(other for other in self.rows if other.case == row.case and other.name == name)

    def ratios(self, row: Row) -> list[float]:
        """Its time over the reference's, round by round."""
        reference = self.beside(row, self.reference)
        return [own / base for own, base in zip(row.totals(), reference.totals(), strict=True)]

    def write(self, path: Path) -> None:
        write_json(path, dataclasses.asdict(self))

    @classmethod
    def read(cls, path: Path) -> Record:
        """The record in a ``samples.json``."""
        plain = read_json(path)
        return cls(**plain | {"rows": [Row(**row) for row in plain["rows"]]})
