"""Sparsemax: the Euclidean projection of the scores onto the simplex (Martins and Astudillo 2016, 1602.02068).

p = argmin ||p - s||^2 over non-negative p that sum to 1 (equation 2). It is alpha-entmax at a fixed alpha = 2, and
computed as such: on a CPU faster than by sorting (algorithm 1), the more so the more keys there are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ablations.variants.entmax import entmax
from suite.attention import Positions, Site, Variant, Weights


class SparsemaxWeights(Weights):
    def forward(self, scores: Tensor, mask: Tensor | None, positions: Positions) -> Tensor:
        return entmax(scores if mask is None else scores.masked_fill(~mask, -torch.inf), alpha=2.0)


@dataclass(frozen=True)
class Sparsemax(Variant):
    """Sparse weights without a parameter."""

    def weights(self, site: Site) -> Weights:
        return SparsemaxWeights()
