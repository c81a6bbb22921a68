"""Adaptive attention span (Sukhbaatar et al. 2019, 1905.07799; the paper's equations 1 and 4).

A head learns how far it looks: its weights are multiplied by m_z(x) = min(max((R + z - x) / R, 0), 1) for a
key x tokens away and made to sum to 1 again. One z per head and site; the position embedding of equation 2 is
left out, as in the paper's code. Distances are in tokens:

words       the distance in the question.
boxes       that of their ranks, as in the paper; with ``boxes="geometry"`` that of their centres, in units in
            which the picture's diagonal is as long as the last rank: limit, ramp and penalty mean the same.
both        across the modalities a word's place is held against a box's rank, as the paper's mask does.

Over softmax the mask is a bias, softmax(s) m / sum = softmax(s + log m), and attention stays one pass over the
scores. Where keys are many, queries go block by block with the keys that any of their heads reaches, and the
others are never read. A head that reaches every key is softmax.
Shapes: B questions, H heads, Q queries, K keys, D width of a head.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from suite.attention import (
    Positions,
    Site,
    SoftmaxWeights,
    Variant,
    Weights,
    hidden,
    softmax_attention,
    zero_where_empty,
)
from suite.errors import UserError

BLOCK = 64
"""Queries of a block."""
FEW = 512
"""Keys up to which the scores of all of them are made at once where blocks would leave out less than a quarter."""

Measure = Literal["rank", "geometry"]


class SpanWeights(Weights):
    """Weights of ``inner`` under the soft mask of a learned span per head."""

    def __init__(self, inner: Weights, heads: int, span: Span) -> None:
        super().__init__()
        self.inner = inner
        self.limit, self.ramp, self.rate, self.boxes = span.limit, span.ramp, span.penalty, span.boxes
        self.normalised = span.renormalise and inner.normalised
        # Kaiming's normal over (batch, heads, 1, 1), around 0.002, as the paper's code draws it, but once
        # per head, and put into [0, 1] before the first step instead of after it.
        self.share = nn.Parameter(torch.empty(heads).normal_(0.002, math.sqrt(2 / heads)).clamp_(0, 1))

    def forward(self, scores: Tensor, mask: Tensor | None, positions: Positions) -> Tensor:
        weights = self.inner(scores, mask, positions) * self.soft_mask(self.distance(positions))
        if not self.normalised:
            return weights
        total = weights.sum(-1, keepdim=True)
        # A row whose every attended key lies beyond the span has nothing to attend: zeros, not 0 / 0.
        return weights / total.masked_fill(total == 0, 1.0)

    def distance(self, positions: Positions) -> Tensor:
        """(Q, K) tokens between query and key; (B, 1, Q, K) between the centres of boxes."""
        queries, keys = positions.queries.boxes, positions.keys.boxes
        if self.boxes == "rank" or queries is None or keys is None:
            return positions.distance()
        here, there = ((boxes[..., :2] + boxes[..., 2:]) / 2 for boxes in (queries, keys))
        apart = (here[:, :, None] - there[:, None]).square().sum(-1).sqrt()
        return apart[:, None] * ((keys.shape[1] - 1) / math.sqrt(2))

    def soft_mask(self, distance: Tensor, span: Tensor | None = None) -> Tensor:
        """m_z(x) of equation 1: distance (Q, K) or (B, 1, Q, K) in tokens to (H, Q, K) or (B, H, Q, K) in [0, 1].

        ``span`` (H,) is z; by default that of every head.
        """
        span = self.span() if span is None else span
        # A key at the very edge, where m is 0, gives no gradient, whichever way the weights are computed.
        return ((self.ramp + span[:, None, None] - distance) / self.ramp).relu().clamp(max=1)

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


class SpanSoftmaxWeights(SpanWeights):
    """A span over softmax, renormalised: a bias on the scores."""

    def __init__(self, heads: int, span: Span) -> None:
        super().__init__(SoftmaxWeights(), heads, span)

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, positions: Positions
    ) -> Tensor:
        flat = self.boxes == "rank" or positions.queries.boxes is None or positions.keys.boxes is None
        keys, spans = key.shape[2], self.span().tolist()
        # m is 1 within z: such a head is softmax for every query.
        whole = [span > (positions.farthest() if flat else keys - 1) for span in spans]
        if all(whole):
            return self._softmax(query, key, value, mask)
        # Up to z + R, where m is 0: z + R - 1 for whole numbers.
        reaches = [math.ceil(span + self.ramp) - 1 for span in spans]
        widest = max(reach for reach, is_whole in zip(reaches, whole, strict=True) if not is_whole)
        if not flat or (keys <= FEW and 2 * widest + BLOCK > keys * 3 / 4):
            bias, reached = self._bias(self.soft_mask(self.distance(positions)))
            return self._biased(query, key, value, bias, reached, mask)
        return self._in_blocks(query, key, value, mask, whole, reaches)

    def _softmax(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        return softmax_attention(query, key, value, mask, self.dropout if self.training else 0.0)

    @staticmethod
    def _bias(soft_mask: Tensor) -> tuple[Tensor, Tensor]:
        """log m of m (H, Q, K) or (B, H, Q, K), and where m is not 0."""
        reached = soft_mask > 0
        return soft_mask.masked_fill(~reached, 1.0).log() + hidden(reached, soft_mask.dtype), reached

    def _biased(
        self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor, reached: Tensor, mask: Tensor | None
    ) -> Tensor:
        """Context (B, H, Q, D) with what ``_bias`` gives; without a mask (H, Q, 1) of what is reached will do."""
        scores = self.scores(query, key) + bias
        if mask is not None:
            scores = scores + hidden(mask, scores.dtype)
            reached = reached & mask
        # Half precision is rounded once, after the span. A row that reaches nothing would be the mean of all.
        return zero_where_empty(self.mix(scores.softmax(-1).to(value.dtype), value), reached)

    def _in_blocks(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        whole: Sequence[bool],
        reaches: Sequence[int],
    ) -> Tensor:
        """Heads of about the same reach together, each group with no more keys than it reaches."""
        groups: dict[int, list[int]] = {}
        for head, (reach, is_whole) in enumerate(zip(reaches, whole, strict=True)):
            groups.setdefault(-1 if is_whole else reach // BLOCK, []).append(head)
        parts = []
        for group, heads in groups.items():
            chosen = slice(None) if len(groups) == 1 else heads
            own = query[:, chosen], key[:, chosen], value[:, chosen]
            allowed = mask if mask is None or mask.shape[1] == 1 else mask[:, chosen]
            if group < 0:
                parts.append(self._softmax(*own, allowed))
                continue
            seed = int(torch.randint(2**62, ())) if self.training and self.dropout else None
            blocks = _Blocks(self, allowed, max(reaches[head] for head in heads), seed)
            part: Tensor = _InBlocks.apply(blocks, *own, self.span()[chosen])  # type: ignore[assignment]
            parts.append(part)
        if len(parts) == 1:
            return parts[0]
        order = torch.tensor([head for heads in groups.values() for head in heads])
        return torch.cat(parts, 1)[:, order.argsort().to(query.device)]


@dataclass(frozen=True)
class _Block:
    """Some queries, and the keys within reach of one of them. Blocks of one ``shape`` have one bias."""

    queries: slice
    keys: slice

    @property
    def shape(self) -> tuple[int, int, int]:
        """Queries, keys, and how far the first query is behind the first key."""
        first, begin = self.queries.start, self.keys.start
        return self.queries.stop - first, self.keys.stop - begin, first - begin

    def of(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        return [query[:, :, self.queries], key[:, :, self.keys], value[:, :, self.keys]]


@dataclass(frozen=True)
class _Blocks:
    """One attention cut into blocks of queries, each with the keys within ``reach`` of one of them."""

    weights: SpanSoftmaxWeights
    mask: Tensor | None
    reach: int
    seed: int | None
    """Of the dropout, which is drawn anew where the gradients are taken; None without."""

    def places(self, queries: int, keys: int) -> Iterator[list[_Block]]:
        """Runs of blocks of one shape, from the first query to the last."""
        blocks = []
        for first in range(0, queries, BLOCK):
            last = min(first + BLOCK, queries)
            begin = min(max(0, first - self.reach), keys)
            blocks.append(_Block(slice(first, last), slice(begin, min(last + self.reach, keys))))
        return (list(alike) for _, alike in itertools.groupby(blocks, lambda block: block.shape))

    def bias(self, span: Tensor, block: _Block) -> tuple[Tensor, Tensor]:
        queries, keys, behind = block.shape
        places = torch.arange(queries, device=span.device)[:, None] + behind
        distance = (places - torch.arange(keys, device=span.device)).abs()
        bias, reached = self.weights._bias(self.weights.soft_mask(distance, span))
        # Without a mask all blocks of a shape have the same rows that reach nothing: they are sought once.
        return bias, reached if self.mask is not None else reached.any(-1, keepdim=True)

    def attend(self, block: _Block, parts: Sequence[Tensor], bias: Tensor, reached: Tensor) -> Tensor:
        """The context of one block's ``parts``: query, key and value."""
        mask = self.mask
        if mask is not None:
            mask = mask[..., block.keys] if mask.shape[-1] > 1 else mask
            mask = mask[..., block.queries, :] if mask.shape[-2] > 1 else mask
        query, key, value = parts
        return self.weights._biased(query, key, value, bias, reached, mask)

    @contextmanager
    def randomness(self, device: torch.device) -> Iterator[None]:
        """The same random numbers each time, and the global generators as they were."""
        if self.seed is None:
            yield
            return
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(self.seed)
            yield


