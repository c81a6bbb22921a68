"""Softmax attention, the baseline: what ``suite.attention`` does where a variant changes nothing."""

from __future__ import annotations

from dataclasses import dataclass

from suite.attention import Variant


@dataclass(frozen=True)
class Softmax(Variant):
    """LXMERT as it was published."""
