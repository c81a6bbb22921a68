"""Adaptively sparse attention as the paper's code has it (prajjwal1/adaptive_transformer at 8f062a7).

alpha = 1 + sigmoid(a) with a from a standard normal is only where it starts. From then on alpha itself is the free
parameter: a step may take it out of [1, 2], which the paper names as its range. The published bisection takes
whatever alpha there is. Where one is below 1.01 or above 2, 50 steps of the package ``entmax`` stand in for it:

alpha < 1   the exponent 1 / (alpha - 1) is negative: every key gets weight; far below, the weights are NaN
alpha = 1   the exponent is infinite: all keys weigh the same, and the gradient of alpha is NaN
near 1      the gradient of alpha is what rounding leaves, divided by (alpha - 1)^2
alpha > 2   sparser than sparsemax; the gradient at a small weight grows as its power 2 - alpha, without bound

``ablations.variants.entmax`` has the paper's text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from entmax import entmax_bisect
from torch import Tensor, nn

from ablations.variants.entmax import EntmaxWeights, entmax
from suite.attention import Positions, Site, Variant, Weights

NEAR_ONE = 1.01
"""Below it the gradients of a bisection are no longer those of alpha-entmax."""


class FreeAlphaWeights(Weights):
    """alpha-entmax with a free alpha per head, which starts where that of ``EntmaxWeights`` does."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(EntmaxWeights(heads).alpha().detach())

    def forward(self, scores: Tensor, mask: Tensor | None, positions: Positions) -> Tensor:
        attended = scores if mask is None else scores.masked_fill(~mask, -torch.inf)
        alpha = self.alpha[:, None, None]
        if bool(((alpha >= NEAR_ONE) & (alpha <= 2)).all()):
            # The same numbers as by bisection, sooner.
            return entmax(attended, alpha)
        return _bisect(attended, alpha)

    def stats(self) -> dict[str, Any]:
        return {"alpha": self.alpha.tolist()}


def _bisect(scores: Tensor, alpha: Tensor) -> Tensor:
    wide = torch.promote_types(scores.dtype, torch.float32)
    # The package makes a row with nothing to attend NaN.
    empty = (scores == -torch.inf).all(-1, keepdim=True)
    filled = scores.masked_fill(empty, 0.0).to(wide)
    # It takes a tensor where it declares a number.
    weights = entmax_bisect(filled, alpha.to(wide), n_iter=50)  # type: ignore[arg-type]
    return weights.to(scores.dtype).masked_fill(empty, 0.0)


@dataclass(frozen=True)
class EntmaxPublished(Variant):
    """Learned alpha per head as published: free after its start."""

    breaks: ClassVar[Mapping[str, str]] = {
        "projection_keeps_the_weights_valid": "Nothing keeps alpha in [1, 2], and outside the weights may be NaN."
    }

    def weights(self, site: Site) -> Weights:
        return FreeAlphaWeights(site.heads)
