"""How sure a number is: paired differences, intervals over images and seeds, and Holm's adjustment."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A mean accuracy, or a paired difference of two, with how sure it is. Per cent and points."""

    value: float
    low: float
    """Of the 95 % interval."""
    high: float
    error: float
    """Standard error."""
    freedom: float
    """Degrees of freedom of the t distribution behind the interval."""
    seeds: int
    """With 1 the interval holds for the questions alone, and says nothing of another run."""
    images: int
    p: float | None = None
    """Two-sided, against no difference; None for a level."""
    adjusted: float | None = None
    """p after Holm, over the family of rows that are compared with the softmax row."""
    detectable: float | None = None
    """The least true difference that would be found with a power of 80 %, points."""


@dataclass(frozen=True)
class Verdict:
    """What our number says of the published one, by a stated rule."""

    word: str
    """Short enough for a column: agrees, same sign, opposite sign, cannot tell, and so on."""
    reason: str
    """The rule with the numbers that it was applied to."""
