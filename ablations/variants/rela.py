"""Rectified linear attention, ReLA (Zhang, Titov and Sennrich 2021, 2104.07012, section 3).

The weights are relu(s): sparse, not normalised, and a query may attend to nothing. In exchange the output x, all
heads of a query together, is normalised and gated: g * x / RMS(x) * sigmoid(w * x) (the paper's ReLA-g). Gain g
and gate w are one number per head here and one per dimension there: a Site knows no width. The projection that
follows makes up for the gain, not for the gate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from suite.attention import Positions, Site, Variant, Weights

# Added to the mean square, as the authors' code does: a query that attends to nothing gets zeros.
EPSILON = 1e-8


class ReLAWeights(Weights):
    """The gain starts at 1 and the gate at 0, half open."""

    normalised = False

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(heads))
        self.gate = nn.Parameter(torch.zeros(heads))

    def forward(self, scores: Tensor, mask: Tensor | None, positions: Positions) -> Tensor:
        weights = scores.relu()
        return weights if mask is None else weights.masked_fill(~mask, 0.0)

    def mix(self, weights: Tensor, value: Tensor) -> Tensor:
        """The weighted sum of value, normalised over heads and width and gated: (B, H, Q, D)."""
        context = super().mix(weights, value)
        # Squares of half precision would overflow, and lose EPSILON.
        x = context.to(torch.promote_types(context.dtype, torch.float32))
        root_mean_square = (x.square().mean((1, 3), keepdim=True) + EPSILON).sqrt()
        gain, gate = self.gain[:, None, None], self.gate[:, None, None]
        return (gain * x / root_mean_square * torch.sigmoid(gate * x)).to(context.dtype)

    def stats(self) -> dict[str, Any]:
        return {"gain": self.gain.tolist(), "gate": self.gate.tolist()}


@dataclass(frozen=True)
class ReLA(Variant):
    """ReLU in place of softmax, with the gated norm that makes it trainable."""

    def weights(self, site: Site) -> Weights:
        return ReLAWeights(site.heads)
