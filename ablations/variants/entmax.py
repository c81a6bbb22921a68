"""Adaptively sparse attention: alpha-entmax with a learned alpha per head (Correia et al. 2019, 1909.00015).

p = [(alpha - 1) s - tau]_+^(1 / (alpha - 1)): alpha = 1 is softmax, alpha = 2 is sparsemax, and from alpha > 1
on weights may be exactly 0 (the paper's equations 5 and 6).

``entmax`` finds tau by Newton's method. With e = alpha - 1, k = 1 / e and t = tau + 1 - e max s it solves
N(t) = (sum of [1 + e (s - max s) - t]_+^k)^(1/k) = 1. N is a k-norm of shifted values: convex, decreasing and
nearly straight, so that the iteration from t = 0 is monotone and four or five steps reach float32's precision.

The gradients are in closed form, from p and alpha alone (Peters et al. 2019, 1905.05702, equation 13; Correia et
al., proposition 1). With u = -e log p, r = (exp(u) - 1 - u) / e^2 and Z = sum of p exp(u) = sum of p^(2 - alpha)

    dp_i / ds_j = p_i exp(u_i) (1[i = j] - p_j exp(u_j) / Z)
    dp_i / dalpha = p_i / Z ((1 + u_i) sum of p r - r_i (1 + sum of p u))

where r is log(p)^2 (1/2 + u/6 + u^2/24 + ...), without a difference that loses digits as alpha nears 1.

Three ways to the same numbers: entmax.c on a CPU that has a compiler, fused by torch.compile on CUDA, and torch's
own operators, one after another, everywhere and for float64.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from suite import native
from suite.attention import Positions, Site, Variant, Weights

STEPS = 16
"""Newton steps at most. Four or five do for 36 keys, about ten for 1,000 like scores near alpha = 2."""
# Below it alpha is softmax to float32's last digit, and 1 / (alpha - 1) still finite.
LEAST_EXPONENT = 1e-8
# 1 + e (s - max s) - t up to it is outside the support.
EDGE = 1e-7


def entmax(scores: Tensor, alpha: Tensor | float, dim: int = -1) -> Tensor:
    """alpha-entmax of ``scores`` along ``dim``: weights of the same shape that sum to 1, many exactly 0.

    ``alpha``, in [1, 2], is a number or broadcasts against the scores with size 1 along ``dim``; both get
    gradients. A score of -inf gets weight 0, and a row of nothing else is zeros. A row with a score that is inf
    or not a number is not a number. Half precision is computed in float32, with alpha as it is.
    """
    if not isinstance(alpha, Tensor):
        alpha = torch.tensor(alpha, dtype=torch.promote_types(scores.dtype, torch.float32), device=scores.device)
    if dim not in (-1, scores.ndim - 1):
        if alpha.ndim:
            alpha = alpha.expand(*scores.shape[:dim], 1, *scores.shape[dim:][1:]).movedim(dim, -1)
        return entmax(scores.movedim(dim, -1), alpha).movedim(-1, dim)
    if not scores.numel():
        return scores.clone()
    result: Tensor = _Entmax.apply(scores, alpha)  # type: ignore[assignment]
    return result


class _Entmax(torch.autograd.Function):
    """Keeps nothing but the weights and alpha for the gradients."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, alpha: Tensor) -> Tensor:
        wide = torch.promote_types(scores.dtype, torch.float32)
        forward, _ = _ways(scores.device.type, wide)
        weights = forward(scores.to(wide), alpha.to(wide)).to(scores.dtype)
        ctx.save_for_backward(weights, alpha)
        return weights

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor, Tensor]:
        weights, alpha = ctx.saved_tensors
        wide = torch.promote_types(weights.dtype, torch.float32)
        _, backward = _ways(weights.device.type, wide)
        for_scores, for_alpha = backward(weights.to(wide), alpha.to(wide), gradients[0].to(wide))
        return for_scores.to(weights.dtype), for_alpha.sum_to_size(alpha.shape).to(alpha.dtype)


Forward = Callable[[Tensor, Tensor], Tensor]
"""Scores (..., K) and alpha, which broadcasts to (..., 1), to weights (..., K)."""
Backward = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Weights (..., K), alpha and the weights' gradient to the gradients of scores (..., K) and alphas (..., 1)."""


def _ways(device: str, dtype: torch.dtype) -> tuple[Forward, Backward]:
    """The fastest way to compute on ``device``."""
    if device == "cpu" and dtype is torch.float32 and (library := native.load(SOURCE)):
        return partial(_forward_in_c, library), partial(_backward_in_c, library)
    return _in_torch(device)


