"""The seam between a model and what is varied in it: scores in, weights out, and which layers run.

A model asks its Variant for one Weights per attention block (Site) and one Depth per stack of layers.
Shapes: B questions, H heads, Q queries, K keys, D width of a head.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Modality = Literal["words", "boxes", "both"]


@dataclass(frozen=True)
class Site:
    """One attention block; unique in a model."""

    stack: str
    """LXMERT: "language", "vision", "cross"; another model names its own."""
    queries: Modality
    keys: Modality
    """"both": LXMERT's cross block attends from words to boxes and from boxes to words."""
    index: int
    """Layer number in its stack, from 0."""
    depth: int
    """Layers in the stack."""
    heads: int


@dataclass(frozen=True)
class Tokens:
    """Where the words, or the boxes, of a batch stand."""

    modality: Literal["words", "boxes"]
    mask: Tensor | None
    """(B, 1, 1, K) boolean, True = may be attended; None where all may be."""
    index: Tensor
    """(K,) a word's place in its question, or a box's rank in its picture: 0, 1, 2 and so on."""
    boxes: Tensor | None = None
    """(B, K, 4) x0, y0, x1, y1 in [0, 1]; None for words."""


@dataclass(frozen=True)
class Positions:
    """Of the queries and the keys of one attention block."""

    queries: Tokens
    keys: Tokens

    def distance(self) -> Tensor:
        """(Q, K) whole tokens between query and key.

        Within words it is the distance in the question, within boxes that of their ranks; across the
        modalities the word's place is held against the box's rank, as the paper's mask does.
        """
        return (self.queries.index[:, None] - self.keys.index[None, :]).abs()

    def farthest(self) -> int:
        """The largest of these distances."""
        return max(len(self.queries.index), len(self.keys.index)) - 1


class Weights(nn.Module):
    """How one attention block turns scores into weights. A method writes ``forward``."""

    normalised = True
    """Rows sum to 1, or to 0 where nothing is left to attend; False for methods whose rows need not."""
    dropout = 0.0
    """Rate of dropout on the weights in training; the model sets it."""

    def forward(self, scores: Tensor, mask: Tensor | None, positions: Positions) -> Tensor:
        """Scores (B, H, Q, K), already scaled, to weights of that shape.

        ``mask`` is boolean, True = may be attended, and broadcasts to the scores. A key that may not be
        attended gets exactly 0; a row with nothing to attend is zeros.
        """
        raise NotImplementedError

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, positions: Positions
    ) -> Tensor:
        """Context (B, H, Q, D) of query (B, H, Q, D), key and value (B, H, K, D).

        A method with a faster way to the same numbers overrides this.
        """
        return self.mix(self(self.scores(query, key), mask, positions), value)

    @staticmethod
    def scores(query: Tensor, key: Tensor) -> Tensor:
        """QK^T / sqrt(D), (B, H, Q, K)."""
        return torch.matmul(query, key.transpose(-1, -2)) / math.sqrt(query.shape[-1])

    def mix(self, weights: Tensor, value: Tensor) -> Tensor:
        """Dropout on the weights (B, H, Q, K), then the weighted mean of value: (B, H, Q, D)."""
        return torch.matmul(F.dropout(weights, self.dropout, self.training), value)

    def penalty(self) -> Tensor | float:
        """Added to the loss."""
        return 0.0

    def project(self) -> None:
        """Called after each optimiser step: puts parameters back into their range."""

    def stats(self) -> dict[str, Any]:
        """Scalars, or one number per head: become columns of ``sites.jsonl`` and curves."""
        return {}


class SoftmaxWeights(Weights):
    """softmax(s): the baseline of every comparison (Vaswani et al. 2017, 1706.03762, equation 1)."""

    def forward(self, scores: Tensor, mask: Tensor | None, positions: Positions) -> Tensor:
        if mask is None:
            return scores.softmax(-1)
        # The lowest finite number, not -inf: a row with nothing to attend must not become NaN.
        weights = scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(-1)
        return weights.masked_fill(~mask, 0.0)

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, positions: Positions
    ) -> Tensor:
        return softmax_attention(query, key, value, mask, self.dropout if self.training else 0.0)


