"""Adaptively sparse attention: alpha-entmax with a learned alpha per head (Correia et al. 2019, 1909.00015).

p = [(alpha - 1) s - tau]_+^(1 / (alpha - 1)): alpha = 1 is softmax, alpha = 2 is sparsemax, and from alpha > 1
on weights may be exactly 0 (the paper's equations 5 and 6).

``entmax`` finds tau by Newton's method. With e = alpha - 1, k = 1 / e and t = (tau + 1 - e max s) / e it solves
N(t) = (sum of [1 + e (s - max s - t)]_+^k)^(1/k) = 1. N is a k-norm of shifted values: convex, decreasing and
nearly straight, so that the iteration from t = 0 is monotone and a few steps reach float32's precision.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from suite.attention import Positions, Site, Variant, Weights

STEPS = 16
"""Newton steps at most. Four or five do for 36 keys, about ten for 1,000 like scores near alpha = 2."""
# Below it alpha is softmax to float32's last digit, and 1 / (alpha - 1) still finite.
LEAST_EXPONENT = 1e-6
# 1 + (alpha - 1) (s - max s - t) below it is outside the support.
EDGE = 1e-7


def entmax(scores: Tensor, alpha: Tensor | float, dim: int = -1) -> Tensor:
    """alpha-entmax of ``scores`` along ``dim``: weights of the same shape that sum to 1, many exactly 0.

    ``alpha``, in [1, 2], is a number or broadcasts against the scores with size 1 along ``dim``; both get
    gradients. A score of -inf gets weight 0, and a row of nothing else is zeros. Half precision is computed in
    float32.
    """
    alpha = torch.as_tensor(alpha, dtype=scores.dtype, device=scores.device)
    if dim not in (-1, scores.ndim - 1):
        if alpha.ndim:
            alpha = alpha.expand(*scores.shape[:dim], 1, *scores.shape[dim:][1:]).movedim(dim, -1)
        return entmax(scores.movedim(dim, -1), alpha).movedim(-1, dim)
    result: Tensor = _Entmax.apply(scores, alpha)  # type: ignore[assignment]
    return result


class _Entmax(torch.autograd.Function):
    """Keeps nothing but the weights and alpha for the gradients."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, alpha: Tensor) -> Tensor:
        wide = torch.promote_types(scores.dtype, torch.float32)
        weights = _solve(scores.to(wide), (alpha.to(wide) - 1).clamp(min=LEAST_EXPONENT)).to(scores.dtype)
        ctx.save_for_backward(weights, alpha)
        return weights

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        weights, alpha = ctx.saved_tensors
        wide = torch.promote_types(weights.dtype, torch.float32)
        p, e, gradient = weights.to(wide), alpha.to(wide) - 1, gradients[0].to(wide)
        # Outside the support log p is set to 0: whatever it multiplies is 0 there.
        support = (p > 0).to(wide)
        log_p = torch.log(p + (1 - support))
        # p^(2 - alpha) = p exp(u): the weights of the Jacobian (Peters et al. 2019, 1905.05702, equation 13).
        u = -e * log_p
        curved = p * torch.exp(u)
        total = curved.sum(-1, keepdim=True)
        share = curved / total.masked_fill(total == 0, 1.0)
        centred = gradient - (share * gradient).sum(-1, keepdim=True)
        for_scores = (curved * centred).to(weights.dtype) if ctx.needs_input_grad[0] else None
        for_alpha = None
        if ctx.needs_input_grad[1]:
            change = _alpha_derivative(p, log_p, u, total.masked_fill(total == 0, 1.0))
            for_alpha = (change * gradient).sum_to_size(*alpha.shape).to(alpha.dtype)
        return for_scores, for_alpha


def _solve(scores: Tensor, e: Tensor) -> Tensor:
    """Weights of ``scores`` (..., K) with e = alpha - 1, broadcast to (..., 1)."""
    top = scores.amax(-1, keepdim=True)
    below = (scores - top.masked_fill(top == -torch.inf, 0.0)) * e
    k = 1 / e
    shift = torch.zeros_like(top)
    # Newton's error nearly squares with each step: from here one more reaches the last digit.
    near = torch.finfo(scores.dtype).eps ** (2 / 3)
    powers, shifted = _powers(below, shift, k)
    for _ in range(STEPS):
        total = powers.sum(-1, keepdim=True)
        slope = (powers / shifted).sum(-1, keepdim=True)
        # (N - 1) S_k / (N S_(k-1)) with N = S_k^(1/k); a row with nothing to attend stays where it is.
        log_norm = e * total.clamp(min=torch.finfo(scores.dtype).tiny).log()
        shift = shift - torch.expm1(-log_norm) * total / slope.masked_fill(slope == 0, 1.0)
        powers, shifted = _powers(below, shift, k)
        if (total - 1).max() <= near:
            break
    total = powers.sum(-1, keepdim=True)
    return powers / total.masked_fill(total == 0, 1.0)


def _powers(below: Tensor, shift: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """[1 + below - shift]_+^k and its base, which is kept above 0; exactly 0 outside the support."""
    inner = below - shift
    support = (inner > EDGE - 1).to(inner.dtype)
    inner.clamp_(min=EDGE - 1)
    return torch.log1p(inner).mul_(k).exp_().mul_(support), inner.add_(1)


def _alpha_derivative(p: Tensor, log_p: Tensor, u: Tensor, total: Tensor) -> Tensor:
    """dp / dalpha (Correia et al. 2019, proposition 1), rearranged so that nothing cancels as alpha nears 1.

    With l = log p, u = -(alpha - 1) l, Z = sum of p^(2 - alpha), E = (exp(u) - 1) / (alpha - 1) and
    R = (exp(u) - 1 - u) / (alpha - 1)^2 it is p / Z (E sum(p l) - l sum(p E) + sum(p R) - R).
    """
    small = u.abs() < 0.1
    safe = u.masked_fill(small, 1.0)
    # (exp(u) - 1) / u and (exp(u) - 1 - u) / u^2, by their series where the difference would lose digits.
    second = torch.where(
        small, 0.5 + u / 6 * (1 + u / 4 * (1 + u / 5 * (1 + u / 6))), (torch.expm1(safe) - safe) / safe.square()
    )
    first = 1 + u * second
    # In terms of l: E = -l first, R = l^2 second.
    rate, rest = -log_p * first, log_p.square() * second
    mean_log, mean_rate, mean_rest = (
        (p * part).sum(-1, keepdim=True) for part in (log_p, rate, rest)
    )  # fmt: skip
    return p / total * (rate * mean_log - log_p * mean_rate + mean_rest - rest)


class EntmaxWeights(Weights):
    """alpha = 1 + sigmoid(a) with one learned a per head, drawn from a standard normal as in the paper."""

    # sigmoid(6.9) = 0.999: alpha stays in [1.001, 1.999].
    RANGE = 6.9

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.randn(heads).clamp_(-self.RANGE, self.RANGE))

    def forward(self, scores: Tensor, mask: Tensor | None, positions: Positions) -> Tensor:
        attended = scores if mask is None else scores.masked_fill(~mask, -torch.inf)
        return entmax(attended, self.alpha()[:, None, None])

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
