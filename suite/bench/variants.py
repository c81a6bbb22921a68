"""`ablate bench variants`: a training step of each row of a study against its first row.

A step is what `ablate run` does with a batch: forward pass, VQA loss with the method's penalty, backward pass,
clipping, the row's own optimiser and ``project``. Every question brings its own picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from suite import plan, registry
from suite.bench import show
from suite.bench.measure import Settings, interleave, peak_memory, say, timed
from suite.bench.questions import SizeName, draw, size
from suite.bench.record import Record, Row, Seconds, Spread, digits
from suite.config import Cell, Protocol
from suite.models.lxmert import LxmertForQuestionAnswering, is_variants_own
from suite.optimisers import build_optimiser
from suite.training import answer_loss, penalty, varied


@dataclass(frozen=True)
class Variants:
    cells: tuple[Cell, ...]
    """The rows; of each only variant, arguments, layers and protocol count, and those of one name are one row."""
    size: SizeName
    batch: int
    dropout: float = 0.0

    name = "variants"

    @property
    def reference(self) -> str:
        return next(iter(self._rows()))

    def _rows(self) -> dict[str, Cell]:
        """Name -> a cell that is trained; those that are evaluated only have no training step."""
        rows: dict[str, Cell] = {}
        for cell in map(plan.resolve, self.cells):
            if cell.keep is None:
                rows.setdefault(plan.describe(plan.Job("", cell, "row", None)), cell)
        return rows

    def arguments(self) -> dict[str, Any]:
        return {"size": self.size, "batch": self.batch, "dropout": self.dropout}

    def measure(self, record: Record, settings: Settings) -> Iterator[None]:
        chosen = size(self.size, self.dropout)
        questions = draw(chosen, self.batch, settings.seed, settings.device)
        record.notes.append(
            "A training step: forward, VQA loss with the method's penalty, backward; then clipping, the row's own "
            f"optimiser and projection. Float32, dropout {self.dropout:g}, learned parameters as training starts "
            f"from them, {questions.word_mask.sum(1).float().mean():.1f} word pieces a question, "
            f"{questions.words.shape[1]} at most, {chosen.regions} boxes of its own for each. Peak memory is that "
            "of forward and backward, gradients included."
        )
        tasks = []
        common: dict[str, nn.Parameter] = {}
        for name, cell in self._rows().items():
            say(f"{name}: building, peak memory")
            torch.manual_seed(settings.seed)
            variant = registry.find("variant", cell.variant)(**cell.arguments)
            model = LxmertForQuestionAnswering(replace(chosen.config, layers=cell.layers), variant)
            _share(model.to(settings.device).train(), common)
            # The layers that a step drops come from it: other ones in every round, as in training.
            generator = torch.Generator().manual_seed(settings.seed)
            step = partial(_step, model, questions.own, questions.targets, generator, settings.device)
            facts = {
                "variant": cell.variant,
                "arguments": dict(cell.arguments),
                "layers": list(cell.layers),
                "optimizer": cell.protocol.optimizer,
                "peak_bytes": peak_memory(step, settings.device),
            }
            row = Row({"size": self.size, "batch": self.batch}, name, facts)
            record.rows.append(row)
            tasks.append((row, partial(step, protocol=cell.protocol)))
        interleave(tasks, settings.rounds, f"{self.size}, batch {self.batch}")
        yield

    def table(self, record: Record) -> list[dict[str, str]]:
        return [
            {
                "method": row.name,
                **{f"{part} (ms)": Spread.of(samples).text(1e-3) for part, samples in row.seconds.items()},
                "step (ms)": Spread.of(row.totals()).text(1e-3),
                f"/ {record.reference}": Spread.of(record.ratios(row)).text(),
                "peak (MiB)": digits(row.facts["peak_bytes"] / 2**20),
            }
            for row in record.measured()
        ]

    def findings(self, record: Record) -> list[str]:
        return []

    def figure(self, record: Record) -> Figure:
        marks = []
        for row in record.measured():
            milliseconds, ratio = Spread.of(row.totals()).middle * 1e3, Spread.of(record.ratios(row))
            text = f"{ratio.middle:.2f} ({milliseconds:,.0f} ms)"
            marks.append(show.Mark(row.name, ratio, text, ours=row.name != record.reference))
        title = f"training step, {self.size} size, batch {self.batch}"
        return show.dots({title: marks}, xlabel=f"time, {record.reference} = 1", line=1.0)


def _share(model: LxmertForQuestionAnswering, common: dict[str, nn.Parameter]) -> None:
    """Gives the model the LXMERT weights of those before it: seven base models of their own fill 6 GB."""
    for name, weight in list(model.named_parameters()):
        known = common.setdefault(name, weight)
        if not is_variants_own(name) and known.shape == weight.shape:
            holder, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(holder), leaf, known)


def _step(
    model: LxmertForQuestionAnswering,
    inputs: dict[str, Tensor],
    targets: Tensor,
    generator: torch.Generator,
    device: str,
    protocol: Protocol | None = None,
) -> Seconds:
    """Forward and backward; with a ``protocol`` the optimiser's part too, which moves no weight."""

    def loss() -> Tensor:
        return answer_loss(model(**inputs, generator=generator), targets) + penalty(model)

    lost, forward = timed(loss, device)
    _, backward = timed(lost.backward, device)
    parts = {"forward": forward, "backward": backward}
    if protocol:
        update = _updates(model, protocol)
        # The first makes the optimiser's state, which a run has from then on. Kept, it would fill 2 GB a method.
        update()
        _, parts["optimiser"] = timed(update, device)
    model.zero_grad(set_to_none=True)
    return parts


def _updates(model: LxmertForQuestionAnswering, protocol: Protocol) -> Callable[[], None]:
    """What follows the backward pass, at the learning rate 0.

    The arithmetic is that of any other rate, and the next step, of whichever method, meets the same weights.
    """
    optimiser = build_optimiser(model, protocol)
    for group in optimiser.param_groups:
        group["lr"] = 0.0

    def update() -> None:
        nn.utils.clip_grad_norm_(model.parameters(), protocol.clip)
        optimiser.step()
        for weights in varied(model):
            weights.project()

    return update
