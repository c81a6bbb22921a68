"""`ablate bench model`: our LXMERT against transformers', with the same weights and equal answers.

Training is the forward pass, the VQA loss and the backward pass, without an optimiser step for either.
transformers attends as its LXMERT does (softmax, written out; it has no other) and is given the picture of
every question; questions are padded to 20 word pieces as LXMERT pads them, and once to the longest of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from matplotlib.figure import Figure
from torch import Tensor, nn

from suite.attention import Variant
from suite.bench import show
from suite.bench.measure import Settings, interleave, multiply_adds, peak_memory, say, timed
from suite.bench.questions import LONGEST, QUESTIONS_PER_PICTURE, Questions, SizeName, draw, size
from suite.bench.record import Record, Row, Seconds, Spread, digits
from suite.errors import UserError
from suite.export import transformers_config
from suite.models.lxmert import LxmertConfig, LxmertForQuestionAnswering
from suite.training import answer_loss

PADDED = f"transformers, padded to {LONGEST}"
OURS = ("ours, a picture per question", "ours, pictures shared")
PEAK = "matrix product"
PEAK_SIDE, PEAK_TRIES = 2048, 3
"""The machine's best is the fastest of so many products of square float32 matrices, in every round."""
EQUAL = 1e-5
"""How far two logits of order 1 may lie apart: sums of float32 in another order differ by some 4e-6."""


@dataclass(frozen=True)
class Contender:
    name: str
    model: nn.Module
    answer: Callable[[], Tensor]
    """A forward pass: logits (B, A)."""


@dataclass(frozen=True)
class Model:
    size: SizeName
    batch: tuple[int, ...]
    dropout: float = 0.0

    name = "model"
    reference = PADDED

    def arguments(self) -> dict[str, Any]:
        return asdict(self)

    def measure(self, record: Record, settings: Settings) -> Iterator[None]:
        record.notes += [
            "Training: forward, VQA loss and backward, no optimiser step; evaluation: forward without gradients. "
            f"Float32, dropout {self.dropout:g} for both, {QUESTIONS_PER_PICTURE} questions a picture.",
            "Share of peak: multiply-adds in products of matrices a second, against those of the fastest of "
            f"{PEAK_TRIES} products of two {PEAK_SIDE} x {PEAK_SIDE} float32 matrices in the same round.",
        ]
        chosen = size(self.size, self.dropout)
        say("building both models")
        ours, theirs = pair(chosen.config, settings)
        for batch in self.batch:
            questions = draw(chosen, batch, settings.seed, settings.device)
            entered = contenders(ours, theirs, questions)
            difference = check(entered)
            record.notes.append(
                f"Batch {batch}: {len(questions.regions)} pictures, "
                f"{questions.word_mask.sum(1).float().mean():.1f} word pieces a question, "
                f"{questions.words.shape[1]} at most; logits differ from transformers' by at most {difference:.1e}."
            )
            phases: dict[str, Callable[[Contender], Seconds]] = {
                "evaluation": partial(_evaluate, device=settings.device),
                "training": partial(_train, targets=questions.targets, device=settings.device),
            }
            for phase, step in phases.items():
                case = {"phase": phase, "batch": batch}
                say(f"{phase}, batch {batch}: multiply-adds and peak memory of {len(entered)} models")
                tasks = []
                for contender in entered:
                    contender.model.train(phase == "training")
                    run = partial(step, contender)
                    facts = {
                        "multiply_adds": multiply_adds(run),
                        "peak_bytes": peak_memory(run, settings.device),
                    }
                    tasks.append((Row(case, contender.name, facts), run))
                square = torch.randn(PEAK_SIDE, PEAK_SIDE, device=settings.device)
                best = Row(case, PEAK, {"multiply_adds": PEAK_SIDE**3})
                tasks.append((best, partial(_multiply, square, settings.device)))
                record.rows += [row for row, _ in tasks]
                interleave(tasks, settings.rounds, f"{phase}, batch {batch}")
                yield

    def table(self, record: Record) -> list[dict[str, str]]:
        return [
            {
                **{name: str(value) for name, value in row.case.items()},
                "model": row.name,
                "questions/s": speed(row).text(),
                "speed-up": speed_up(record, row).text(),
                "share of peak (%)": share_of_peak(record, row).text(0.01),
                "multiply-adds of a question (G)": digits(row.facts["multiply_adds"] / row.case["batch"] / 1e9),
                "peak (MiB)": digits(row.facts["peak_bytes"] / 2**20),
            }
            for row in _models(record)
        ]

    def findings(self, record: Record) -> list[str]:
        found = []
        for best in (row for row in record.measured() if row.name == PEAK):
            rate = Spread.of([2e-9 * best.facts["multiply_adds"] / seconds for seconds in best.totals()])
            found.append(f"{best.case['phase']}, batch {best.case['batch']}: peak {rate.text()} GFLOP/s.")
        return found

    def figure(self, record: Record) -> Figure:
        panels: dict[str, list[show.Mark]] = {}
        for row in _models(record):
            text = f"{digits(speed(row).middle)} ({speed_up(record, row).middle:.2f} x)"
            mark = show.Mark(row.name, speed(row), text, ours=row.name in OURS)
            panels.setdefault(f"{row.case['phase']}, {self.size} size, batch {row.case['batch']}", []).append(mark)
        return show.dots(panels, xlabel=f"questions per second (times '{PADDED}')")