@cache
def _in_torch(device: str) -> tuple[Forward, Backward]:
    if device == "cuda":
        return torch.compile(_forward, dynamic=True), torch.compile(_backward, dynamic=True)
    return _forward, _backward


def _forward(scores: Tensor, alpha: Tensor) -> Tensor:
    top = scores.amax(-1, keepdim=True)
    e = (alpha - 1).clamp(min=LEAST_EXPONENT)
    below = (scores - top.masked_fill(top == -torch.inf, 0.0)) * e
    k = 1 / e
    shift = torch.zeros_like(top)
    # Newton's error nearly squares with each step: from here one more reaches the last digit.
    near = torch.finfo(scores.dtype).eps ** (5 / 6)
    powers, base = _powers(below, shift, k)
    for _ in range(STEPS):
        total = powers.sum(-1, keepdim=True)
        slope = (powers / base).sum(-1, keepdim=True)
        # (N - 1) S_k / (N S_(k-1)) with N = S_k^(1/k); a row with nothing to attend stays where it is.
        log_norm = e * total.clamp(min=torch.finfo(scores.dtype).tiny).log()
        shift = shift - torch.expm1(-log_norm) * total / slope.masked_fill(slope == 0, 1.0)
        powers, base = _powers(below, shift, k)
        # A compiled loop has a fixed length: to look at a number would make it wait for the device.
        if not torch.compiler.is_compiling() and (total - 1).max() <= near:
            break
    total = powers.sum(-1, keepdim=True)
    return powers / total.masked_fill(total == 0, 1.0)


def _powers(below: Tensor, shift: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """[1 + below - shift]_+^k and its base, which is kept above 0; exactly 0 outside the support."""
    # In the order that keeps the digits of what is small, and near 1 with those that 1 + x would lose.
    base = (1 + below) - shift
    support = (base > EDGE).to(base.dtype)
    base = base.clamp(min=EDGE)
    log_base = torch.where(base > 0.5, (below - shift).clamp(min=-0.75).log1p(), base.log())
    return (k * log_base).exp() * support, base


def _backward(weights: Tensor, alpha: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    e = alpha - 1
    # Outside the support log p is set to 0: whatever it multiplies is 0 there.
    log_p = (weights + (weights == 0)).log()
    u = -e * log_p
    curved = weights * u.exp()
    z = curved.sum(-1, keepdim=True)
    z = z.masked_fill(z == 0, 1.0)
    centred = gradient - (curved * gradient).sum(-1, keepdim=True) / z
    small = u < 0.1
    series = 0.5 + u / 6 * (1 + u / 4 * (1 + u / 5 * (1 + u / 6 * (1 + u / 7 * (1 + u / 8)))))
    safe = u.masked_fill(small, 1.0)
    r = log_p.square() * torch.where(small, series, (safe.expm1() - safe) / safe.square())
    mean_u, mean_r = ((weights * part).sum(-1, keepdim=True) for part in (u, r))
    change = weights / z * ((1 + u) * mean_r - r * (1 + mean_u))
    # Any constant of the gradient gives nothing, and costs digits.
    return curved * centred, (change * centred).sum(-1, keepdim=True)


SOURCE = Path(__file__).with_suffix(".c")


def _forward_in_c(library: ctypes.CDLL, scores: Tensor, alpha: Tensor) -> Tensor:
    weights = torch.empty_like(scores, memory_format=torch.contiguous_format)
    _call(library.entmax_forward, scores.shape[-1], scores, _of_each_row(alpha, scores), weights)
    return weights


def _backward_in_c(library: ctypes.CDLL, weights: Tensor, alpha: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    alphas = _of_each_row(alpha, weights)
    for_scores, for_alpha = torch.empty_like(weights), torch.empty_like(alphas)
    _call(library.entmax_backward, weights.shape[-1], weights, alphas, gradient, for_scores, for_alpha)
    return for_scores, for_alpha


def _of_each_row(alpha: Tensor, scores: Tensor) -> Tensor:
    """(..., 1) for scores (..., K)."""
    return alpha.expand(*scores.shape[:-1], 1).contiguous()


def _call(function: Any, keys: int, *tensors: Tensor) -> None:
    """Rows of ``keys`` numbers, or of one, of every tensor; the last ones are written."""
    tensors = tuple(tensor.contiguous() for tensor in tensors)
    # Whole numbers: in a trace, such as a count of multiply-adds makes, shapes are tensors.
    rows = min(int(tensor.numel()) for tensor in tensors)
    places = (ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors)
    threads = min(torch.get_num_threads(), rows)
    if function(*places, ctypes.c_long(rows), ctypes.c_long(int(keys)), ctypes.c_int(threads)):
        raise MemoryError("entmax has no memory for its rows.")


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
