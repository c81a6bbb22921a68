"""`ablate bench attention`: one attention block per method, from few keys to many, forward and backward.

Every method gets the same query, key and value through ``Weights.attend``, in training, without dropout and
without a mask; so do torch's softmax and the package `entmax`, which people would otherwise call.
Shapes: B questions, H heads, K keys and as many queries, D width of a head.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
from entmax import entmax15, entmax_bisect, sparsemax
from matplotlib.figure import Figure
from torch import Tensor, nn

from suite import registry
from suite.attention import Positions, Site, SoftmaxWeights, Tokens, Weights
from suite.bench import show
from suite.bench.measure import Settings, free_memory, interleave, peak_memory, say, timed
from suite.bench.record import Record, Row, Seconds, Spread, digits
from suite.errors import UserError

SOFTMAX, AGAIN = "softmax", "softmax again"
WRITTEN_OUT, BISECTION = "torch softmax", "package entmax_bisect"
VQA = 36
"""Boxes of a picture in LXMERT."""
ROOM = 0.7
"""Share of the free memory that a step may be expected to take."""
PATIENCE = 5.0
"""Seconds that a step may be expected to take."""


@dataclass(frozen=True)
class Attention:
    keys: tuple[int, ...]
    heads: tuple[int, ...] = (12,)
    tokens: tuple[int, ...] = (2304,)
    """Queries of a batch, about: B is this over K, at least 1."""
    width: int = 64
    """D, of one head."""
    span: int = 64
    """What every learned span is set to, in tokens."""
    variants: tuple[str, ...] = ()
    """All that are registered where none is named."""

    name = "attention"
    reference = SOFTMAX

    def arguments(self) -> dict[str, Any]:
        return asdict(self)

    def measure(self, record: Record, settings: Settings) -> Iterator[None]:
        record.notes.append(
            f"One block, heads of width {self.width}, as many queries as keys, in training without dropout and "
            f"mask, float32. Spans are set to {self.span} tokens; other learned parameters are as training starts "
            f"from them. '{AGAIN}' shows the noise."
        )
        for heads in self.heads:
            contenders = self._contenders(heads, settings)
            same = [name for name in self._variants() if name not in contenders]
            if same and not record.rows:
                record.notes.append(f"Attends as softmax does, so without rows: {', '.join(same)}.")
            latest: dict[str, Row] = {}
            sizes = {(_batch(tokens, keys), keys) for tokens in self.tokens for keys in self.keys}
            for batch, keys in sorted(sizes, key=lambda size: size[0] * size[1] ** 2):
                case = {"heads": heads, "keys": keys, "batch": batch}
                title = f"{heads} heads, {keys} keys, batch {batch}"
                say(f"{title}: peak memory of {len(contenders)} methods")
                inputs = self._inputs(case, settings)
                tasks = []
                for name, weights in contenders.items():
                    row = Row(case, name)
                    record.rows.append(row)
                    if name in latest and (excess := _excess(latest[name], case, settings.device)):
                        row.facts["left_out"] = excess
                        continue
                    step = partial(_step, weights, *inputs, settings.device)
                    traced = partial(peak_memory, step, settings.device)
                    row.facts["peak_bytes"], seconds = timed(traced, settings.device)
                    latest[name] = row
                    # Where no smaller size foretold it, the one step of the peak memory tells.
                    if seconds > PATIENCE and name not in (SOFTMAX, AGAIN):
                        row.facts["left_out"] = f"took {seconds:.1f} s for one step with its memory traced"
                        continue
                    tasks.append((row, step))
                interleave(tasks, settings.rounds, title)
                yield

    def _variants(self) -> list[str]:
        return list(self.variants) or registry.names("variant")

    def _contenders(self, heads: int, settings: Settings) -> dict[str, Weights]:
        """Name -> a method in training; what changes depth alone is not there."""
        site = Site("language", "words", "words", index=0, depth=1, heads=heads)
        contenders: dict[str, Weights] = {SOFTMAX: SoftmaxWeights(), AGAIN: SoftmaxWeights()}
        for name in self._variants():
            torch.manual_seed(settings.seed)
            weights: Weights = registry.find("variant", name)().weights(site)
            if type(weights) is not SoftmaxWeights:
                self._set_spans(name, weights)
                contenders[name] = weights
        torch.manual_seed(settings.seed)
        alpha = 1 + torch.sigmoid(torch.randn(heads, 1, 1))
        contenders |= {
            WRITTEN_OUT: WrittenOut(partial(torch.softmax, dim=-1)),
            BISECTION: WrittenOut(entmax_bisect, alpha),
            "package entmax15": WrittenOut(entmax15),
            "package sparsemax": WrittenOut(sparsemax),
        }
        return {name: weights.train().to(settings.device) for name, weights in contenders.items()}

    @torch.no_grad()
    def _set_spans(self, name: str, weights: Weights) -> None:
        """Spans are learned as a parameter ``share``, from 0 to 1, of a limit."""
        for part in weights.modules():
            if not (isinstance(part, Weights) and "span" in part.stats()):
                continue
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

    def _inputs(self, case: dict[str, int], settings: Settings) -> tuple[Tensor, Tensor, Tensor, Positions, Tensor]:
        """Query, key, value (B, H, K, D), where they stand, and the gradient of what becomes of them."""
        torch.manual_seed(settings.seed)
        shape = case["batch"], case["heads"], case["keys"], self.width
        query, key, value, gradient = (torch.randn(shape, device=settings.device) for _ in range(4))
        tokens = Tokens("words", None, torch.arange(case["keys"], device=settings.device))
        for tensor in (query, key, value):
            tensor.requires_grad_()
        return query, key, value, Positions(tokens, tokens), gradient

    def table(self, record: Record) -> list[dict[str, str]]:
        return [
            {
                **{name: f"{value:,}" for name, value in row.case.items()},
                "method": row.name,
                **{f"{part} (ms)": Spread.of(samples).text(1e-3) for part, samples in row.seconds.items()},
                "both (ms)": Spread.of(row.totals()).text(1e-3),
                f"/ {self.reference}": Spread.of(record.ratios(row)).text(),
                "peak (MiB a question)": digits(_mebibytes(row)),
            }
            for row in record.measured()
        ]

    def findings(self, record: Record) -> list[str]:
        """What was left out, and from how many keys on each method is faster than softmax."""
        found = [
            f"{row.name}, {row.case['keys']:,} keys, batch {row.case['batch']}: left out, {row.facts['left_out']}."
            for row in record.rows
            if "left_out" in row.facts
        ]
        for title, lines in self._panels(record).items():
            faster: list[str] = []
            slower: dict[int, list[str]] = {}
            noise = {row.case["keys"]: min(1.0, Spread.of(record.ratios(row)).low) for row in lines.pop(AGAIN)}
            del lines[SOFTMAX]
            for name, rows in lines.items():
                ratios = {row.case["keys"]: Spread.of(record.ratios(row)) for row in rows}
                # Quartiles that overlap with those of softmax once more: a tie.
                last = max((keys for keys, ratio in ratios.items() if ratio.high >= noise[keys]), default=0)
                if first := next((keys for keys in ratios if keys > last), None):
                    faster.append(f"{name} from {first:,} keys on")
                else:
                    slower.setdefault(last, []).append(name)
            found.append(f"{title}, faster than softmax: {', '.join(faster) or 'nothing'}.")
            for last, names in slower.items():
                found.append(f"{title}, not faster up to {last:,} keys: {', '.join(names)}.")
        return found

    def figure(self, record: Record) -> Figure:
        return show.curves(
            [
                (
                    show.Panel(
                        title,
                        "time, softmax = 1",
                        {
                            name: [(row.case["keys"], Spread.of(record.ratios(row))) for row in rows]
                            for name, rows in lines.items()
                        },
                        below_one="faster than softmax",
                    ),
                    show.Panel(
                        title,
                        "peak memory of a question (MiB)",
                        {
                            name: [(row.case["keys"], Spread.of([_mebibytes(row)])) for row in rows]
                            for name, rows in lines.items()
                        },
                    ),
                )
                for title, lines in self._panels(record).items()
            ],
            xlabel="keys",
            marked=(VQA, f"VQA: {VQA} boxes"),
            coloured=[SOFTMAX, *(self.variants or _demonstrated())],
            dashed=[WRITTEN_OUT, BISECTION],
        )

    def _panels(self, record: Record) -> dict[str, dict[str, list[Row]]]:
        """Title -> method -> its measured rows, fewest keys first; a panel is one number of heads and of tokens."""
        panels: dict[str, dict[str, list[Row]]] = {}
        for heads, tokens in itertools.product(self.heads, self.tokens):
            lines = panels.setdefault(f"{heads} heads, batches of {tokens:,} tokens", {})
            for row in sorted(record.measured(), key=lambda row: row.case["keys"]):
                if row.case["heads"] == heads and row.case["batch"] == _batch(tokens, row.case["keys"]):
                    lines.setdefault(row.name, []).append(row)
        return {title: lines for title, lines in panels.items() if lines}


class WrittenOut(Weights):
    """A function of the scores along their last dimension, and of parameters of its own, as weights."""

    def __init__(self, function: Callable[..., Tensor], *parameters: Tensor) -> None:
        super().__init__()
        self.function = function
        self.learned = nn.ParameterList(parameters)

    def forward(self, scores: Tensor, mask: Tensor | None, positions: Positions) -> Tensor:
        return self.function(scores, *self.learned)


def _batch(tokens: int, keys: int) -> int:
    return max(1, tokens // keys)


def _demonstrated() -> list[str]:
    """The variants of the demo study: what a figure of all of them is read for."""
    return [cell.variant for cell in registry.make_study("demo").cells]


def _mebibytes(row: Row) -> float:
    return row.facts["peak_bytes"] / row.case["batch"] / 2**20


def _excess(measured: Row, case: dict[str, int], device: str) -> str | None:
    """What a method that was measured at a smaller size may ask too much of at the size ``case``.

    It is taken to grow as its attention weights do, of which there are B H K^2. Softmax, which the others are
    divided by, is never left out.
    """
    if measured.name in (SOFTMAX, AGAIN):
        return None
    if "left_out" in measured.facts:
        return f"was left out with {measured.case['keys']:,} keys"
    growth = (case["batch"] * case["keys"] ** 2) / (measured.case["batch"] * measured.case["keys"] ** 2)
    if (memory := growth * measured.facts["peak_bytes"]) > ROOM * free_memory(device):
        return f"may need {memory / 2**30:.0f} GiB"
    if (seconds := growth * median(measured.totals())) > PATIENCE:
        return f"may take {seconds:.0f} s a step"
    return None


def _step(
    weights: Weights, query: Tensor, key: Tensor, value: Tensor, positions: Positions, gradient: Tensor, device: str
) -> Seconds:
    """One forward and one backward pass."""
    learned = [query, key, value, *weights.parameters()]
    mixed, forward = timed(lambda: weights.attend(query, key, value, None, positions), device)
    _, backward = timed(lambda: torch.autograd.grad(mixed, learned, gradient, allow_unused=True), device)
    return {"forward": forward, "backward": backward}
