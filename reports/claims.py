"""What the paper claims in words, each held against the records by a stated rule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Claim:
    key: str
    text: str
    """As the paper says it, shortened."""
    source: str
    """Section, table or figure of the paper."""
    rule: str
    """When it holds, when it does not; anything else cannot be told."""
    verdict: Literal["holds", "does not hold", "cannot tell"]
    evidence: str
    """The numbers that the rule was applied to."""
    cells: tuple[str, ...]
    """Ids of the cells that the numbers are from."""
