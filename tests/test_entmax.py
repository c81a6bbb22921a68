"""``entmax`` alone: each way of computing it against bisection in float64, and against what defines it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import entmax as package
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ablations.variants import entmax as module
from ablations.variants.entmax import SOURCE, entmax
from suite import native

ALPHAS = (1.001, 1.01, 1.1, 1.25, 1.5, 1.75, 1.95, 1.999, 2.0)
KEYS = (1, 2, 7, 20, 36, 100, 1000)
SCALES = (0.01, 0.1, 1.0, 10.0, 100.0)

needs_compiler = pytest.mark.skipif(native.load(SOURCE) is None, reason="this machine has no C compiler")
WAYS = [pytest.param("c", marks=needs_compiler), "torch"]


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every test that asks for it runs with the C of the machine, and without."""
    if request.param == "torch":
        monkeypatch.setattr(module, "_ways", lambda device, dtype: (module._forward, module._backward))
    return request.param


def bisected(scores: Tensor, alpha: Tensor | float) -> Tensor:
    """The reference: 200 halvings in float64 of the same numbers."""
    return package.entmax_bisect(scores.double(), torch.as_tensor(alpha).double(), n_iter=200)


def drawn(keys: int, scale: float, rows: int = 6, seed: int = 0) -> Iterator[Tensor]:
    """Scores without ties, with many, and with the same score everywhere."""
    scores = torch.randn(rows, keys, generator=torch.Generator().manual_seed(seed))
    yield scores * scale
    yield scores.round() * scale
    yield torch.full_like(scores, scale)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_float32_is_exact_to_5e_7(alpha: float, way: str) -> None:
    exponent = torch.tensor(alpha)  # The float32 nearest to it, for the reference too.
    for keys, scale in itertools.product(KEYS, SCALES):
        for scores in drawn(keys, scale):
            error = (entmax(scores, exponent).double() - bisected(scores, exponent)).abs().max()
            assert error <= 5e-7, (keys, scale)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_masked_keys_get_nothing_and_the_others_what_they_get_alone(alpha: float, way: str) -> None:
    scores = torch.randn(40, 30, generator=torch.Generator().manual_seed(1))
    mask = torch.rand(scores.shape, generator=torch.Generator().manual_seed(2)) < 0.5
    mask[0], mask[1] = True, False
    received = entmax(scores.masked_fill(~mask, -torch.inf), torch.tensor(alpha))
    assert not received.masked_fill(mask, 0).any()
    assert not received[1].any()
    for row in range(2, 40):
        alone = bisected(scores[row, mask[row]], torch.tensor(alpha))
        torch.testing.assert_close(received[row, mask[row]].double(), alone, rtol=0, atol=5e-7)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_a_row_with_nothing_to_attend_gives_zeros_and_no_gradient(alpha: float, way: str) -> None:
    scores = torch.full((3, 5), -torch.inf, requires_grad=True)
    exponent = torch.tensor(alpha, requires_grad=True)
    entmax(scores, exponent).sum().backward()
    assert not entmax(scores, exponent).any()
    assert not scores.grad.any()
    assert exponent.grad == 0


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_a_row_with_a_score_that_is_no_number_says_so(broken: float, way: str) -> None:
    """As softmax does: a model that has diverged must not look as if it attended."""
    scores = torch.zeros(2, 9)
    scores[1, 3] = broken
    received = entmax(scores, 1.5)
    assert received[1].isnan().all()
    assert received[0].tolist() == pytest.approx([1 / 9] * 9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("alpha", [1.001, 1.5, 2.0])
def test_half_precision_is_rounded_once(dtype: torch.dtype, alpha: float, way: str) -> None:
    scores = (4 * torch.randn(20, 50, generator=torch.Generator().manual_seed(0))).to(dtype)
    received = entmax(scores, torch.tensor(alpha))
    assert received.dtype is dtype
    expected = bisected(scores, torch.tensor(alpha))
    torch.testing.assert_close(received.double(), expected, rtol=torch.finfo(dtype).eps / 2, atol=5e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_scores_in_half_precision_are_one_hot_where_bisection_is_not_a_number(
    dtype: torch.dtype, way: str
) -> None:
    """deep-spin/entmax, issue 30: 128 scores about -1,000, the first 5 above the others."""
    scores = torch.full((128,), -1005.0)
    scores[0] = -1000.0
    received = entmax(scores.to(dtype), 1.5)
    assert received.tolist() == [1.0] + [0.0] * 127


def test_alpha_of_one_is_softmax(way: str) -> None:
    for scale in SCALES:
        scores = scale * torch.randn(20, 36, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(entmax(scores, 1.0), scores.softmax(-1), rtol=0, atol=5e-7)


@pytest.mark.parametrize("dim", [0, 1, 2, -1, -2])
def test_any_dimension(dim: int, way: str) -> None:
    scores = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(0))
    alpha = torch.tensor([1.2, 1.5, 1.9, 2.0]).view(4, 1, 1) if dim % 3 else torch.tensor(1.5)
    received = entmax(scores, alpha, dim)
    expected = package.entmax_bisect(scores.double(), alpha.double(), dim=dim, n_iter=100)
    torch.testing.assert_close(received.double(), expected, rtol=0, atol=5e-7)


def test_alpha_broadcasts_per_head_and_per_row(way: str) -> None:
    scores = torch.randn(2, 3, 4, 9, generator=torch.Generator().manual_seed(0))
    for shape in ((3, 1, 1), (1, 1), (2, 3, 4, 1), ()):
        alpha = 1.1 + 0.8 * torch.rand(shape, generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(entmax(scores, alpha).double(), bisected(scores, alpha), rtol=0, atol=5e-7)


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0, 0)])
def test_nothing_gives_nothing(shape: tuple[int, int], way: str) -> None:
    scores = torch.zeros(shape, requires_grad=True)
    received = entmax(scores, 1.5)
    assert received.shape == shape
    received.sum().backward()


