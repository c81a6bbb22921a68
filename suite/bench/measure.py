"""Times of steps that run in turn, their peak memory and their multiply-adds."""

from __future__ import annotations

import gc
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TypeVar

import psutil
import torch
from rich.progress import Progress
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from suite.bench.record import Row, Seconds
from suite.errors import UserError
from suite.terminal import Terminal, say

WARM_UP = 1
"""Rounds before those that count."""
LEAST_SECONDS = 0.05
"""A step that is shorter is repeated within its turn until it has run for so long."""
YOUNG = 1
"""Oldest generation of objects that is collected: all that steps leave, and not every import again."""
MEMORY = {
    "cpu": "high-water mark of torch's allocator (torch.profiler) above what is held before the step",
    "cuda": "torch.cuda.max_memory_allocated above what is held before the step",
}

Step = Callable[[], Seconds]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Settings:
    """How every bench measures."""

    rounds: int = 5
    threads: int = 1
    device: str = "cpu"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.device == "cuda" and not torch.cuda.is_available():
            raise UserError("Expected a CUDA device; torch sees none. Use --device cpu.")


def timed(run: Callable[[], Result], device: str) -> tuple[Result, float]:
    """What ``run`` returns and its seconds, the GPU's work included."""
    _wait(device)
    began = time.perf_counter()
    result = run()
    _wait(device)
    return result, time.perf_counter() - began


def interleave(tasks: Sequence[tuple[Row, Step]], rounds: int, title: str) -> None:
    """Adds to each row a sample of its step for every round; a round that is stopped is dropped whole.

    The order changes from round to round, so that no step always follows the same other one.
    """
    console = Terminal(sys.stderr, highlight=False)
    began = time.monotonic()
    whole: list[list[Seconds]] = []
    try:
        # Drawn between rounds alone: a display that refreshes itself would take time from what is measured.
        with Progress(console=console, auto_refresh=False, transient=True, disable=not console.is_terminal) as bar:
            shown = bar.add_task(title, total=WARM_UP + rounds)
            for number in range(WARM_UP + rounds):
                bar.refresh()
                whole.append(_round([step for _, step in tasks], number))
                bar.advance(shown)
    finally:
        for (row, _), samples in zip(tasks, zip(*whole[WARM_UP:], strict=True), strict=False):
            row.seconds = {part: [sample[part] for sample in samples] for part in samples[0]}
    say(f"{title}: {rounds} rounds in {time.monotonic() - began:.0f} s")


def _round(steps: Sequence[Step], number: int) -> list[Seconds]:
    """A sample of each step, in the steps' order."""
    samples: list[Seconds] = [{} for _ in steps]
    # Off while it measures, as timeit does: a collection takes longer than a short step, and would hit any of them.
    gc.collect(YOUNG)
    gc.disable()
    try:
        for place in random.Random(number).sample(range(len(steps)), len(steps)):
            samples[place] = sample(steps[place])
    finally:
        gc.enable()
    return samples


def sample(step: Step) -> Seconds:
    """Seconds of a step: of one run, or the mean of many where it is shorter than LEAST_SECONDS.

    The first of many is left out: it finds the caches as another step left them, which can double its time.
    """
    first = step()
    if sum(first.values()) >= LEAST_SECONDS:
        return first
    runs: list[Seconds] = []
    spent = 0.0
    while spent < LEAST_SECONDS:
        runs.append(step())
        spent += sum(runs[-1].values())
    return {part: fmean(run[part] for run in runs) for part in first}


def peak_memory(run: Callable[[], object], device: str) -> int:
    """Bytes that ``run`` holds at its highest point above what was held before; ``MEMORY`` says how."""
    gc.collect(YOUNG)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    # The profiler's own messages would mix with the progress.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    results = profiler.profiler and profiler.profiler.kineto_results
    assert results is not None, "a profile that has ended has results"
    held = peak = 0
    for event in sorted((e for e in results.events() if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        held += event.nbytes()  # pyright: ignore[reportAttributeAccessIssue]
        peak = max(peak, held)
    return peak


def multiply_adds(run: Callable[[], object]) -> int:
    """Multiply-adds in products of matrices that ``run`` executes, forward and backward.

    torch counts each as two; fused attention is written out for it, because it does not know that of a CPU.
    """
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        run()
    return counter.get_total_flops() // 2


def free_memory(device: str) -> int:
    """Bytes that nobody holds on the device."""
    return torch.cuda.mem_get_info()[0] if device == "cuda" else psutil.virtual_memory().available


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
