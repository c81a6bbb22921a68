"""Adaptive span in two dimensions: between boxes the distance of their centres (after Sukhbaatar et al. 2019).

``span`` holds the ranks of boxes against each other, which a detector's order makes; a picture has a plane.
Words, and words and boxes, are as far apart as there.
"""

from __future__ import annotations

from dataclasses import dataclass

from ablations.variants.span import Measure, Span


@dataclass(frozen=True)
class BoxSpan(Span):
    """Adaptive span over softmax weights, by the geometry of the boxes."""

    boxes: Measure = "geometry"