class _InBlocks(torch.autograd.Function):
    """Keeps its inputs alone: the scores of a block are there while the block is, forward and backward."""

    @staticmethod
    def forward(ctx: Any, blocks: _Blocks, query: Tensor, key: Tensor, value: Tensor, span: Tensor) -> Tensor:
        ctx.blocks = blocks
        ctx.save_for_backward(query, key, value, span)
        mixed = torch.empty_like(query)
        with blocks.randomness(query.device):
            for alike in blocks.places(query.shape[2], key.shape[2]):
                bias = blocks.bias(span, alike[0])
                for block in alike:
                    mixed[:, :, block.queries] = blocks.attend(block, block.of(query, key, value), *bias)
        return mixed

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        blocks: _Blocks = ctx.blocks
        query, key, value, span = ctx.saved_tensors
        span = span.detach().requires_grad_()
        whole = [torch.zeros_like(tensor) for tensor in (query, key, value, span)]
        with blocks.randomness(query.device), torch.enable_grad():
            for alike in blocks.places(query.shape[2], key.shape[2]):
                bias, reached = blocks.bias(span, alike[0])
                for_bias = torch.zeros_like(bias)
                for block in alike:
                    leaves = [part.detach().requires_grad_() for part in (*block.of(query, key, value), bias)]
                    mixed = blocks.attend(block, leaves[:3], leaves[3], reached)
                    found = torch.autograd.grad(mixed, leaves, gradients[0][:, :, block.queries])
                    for sum_, part in zip((*block.of(*whole[:3]), for_bias), found, strict=True):
                        sum_ += part
                whole[3] += torch.autograd.grad(bias, span, for_bias)[0]
        return None, *whole


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
    boxes: Measure = "rank"
    """How far two boxes are apart."""

    def __post_init__(self) -> None:
        if self.limit < 1 or self.ramp < 1 or self.penalty < 0:
            raise UserError(
                "A span needs limit >= 1, ramp >= 1 and penalty >= 0; received "
                f"limit={self.limit}, ramp={self.ramp}, penalty={self.penalty}."
            )

    def weights(self, site: Site) -> Weights:
        if self.renormalise:
            return SpanSoftmaxWeights(site.heads, self)
        return SpanWeights(SoftmaxWeights(), site.heads, self)
