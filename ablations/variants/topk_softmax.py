"""Top-k attention: softmax over the k highest scores of each row (Gupta et al. 2021, 2106.06899, section 2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from suite.attention import Positions, Site, SoftmaxWeights, Variant, Weights
from suite.errors import UserError


class TopKWeights(Weights):
    """Of equal scores the first key is kept, so that never more than k keys are attended."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k, self.softmax = k, SoftmaxWeights()

    def forward(self, scores: Tensor, mask: Tensor | None, positions: Positions) -> Tensor:
        attended = scores if mask is None else scores.masked_fill(~mask, -torch.inf)
        # A stable sort, because ``topk`` leaves open which of equal scores it takes.
        highest = attended.sort(dim=-1, descending=True, stable=True).indices[..., : self.k]
        kept = torch.zeros_like(scores, dtype=torch.bool).scatter(-1, highest, 1)
        return self.softmax(scores, kept if mask is None else kept & mask, positions)


@dataclass(frozen=True)
class TopKSoftmax(Variant):
    """Sparse weights with a fixed number of keys."""

    k: int = 8
    """Keys that a query attends to; of the paper's 20 words and 36 boxes two fifths and two ninths."""

    def __post_init__(self) -> None:
        if self.k < 1:
            raise UserError(f"Top-k attention needs k >= 1 keys for each query; received k={self.k}.")

    def weights(self, site: Site) -> Weights:
        return TopKWeights(self.k)
