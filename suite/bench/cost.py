"""`ablate bench cost`: what finished cells cost on this machine, measured alone and in turn, into their records.

Each cell's ``cost.json`` has one measurement per device; measuring again on a device replaces that one. It lies
beside the record and is no part of the cell's identity or result.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from rich.progress import Progress

from suite import plan, provenance
from suite.bench import show
from suite.bench.cell import FinishedCell, Samples
from suite.bench.energy import Meter, open_meter
from suite.bench.measure import YOUNG, Settings
from suite.bench.record import Spread, digits
from suite.errors import UserError
from suite.lease import holder_of
from suite.records import StudyFolder, load_cells
from suite.terminal import Terminal, say

BUSY = 0.1
"""Processors that others keep busy, on average, from which on it is said."""


def measure_costs(
    study: StudyFolder, data: Path, wanted: Sequence[str], settings: Settings, plugins: Sequence[Path]
) -> str:
    """Measures the cells ``wanted``, or the first finished one of each row; returns a table in Markdown.

    Writes ``cost.json`` of each once all are measured. Raises UserError where cells of the study run meanwhile, one
    to be measured is not finished, or memory does not suffice; nothing is written then.
    """
    began = time.monotonic()
    _refuse_running(study)
    torch.set_num_threads(settings.threads)
    options = settings.device, settings.threads, tuple(str(path.resolve()) for path in plugins)
    cells = [FinishedCell(str(study.path), one, str(data), *options) for one in wanted or first_finished(study)]
    names = {one: plan.describe(plan.Job(one.id, one.cell, "row", None)) for one in cells}
    for one in cells:
        study.cell(one.id).costs()  # What cannot be read is told now, and not at the end.
    meter = open_meter(settings.device)
    load, others = os.getloadavg()[0], Others()
    say(
        f"{len(cells)} cells on {device_name(settings)}, {settings.rounds} rounds; load {load:.1f} before. "
        f"Energy: {meter.source}."
    )
    memory = {}
    for place, one in enumerate(cells, 1):
        say(f"peak memory, {place} of {len(cells)}: {names[one]}")
        memory[one] = peak_memory(one)
    samples = _take_turns(study, cells, names, settings, meter)
    busy = others.cores()
    shared = {
        "device": device_name(settings),
        "kind": settings.device,
        "threads": settings.threads,
        "measured": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "load": [load, os.getloadavg()[0]],
        "other_cores": busy,
        "rounds": settings.rounds,
    }
    made = {"energy_source": meter.source, "packages": provenance.packages(), "code": provenance.code()}
    written = {
        one: shared
        | {"batch_size": one.cell.protocol.batch_size}
        | _summary(samples[one])
        | dict(zip(("train_memory_mib", "predict_memory_mib"), memory[one], strict=True))
        | made
        for one in cells
    }
    for one, measurement in written.items():
        study.cell(one.id).write_cost(measurement)
    if busy > BUSY:
        say(
            f"Other processes kept {busy:.2f} processors busy meanwhile ({others.busiest()}): the numbers are "
            "theirs too. Measure again when the machine is quiet."
        )
    say(f"Measured in {time.monotonic() - began:.0f} s. `ablate report {study.path.name}` shows it.")
    return show.markdown([_shown(names[one], written[one]) for one in cells]) + "\n"


def first_finished(study: StudyFolder) -> list[str]:
    """The first finished cell of each row of the study: cells that differ in nothing but seeds are one row.

    Raises UserError where none is finished.
    """
    rows: dict[str, str] = {}
    for cell in load_cells(study.path).to_dict("records"):
        if cell["role"] == "row" and cell["state"] == "finished":
            rows.setdefault(json.dumps(_without_seeds(cell["cell"]), sort_keys=True), cell["id"])
    if not rows:
        raise UserError(f"No row of {study.path} is finished. Run it first: ablate run {study.path.name}.")
    return list(rows.values())


def _without_seeds(cell: dict[str, Any]) -> dict[str, Any]:
    return cell | {"seed": None, "start": cell["start"] and _without_seeds(cell["start"])}


def _refuse_running(study: StudyFolder) -> None:
    """Raises UserError where a cell of the study is being run, here or on another machine."""
    ids = [cell["id"] for cell in study.study()["cells"]]
    held = {one: holder for one in ids if (holder := holder_of(study.cell(one).path)) is not None}
    if held:
        first, holder = next(iter(held.items()))
        raise UserError(
            f"{len(held)} cells of {study.path} are being run, {first} by process {holder.pid} on {holder.host}: "
            "what runs beside a measurement is measured too. Wait until they have ended, or stop them with "
            "`ablate drain`. Nothing was written."
        )


def device_name(settings: Settings) -> str:
    """What numbers are of: those of another device are never compared with them."""
    name = torch.cuda.get_device_name() if settings.device == "cuda" else provenance.processor()
    return f"{name}, {settings.threads} thread{'s' if settings.threads > 1 else ''}"


def peak_memory(cell: FinishedCell) -> tuple[float | None, float]:
    """MiB while training (None where the cell is evaluated only) and predicting, in a fresh process each.

    On a CPU the peak of what is resident above what it is once libraries and data set are open; on a GPU what torch
    allocates there.
    """
    return (_fresh(cell.training_memory) if cell.trained else None), _fresh(cell.prediction_memory)


def _fresh(measure: Callable[[], float]) -> float:
    """What ``measure`` returns in a process of its own, which leaves Ctrl-C to this one."""
    spawn, trouble = multiprocessing.get_context("spawn"), ""
    with ProcessPoolExecutor(1, spawn, signal.signal, (signal.SIGINT, signal.SIG_IGN)) as process:
        try:
            return process.submit(measure).result()
        except BrokenProcessPool:
            trouble = "the process died, as where memory does not suffice"
        except RuntimeError as error:  # As torch says it, of a CPU and of a GPU.
            if "memory" not in str(error):
                raise
            trouble = str(error)
    raise UserError(
        f"Peak memory could not be measured: {trouble}. Close what else takes memory, or leave large cells out: "
        "give others with --cells."
    )


def _take_turns(
    study: StudyFolder,
    cells: Sequence[FinishedCell],
    names: dict[FinishedCell, str],
    settings: Settings,
    meter: Meter,
) -> dict[FinishedCell, Samples]:
    """Samples of each cell from every round, in each of which all have a turn, in an order of its own."""
    samples = {one: Samples() for one in cells}
    console, began = Terminal(sys.stderr, highlight=False), time.monotonic()
    # Drawn between turns alone: a display that refreshes itself would take time from what is measured.
    with Progress(console=console, auto_refresh=False, transient=True, disable=not console.is_terminal) as bar:
        shown = bar.add_task("", total=settings.rounds * len(cells))
        for number in range(settings.rounds):
            for one in random.Random(number).sample(cells, len(cells)):
                _refuse_running(study)
                bar.update(shown, description=names[one], refresh=True)
                gc.collect(YOUNG)
                gc.disable()  # As timeit does.
                try:
                    one.turn(number, settings.rounds, meter, samples[one])
                finally:
                    gc.enable()
                bar.advance(shown)
            spent = time.monotonic() - began
            left = spent / (number + 1) * (settings.rounds - number - 1)
            say(f"round {number + 1} of {settings.rounds}: {spent:.0f} s, about {left:.0f} s left")
    _refuse_running(study)
    return samples


def _summary(samples: Samples) -> dict[str, Any]:
    latency = 1e3 * np.array(samples.latency_seconds)
    p50, p99 = (float(number) for number in np.percentile(latency, [50, 99]))
    return {
        "train_step_seconds": _spread(samples.step_seconds),
        "questions_per_second": _spread(samples.questions_per_second),
        "latency_ms": {"p50": p50, "p99": p99, "samples": len(latency)},
        "step_joules": float(np.median(samples.step_joules)) if samples.step_joules else None,
        "question_joules": float(np.median(samples.question_joules)) if samples.question_joules else None,
    }


def _spread(samples: Sequence[float]) -> dict[str, Any] | None:
    if not samples:
        return None
    spread = Spread.of(samples)
    return {"median": spread.middle, "low": spread.low, "high": spread.high, "samples": len(samples)}


def _shown(name: str, measurement: dict[str, Any]) -> dict[str, str]:
    """The row of a cell in the printed table."""
    step, speed = measurement["train_step_seconds"], measurement["questions_per_second"]

    def text(number: float | None) -> str:
        return "-" if number is None else digits(number)

    return {
        "cell": name,
        "step (ms)": Spread(step["low"], step["median"], step["high"]).text(1e-3) if step else "-",
        "questions/s": Spread(speed["low"], speed["median"], speed["high"]).text(),
        "p50 (ms)": digits(measurement["latency_ms"]["p50"]),
        "p99 (ms)": digits(measurement["latency_ms"]["p99"]),
        "training (MiB)": text(measurement["train_memory_mib"]),
        "prediction (MiB)": text(measurement["predict_memory_mib"]),
        "step (J)": text(measurement["step_joules"]),
        "question (J)": text(measurement["question_joules"]),
    }


@dataclass(frozen=True)
class _Times:
    """Seconds at one moment: of the clock, of all processors' work, of this process's with its children's."""

    clock: float
    all: float
    own: float
    processes: dict[int, float]

    @classmethod
    def now(cls) -> _Times:
        everyone, own, processes = psutil.cpu_times(), psutil.Process().cpu_times(), {}
        for process in psutil.process_iter(["cpu_times"]):
            if times := process.info["cpu_times"]:
                processes[process.pid] = times.user + times.system
        kinds = ("user", "nice", "system", "irq", "softirq")
        busy = sum(getattr(everyone, kind, 0.0) for kind in kinds)
        children = own.children_user + own.children_system
        return cls(time.monotonic(), busy, own.user + own.system + children, processes)


class Others:
    """Looks how busy the other processes of the machine are, from now on."""

    def __init__(self) -> None:
        self.before = _Times.now()

    def cores(self) -> float:
        """Processors that they kept busy on average."""
        now = _Times.now()
        work = (now.all - self.before.all) - (now.own - self.before.own)
        return max(0.0, work / (now.clock - self.before.clock))

    def busiest(self) -> str:
        """The one that worked most and still does, by name and id."""
        now = _Times.now().processes
        spent = {pid: seconds - self.before.processes.get(pid, 0.0) for pid, seconds in now.items()}
        spent.pop(os.getpid(), None)
        most = max(spent, key=lambda pid: spent[pid], default=None)
        if most is None or not psutil.pid_exists(most):
            return "none of those that are still there"
        return f"most of them {psutil.Process(most).name()}, process {most}"
