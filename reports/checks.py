"""Cells that should not be trusted: what a reader would want to know before believing a number."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    cell: str
    """Id."""
    check: str
    """Which check it is: not-learned, not-moved, nothing-dropped, not-finite or equals-softmax."""
    message: str
    """Expected, found, and what to do."""
