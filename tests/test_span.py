"""How a span attends: every fast way against the weights written out, and what it must not read."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ablations.variants import span as module
from ablations.variants.box_span import BoxSpan
from ablations.variants.span import BLOCK, Span, SpanWeights
from suite.attention import Positions, Site, SoftmaxWeights, Tokens, Weights

WIDTH = 5


def weights_of(shares: list[float], span: Span | None = None) -> SpanWeights:
    weights = (span or Span()).weights(Site("language", "words", "words", 0, 1, len(shares))).double()
    assert isinstance(weights, SpanWeights)
    with torch.no_grad():
        weights.share.copy_(torch.tensor(shares))
    return weights


def words(count: int) -> Tokens:
    return Tokens("words", None, torch.arange(count))


def inputs(heads: int, queries: int, keys: int, batch: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(batch, heads, count, WIDTH, dtype=torch.float64, generator=generator).requires_grad_()
        for count in (queries, keys, keys)
    ]


def both_ways(
    weights: SpanWeights, tensors: list[Tensor], mask: Tensor | None, positions: Positions
) -> list[tuple[Tensor, ...]]:
    """Context and gradients of query, key, value and shares: by ``attend``, and by the weights themselves."""
    results = []
    for attend in (weights.attend, lambda *a: Weights.attend(weights, *a)):
        torch.manual_seed(0)
        mixed = attend(*tensors, mask, positions)
        direction = torch.randn(mixed.shape, dtype=mixed.dtype, generator=torch.Generator().manual_seed(1))
        results.append(
            (
                mixed,
                *torch.autograd.grad((mixed * direction).sum(), (*tensors, weights.share), materialize_grads=True),
            )
        )
    return results


def assert_same(results: list[tuple[Tensor, ...]]) -> None:
    *context, share = zip(*results, strict=True)
    for fast, plain in context:
        torch.testing.assert_close(fast, plain, rtol=1e-9, atol=1e-11)
    # Written out, the gradient of m is a difference of quotients by m, which may be as small as 1e-4.
    torch.testing.assert_close(*share, rtol=1e-9, atol=1e-6)


# 1.0 reaches everything, 0.0 only the ramp.
SHARES = [0.0, 0.03, 0.11, 0.4, 1.0]


@pytest.fixture(params=[module.FEW, 0], ids=["at-once", "in-blocks"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """One pass with a bias, where that is faster, and block by block whatever the keys."""
    monkeypatch.setattr(module, "FEW", request.param)


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("keys", [1, 9, 2 * BLOCK, 2 * BLOCK + 1, 5 * BLOCK, 7 * BLOCK - 3])
@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
def test_attend_equals_the_weights_written_out(keys: int, masked: bool) -> None:
    mask = None
    if masked:
        mask = torch.rand(2, 1, 1, keys, generator=torch.Generator().manual_seed(2)) < 0.7
        mask[1] = False
    weights = weights_of(SHARES, Span(limit=1000))
    assert_same(both_ways(weights, inputs(len(SHARES), keys, keys), mask, Positions(words(keys), words(keys))))


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize(("queries", "keys"), [(1, 300), (300, 1), (40, 400), (400, 150), (500, 60)])
def test_attend_from_other_tokens_equals_the_weights_written_out(queries: int, keys: int) -> None:
    """Across modalities: queries beyond the last key's reach have nothing to attend, and get zeros."""
    weights = weights_of([0.0, 0.05, 0.2], Span(limit=400, ramp=8))
    results = both_ways(weights, inputs(3, queries, keys), None, Positions(words(queries), words(keys)))
    assert_same(results)
    if queries - keys > 8:
        assert not results[0][0][:, 0, keys + 8 :].any()


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=4),
    st.integers(130, 300),
    st.integers(1, 80),
    st.integers(1, 500),
)
def test_any_spans_give_the_same_either_way(shares: list[float], keys: int, ramp: int, limit: int) -> None:
    weights = weights_of(shares, Span(limit=limit, ramp=ramp))
    assert_same(both_ways(weights, inputs(len(shares), keys, keys, 1), None, Positions(words(keys), words(keys))))


