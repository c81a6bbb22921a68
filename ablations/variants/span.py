"""Adaptive attention span (Sukhbaatar et al. 2019, 1905.07799; the paper's equations 1 and 4).

A head learns how far it looks: its weights are multiplied by m_z(x) = min(max((R + z - x) / R, 0), 1) for a
key x tokens away and made to sum to 1 again. One z per head and site, the distance in whole tokens as
``Positions.distance`` states it; the position embedding of equation 2 is left out, as in the paper's code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from suite.attention import Positions, Site, SoftmaxWeights, Variant, Weights
from suite.errors import UserError


class SpanWeights(Weights):
    """Weights of ``inner`` under the soft mask of a learned span per head."""

    def __init__(
        self, inner: Weights, heads: int, limit: int, ramp: int, penalty: float, renormalise: bool = True
    ) -> None:
        super().__init__()
        self.inner = inner
        self.limit, self.ramp, self.rate = limit, ramp, penalty
        self.normalised = renormalise and inner.normalised
        # Kaiming's normal over (batch, heads, 1, 1), around 0.002, as the paper's code draws it, but once
        # per head, and put into [0, 1] before the first step instead of after it.
        self.share = nn.Parameter(torch.empty(heads).normal_(0.002, math.sqrt(2 / heads)).clamp_(0, 1))

    def forward(self, scores: Tensor, mask: Tensor | None, positions: Positions) -> Tensor:
        weights = self.inner(scores, mask, positions) * self.soft_mask(positions.distance())
        if not self.normalised:
            return weights
        total = weights.sum(-1, keepdim=True)
        # A row whose every attended key lies beyond the span has nothing to attend: zeros, not 0 / 0.
        return weights / total.masked_fill(total == 0, 1.0)

    def soft_mask(self, distance: Tensor) -> Tensor:
        """m_z(x) of equation 1: distance (Q, K) in tokens to (H, Q, K) in [0, 1]."""
        return ((self.ramp + self.span()[:, None, None] - distance) / self.ramp).clamp(0, 1)

    def span(self) -> Tensor:
        """z, (H,) in tokens, from 0 to the limit."""
        return self.share * self.limit

    def penalty(self) -> Tensor:
        return self.rate * self.span().mean()

    @torch.no_grad()
    def project(self) -> None:
        self.share.clamp_(0, 1)

    def stats(self) -> dict[str, Any]:
        return {"span": self.span().tolist()}


@dataclass(frozen=True)
class Span(Variant):
    """Adaptive span over softmax weights."""

    limit: int = 1024
    """The largest span in tokens (section 3 of the paper)."""
    ramp: int = 32
    """R, the width of the soft edge in tokens."""
    penalty: float = 5e-6
    """Added to the loss per token of mean span, at each site."""
    renormalise: bool = True
    """Rows sum to 1 after the mask, as in equation 4."""

    def __post_init__(self) -> None:
        if self.limit < 1 or self.ramp < 1 or self.penalty < 0:
            raise UserError(
                "A span needs limit >= 1, ramp >= 1 and penalty >= 0; received "
                f"limit={self.limit}, ramp={self.ramp}, penalty={self.penalty}."
            )

    def weights(self, site: Site) -> Weights:
        return SpanWeights(self.inner(site), site.heads, self.limit, self.ramp, self.penalty, self.renormalise)

    def inner(self, site: Site) -> Weights:
        return SoftmaxWeights()