def test_scores_need_not_be_contiguous(way: str) -> None:
    scores = torch.randn(9, 6, 5, generator=torch.Generator().manual_seed(0)).transpose(0, 2)
    scores = scores.detach().requires_grad_()
    straight = scores.detach().contiguous().requires_grad_()
    for tensor in (scores, straight):
        entmax(tensor, 1.5).transpose(0, 1).square().sum().backward()
    torch.testing.assert_close(entmax(scores, 1.5), entmax(straight, 1.5), rtol=0, atol=2e-7)
    torch.testing.assert_close(scores.grad, straight.grad)


# Gradients


@pytest.mark.parametrize("alpha", [1.01, 1.1, 1.25, 1.5, 1.75, 1.95])
@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_gradients_equal_finite_differences(alpha: float, scale: float) -> None:
    scores = scale * torch.randn(3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    exponent = torch.tensor(alpha, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(entmax, (scores.requires_grad_(), exponent), rtol=1e-5, atol=1e-7)


def test_gradients_per_row_equal_finite_differences() -> None:
    scores = torch.randn(2, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    alpha = torch.tensor([1.2, 1.5, 1.8], dtype=torch.float64).view(3, 1).requires_grad_()
    assert torch.autograd.gradcheck(entmax, (scores.requires_grad_(), alpha), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
def test_float32_gradients_equal_those_of_float64(alpha: float, scale: float, way: str) -> None:
    scores = scale * torch.randn(30, 36, generator=torch.Generator().manual_seed(0))
    direction = torch.randn(scores.shape, generator=torch.Generator().manual_seed(1))
    found = []
    for dtype in (torch.float32, torch.float64):
        s, a = (tensor.to(dtype).detach().clone().requires_grad_() for tensor in (scores, torch.tensor(alpha)))
        entmax(s, a.expand(30, 1)).mul(direction.to(dtype)).sum().backward()
        found.append((s.grad.double(), a.grad.double()))
    (s32, a32), (s64, a64) = found
    assert (s32 - s64).norm() <= 1e-3 * s64.norm()
    if alpha >= 1.01:
        assert (a32 - a64).abs() <= 1e-3 * a64.abs()


def test_the_gradient_of_alpha_does_not_cancel_near_softmax() -> None:
    """Its limit is p / 2 (sum of p log(p)^2 - log(p)^2)."""
    scores = torch.randn(10, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    p = scores.softmax(-1)
    limit = p / 2 * ((p * p.log().square()).sum(-1, keepdim=True) - p.log().square())
    for key in range(8):
        alpha = torch.full((10, 1), 1.0, dtype=torch.float64, requires_grad=True)
        entmax(scores, alpha)[:, key].sum().backward()
        torch.testing.assert_close(alpha.grad[:, 0], limit[:, key], rtol=1e-6, atol=1e-9)


def test_only_the_weights_and_alpha_are_kept_for_the_gradients(way: str) -> None:
    kept: list[Tensor] = []
    scores = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    alpha = torch.tensor(1.5, requires_grad=True)

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        weights = entmax(scores, alpha)
    assert sorted(tensor.numel() for tensor in kept) == [1, 24]
    assert any(torch.equal(tensor, weights) for tensor in kept)


# Properties

rows = st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=40)
alphas = st.floats(1.0, 2.0)


@given(rows, alphas, st.floats(-100, 100, width=32))
def test_a_shift_of_all_scores_changes_nothing(row: list[float], alpha: float, shift: float) -> None:
    scores = torch.tensor(row, dtype=torch.float64)
    torch.testing.assert_close(entmax(scores + shift, alpha), entmax(scores, alpha), rtol=0, atol=1e-9)


@given(rows, alphas, st.randoms(use_true_random=False))
def test_the_order_of_the_keys_does_not_matter(row: list[float], alpha: float, random) -> None:
    order = list(range(len(row)))
    random.shuffle(order)
    scores = torch.tensor(row)
    torch.testing.assert_close(entmax(scores[order], alpha), entmax(scores, alpha)[order], rtol=0, atol=5e-7)


@given(rows, alphas)
def test_weights_are_a_distribution_in_the_order_of_the_scores(row: list[float], alpha: float) -> None:
    scores, weights = torch.tensor(row), entmax(torch.tensor(row), alpha)
    assert (weights >= 0).all()
    assert weights.sum().item() == pytest.approx(1, abs=1e-6)
    ranked = weights[scores.argsort()]
    assert (ranked[1:] >= ranked[:-1] - 2e-7).all()


@given(st.lists(st.lists(st.floats(-20, 20, width=32), min_size=5, max_size=5), min_size=1, max_size=20), alphas)
def test_a_row_does_not_depend_on_the_others(table: list[list[float]], alpha: float) -> None:
    """In C eight rows go together: the last group is not full."""
    scores = torch.tensor(table)
    together = entmax(scores, alpha)
    alone = torch.stack([entmax(row, alpha) for row in scores])
    torch.testing.assert_close(together, alone, rtol=0, atol=2e-7)


@needs_compiler
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_share_the_rows_and_change_no_bit(threads: int) -> None:
    scores = torch.randn(5, 7, 11, generator=torch.Generator().manual_seed(0)).requires_grad_()
    expected = entmax(scores, 1.4)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert torch.equal(entmax(scores, 1.4), expected)
    finally:
        torch.set_num_threads(before)


@needs_compiler
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Of torch.compile's own.
def test_what_is_compiled_for_a_gpu_gives_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile makes C++ of it here and Triton there: the program that it compiles is the same."""
    monkeypatch.setattr(module, "STEPS", 6)  # Enough for 36 keys; a compiled loop is written out.
    forward, backward = (torch.compile(way, dynamic=True) for way in (module._forward, module._backward))
    scores = torch.randn(4, 3, 6, 36, generator=torch.Generator().manual_seed(0))
    alpha = torch.tensor([1.01, 1.5, 2.0]).view(3, 1, 1)
    weights = forward(scores, alpha)
    torch.testing.assert_close(weights.double(), bisected(scores, alpha), rtol=0, atol=5e-7)
    gradient = torch.randn(scores.shape, generator=torch.Generator().manual_seed(1))
    for compiled, plain in zip(
        backward(weights, alpha, gradient), module._backward(weights, alpha, gradient), strict=True
    ):
        torch.testing.assert_close(compiled, plain, rtol=1e-4, atol=1e-6)
