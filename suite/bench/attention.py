"""`ablate bench attention`: one attention block per method, from few keys to many, forward and backward.

Every method gets the same query, key and value through ``Weights.attend``, in training, without dropout and
without a mask; so do torch's softmax and the package `entmax`, which people would otherwise call.
Shapes: B questions, H heads, K keys and as many queries, D width of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from entmax import entmax15, entmax_bisect, sparsemax
from matplotlib.figure import Figure
from torch import Tensor, nn

from suite import registry
from suite.attention import Positions, Site, SoftmaxWeights, Tokens, Weights
from suite.bench import show
from suite.bench.measure import (
    Record,
    Row,
    Seconds,
    Settings,
    Spread,
    at_least_one,
    free_memory,
    interleave,
    peak_memory,
    say,
    timed,
)
from suite.errors import UserError

SOFTMAX = "softmax"
OTHERS = ("torch ", "package ")
"""What the names of what is not ours begin with."""
VQA = 36
"""Boxes of a picture in LXMERT."""
ROOM = 0.7
"""Share of the free memory that a measurement may be expected to fill."""


@dataclass(frozen=True)
class Attention:
    keys: tuple[int, ...]
    heads: int = 12
    width: int = 64
    """D, of one head."""
    tokens: int = 2304
    """Queries of a batch, about: B is this over K, at least 1."""
    span: int = 64
    """What every learned span is set to, in tokens."""
    variants: tuple[str, ...] = ()
    """All that are registered where none is named."""

    name = "attention"
    reference = SOFTMAX

    def __post_init__(self) -> None:
        for name in ("heads", "width", "tokens"):
            at_least_one(name, getattr(self, name))
        for keys in self.keys:
            at_least_one("keys", keys)

    def arguments(self) -> dict[str, Any]:
        return asdict(self)

    def measure(self, record: Record, settings: Settings) -> Iterator[None]:
        record.notes.append(
            f"One block of {self.heads} heads of width {self.width}, as many queries as keys, in training without "
            "dropout and mask, float32. torch SDPA is what softmax calls: their ratio shows the noise."
        )
        contenders = self._contenders(record, settings)
        bytes_per_weight: dict[str, float] = {}
        for keys in sorted(set(self.keys)):
            batch = max(1, self.tokens // keys)
            title = f"{keys} keys, batch {batch}"
            say(f"{title}: peak memory of {len(contenders)} methods")
            inputs = self._inputs(batch, keys, settings)
            attention_weights = batch * self.heads * keys**2
            tasks = []
            for name, weights in contenders.items():
                row = Row({"keys": keys, "batch": batch}, name)
                record.rows.append(row)
                expected = bytes_per_weight.get(name, 0.0) * attention_weights
                if expected > ROOM * free_memory(settings.device):
                    row.facts["left_out"] = f"would need about {expected / 2**30:.0f} GiB"
                    continue
                step = partial(_step, weights, *inputs, settings.device)
                row.facts["peak_bytes"] = peak_memory(step, settings.device)
                bytes_per_weight[name] = row.facts["peak_bytes"] / attention_weights
                tasks.append((row, step))
            interleave(tasks, settings.rounds, title)
            yield

    def _contenders(self, record: Record, settings: Settings) -> dict[str, Weights]:
        """Name -> a method in training. What only changes depth is softmax here, and a note says so."""
        site = Site("language", "words", "words", index=0, depth=1, heads=self.heads)
        contenders: dict[str, Weights] = {SOFTMAX: SoftmaxWeights()}
        same = []
        for name in self.variants or registry.names("variant"):
            torch.manual_seed(settings.seed)
            weights = registry.find("variant", name)().weights(site)
            if type(weights) is SoftmaxWeights:
                same.append(name)
            elif spans := [
                part for part in weights.modules() if isinstance(part, Weights) and "span" in part.stats()
            ]:
                for part in spans:
                    self._set_span(name, part)
                contenders[f"{name}, z = {self.span}"] = weights
            else:
                contenders[name] = weights
        if left_out := [name for name in same if name != SOFTMAX]:
            record.notes.append(f"Attends as softmax does, so without rows: {', '.join(left_out)}.")
        torch.manual_seed(settings.seed)
        contenders |= {
            "torch SDPA": SoftmaxWeights(),
            "torch softmax": WrittenOut(partial(torch.softmax, dim=-1)),
            "package entmax_bisect": WrittenOut(entmax_bisect, 1 + torch.sigmoid(torch.randn(self.heads, 1, 1))),
            "package entmax15": WrittenOut(entmax15),
            "package sparsemax": WrittenOut(sparsemax),
        }
        return {name: weights.train().to(settings.device) for name, weights in contenders.items()}

    @torch.no_grad()
    def _set_span(self, name: str, part: Weights) -> None:
        """Spans are learned as ``share``, from 0 to 1, of a limit."""
        share = dict(part.named_parameters(recurse=False)).get("share")
        if share is None:
            raise UserError(
                f"Expected {name} to learn its spans as a parameter `share`; it has none. Leave it out."
            )
        share.fill_(1.0)
        limit = max(part.stats()["span"])
        if not 0 <= self.span <= limit:
            raise UserError(f"Expected a --span from 0 to {limit:g}, as {name} has; received {self.span}.")
        share.fill_(self.span / limit)

    def _inputs(
        self, batch: int, keys: int, settings: Settings
    ) -> tuple[Tensor, Tensor, Tensor, Positions, Tensor]:
        """Query, key, value (B, H, K, D), where they stand, and the gradient of what becomes of them."""
        torch.manual_seed(settings.seed)
        query, key, value, gradient = (
            torch.randn(batch, self.heads, keys, self.width, device=settings.device) for _ in range(4)
        )
        tokens = Tokens("words", None, torch.arange(keys, device=settings.device))
        for tensor in (query, key, value):
            tensor.requires_grad_()
        return query, key, value, Positions(tokens, tokens), gradient

    def table(self, record: Record) -> list[dict[str, str]]:
        return [
            {
                **{name: f"{value:,}" for name, value in row.case.items()},
                "method": row.name,
                **{f"{part} (ms)": Spread.of(samples).text(1e-3) for part, samples in row.seconds.items()},
                "both (ms)": Spread.of(row.rounds()).text(1e-3),
                f"/ {self.reference}": Spread.of(record.ratios(row)).text(),
                "peak (MiB)": show.mebibytes(row),
            }
            for row in record.measured()
        ]

    def findings(self, record: Record) -> list[str]:
        """From how many keys on each method is faster than softmax."""
        found = [
            f"{row.name} at {row.case['keys']:,} keys is left out: {row.facts['left_out']}."
            for row in record.rows
            if "left_out" in row.facts
        ]
        for name, lines in self._by_name(record).items():
            faster = None
            for keys, ratio in ((row.case["keys"], Spread.of(record.ratios(row))) for row in reversed(lines)):
                # Not the median: a method that only ties with softmax is not faster.
                if ratio.high >= 1:
                    break
                faster = keys
            if name not in (self.reference, "torch SDPA"):
                found.append(
                    f"{name}: faster than softmax from {faster:,} keys on."
                    if faster
                    else f"{name}: not faster than softmax up to {lines[-1].case['keys']:,} keys."
                )
        return found

    def figure(self, record: Record) -> Figure:
        lines = self._by_name(record)
        time = {
            name: [(row.case["keys"], Spread.of(record.ratios(row))) for row in rows]
            for name, rows in lines.items()
        }
        memory = {
            name: [
                (row.case["keys"], Spread.of([row.facts["peak_bytes"] / row.case["batch"] / 2**20])) for row in rows
            ]
            for name, rows in lines.items()
        }
        return show.curves(
            {"time, softmax = 1": time, "peak memory of a question (MiB)": memory},
            xlabel="keys",
            marked={VQA: f"VQA: {VQA} boxes"},
            ours=[name for name in lines if name == SOFTMAX or not name.startswith(OTHERS)],
        )

    @staticmethod
    def _by_name(record: Record) -> dict[str, list[Row]]:
        """The measured rows of each method, fewest keys first."""
        lines: dict[str, list[Row]] = {}
        for row in record.measured():
            lines.setdefault(row.name, []).append(row)
        return lines


class WrittenOut(Weights):
    """A function of the scores along their last dimension, and of parameters of its own, as weights."""

    def __init__(self, function: Callable[..., Tensor], *parameters: Tensor) -> None:
        super().__init__()
        self.function = function
        self.learned = nn.ParameterList(parameters)

    def forward(self, scores: Tensor, mask: Tensor | None, positions: Positions) -> Tensor:
        return self.function(scores, *self.learned)


def _step(
    weights: Weights, query: Tensor, key: Tensor, value: Tensor, positions: Positions, gradient: Tensor, device: str
) -> Seconds:
    """One forward and one backward pass; the gradients are dropped afterwards."""
    mixed, forward = timed(lambda: weights.attend(query, key, value, None, positions), device)
    _, backward = timed(lambda: mixed.backward(gradient), device)
    query.grad = key.grad = value.grad = None
    weights.zero_grad(set_to_none=True)
    return {"forward": forward, "backward": backward}
