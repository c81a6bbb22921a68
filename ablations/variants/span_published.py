"""Adaptive span as the paper's code has it (prajjwal1/adaptive_transformer at 8f062a7), not as the paper tells it.

For a batch of B questions, H heads and K keys it learns one share v per batch slot and head, and multiplies the
softmax weights by m = min(max((R + v K - x) / R, 0), 1), where x counts from the last key to the key: whatever the
query is, the last key is the nearest, and [CLS] and the first boxes are weakened most. Rows are divided by their
sum + 1e-8. A batch of another size is silently not masked: here every evaluation, whose batches hold 256 questions.
The penalty and the recorded spans take v times 1,024 instead of K. The shares are clamped to [0, 1] after each step
and not before the first. ``ablations.variants.span`` has the paper's text.

Three things differ from the published code, because the suite does. It pads questions to 20 words, our batches only
to their longest: the last word is the 20th all the same, and K is 20, so that a question's weights do not depend on
the others of its batch. With ``share_pictures`` the vision stack's batch is the pictures, so that it is masked only
where these happen to be as many as the slots. Training batches are always full: there is no smaller last one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from suite.attention import Positions, Site, SoftmaxWeights, Tokens, Variant, Weights
from suite.errors import UserError

LIMIT = 1024
RAMP = 32
PENALTY = 5e-6


class SlotSpanWeights(Weights):
    """Softmax weights under a soft mask that belongs to the batch slot, not to the question."""

    # A row whose weights lie where the mask is near 0 is divided by more than its sum.
    normalised = False

    def __init__(self, batch_size: int, heads: int, words: int) -> None:
        super().__init__()
        self.softmax, self.words = SoftmaxWeights(), words
        # Kaiming's normal over (B, H, 1, 1), around 0.002: half of the shares start below 0.
        self.share = nn.Parameter(torch.empty(batch_size, heads, 1, 1).normal_(0.002, math.sqrt(2 / heads)))

    def forward(self, scores: Tensor, mask: Tensor | None, positions: Positions) -> Tensor:
        weights = self.softmax(scores, mask, positions)
        if len(scores) != len(self.share):
            return weights
        weights = weights * self.soft_mask(positions.keys)
        return weights / (weights.sum(-1, keepdim=True) + 1e-8)

    def soft_mask(self, keys: Tokens) -> Tensor:
        """m of every slot and key, (B, H, 1, K) in [0, 1]; the same for all queries."""
        count = len(keys.index)
        if keys.modality == "words" and count > self.words:
            raise UserError(
                f"span_published counts from the last of words={self.words}; received questions of {count} words. "
                "Give it the length to which questions are padded."
            )
        length = self.words if keys.modality == "words" else count
        from_last = length - 1 - keys.index
        return ((RAMP + self.share * length - from_last) / RAMP).clamp(0, 1)

    def penalty(self) -> Tensor:
        return PENALTY * LIMIT * self.share.mean()

    @torch.no_grad()
    def project(self) -> None:
        self.share.clamp_(0, 1)

    def stats(self) -> dict[str, Any]:
        return {"span": (LIMIT * self.share.mean(0).flatten()).tolist()}


@dataclass(frozen=True)
class SpanPublished(Variant):
    """Adaptive span as published: one per batch slot, over the key's place.

    Its defaults keep the contract, which never shows it a full batch. Where its questions are one, with
    ``batch_size`` 5, a question in its batch and the same one alone have different answers.
    """

    batch_size: int = 128
    """The protocol's, which a variant cannot see: give both together. For any other the method is softmax."""
    words: int = 20
    """Length to which questions count as padded."""

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.words < 1:
            raise UserError(
                "A span per batch slot needs batch_size >= 1 and words >= 1; received "
                f"batch_size={self.batch_size}, words={self.words}."
            )

    def weights(self, site: Site) -> Weights:
        return SlotSpanWeights(self.batch_size, site.heads, self.words)
