"""What the instrument shows of things whose time, memory and multiply-adds are known."""

from __future__ import annotations

import gc
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from suite.bench.measure import LEAST_SECONDS, WARM_UP, interleave, multiply_adds, peak_memory, sample, timed
from suite.bench.record import Row, Seconds

MEBIBYTE = 2**20


def block(mebibytes: int) -> torch.Tensor:
    return torch.empty(mebibytes * MEBIBYTE, dtype=torch.uint8)


def test_time_is_that_of_the_call_alone() -> None:
    result, seconds = timed(lambda: time.sleep(0.05) or "slept", "cpu")
    assert result == "slept"
    assert 0.05 <= seconds < 0.1


def test_peak_memory_is_the_highest_point_and_not_the_sum() -> None:
    def allocate() -> None:
        first = block(8)
        second = block(16)  # Here: 24.
        del first
        third = block(4)
        del second, third
        block(22)

    assert peak_memory(allocate, "cpu") == 24 * MEBIBYTE


def test_peak_memory_leaves_out_what_was_held_before() -> None:
    held = block(64)
    assert peak_memory(lambda: held[: 3 * MEBIBYTE].clone(), "cpu") == 3 * MEBIBYTE


def test_peak_memory_sees_the_backward_pass() -> None:
    inputs = torch.zeros(MEBIBYTE, requires_grad=True)
    gradient = torch.ones(MEBIBYTE)

    def differentiate() -> None:
        # Each sine holds nothing new but its result; backward, a cosine and its product with the gradient.
        torch.autograd.grad(inputs.sin(), inputs, gradient)

    assert peak_memory(differentiate, "cpu") == 3 * 4 * MEBIBYTE


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads a process's own peak from Linux")
def test_peak_memory_is_what_the_system_sees() -> None:
    """The high-water mark of a process of its own, for a softmax over 3,000 keys."""
    code = """
import torch
from suite.bench.measure import peak_memory
torch.set_num_threads(1)

def attend(side):
    query = torch.zeros(side, 64, requires_grad=True)
    mixed = (query @ query.T).softmax(-1) @ query
    torch.autograd.grad(mixed, query, torch.zeros_like(mixed))

def status(name):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

attend(64)
before = status("VmRSS")
attend(3000)
print(status("VmHWM") - before, peak_memory(lambda: attend(3000), "cpu"))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seen, measured = map(int, done.stdout.split())
    assert measured > 2 * 4 * 3000**2
    assert measured == pytest.approx(seen, rel=0.03)


def test_multiply_adds_of_a_linear_layer_and_its_gradients() -> None:
    inputs, weight = torch.ones(5, 3, requires_grad=True), torch.ones(7, 3, requires_grad=True)
    assert multiply_adds(lambda: F.linear(inputs, weight)) == 5 * 3 * 7
    assert multiply_adds(lambda: F.linear(inputs, weight).sum().backward()) == 3 * 5 * 3 * 7


def test_multiply_adds_of_fused_attention() -> None:
    query, key = torch.ones(2, 4, 5, 8), torch.ones(2, 4, 6, 8)
    assert multiply_adds(lambda: F.scaled_dot_product_attention(query, key, key)) == 2 * (2 * 4 * 5 * 6 * 8)


def lasting(*seconds: float) -> Callable[[], Seconds]:
    """A step that says that its runs took so long."""
    left = iter(seconds)
    return lambda: {"forward": next(left)}


def test_a_long_step_is_run_once() -> None:
    assert sample(lasting(LEAST_SECONDS)) == {"forward": LEAST_SECONDS}


def test_a_short_step_is_repeated_without_its_first_run() -> None:
    part = LEAST_SECONDS / 2
    assert sample(lasting(part * 1.9, 0.5 * part, part, 1.5 * part)) == {"forward": pytest.approx(part)}


def test_every_step_runs_once_a_round_and_the_warm_up_is_left_out() -> None:
    ran: list[str] = []

    def step(name: str) -> Callable[[], Seconds]:
        def run() -> Seconds:
            assert not gc.isenabled()
            ran.append(name)
            return {"forward": float(len(ran)), "backward": 1.0}

        return run

    rows = [Row({}, name) for name in "abcd"]
    interleave([(row, step(row.name)) for row in rows], 6, "letters")
    rounds = [ran[start : start + 4] for start in range(0, len(ran), 4)]
    assert len(rounds) == WARM_UP + 6
    assert all(sorted(names) == list("abcd") for names in rounds)
    assert len({tuple(names) for names in rounds}) > 3, "a fixed order lets one step always follow the same other"
    for row in rows:
        places = [number + 1 for number, name in enumerate(ran) if name == row.name]
        assert row.seconds == {"forward": [float(place) for place in places[WARM_UP:]], "backward": [1.0] * 6}
    assert gc.isenabled()


@pytest.mark.parametrize("stopped", [1, 2, 3, 6, 7])
def test_a_stop_drops_the_round_that_it_falls_into(stopped: int) -> None:
    calls = 0

    def step() -> Seconds:
        nonlocal calls
        calls += 1
        if calls == stopped:
            raise KeyboardInterrupt
        return {"forward": 1.0}

    rows = [Row({}, "a"), Row({}, "b")]
    with pytest.raises(KeyboardInterrupt):
        interleave([(row, step) for row in rows], 9, "letters")
    whole = (stopped - 1) // 2 - WARM_UP
    assert [row.totals() for row in rows] == [[1.0] * max(0, whole)] * 2
    assert gc.isenabled()