def _models(record: Record) -> list[Row]:
    return [row for row in record.measured() if row.name != PEAK]


def speed(row: Row) -> Spread:
    """Questions per second."""
    return Spread.of([row.case["batch"] / seconds for seconds in row.totals()])


def speed_up(record: Record, row: Row) -> Spread:
    """How many times as fast as the reference."""
    return Spread.of([1 / ratio for ratio in record.ratios(row)])


def share_of_peak(record: Record, row: Row) -> Spread:
    """Multiply-adds per second over those of the matrix product."""
    best = record.beside(row, PEAK)
    work = row.facts["multiply_adds"] / best.facts["multiply_adds"]
    return Spread.of([work * peak / own for own, peak in zip(row.totals(), best.totals(), strict=True)])


def pair(
    config: LxmertConfig, settings: Settings
) -> tuple[LxmertForQuestionAnswering, transformers.LxmertForQuestionAnswering]:
    """Our model and transformers' with the same random weights; each loads the other's strictly."""
    torch.manual_seed(settings.seed)
    theirs = transformers.LxmertForQuestionAnswering(transformers_config(config))
    with torch.no_grad():
        for weight in theirs.parameters():
            if weight.ndim == 1:  # Fresh biases and norms are 0 and 1: an error in them would not show.
                weight.add_(0.02 * torch.randn_like(weight))
    ours = LxmertForQuestionAnswering(config, Variant())
    ours.load_state_dict(theirs.state_dict(), strict=True)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    return ours.to(settings.device), theirs.to(settings.device)  # type: ignore[arg-type]


def contenders(
    ours: LxmertForQuestionAnswering, theirs: transformers.LxmertForQuestionAnswering, questions: Questions
) -> list[Contender]:
    """Four ways to the same logits, the reference first."""
    own = questions.own

    def reference(padding: int) -> Callable[[], Tensor]:
        inputs = {
            "input_ids": F.pad(own["words"], (0, padding)),
            "attention_mask": F.pad(own["word_mask"], (0, padding)).long(),
            "visual_feats": own["regions"],
            "visual_pos": own["boxes"],
        }
        return lambda: theirs(**inputs).question_answering_score

    return [
        Contender(PADDED, theirs, reference(LONGEST - own["words"].shape[1])),
        Contender("transformers, padded to the longest", theirs, reference(0)),
        Contender(OURS[0], ours, partial(ours, **own)),
        Contender(OURS[1], ours, partial(ours, **questions.shared)),
    ]


@torch.no_grad()
def check(entered: list[Contender]) -> float:
    """The largest difference between the first contender's logits and any other's, in evaluation.

    Raises UserError where it is above EQUAL: the speed of another function says nothing.
    """
    for contender in entered:
        contender.model.eval()
    reference = entered[0].answer()
    differences = {one.name: (one.answer() - reference).abs().max().item() for one in entered[1:]}
    for name, difference in differences.items():
        if not difference <= EQUAL:
            raise UserError(
                f"Expected equal logits, within {EQUAL:g}; those of '{name}' differ from those of "
                f"'{entered[0].name}' by {difference:.2g}. Mend the model before its speed is measured."
            )
    return max(differences.values())


def _evaluate(contender: Contender, device: str) -> Seconds:
    with torch.no_grad():
        return {"forward": timed(contender.answer, device)[1]}


def _train(contender: Contender, targets: Tensor, device: str) -> Seconds:
    loss, forward = timed(lambda: answer_loss(contender.answer(), targets), device)
    _, backward = timed(loss.backward, device)
    contender.model.zero_grad(set_to_none=True)
    return {"forward": forward, "backward": backward}


def _multiply(square: Tensor, device: str) -> Seconds:
    return {"product": min(timed(lambda: square @ square, device)[1] for _ in range(PEAK_TRIES))}
