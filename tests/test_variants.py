"""Each method against its equations, written out again in float64 or by hand."""

from __future__ import annotations

import math

import entmax
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ablations.variants.entmax import Entmax, EntmaxWeights
from ablations.variants.softmax import Softmax
from ablations.variants.span import Span, SpanWeights
from ablations.variants.span_entmax import SpanEntmax
from suite.attention import FUSED_FROM, AllLayers, Positions, Site, SoftmaxWeights, Tokens, Variant
from suite.errors import UserError

BATCH, HEADS, QUERIES, KEYS = 3, 4, 5, 9
SITE = Site("language", "words", "words", index=0, depth=1, heads=HEADS)


def positions(queries: int = QUERIES, keys: int = KEYS) -> Positions:
    return Positions(Tokens("words", None, torch.arange(queries)), Tokens("words", None, torch.arange(keys)))


def span_weights(shares: list[float], dtype: torch.dtype = torch.float64, **arguments: object) -> SpanWeights:
    """Span over softmax with the learned shares given, one per head."""
    weights = Span(**arguments).weights(Site("language", "words", "words", 0, 1, len(shares))).to(dtype)
    with torch.no_grad():
        weights.share.copy_(torch.tensor(shares, dtype=torch.float64))
    return weights


def entmax_weights(alphas: list[float], dtype: torch.dtype = torch.float64) -> EntmaxWeights:
    weights = EntmaxWeights(len(alphas)).to(dtype)
    with torch.no_grad():
        weights.a.copy_(torch.logit(torch.tensor(alphas, dtype=torch.float64) - 1))
    return weights


