"""Adaptive span over adaptively sparse weights: entmax first, then the mask (section 5 of the paper)."""

from __future__ import annotations

from dataclasses import dataclass

from ablations.variants.entmax import EntmaxWeights
from ablations.variants.span import Span, SpanWeights
from suite.attention import Site, Weights


@dataclass(frozen=True)
class SpanEntmax(Span):
    """Span and entmax together."""

    def weights(self, site: Site) -> Weights:
        return SpanWeights(EntmaxWeights(site.heads), site.heads, self)
