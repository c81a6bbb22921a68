"""LAMB, Lookahead and the learning rates of the paper's protocol; all of them resume exactly.

The learning rate is a function of the step alone, set on the optimiser before each step. A tensor that took no part
in a step has no gradient (None, not zeros), and every optimiser here leaves it alone: no decay, no step counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from suite.config import Protocol


class Lamb(torch.optim.Optimizer):
    """LAMB (You et al. 2019, 1904.00962, algorithm 2, with the bias correction of its equations).

    Each tensor's update r = m' / (sqrt(v') + epsilon) + decay * w is scaled to the length of w. Where either
    length is 0 the ratio is 1. A tensor without a gradient is left alone.

    Without ``correct_bias`` m and v stand for m' and v'. ``longest`` is where the length of w stops counting, and
    ``min_trust`` the least ratio. The paper's code (prajjwal1/adaptive_transformer at 8f062a7) has no correction,
    10 and 0.25.
    """

    def __init__(
        self,
        parameters: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-6,
        weight_decay: float = 0.01,
        correct_bias: bool = True,
        longest: float = math.inf,
        min_trust: float = 0.0,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas, "epsilon": epsilon, "weight_decay": weight_decay})
        self.correct_bias, self.longest, self.min_trust = correct_bias, longest, min_trust

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if not weights:
                continue
            for weight in weights:
                if not self.state[weight]:
                    self.state[weight] = {
                        "step": 0,
                        "mean": torch.zeros_like(weight),
                        "square": torch.zeros_like(weight),
                    }
                self.state[weight]["step"] += 1
            self._update(group, weights)

    def _update(self, group: dict[str, Any], weights: list[Tensor]) -> None:
        first, second = group["betas"]
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        steps = [self.state[weight]["step"] for weight in weights]
        means = [self.state[weight]["mean"] for weight in weights]
        squares = [self.state[weight]["square"] for weight in weights]
        torch._foreach_lerp_(means, gradients, 1 - first)
        torch._foreach_mul_(squares, second)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - second)

        deviations = torch._foreach_div(squares, self._corrections(second, steps))
        torch._foreach_sqrt_(deviations)
        torch._foreach_add_(deviations, group["epsilon"])
        updates = torch._foreach_div(means, self._corrections(first, steps))
        torch._foreach_div_(updates, deviations)
        torch._foreach_add_(updates, weights, alpha=group["weight_decay"])

        lengths = torch.stack(torch._foreach_norm(weights)).clamp(max=self.longest)
        sizes = torch.stack(torch._foreach_norm(updates))
        ratios = torch.where((lengths > 0) & (sizes > 0), lengths / sizes, 1.0).clamp(min=self.min_trust)
        torch._foreach_mul_(updates, list((ratios * -group["lr"]).unbind()))
        torch._foreach_add_(weights, updates)

    def _corrections(self, beta: float, steps: list[int]) -> list[float]:
        return [1 - beta**step if self.correct_bias else 1.0 for step in steps]


class Lookahead(torch.optim.Optimizer):
    """Lookahead (Zhang et al. 2019, 1907.08610, algorithm 1) around another optimiser.

    Every ``period`` steps the slow weights move ``share`` of the way to the fast ones, which restart there.
    """

    def __init__(self, inner: torch.optim.Optimizer, period: int = 5, share: float = 0.5) -> None:
        self.inner, self.period, self.share = inner, period, share
        self.steps = 0
        super().__init__(inner.param_groups, {})
        # One list of groups: a learning rate that is set here is the inner optimiser's.
        self.param_groups = inner.param_groups
        self.slow = [weight.detach().clone() for weight in self._weights()]

    def _weights(self) -> list[Tensor]:
        return [weight for group in self.param_groups for weight in group["params"]]

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        self.inner.step()
        self.steps += 1
        if self.steps % self.period == 0:
            fast = self._weights()
            torch._foreach_lerp_(self.slow, fast, self.share)
            torch._foreach_copy_(fast, self.slow)

    def state_dict(self) -> dict[str, Any]:
        return {"inner": self.inner.state_dict(), "slow": self.slow, "steps": self.steps}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.inner.load_state_dict(state_dict["inner"])
        self.param_groups = self.inner.param_groups
        self.steps = state_dict["steps"]
        torch._foreach_copy_(self.slow, state_dict["slow"])


@dataclass(frozen=True)
class Piece:
    """What a worker has of one tensor: elements ``begin`` to ``end`` of a flat tensor."""

    number: int
    """The tensor's place in the optimiser, over all groups."""
    begin: int
    end: int


class ShardedAdamW(torch.optim.Optimizer):
    """AdamW on flat tensors, which hold a worker's pieces of the weights: what ZeRO 1 and 2 hand an optimiser.

    Each piece is updated as its tensor would be by ``torch.optim.AdamW``: with the tensor's own count of steps,
    and not at all in a step that it took no part in. The means ``exp_avg`` and ``exp_avg_sq`` are flat like the
    weights.
    """

    def __init__(self, plain: torch.optim.AdamW) -> None:
        """With the groups of ``plain``, whose tensors are then exchanged for flat ones (``attach``)."""
        super().__init__([dict(group) for group in plain.param_groups], {})
        count = sum(len(group["params"]) for group in plain.param_groups)
        self.steps = [0] * count
        """Of each tensor, those of other workers included."""
        self.took_part = [False] * count
        self.pieces: list[list[Piece]] = []

    def attach(self, pieces: Sequence[Sequence[Piece]]) -> None:
        """Each group has one flat tensor by now, made of its ``pieces``."""
        self.pieces = [list(each) for each in pieces]
        for group, each in zip(self.param_groups, self.pieces, strict=True):
            [flat] = group["params"]
            group["pieces"] = each
            self.state[flat] = {name: torch.zeros_like(flat) for name in MEANS}

    def begin(self, took_part: Sequence[bool]) -> None:
        """Before a step: which tensors have a gradient in it."""
        self.took_part = list(took_part)
        self.steps = [steps + part for steps, part in zip(self.steps, self.took_part, strict=True)]

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for group in self.param_groups:
            [flat] = group["params"]
            pieces = [piece for piece in group["pieces"] if self.took_part[piece.number]]
            if not pieces:
                continue
            weights, gradients, means, squares = (
                [tensor[piece.begin : piece.end] for piece in pieces]
                for tensor in (flat, flat.grad, *(self.state[flat][name] for name in MEANS))
            )
            # It counts the step itself.
            steps = [torch.tensor(self.steps[piece.number] - 1.0, device=flat.device) for piece in pieces]
            adamw(
                weights, gradients, means, squares, [], steps, fused=True, amsgrad=False, maximize=False,
                beta1=group["betas"][0], beta2=group["betas"][1], eps=group["eps"], lr=group["lr"],
                weight_decay=group["weight_decay"],
            )  # fmt: skip


MEANS = ("exp_avg", "exp_avg_sq")
"""What AdamW keeps of each tensor beside its count of steps, in torch's names."""


def build_optimiser(model: nn.Module, protocol: Protocol) -> torch.optim.Optimizer:
    """The protocol's optimiser. Vectors (biases, norms, spans, alphas) get no weight decay."""
    parameters = [weight for weight in model.parameters() if weight.requires_grad]
    groups = [
        {"params": [w for w in parameters if w.ndim > 1], "weight_decay": protocol.weight_decay},
        {"params": [w for w in parameters if w.ndim <= 1], "weight_decay": 0.0},
    ]
    if protocol.optimizer == "adamw":
        return torch.optim.AdamW(groups, fused=True)
    published = protocol.optimizer == "lookahead_lamb_published"
    lamb = Lamb(
        groups,
        correct_bias=not published,
        longest=10.0 if published else math.inf,
        min_trust=protocol.min_trust,
    )
    return Lookahead(lamb, protocol.lookahead_period, protocol.lookahead_share)


def learning_rate(protocol: Protocol, step: int) -> float:
    """The rate of step ``step``, from 0.

    ``cyclic``: straight up and down between the base and the peak (Smith 2017, 1506.01186, triangular).
    ``linear``: up to the peak over the warm-up, then down to zero.
    """
    peak, base = protocol.learning_rate, protocol.base_learning_rate
    if protocol.schedule == "cyclic":
        phase = step * protocol.cycles / protocol.steps % 1
        return base + (peak - base) * (1 - abs(2 * phase - 1))
    rising = protocol.warmup * protocol.steps
    if step < rising:
        return peak * (step + 1) / (rising + 1)
    return peak * (protocol.steps - step) / (protocol.steps - rising)