def random_scores(scale: float = 2.0, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(BATCH, HEADS, QUERIES, KEYS, dtype=dtype, generator=generator)


def random_mask() -> Tensor:
    """Pictures and questions of every kind: all may be attended, some, one, none."""
    mask = torch.ones(BATCH, 1, 1, KEYS, dtype=torch.bool)
    mask[1, ..., 4:] = False
    mask[2] = False
    return mask


# Softmax


def test_softmax_changes_nothing_of_the_base() -> None:
    assert type(Softmax().weights(SITE)) is SoftmaxWeights
    assert type(Softmax().depth("language", 3)) is AllLayers


@pytest.mark.parametrize("keys", [KEYS, FUSED_FROM - 1, FUSED_FROM, 200], ids=lambda keys: f"{keys} keys")
@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
def test_softmax_attends_as_its_equation_says(keys: int, masked: bool) -> None:
    """Written out where keys are few and fused where they are many; a row with nothing to attend is zeros."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(3, HEADS, count, 8, generator=generator) for count in (QUERIES, keys, keys))
    mask = torch.ones(3, 1, 1, keys, dtype=torch.bool)
    if masked:
        mask[1, ..., 4:], mask[2] = False, False
    received = SoftmaxWeights().attend(query, key, value, mask if masked else None, positions(QUERIES, keys))
    exponentials = (query.double() @ key.double().transpose(-1, -2) / math.sqrt(8)).exp() * mask
    total = exponentials.sum(-1, keepdim=True)
    expected = torch.where(total > 0, exponentials / total, 0.0) @ value.double()
    torch.testing.assert_close(received.double(), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_masked_keys_and_rows_get_exactly_nothing_from_softmax(dtype: torch.dtype) -> None:
    received = SoftmaxWeights()(random_scores(30.0).to(dtype), random_mask(), positions())
    assert not received.masked_fill(random_mask(), 0).any()
    assert (received[:2].sum(-1) > 0.9).all()


def test_distance_is_in_whole_tokens_between_query_and_key() -> None:
    assert positions(2, 4).distance().tolist() == [[0, 1, 2, 3], [1, 0, 1, 2]]


# Span


@pytest.mark.parametrize(
    ("span", "ramp", "distance", "expected"),
    [
        (0, 32, 0, 1.0),
        (0, 32, 1, 31 / 32),
        (0, 32, 16, 0.5),
        (0, 32, 32, 0.0),
        (0, 32, 35, 0.0),
        (10, 32, 10, 1.0),
        (10, 32, 26, 0.5),
        (10, 32, 42, 0.0),
        (3, 2, 3, 1.0),
        (3, 2, 4, 0.5),
        (3, 2, 5, 0.0),
        (1024, 32, 35, 1.0),
    ],
)
def test_soft_mask_has_the_values_of_equation_1(span: int, ramp: int, distance: int, expected: float) -> None:
    weights = span_weights([span / 1024], ramp=ramp)
    assert weights.soft_mask(torch.tensor([[distance]])).item() == expected


@given(
    st.lists(st.floats(0, 1), min_size=HEADS, max_size=HEADS),
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(0, 1000),
)
def test_span_equals_softmax_of_the_scores_plus_log_of_the_mask(
    shares: list[float], limit: int, ramp: int, seed: int
) -> None:
    weights = span_weights(shares, limit=limit, ramp=ramp)
    scores = random_scores(seed=seed)
    distance = positions().distance()
    z = torch.tensor(shares, dtype=torch.float64)[:, None, None] * limit
    m = ((ramp + z - distance) / ramp).clamp(0, 1)
    # Every query has itself at distance 0, where m = 1: no row is empty.
    expected = (scores + m.log()).softmax(-1)
    # float64 rounds at 1e-16; a row whose mass lies beyond the span divides by what is left of it.
    torch.testing.assert_close(weights(scores, None, positions()), expected, rtol=1e-9, atol=1e-12)


def test_span_of_masked_keys_equals_softmax_over_the_others() -> None:
    weights = span_weights([0.0, 0.1, 0.5, 1.0], limit=8, ramp=4)
    received = weights(random_scores(), random_mask(), positions())[1]
    expected = weights(random_scores()[..., :4], None, positions(keys=4))[1]
    torch.testing.assert_close(received[..., :4], expected, rtol=0, atol=1e-14)


def test_a_span_at_its_limit_is_softmax_to_the_last_bits() -> None:
    scores = random_scores()
    received = span_weights([1.0] * HEADS)(scores, None, positions())
    torch.testing.assert_close(received, scores.softmax(-1), rtol=0, atol=1e-15)


def test_a_row_whose_keys_all_lie_beyond_the_span_is_zeros() -> None:
    weights = span_weights([0.0], ramp=1, dtype=torch.float32)
    scores = torch.zeros(1, 1, 2, 2, requires_grad=True)
    mask = torch.tensor([[[[True, False]]]])
    received = weights(scores, mask, positions(2, 2))
    received.sum().backward()
    assert received.tolist() == [[[[1.0, 0.0], [0.0, 0.0]]]]
    assert weights.share.grad.isfinite().all()
    assert scores.grad.isfinite().all()


def test_without_renormalising_the_weights_are_softmax_times_the_mask() -> None:
    weights = span_weights([0.0, 0.1, 0.5, 1.0], limit=8, ramp=4, renormalise=False)
    scores = random_scores()
    expected = scores.softmax(-1) * weights.soft_mask(positions().distance())
    assert torch.equal(weights(scores, None, positions()), expected)
    assert not weights.normalised


def test_the_penalty_is_the_rate_times_the_mean_span_in_tokens() -> None:
    weights = span_weights([0.0, 0.5, 0.5, 1.0])
    assert weights.penalty().item() == pytest.approx(5e-6 * 1024 * 0.5, rel=1e-12)


def test_the_penalty_pulls_every_span_down() -> None:
    weights = span_weights([0.2, 0.9])
    weights.penalty().backward()
    assert weights.share.grad.tolist() == pytest.approx([5e-6 * 1024 / 2] * 2, rel=1e-12)


def test_projection_puts_the_spans_back_between_zero_and_the_limit() -> None:
    weights = span_weights([-3.0, 0.25, 7.0])
    weights.project()
    assert weights.stats() == {"span": [0.0, 256.0, 1024.0]}


def test_initial_spans_are_the_published_normal_clamped_to_their_range() -> None:
    torch.manual_seed(0)
    shares = torch.cat([Span().weights(Site("v", "boxes", "boxes", 0, 1, 12)).share for _ in range(500)])
    deviation = math.sqrt(2 / 12)
    normal = torch.distributions.Normal(0.002, deviation)
    # Shares of 6,000 draws have a standard error of at most 0.0065.
    assert (shares == 0).double().mean().item() == pytest.approx(normal.cdf(torch.tensor(0.0)).item(), abs=0.02)
    assert (shares == 1).double().mean().item() == pytest.approx(1 - normal.cdf(torch.tensor(1.0)).item(), abs=0.01)
    assert (shares < deviation).double().mean().item() == pytest.approx(
        normal.cdf(torch.tensor(deviation)).item(), abs=0.02
    )


@pytest.mark.parametrize("arguments", [{"limit": 0}, {"ramp": 0}, {"penalty": -1e-6}])
def test_impossible_spans_are_refused_with_what_was_received(arguments: dict) -> None:
    [(name, value)] = arguments.items()
    with pytest.raises(UserError, match=f"{name}={value}"):
        Span(**arguments)


# Entmax


def test_entmax_near_two_is_sparsemax() -> None:
    weights = EntmaxWeights(HEADS)
    torch.nn.init.constant_(weights.a, weights.RANGE)
    scores = random_scores(dtype=torch.float32)
    # alpha stays 1e-3 below 2; the weights move as much.
    torch.testing.assert_close(weights(scores, None, positions()), entmax.sparsemax(scores), rtol=0, atol=2e-3)


def test_entmax_near_one_is_softmax() -> None:
    weights = EntmaxWeights(HEADS)
    torch.nn.init.constant_(weights.a, -weights.RANGE)
    scores = random_scores(dtype=torch.float32)
    # alpha stays 1e-3 above 1; the weights move by about as much times the scores squared.
    torch.testing.assert_close(weights(scores, None, positions()), scores.softmax(-1), rtol=0, atol=5e-3)


def test_entmax_gives_low_scores_exactly_nothing() -> None:
    received = entmax_weights([1.5], torch.float32)(torch.tensor([[[[4.0, 0.0, 0.0]]]]), None, positions(1, 3))
    assert received.tolist() == [[[[1.0, 0.0, 0.0]]]]


@pytest.mark.parametrize("step", [-1e6, -50.0, 50.0, 1e6])
def test_alpha_stays_strictly_between_one_and_two_after_extreme_steps(step: float) -> None:
    weights = EntmaxWeights(HEADS)
    with torch.no_grad():
        weights.a.add_(step)
    weights.project()
    assert ((weights.alpha() > 1) & (weights.alpha() < 2)).all()


@pytest.mark.parametrize("variant", [Entmax(), SpanEntmax()], ids=["entmax", "span_entmax"])
def test_a_row_with_nothing_to_attend_is_zeros(variant: Variant) -> None:
    received = variant.weights(SITE)(random_scores(dtype=torch.float32), random_mask(), positions())
    assert not received[2].any()


@pytest.mark.parametrize("a", [-6.9, -3.0, 0.0, 6.9])
@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
def test_gradients_of_scores_and_alpha_are_finite(a: float, scale: float) -> None:
    weights = EntmaxWeights(HEADS)
    torch.nn.init.constant_(weights.a, a)
    scores = random_scores(scale, torch.float32).requires_grad_()
    weights(scores, random_mask(), positions()).square().sum().backward()
    assert scores.grad.isfinite().all()
    assert weights.a.grad.isfinite().all()


def test_initial_alphas_are_one_plus_the_sigmoid_of_a_standard_normal() -> None:
    torch.manual_seed(0)
    a = EntmaxWeights(20_000).a
    # Standard errors over 20,000 draws: 0.007 and 0.005.
    assert a.mean().item() == pytest.approx(0, abs=0.03)
    assert a.std().item() == pytest.approx(1, abs=0.02)


def test_the_statistics_are_alpha_per_head() -> None:
    assert entmax_weights([1.2, 1.9]).stats() == {"alpha": pytest.approx([1.2, 1.9], abs=1e-12)}


# Span over entmax


def test_span_entmax_is_entmax_then_the_mask_then_renormalised() -> None:
    weights = SpanEntmax(limit=8, ramp=4).weights(SITE).double()
    with torch.no_grad():
        weights.share.copy_(torch.tensor([0.0, 0.1, 0.5, 1.0]))
    scores = random_scores()
    alpha = weights.inner.alpha()[:, None, None]
    z = weights.share[:, None, None] * 8
    p = entmax.entmax_bisect(scores, alpha, n_iter=50)
    masked = p * ((4 + z - positions().distance()) / 4).clamp(0, 1)
    total = masked.sum(-1, keepdim=True)
    # entmax leaves few keys: a row may have none within the span.
    expected = torch.where(total > 0, masked / total, 0.0)
    torch.testing.assert_close(weights(scores, None, positions()), expected, rtol=0, atol=1e-6)


def test_span_entmax_masks_the_weights_and_not_the_scores() -> None:
    """After entmax the mask is no bias on the scores: the order changes the numbers."""
    weights = SpanEntmax(limit=8, ramp=4).weights(SITE).double()
    torch.nn.init.zeros_(weights.share)
    scores = random_scores(0.5)
    m = weights.soft_mask(positions().distance())
    other = weights.inner(scores + m.clamp(min=1e-9).log(), None, positions())
    assert (weights(scores, None, positions()) - other).abs().max() > 0.01
