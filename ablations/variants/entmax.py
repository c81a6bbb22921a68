"""Adaptively sparse attention: alpha-entmax with a learned alpha per head (Correia et al. 2019, 1909.00015).

p = [(alpha - 1) s - tau]_+^(1 / (alpha - 1)): alpha = 1 is softmax, alpha = 2 is sparsemax, and from alpha > 1
on weights may be exactly 0 (the paper's equations 5 and 6).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from entmax import entmax_bisect
from torch import Tensor, nn

from suite.attention import Positions, Site, Variant, Weights


class EntmaxWeights(Weights):
    """alpha = 1 + sigmoid(a) with one learned a per head, drawn from a standard normal as in the paper."""

    # sigmoid(6.9) = 0.999: beyond it float32 no longer tells alpha from 1 or 2.
    RANGE = 6.9
    # Each step of the bisection halves an interval of length 1: 26 are below float32's last bit.
    STEPS = 26
    # Far below any score, and still far from where float16 overflows.
    MASKED = -1e4

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.randn(heads).clamp_(-self.RANGE, self.RANGE))

    def forward(self, scores: Tensor, mask: Tensor | None, positions: Positions) -> Tensor:
        # The package takes a tensor that broadcasts against the scores; its annotation says float.
        alpha: Any = self.alpha()[:, None, None]
        if mask is None:
            return entmax_bisect(scores, alpha, n_iter=self.STEPS)
        weights = entmax_bisect(scores.masked_fill(~mask, self.MASKED), alpha, n_iter=self.STEPS)
        return weights.masked_fill(~mask, 0.0)

    def alpha(self) -> Tensor:
        """(H,) in (1, 2)."""
        return 1 + torch.sigmoid(self.a)

    @torch.no_grad()
    def project(self) -> None:
        self.a.clamp_(-self.RANGE, self.RANGE)

    def stats(self) -> dict[str, Any]:
        return {"alpha": self.alpha().tolist()}


@dataclass(frozen=True)
class Entmax(Variant):
    """Learned alpha per head."""

    def weights(self, site: Site) -> Weights:
        return EntmaxWeights(site.heads)
