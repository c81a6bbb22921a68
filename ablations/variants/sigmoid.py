"""Sigmoid attention: each key is weighted on its own (Ramapuram et al. 2024, 2409.04431, section 2).

p = sigmoid(s + b) with b = -log n, n the keys that a row may attend to: rows sum to about 1 where scores are
small, as in softmax. The paper's LayerScale is left out: LXMERT normalises the sum after each block.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from suite.attention import Positions, Site, Variant, Weights


class SigmoidWeights(Weights):
    """Half precision is computed in float32."""

    normalised = False

    def forward(self, scores: Tensor, mask: Tensor | None, positions: Positions) -> Tensor:
        wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
        if mask is None:
            return torch.sigmoid(wide - math.log(scores.shape[-1])).to(scores.dtype)
        # A row with nothing to attend is zeros whatever its bias.
        keys = mask.expand(*mask.shape[:-1], scores.shape[-1]).sum(-1, keepdim=True).clamp(min=1)
        weights = torch.sigmoid(wide - keys.to(wide.dtype).log())
        return weights.masked_fill(~mask, 0.0).to(scores.dtype)


@dataclass(frozen=True)
class Sigmoid(Variant):
    """Weights between 0 and 1 that do not compete."""

    def weights(self, site: Site) -> Weights:
        return SigmoidWeights()
