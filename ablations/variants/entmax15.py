"""1.5-entmax: alpha-entmax at a fixed alpha = 1.5, between softmax and sparsemax (Peters et al. 2019, 1905.05702).

p = [s / 2 - tau]_+^2 with tau such that p sums to 1. Beside the learned alpha of ``entmax`` it tells what learning
it is worth. Newton's method is faster on a CPU than sorting (algorithm 2), the more so the more keys there are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ablations.variants.entmax import entmax
from suite.attention import Positions, Site, Variant, Weights


class Entmax15Weights(Weights):
    def forward(self, scores: Tensor, mask: Tensor | None, positions: Positions) -> Tensor:
        return entmax(scores if mask is None else scores.masked_fill(~mask, -torch.inf), alpha=1.5)


@dataclass(frozen=True)
class Entmax15(Variant):
    """Sparse weights at alpha = 1.5, without a parameter."""

    def weights(self, site: Site) -> Weights:
        return Entmax15Weights()
