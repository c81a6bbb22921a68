"""What a search draws an argument from: frozen dataclasses of plain values.

A distribution is the function from a share, drawn evenly from 0 to below 1, to a value. Numbers are rounded to four
digits that count: a trial has the same arguments, and so the same id, on any machine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from suite.errors import UserError

Scalar = bool | int | float | str


class Distribution(Protocol):
    def at(self, share: float) -> Scalar:
        """The value at ``share``, from 0 to below 1."""
        ...


@dataclass(frozen=True)
class Choice:
    """One of ``values``, each as likely as the others."""

    values: tuple[Scalar, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise UserError("A choice needs values to choose from; received none. Name at least one.")

    def at(self, share: float) -> Scalar:
        return self.values[int(share * len(self.values))]


@dataclass(frozen=True)
class Integers:
    """A whole number from ``low`` to ``high``, both included."""

    low: int
    high: int

    def __post_init__(self) -> None:
        _check_bounds(self.low, self.high)
        if any(isinstance(bound, bool) or not isinstance(bound, int) for bound in (self.low, self.high)):
            raise UserError(f"Integers are between whole numbers; received {self.low!r} and {self.high!r}.")

    def at(self, share: float) -> int:
        return self.low + int(share * (self.high - self.low + 1))


@dataclass(frozen=True)
class Uniform:
    """A number from ``low`` to ``high``."""

    low: float
    high: float

    def __post_init__(self) -> None:
        _check_bounds(self.low, self.high)

    def at(self, share: float) -> float:
        return _rounded(self.low + share * (self.high - self.low), self.low, self.high)


@dataclass(frozen=True)
class LogUniform:
    """A number from ``low`` to ``high``, both above 0, whose logarithm is uniform."""

    low: float
    high: float

    def __post_init__(self) -> None:
        _check_bounds(self.low, self.high)
        if self.low <= 0:
            raise UserError(f"A logarithm needs numbers above 0; received the bounds {self.low} and {self.high}.")

    def at(self, share: float) -> float:
        return _rounded(self.low * (self.high / self.low) ** share, self.low, self.high)


def _check_bounds(low: float, high: float) -> None:
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UserError(
            f"The bounds of a distribution are finite, the lower one first; received {low} and {high}. Exchange or "
            "correct them."
        )


def _rounded(value: float, low: float, high: float) -> float:
    # Powers differ in their last bits between machines.
    return min(max(float(f"{value:.4g}"), float(low)), float(high))
