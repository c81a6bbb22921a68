"""Sparsemax: the Euclidean projection of the scores onto the simplex (Martins and Astudillo 2016, 1602.02068).

p = argmin ||p - s||^2 over non-negative p that sum to 1 (equation 2), solved exactly by sorting (algorithm 1)
with the package ``entmax``. It is alpha-entmax at a fixed alpha = 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import entmax
import torch
from torch import Tensor

from suite.attention import Positions, Site, Variant, Weights


class SparsemaxWeights(Weights):
    """Half precision is computed in float32."""

    def forward(self, scores: Tensor, mask: Tensor | None, positions: Positions) -> Tensor:
        wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
        if mask is None:
            return entmax.sparsemax(wide).to(scores.dtype)
        # The lowest finite number, not -inf: a row with nothing to attend must not become NaN.
        weights = entmax.sparsemax(wide.masked_fill(~mask, torch.finfo(wide.dtype).min))
        return weights.masked_fill(~mask, 0.0).to(scores.dtype)


@dataclass(frozen=True)
class Sparsemax(Variant):
    """Sparse weights without a parameter."""

    def weights(self, site: Site) -> Weights:
        return SparsemaxWeights()