FUSED_FROM = 65
"""Keys from which a CPU is faster with torch's fused attention, whose backward pass recomputes the weights."""


def softmax_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """Context (B, H, Q, D) of query (B, H, Q, D), key and value (B, H, K, D), the fastest way there is."""
    if query.device.type != "cpu" or key.shape[2] >= FUSED_FROM:
        return F.scaled_dot_product_attention(query, key, value, mask, dropout_p=dropout)
    scores = Weights.scores(query, key)
    if mask is not None:
        scores = scores + hidden(mask, scores.dtype)
    mixed = torch.matmul(F.dropout(scores.softmax(-1), dropout), value)
    return mixed if mask is None else zero_where_empty(mixed, mask)


def hidden(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """What scores get added where ``mask`` is False, so that softmax makes exactly 0 of them, in its shape.

    Half the lowest finite number: two of them add up to no -inf, and a row of nothing else does not become NaN.
    It becomes the mean, which ``zero_where_empty`` mends.
    """
    return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min / 2)


def zero_where_empty(mixed: Tensor, attended: Tensor) -> Tensor:
    """Context (B, H, Q, D), with zeros for a query whose every key is False in ``attended``.

    ``attended`` is boolean and broadcasts to (B, H, Q, K).
    """
    empty = ~attended.any(-1, keepdim=True)
    # Hardly ever; a CPU looks faster than it fills, a GPU would have to wait for the answer.
    if mixed.device.type == "cpu" and not empty.any():
        return mixed
    return mixed.masked_fill(empty, 0.0)


class Depth(nn.Module):
    """Which layers of one stack run."""

    summed: Callable[[Tensor], Tensor] = staticmethod(lambda sums: sums)
    """Sums over a whole batch, of a worker's over its share: the engine's. All workers call it equally often."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.layers = layers

    def keep(self, generator: torch.Generator | None) -> Sequence[int]:
        """The layers that run now, ascending; training (``self.training``) and evaluation may differ.

        ``generator`` is the step's own source of randomness, the same on every worker; None in evaluation.
        """
        raise NotImplementedError

    def gate(self, index: int, before: Tensor, after: Tensor) -> Tensor:
        """What goes on from layer ``index``, of its input and its output, both (T, N): for learned rates."""
        return after

    def options(self) -> Sequence[Sequence[int]]:
        """Sets of layers of which validation chooses one after training; empty where nothing is chosen."""
        return ()

    def choose(self, layers: Sequence[int]) -> None:
        """Makes ``layers`` those that evaluation runs from now on; a checkpoint must keep them."""
        raise NotImplementedError


class AllLayers(Depth):
    def keep(self, generator: torch.Generator | None) -> Sequence[int]:
        return range(self.layers)


@dataclass(frozen=True)
class Variant:
    """A method that a cell trains with. Subclass as a frozen dataclass; fields are its hyper-parameters."""

    breaks: ClassVar[Mapping[str, str]] = {}
    """Checks of the contract (``suite.contract``) that the method is known to fail, with the reason: for methods
    as others published them."""

    def inherits(self, tensor: str) -> bool:
        """Whether a cell takes the ``tensor`` of this name from its start; otherwise it stays random."""
        return True

    def configure(self, model_config: Any) -> Any:
        """The model's configuration, changed where the method needs it."""
        return model_config

    def weights(self, site: Site) -> Weights:
        """A new Weights for ``site``."""
        return SoftmaxWeights()

    def depth(self, stack: str, layers: int) -> Depth:
        """A new Depth for ``stack``; raises UserError where its layers do not allow what is asked."""
        return AllLayers(layers)
