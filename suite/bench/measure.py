"""Times, peak memory and multiply-adds of things that run in turn, and the record that they are kept in."""

from __future__ import annotations

import dataclasses
import gc
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles
from typing import Any, Protocol, TypeVar

import psutil
import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import Progress
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from suite.errors import UserError
from suite.records import read_json, write_json

WARM_UP = 1
"""Rounds before those that count."""
MEMORY = {
    "cpu": "high-water mark of torch's allocator (torch.profiler) above what the inputs and weights hold",
    "cuda": "torch.cuda.max_memory_allocated above what the inputs and weights hold",
}

Seconds = dict[str, float]
"""Of each part of a step, such as ``forward`` and ``backward``."""
Step = Callable[[], Seconds]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Settings:
    """How every bench measures."""

    rounds: int = 10
    threads: int = 1
    device: str = "cpu"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("rounds", "threads"):
            at_least_one(name, getattr(self, name))
        if self.device == "cuda" and not torch.cuda.is_available():
            raise UserError("Expected a CUDA device; torch sees none. Use --device cpu.")


@dataclass
class Row:
    """One contender under one condition. Rows whose ``case`` is equal were measured in turn."""

    case: dict[str, Any]
    name: str
    facts: dict[str, Any] = field(default_factory=dict)
    """What is known of it besides its times; ``peak_bytes`` is its peak memory, ``left_out`` why it has no time."""
    seconds: dict[str, list[float]] = field(default_factory=dict)
    """One sample per round, for each part of the step."""

    def rounds(self) -> list[float]:
        """Seconds of each whole step."""
        return [sum(parts) for parts in zip(*self.seconds.values(), strict=True)]


@dataclass
class Record:
    """All of a bench: what was measured, and what is needed to judge it. ``samples.json`` is its fields."""

    bench: str
    reference: str
    """Name of the row that ratios are to."""
    arguments: dict[str, Any]
    provenance: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    complete: bool = False
    """False where the bench was stopped."""

    def measured(self) -> list[Row]:
        """The rows that have times, in their order."""
        return [row for row in self.rows if row.seconds]

    def beside(self, row: Row, name: str) -> Row:
        """The row ``name`` that was measured in turn with ``row``."""
        return next(other for other in self.rows if other.case == row.case and other.name == name)

    def ratios(self, row: Row) -> list[float]:
        """Its time over the reference's, round by round."""
        reference = self.beside(row, self.reference)
        return [own / base for own, base in zip(row.rounds(), reference.rounds(), strict=True)]

    def write(self, path: Path) -> None:
        write_json(path, dataclasses.asdict(self))

    @classmethod
    def read(cls, path: Path) -> Record:
        """The record in a ``samples.json``."""
        plain = read_json(path)
        return cls(**plain | {"rows": [Row(**row) for row in plain["rows"]]})


class Bench(Protocol):
    """One comparison."""

    @property
    def name(self) -> str: ...

    @property
    def reference(self) -> str: ...

    def arguments(self) -> dict[str, Any]:
        """What was asked for, as values of JSON."""
        ...

    def measure(self, record: Record, settings: Settings) -> Iterator[None]:
        """Adds rows and notes to ``record``; pauses wherever what there is may be kept."""
        ...

    def table(self, record: Record) -> list[dict[str, str]]:
        """Column -> text of each row."""
        ...

    def findings(self, record: Record) -> list[str]:
        """What the table says, in sentences."""
        ...

    def figure(self, record: Record) -> Figure:
        """A picture of it."""
        ...


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of samples."""

    low: float
    middle: float
    high: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Spread:
        if len(samples) == 1:
            return cls(samples[0], samples[0], samples[0])
        return cls(*quantiles(samples, n=4, method="inclusive"))

    def text(self, scale: float = 1.0) -> str:
        """``12.3 (12.1-12.9)`` in units of ``scale``."""
        return f"{digits(self.middle / scale)} ({digits(self.low / scale)}-{digits(self.high / scale)})"


def digits(number: float) -> str:
    """Three significant digits, or all of those before the point."""
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:#.3g}"


def timed(run: Callable[[], Result], device: str) -> tuple[Result, float]:
    """What ``run`` returns and its seconds, the GPU's work included."""
    _wait(device)
    began = time.perf_counter()
    result = run()
    _wait(device)
    return result, time.perf_counter() - began


def interleave(tasks: Sequence[tuple[Row, Step]], rounds: int, title: str) -> None:
    """Runs every step once per round, in turn, and adds each whole round to the rows."""
    console = Console(stderr=True, highlight=False)
    began = time.monotonic()
    # Drawn between rounds alone: a display that refreshes itself would take time from what is measured.
    with Progress(console=console, auto_refresh=False, transient=True, disable=not console.is_terminal) as shown:
        task = shown.add_task(title, total=WARM_UP + rounds)
        for number in range(WARM_UP + rounds):
            shown.refresh()
            gc.collect()
            samples = [step() for _, step in tasks]
            if number >= WARM_UP:
                for (row, _), parts in zip(tasks, samples, strict=True):
                    for part, seconds in parts.items():
                        row.seconds.setdefault(part, []).append(seconds)
            shown.advance(task)
    say(f"{title}: {rounds} rounds in {time.monotonic() - began:.1f} s")


def peak_memory(run: Callable[[], object], device: str) -> int:
    """Bytes that ``run`` holds at its highest point above what was held before; ``MEMORY`` says how."""
    gc.collect()
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


def at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise UserError(f"Expected {name} of at least 1; received {value}. Give --{name} a larger number.")


def say(text: str) -> None:
    Console(stderr=True, highlight=False).print(text, markup=False, soft_wrap=True)


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
