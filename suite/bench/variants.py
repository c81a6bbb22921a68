"""`ablate bench variants`: a training step of each row of a study against its first row.

A step is the forward pass, the VQA loss with the method's penalty, and the backward pass; with the optimiser
also the clipping, the row's own optimiser and ``project``. Every question brings its own picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from suite import plan, registry
from suite.bench import show
from suite.bench.measure import (
    Record,
    Row,
    Seconds,
    Settings,
    Spread,
    at_least_one,
    interleave,
    peak_memory,
    say,
    timed,
)
from suite.bench.questions import SizeName, draw, size
from suite.config import Cell, Protocol
from suite.models.lxmert import LxmertForQuestionAnswering
from suite.optimisers import build_optimiser, learning_rate
from suite.training import answer_loss, is_variants_own, penalty, varied


@dataclass(frozen=True)
class Variants:
    cells: tuple[Cell, ...]
    """The rows; of each only variant, arguments, layers and protocol count."""
    size: SizeName
    batch: int
    dropout: float = 0.0
    optimizer: bool = False
    """The whole step instead of forward and backward."""

    name = "variants"

    def __post_init__(self) -> None:
        at_least_one("batch", self.batch)

    @property
    def reference(self) -> str:
        return _name(self.cells[0])

    def arguments(self) -> dict[str, Any]:
        return {field: value for field, value in vars(self).items() if field != "cells"}

    def measure(self, record: Record, settings: Settings) -> Iterator[None]:
        chosen = size(self.size, self.dropout)
        questions = draw(chosen, self.batch, settings.seed, settings.device)
        what = "clipping, optimiser and projection too" if self.optimizer else "no optimiser step"
        record.notes.append(
            f"A training step: forward, VQA loss with the method's penalty and backward, {what}. Float32, dropout "
            f"{self.dropout:g}, {questions.word_mask.sum(1).float().mean():.1f} word pieces a question, "
            f"{questions.words.shape[1]} at most, a picture of {chosen.regions} boxes for each."
        )
        tasks = []
        common: dict[str, nn.Parameter] = {}
        for cell in map(plan.resolve, self.cells):
            row = Row({"size": self.size, "batch": self.batch}, _name(cell))
            say(f"{row.name}: building, peak memory")
            torch.manual_seed(settings.seed)
            variant = registry.find("variant", cell.variant)(**cell.arguments)
            model = LxmertForQuestionAnswering(replace(chosen.config, layers=cell.layers), variant)
            _share(model.to(settings.device).train(), common)
            protocol = cell.protocol if self.optimizer else None
            # The layers that a step drops come from it: other ones in every round, as in training.
            generator = torch.Generator().manual_seed(settings.seed)
            step = partial(_step, model, protocol, questions.own, questions.targets, generator, settings.device)
            row.facts = {
                "variant": cell.variant,
                "arguments": dict(cell.arguments),
                "layers": list(cell.layers),
                "optimizer": cell.protocol.optimizer if self.optimizer else None,
                "peak_bytes": peak_memory(step, settings.device),
            }
            record.rows.append(row)
            tasks.append((row, step))
        interleave(tasks, settings.rounds, f"{self.size}, batch {self.batch}")
        yield

    def table(self, record: Record) -> list[dict[str, str]]:
        return [
            {
                "method": row.name,
                **{f"{part} (ms)": Spread.of(samples).text(1e-3) for part, samples in row.seconds.items()},
                "step (ms)": Spread.of(row.rounds()).text(1e-3),
                f"/ {record.reference}": Spread.of(record.ratios(row)).text(),
                "peak (MiB)": show.mebibytes(row),
            }
            for row in record.measured()
        ]

    def findings(self, record: Record) -> list[str]:
        return []

    def figure(self, record: Record) -> Figure:
        marks = []
        for row in record.measured():
            milliseconds = Spread.of(row.rounds()).middle * 1e3
            ratio = Spread.of(record.ratios(row))
            marks.append(show.Mark(row.name, ratio, f"{ratio.middle:.2f} ({milliseconds:,.0f} ms)"))
        title = f"training step, {self.size} size, batch {self.batch}"
        return show.dots({title: marks}, xlabel=f"time, {record.reference} = 1", line=1.0)


def _name(cell: Cell) -> str:
    return plan.describe(plan.Job("", plan.resolve(cell), "row", None))


def _share(model: LxmertForQuestionAnswering, common: dict[str, nn.Parameter]) -> None:
    """Gives the model the LXMERT weights of those before it: seven base models of their own fill 6 GB."""
    for name, weight in list(model.named_parameters()):
        known = common.setdefault(name, weight)
        if not is_variants_own(name) and known.shape == weight.shape:
            holder, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(holder), leaf, known)


def _step(
    model: LxmertForQuestionAnswering,
    protocol: Protocol | None,
    inputs: dict[str, Tensor],
    targets: Tensor,
    generator: torch.Generator,
    device: str,
) -> Seconds:
    """One training step; with a protocol that of a fresh optimiser, after a step that makes its state."""
    optimiser = build_optimiser(model, protocol) if protocol else None

    def loss() -> Tensor:
        return answer_loss(model(**inputs, generator=generator), targets) + penalty(model)

    def update(optimiser: torch.optim.Optimizer, protocol: Protocol) -> None:
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(protocol, 0)
        nn.utils.clip_grad_norm_(model.parameters(), protocol.clip)
        optimiser.step()
        for weights in varied(model):
            weights.project()

    def once() -> Seconds:
        lost, forward = timed(loss, device)
        _, backward = timed(lost.backward, device)
        parts = {"forward": forward, "backward": backward}
        if optimiser and protocol:
            _, parts["optimiser"] = timed(partial(update, optimiser, protocol), device)
        model.zero_grad(set_to_none=True)
        return parts

    if optimiser:
        once()
    return once()
