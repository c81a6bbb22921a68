"""A finished cell at work, for its cost: its own training steps, its prediction in batches and one by one.

A step is what `ablate run` does with a batch, the reading of features included. Every turn builds the cell's model
anew from its record: all turns begin from the same weights, and only one model at a time takes memory.
"""

from __future__ import annotations

import contextlib
import re
import resource
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from suite import plan, registry
from suite.bench.energy import Meter
from suite.bench.measure import timed
from suite.config import Cell
from suite.data.store import DataSet
from suite.engine import Engine
from suite.models.lxmert import LxmertForQuestionAnswering
from suite.optimisers import build_optimiser, learning_rate
from suite.records import StudyFolder
from suite.training import EVALUATION_BATCH, Batches, Objective, load_trained, predict, train_step

LEAST_SECONDS = 1.0
"""Of steps, and of batches, in one turn: what is shorter tells no energy, for which counters are too slow."""
STEPS = 3
"""Training steps in one turn, at least."""
ALONE = 60
"""Questions in one turn that are asked one by one."""
BATCHES = 4
"""Batches of an evaluation that prediction goes through, again and again."""
MEBIBYTE = 2**20


@dataclass
class Samples:
    """What was measured of one cell, over all turns."""

    step_seconds: list[float] = field(default_factory=list)
    questions_per_second: list[float] = field(default_factory=list)
    """One number a turn."""
    latency_seconds: list[float] = field(default_factory=list)
    step_joules: list[float] = field(default_factory=list)
    """Means of a turn; none where no meter tells."""
    question_joules: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class FinishedCell:
    """A cell of a study and where it is measured: plain values, which another process opens again."""

    study: str
    """The study's folder."""
    id: str
    data: str
    """The folder of the data sets."""
    device: str
    threads: int
    plugins: tuple[str, ...] = ()
    """Files with methods of others."""

    @cached_property
    def _opened(self) -> tuple[Cell, DataSet]:
        cell, dataset = plan.trained_cell(StudyFolder(self.study), self.id, Path(self.data))
        return cell, dataset.with_mean_pictures(*cell.train) if cell.pictures == "mean" else dataset

    def __getstate__(self) -> dict[str, Any]:
        return {name.name: getattr(self, name.name) for name in fields(self)}  # Not what this process has opened.

    @property
    def cell(self) -> Cell:
        """Raises UserError where the cell is not finished, or its method or data set has changed since."""
        return self._opened[0]

    @property
    def trained(self) -> bool:
        """False where it is evaluated only: it has no training step."""
        return self.cell.keep is None

    def model(self) -> LxmertForQuestionAnswering:
        """The model as its training left it, on the device."""
        return load_trained(StudyFolder(self.study), self.id, self._opened[1]).to(self.device)

    def turn(self, number: int, of: int, meter: Meter, samples: Samples) -> None:
        """Adds the samples of turn ``number`` of ``of``: prediction, then training, each warmed up first."""
        model = self.model()
        self._predict(model, meter, samples)
        for row in self._alone(number, of):
            ask = partial(self._predicting(model, [np.array([row])]), 0)
            samples.latency_seconds.append(timed(ask, self.device)[1])
        if self.trained:
            step = self.training(model)
            first = number * (1 + STEPS)  # Other batches in every turn, and other layers where a method drops some.
            step(first)
            seconds, joules = _repeated(step, first + 1, STEPS, self.device, meter)
            samples.step_seconds += seconds
            if joules is not None:
                samples.step_joules.append(joules / len(seconds))

    def _predict(self, model: LxmertForQuestionAnswering, meter: Meter, samples: Samples) -> None:
        batches = self._batches()
        batch = self._predicting(model, batches)
        batch(0)
        seconds, joules = _repeated(batch, 0, len(batches), self.device, meter)
        questions = sum(len(batches[number % len(batches)]) for number in range(len(seconds)))
        samples.questions_per_second.append(questions / sum(seconds))
        if joules is not None:
            samples.question_joules.append(joules / questions)

    def _batches(self) -> list[np.ndarray]:
        """Rows of the first batches that the test of the cell predicts."""
        cell, dataset = self._opened
        rows = dataset.rows(cell.test)
        rows = rows[np.argsort(dataset.image[rows], kind="stable")][: BATCHES * EVALUATION_BATCH]
        return [rows[first : first + EVALUATION_BATCH] for first in range(0, len(rows), EVALUATION_BATCH)]

    def _alone(self, number: int, of: int) -> np.ndarray:
        """Rows of the test split that turn ``number`` asks one by one: all turns' are spread over the split."""
        rows = self._opened[1].rows(self.cell.test)
        return rows[np.linspace(0, len(rows) - 1, ALONE * of).astype(int)][number::of]

    def _predicting(
        self, model: LxmertForQuestionAnswering, batches: Sequence[np.ndarray]
    ) -> Callable[[int], object]:
        """Predicts the batch of a number, from the stored features to the answers' scores."""
        cell, dataset = self._opened
        return lambda number: list(predict(model, dataset, batches[number % len(batches)], cell))

    def training(self, model: LxmertForQuestionAnswering) -> Callable[[int], object]:
        """Makes the training step of a number, with the cell's own optimiser."""
        cell, dataset = self._opened
        protocol, rows, device = cell.protocol, dataset.rows(*cell.train), torch.device(self.device)
        pictures = dataset.image[rows] if protocol.share_pictures else None
        batches = Batches(rows, protocol.batch_size, cell.seed, pictures)
        optimiser, engine = build_optimiser(model, protocol), Engine()
        engine.prepare(Objective(model, protocol), optimiser, protocol.clip)

        def step(number: int) -> object:
            number %= protocol.steps
            model.train()
            engine.set_rate(learning_rate(protocol, number))
            parts = np.array_split(batches[number], protocol.accumulate)
            return train_step(model, optimiser, dataset, parts, cell, number, device, engine)

        return step

    def training_memory(self) -> float:
        """Peak of two training steps in this process, which must be fresh, MiB: the second has the optimiser's
        state."""
        torch.optim.AdamW(
            [torch.zeros(1)]
        )  # The first optimiser brings half of torch in, which is no part of a step.
        with self._peak() as peak:
            step = self.training(self.model())
            for number in range(2):
                step(number)
        return peak[0]

    def prediction_memory(self) -> float:
        """Peak of prediction in this process, which must be fresh, MiB."""
        with self._peak() as peak:
            model, batches = self.model(), self._batches()
            predicting = self._predicting(model, batches)
            for number in range(min(2, len(batches))):
                predicting(number)
        return peak[0]

    @contextlib.contextmanager
    def _peak(self) -> Iterator[list[float]]:
        for plugin in self.plugins:
            registry.load_plugin(Path(plugin))
        torch.set_num_threads(self.threads)
        peak: list[float] = []
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            yield peak
            peak.append(torch.cuda.max_memory_allocated() / MEBIBYTE)
            return
        # What comes into memory once and for any model is there before: the data set, libraries at their first use.
        _ = self._opened
        weights = torch.ones(64, 64, requires_grad=True)
        (weights @ weights).softmax(-1).sum().backward()
        before = _resident(forget=True)
        yield peak
        peak.append((_resident() - before) / MEBIBYTE)


def _repeated(
    step: Callable[[int], object], first: int, least: int, device: str, meter: Meter
) -> tuple[list[float], float | None]:
    """Seconds of each of ``least`` steps, or of as many as take LEAST_SECONDS, and the joules of them all."""
    seconds: list[float] = []

    def run() -> None:
        while len(seconds) < least or sum(seconds) < LEAST_SECONDS:
            seconds.append(timed(lambda: step(first + len(seconds)), device)[1])

    return seconds, meter.joules(run)


def _resident(forget: bool = False) -> int:
    """Bytes of this process's peak resident memory; ``forget`` lets the peak begin anew where the system can."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    if forget:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
    # Not getrusage: after a fork it begins with the parent's peak.
    found: Any = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
    return int(found[1]) * 1024
