"""`ablate bench attention`: what it compares is the same function of the same inputs, and what it says follows."""

from __future__ import annotations

import re
from functools import partial

import pytest
import torch

from suite.attention import Weights
from suite.bench.attention import AGAIN, BISECTION, PATIENCE, SOFTMAX, Attention, _excess
from suite.bench.measure import Settings, free_memory
from suite.bench.record import Record, Row
from suite.errors import UserError

SMALL = Attention(keys=(20, 36), heads=(3,), tokens=(72,), width=8)
CASE = {"heads": 3, "keys": 36, "batch": 2}
NAMED = {
    "torch softmax": SOFTMAX,
    AGAIN: SOFTMAX,
    BISECTION: "entmax",
    "package entmax15": "entmax15",
    "package sparsemax": "sparsemax",
}
"""What is compared with what, where both are the same function."""


@pytest.fixture(scope="module")
def contenders() -> dict[str, Weights]:
    return SMALL._contenders(3, Settings())


def results(weights: Weights) -> list[torch.Tensor]:
    """The context and every gradient, those of the inputs first."""
    query, key, value, positions, gradient = SMALL._inputs(CASE, Settings())
    mixed = weights.attend(query, key, value, None, positions)
    mixed.backward(gradient)
    assert query.grad is not None
    assert key.grad is not None
    assert value.grad is not None
    return [mixed.detach(), query.grad, key.grad, value.grad]


@pytest.mark.parametrize("other", NAMED)
def test_a_reference_computes_what_the_method_computes(other: str, contenders: dict[str, Weights]) -> None:
    for own, theirs in zip(results(contenders[NAMED[other]]), results(contenders[other]), strict=True):
        torch.testing.assert_close(own, theirs, atol=2e-5, rtol=1e-4)


def test_every_method_gets_the_same_inputs() -> None:
    one, other = (SMALL._inputs(CASE, Settings()) for _ in range(2))
    assert all(map(torch.equal, one[:3], other[:3]))
    assert torch.equal(one[-1], other[-1])
    assert [tuple(tensor.shape) for tensor in one[:3]] == [(2, 3, 36, 8)] * 3
    assert all(tensor.requires_grad for tensor in one[:3])


def test_every_contender_trains_without_dropout(contenders: dict[str, Weights]) -> None:
    for weights in contenders.values():
        assert all(part.training for part in weights.modules())
        assert weights.dropout == 0


def test_what_attends_as_softmax_does_has_no_row(contenders: dict[str, Weights]) -> None:
    assert "layerdrop" not in contenders
    assert {SOFTMAX, AGAIN, "span", "entmax", "span_entmax", *NAMED} <= set(contenders)


@pytest.mark.parametrize("name", ["span", "span_entmax"])
def test_spans_are_set_to_what_was_asked_for(name: str) -> None:
    bench = Attention(keys=(20,), span=48, variants=(name,))
    assert bench._contenders(3, Settings())[name].stats()["span"] == pytest.approx([48.0] * 3)


def test_a_span_that_a_method_cannot_have_is_told() -> None:
    bench = Attention(keys=(20,), span=4000, variants=("span",))
    with pytest.raises(UserError, match=r"Expected a --span from 0 to 1024, as span has; received 4000\."):
        bench._contenders(3, Settings())


def measured(name: str, keys: int, *seconds: float, batch: int = 1, peak: int = 0) -> Row:
    return Row({"heads": 3, "keys": keys, "batch": batch}, name, {"peak_bytes": peak}, {"forward": list(seconds)})


def test_a_method_is_expected_to_grow_with_its_attention_weights() -> None:
    """From 2 x 100^2 to 1 x 400^2 weights: eight times as much."""
    small, case = measured("entmax", 100, PATIENCE / 9, batch=2, peak=2**30), {"keys": 400, "batch": 1}
    assert small.facts["peak_bytes"] * 8 < 0.7 * free_memory("cpu"), "this machine is too small for this test"
    assert _excess(small, case, "cpu") is None
    slow = measured("entmax", 100, PATIENCE / 7, batch=2)
    assert _excess(slow, case, "cpu") == f"may take {8 * PATIENCE / 7:.0f} s a step"
    large = measured("entmax", 100, 1.0, batch=2, peak=free_memory("cpu"))
    assert str(_excess(large, case, "cpu")).startswith("may need ")


def test_a_method_whose_first_step_takes_too_long_gets_no_more_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else `--keys 4096` alone, which no smaller size foretells, runs for an hour."""
    monkeypatch.setattr("suite.bench.attention.PATIENCE", 0.0)
    bench = Attention(keys=(20, 40), heads=(2,), tokens=(40,), width=4, span=8, variants=("entmax",))
    record = Record("attention", SOFTMAX, {}, {})
    for _ in bench.measure(record, Settings(rounds=1)):
        pass
    assert {row.name for row in record.measured()} == {SOFTMAX, AGAIN}
    first, second = (row.facts["left_out"] for row in record.rows if row.name == "entmax")
    assert re.fullmatch(r"took \d+\.\d s for one step with its memory traced", first)
    assert second == "was left out with 20 keys"


def test_what_all_others_are_divided_by_is_never_left_out() -> None:
    for name in (SOFTMAX, AGAIN):
        assert _excess(measured(name, 100, 1e6, peak=2**60), {"keys": 200, "batch": 1}, "cpu") is None


def test_faster_is_what_stays_below_softmax_and_its_noise_to_the_end() -> None:
    """At 200 keys softmax once more takes 0.9 to 1.1 of softmax's time: a ratio of 0.95 is a tie there."""
    row = partial(measured)
    rows = [
        *(row(SOFTMAX, keys, 1.0, 1.0, 1.0) for keys in (50, 100, 200)),
        *(row(AGAIN, keys, 1.0, 1.0, 1.0) for keys in (50, 100)),
        row(AGAIN, 200, 0.8, 1.0, 1.2),
        *(row("crosses", keys, ratio, ratio, ratio) for keys, ratio in ((50, 2.0), (100, 0.9), (200, 0.8))),
        *(row("ties", keys, ratio, ratio, ratio) for keys, ratio in ((50, 0.8), (100, 0.8), (200, 0.95))),
        *(row("dips", keys, ratio, ratio, ratio) for keys, ratio in ((50, 2.0), (100, 0.5), (200, 1.5))),
        *(row("wins", keys, 0.5, 0.5, 0.5) for keys in (50, 100, 200)),
        *(row("ends", keys, 3.0, 3.0, 3.0) for keys in (50, 100)),
        Row({"heads": 3, "keys": 200, "batch": 1}, "ends", {"left_out": "may take 99 s a step"}),
    ]
    bench = Attention(keys=(50, 100, 200), heads=(3,), tokens=(50,))
    assert bench.findings(Record("attention", SOFTMAX, {}, {}, rows=rows)) == [
        "ends, 200 keys, batch 1: left out, may take 99 s a step.",
        "3 heads, batches of 50 tokens, faster than softmax: crosses from 100 keys on, wins from 50 keys on.",
        "3 heads, batches of 50 tokens, not faster up to 200 keys: ties, dips.",
        "3 heads, batches of 50 tokens, not faster up to 100 keys: ends.",
    ]