@pytest.mark.usefixtures("either_way")
def test_each_head_may_have_a_mask_of_its_own() -> None:
    keys = 3 * BLOCK
    mask = torch.rand(2, 3, keys, keys, generator=torch.Generator().manual_seed(2)) < 0.7
    weights = weights_of([0.0, 0.05, 1.0], Span(limit=1000))
    assert_same(both_ways(weights, inputs(3, keys, keys), mask, Positions(words(keys), words(keys))))


@pytest.mark.parametrize("keys", [36, 3 * BLOCK])
def test_spans_that_reach_every_key_are_fused_softmax(keys: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(module.SpanSoftmaxWeights, "_biased")
    tensors, positions = inputs(2, keys, keys), Positions(words(keys), words(keys))
    received = weights_of([1.0, 0.5], Span(limit=1000)).attend(*tensors, None, positions)
    assert torch.equal(received, SoftmaxWeights().attend(*tensors, None, positions))


@pytest.mark.parametrize("training", [False, True])
def test_keys_beyond_every_span_are_not_read(training: bool) -> None:
    """What is not a number does not reach the others: the blocks that a span skips are not computed."""
    keys = 10 * BLOCK
    query, key, value = (tensor.detach() for tensor in inputs(2, keys, keys))
    key[:, :, :BLOCK] = value[:, :, :BLOCK] = torch.nan
    weights = weights_of([0.0, 0.01], Span(limit=1000)).train(training)
    received = weights.attend(query.requires_grad_(training), key, value, None, Positions(words(keys), words(keys)))
    assert received[:, :, 3 * BLOCK :].isfinite().all()
    if training:
        received[:, :, 3 * BLOCK :].sum().backward()
        assert query.grad[:, :, 3 * BLOCK :].isfinite().all()


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("keys", [20, 3 * BLOCK])
def test_gradients_equal_finite_differences(keys: int) -> None:
    """No share lies where m has a corner, and none reaches everything."""
    weights = weights_of([0.0123, 0.0456], Span(limit=1000, ramp=7))
    positions = Positions(words(keys), words(keys))
    tensors = [tensor[:1, :, :, :2].detach().requires_grad_() for tensor in inputs(2, keys, keys)]

    def attend(query: Tensor, key: Tensor, value: Tensor, share: Tensor) -> Tensor:
        mixed = torch.func.functional_call(
            Attends(weights, positions), {"weights.share": share}, (query, key, value)
        )
        return mixed.cos().sum(-2)

    assert torch.autograd.gradcheck(attend, (*tensors, weights.share), fast_mode=keys > 20)


class Attends(torch.nn.Module):
    """``functional_call`` calls ``forward`` alone."""

    def __init__(self, weights: SpanWeights, positions: Positions) -> None:
        super().__init__()
        self.weights, self.positions = weights, positions

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return self.weights.attend(query, key, value, None, self.positions)


def test_dropout_in_blocks_is_the_same_forward_and_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    """The context is linear in the values for the weights that are left: their gradient gives it back."""
    monkeypatch.setattr(module, "FEW", 0)
    keys = 4 * BLOCK
    weights = weights_of([0.01, 0.05], Span(limit=1000)).train()
    weights.dropout = 0.5
    query, key, value = inputs(2, keys, keys)
    torch.manual_seed(0)
    mixed = weights.attend(query, key, value, None, Positions(words(keys), words(keys)))
    direction = torch.randn(mixed.shape, dtype=mixed.dtype, generator=torch.Generator().manual_seed(1))
    (for_value,) = torch.autograd.grad((mixed * direction).sum(), (value,), retain_graph=True)
    assert (for_value * value).sum().item() == pytest.approx((mixed * direction).sum().item(), rel=1e-9)
    after = torch.get_rng_state()
    torch.manual_seed(0)
    again = weights.attend(query, key, value, None, Positions(words(keys), words(keys)))
    assert torch.equal(mixed, again)
    assert torch.equal(torch.get_rng_state(), after)
    assert not torch.equal(mixed, weights.attend(query, key, value, None, Positions(words(keys), words(keys))))


@pytest.mark.usefixtures("either_way")
def test_dropout_keeps_the_expected_context() -> None:
    keys, draws, rate = 3 * BLOCK, 400, 0.2
    weights = weights_of([0.05], Span(limit=1000)).train()
    (query, key, value), positions = inputs(1, keys, keys, 1), Positions(words(keys), words(keys))
    expected = weights.attend(query, key, value, None, positions)
    weights.dropout = rate
    mean = sum(weights.attend(query, key, value, None, positions).detach() for _ in range(draws)) / draws
    p = weights(weights.scores(query, key), None, positions)
    deviation = (rate / (1 - rate) / draws * p.square() @ value.square()).sqrt()
    # About 500 independent numbers: one in ten thousand such tests has one six deviations away.
    assert ((mean - expected).abs() < 6 * deviation).all()


def test_memory_does_not_grow_with_the_square_of_the_keys() -> None:
    """Only the inputs are kept for the gradients."""
    keys = 512
    kept: list[int] = []
    query, key, value = inputs(2, keys, keys, 1)

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        weights_of([0.0, 0.01]).attend(query, key, value, None, Positions(words(keys), words(keys)))
    assert max(kept) <= query.numel()


# Boxes


def picture(boxes: list[list[float]]) -> Tokens:
    return Tokens("boxes", None, torch.arange(len(boxes)), torch.tensor([boxes], dtype=torch.float64))


CORNERS = [[0.0, 0.0, 0.2, 0.2], [0.8, 0.8, 1.0, 1.0], [0.0, 0.8, 0.2, 1.0], [0.4, 0.4, 0.6, 0.6]]


def test_boxes_are_as_far_apart_as_their_centres() -> None:
    """In units of which the diagonal has as many as there are ranks, less one."""
    boxes = picture(CORNERS)
    distance = weights_of([0.5], BoxSpan()).distance(Positions(boxes, boxes))
    assert distance.shape == (1, 1, 4, 4)
    diagonal = 0.8 * 3
    side = 0.8 * 3 / math.sqrt(2)
    expected = [
        [0, diagonal, side, diagonal / 2],
        [diagonal, 0, side, diagonal / 2],
        [side, side, 0, diagonal / 2],
        [diagonal / 2, diagonal / 2, diagonal / 2, 0],
    ]
    torch.testing.assert_close(distance[0, 0], torch.tensor(expected, dtype=torch.float64))


def test_words_and_ranks_are_as_far_apart_as_their_places() -> None:
    weights, boxes = weights_of([0.5], BoxSpan()), picture(CORNERS)
    for positions in (Positions(words(3), words(4)), Positions(words(3), boxes), Positions(boxes, words(3))):
        assert torch.equal(weights.distance(positions), positions.distance())
    assert torch.equal(weights_of([0.5]).distance(Positions(boxes, boxes)), Positions(boxes, boxes).distance())


def test_geometry_attends_as_its_weights_say() -> None:
    boxes = Tokens("boxes", None, torch.arange(6), torch.rand(2, 6, 4, dtype=torch.float64))
    weights = weights_of([0.0, 0.2, 1.0], BoxSpan(limit=4, ramp=2))
    assert_same(both_ways(weights, inputs(3, 6, 6), None, Positions(boxes, boxes)))
    assert_same(both_ways(weights, inputs(3, 6, 6), torch.rand(2, 1, 1, 6) < 0.6, Positions(boxes, boxes)))


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("keys", [20, 3 * BLOCK])
def test_under_autocast_the_span_is_not_rounded(keys: int) -> None:
    """Scores of 0 and one value per key: what comes out is m, made to sum to 1, rounded once to bfloat16."""
    weights = Span(limit=1000).weights(Site("language", "words", "words", 0, 1, 2))
    assert isinstance(weights, SpanWeights)
    with torch.no_grad():
        weights.share.copy_(torch.tensor([0.0, 0.02]))
    positions = Positions(words(keys), words(keys))
    query = torch.zeros(1, 2, keys, keys, dtype=torch.bfloat16, requires_grad=True)
    value = torch.eye(keys, dtype=torch.bfloat16).expand(1, 2, keys, keys).clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        received = weights.attend(query, query, value, None, positions)
    received.float().square().sum().backward()
    assert received.dtype is torch.bfloat16
    m = weights.soft_mask(positions.distance()).detach().double()
    expected = (m / m.sum(-1, keepdim=True))[None]
    torch.testing.assert_close(received.double(), expected, rtol=2**-8, atol=0)
    assert weights.share.grad.isfinite().all()
    assert value.grad.isfinite().all()
