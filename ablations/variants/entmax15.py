"""1.5-entmax: alpha-entmax at a fixed alpha = 1.5, between softmax and sparsemax (Peters et al. 2019, 1905.05702).

p = [s / 2 - tau]_+^2 with tau such that p sums to 1, solved exactly by sorting (algorithm 2) with the package
``entmax``. Beside the learned alpha of ``entmax`` it tells what learning it is worth.
"""

from __future__ import annotations

from dataclasses import dataclass

import entmax
import torch
from torch import Tensor

from suite.attention import Positions, Site, Variant, Weights


class Entmax15Weights(Weights):
    """Half precision is computed in float32."""

    def forward(self, scores: Tensor, mask: Tensor | None, positions: Positions) -> Tensor:
        wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
        if mask is None:
            return entmax.entmax15(wide).to(scores.dtype)
        # The lowest finite number, not -inf: with nothing to attend the package would index before the row.
        weights = entmax.entmax15(wide.masked_fill(~mask, torch.finfo(wide.dtype).min))
        return weights.masked_fill(~mask, 0.0).to(scores.dtype)


@dataclass(frozen=True)
class Entmax15(Variant):
    """Sparse weights at alpha = 1.5, without a parameter."""

    def weights(self, site: Site) -> Weights:
        return Entmax15Weights()
