"""What is trained: a cell is one fully resolved training run, a study is a grid of them.

Everything here is a frozen dataclass of plain values that survives JSON; nothing imports torch.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from suite.errors import UserError, unknown
from suite.space import Distribution, Scalar

Role = Literal["row", "start", "floor", "trial"]
Engine = Literal["torch", "deepspeed"]


@dataclass(frozen=True)
class ModelSize:
    """LXMERT's sizes that a study chooses; vocabulary, features and answers come from the data set."""

    width: int = 768
    heads: int = 12
    intermediate: int = 3072
    hidden_dropout: float = 0.1
    attention_dropout: float = 0.1


@dataclass(frozen=True)
class Protocol:
    """How a cell is trained. The defaults are the paper's (section 3) where the paper states them."""

    steps: int
    batch_size: int = 128
    optimizer: Literal["lookahead_lamb", "lookahead_lamb_published", "adamw"] = "lookahead_lamb"
    """``published``: LAMB as in the paper's code, without bias correction, a tensor's length held at 10."""
    schedule: Literal["cyclic", "linear"] = "cyclic"
    learning_rate: float = 1e-4
    """The peak: the top of a cycle, or the end of the warm-up."""
    base_learning_rate: float = 1e-5
    """The bottom of a cycle; the linear schedule falls to zero instead."""
    cycles: int = 4
    """Up-and-down cycles over the run (Smith 2017, triangular)."""
    warmup: float = 0.1
    """Share of the steps over which the linear schedule rises."""
    weight_decay: float = 0.01
    min_trust: float = 0.0
    """Floor of LAMB's trust ratio; the paper's code has 0.25."""
    lookahead_period: int = 5
    """k of Zhang et al. 2019. The paper gives neither number; its code has 5 and 0.8."""
    lookahead_share: float = 0.5
    """alpha of Zhang et al. 2019: how far the slow weights go to the fast ones."""
    clip: float = 5.0
    """Largest norm of the gradient over all parameters."""
    evaluations: int = 12
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 is autocast: parameters and the optimiser stay in float32."""
    accumulate: int = 1
    """Parts that a batch is taken in, one after another, for what does not fit at once: gradients are summed."""
    share_pictures: bool = False
    """Training batches keep a picture's questions together and take it through the vision stack once."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "cycles", "evaluations", "lookahead_period", "accumulate"):
            _at_least(name, getattr(self, name), 1)
        if self.accumulate > self.batch_size:
            raise UserError(f"A batch of {self.batch_size} has no {self.accumulate} parts to accumulate.")
        if not 0 <= self.min_trust < 1:
            raise UserError(f"min_trust is a ratio from 0 (no floor) to below 1; received {self.min_trust!r}.")
        if not 0 < self.lookahead_share <= 1:
            raise UserError(f"lookahead_share is above 0 and at most 1; received {self.lookahead_share!r}.")
        for name in ("learning_rate", "clip"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} must be above 0; received {getattr(self, name)!r}.")
        if not 0 <= self.warmup <= 1:
            raise UserError(f"warmup is a share of the steps, from 0 to 1; received {self.warmup!r}.")

    def evaluation_steps(self) -> list[int]:
        """The steps after which the cell is evaluated, evenly spread, the last one included."""
        count = min(self.evaluations, self.steps)
        return [round(self.steps * (k + 1) / count) for k in range(count)]


@dataclass(frozen=True)
class Cell:
    """One training run. Two cells with equal fields have equal ids and equal results."""

    variant: str
    dataset: str
    protocol: Protocol
    arguments: Mapping[str, Scalar] = field(default_factory=dict)
    layers: tuple[int, int, int] = (9, 5, 5)
    """Language, vision and cross layers, in the paper's order."""
    model: ModelSize = field(default_factory=ModelSize)
    seed: int = 0
    train: tuple[str, ...] = ("train",)
    validation: str = "validation"
    test: str = "test"
    pictures: Literal["given", "mean"] = "given"
    """``mean`` replaces every picture's regions by their mean over the training pictures: a blind model."""
    start: Cell | None = None
    """The cell whose trained weights this one fine-tunes; nothing means ``pretrained``, or random weights."""
    pretrained: str = ""
    """Weights from outside that it fine-tunes: a path or a hub id (suite.models.pretrained). What counts for the
    cell's identity is their content."""
    deeper: Literal["fresh", "neighbour"] = "fresh"
    """What layers start from that ``pretrained`` lacks: random weights, or those of the last layer that it has."""
    keep: tuple[tuple[int, ...], ...] | None = None
    """Trains nothing: evaluates the start's model with only these layers of each stack, from 0, ascending. All
    else is the start's, but for the splits that it is evaluated on; ``only_layers`` makes such a cell."""

    def __post_init__(self) -> None:
        if len(self.layers) != 3:
            raise UserError(f"layers are language, vision, cross, such as 9,5,5; received {self.layers!r}.")
        for count in self.layers:
            _at_least("a number of layers", count, 1)
        _at_least("seed", self.seed, 0)
        if self.model.width % self.model.heads:
            raise UserError(f"width {self.model.width} must be a multiple of heads {self.model.heads}.")
        if self.pretrained and self.start and self.keep is None:
            raise UserError("A cell starts from another cell or from pretrained weights; received both. Leave one.")
        if self.keep is not None:
            self._check_keep(self.keep)
        elif self.start and self.start.keep is not None:
            raise UserError(
                "A cell with keep is evaluated only and has no weights of its own: no cell can start from it. "
                "Start from the cell that it starts from."
            )

    def _check_keep(self, keep: tuple[tuple[int, ...], ...]) -> None:
        if self.start is None or self.start.keep is not None:
            raise UserError("keep evaluates a trained cell: expected that cell as start. Give it one.")
        valid = len(keep) == 3 and all(
            kept and list(kept) == sorted(set(kept) & set(range(layers)))
            for kept, layers in zip(keep, self.layers, strict=True)
        )
        if not valid:
            text = "-".join(map(str, self.layers))
            raise UserError(
                "keep has the language, vision and cross layers that stay, from 0, ascending, at least one of "
                f"each; received {keep!r} for a model of {text}. Name layers that it has."
            )


def only_layers(trained: Cell, keep: Sequence[Sequence[int]]) -> Cell:
    """A cell that evaluates ``trained`` with the layers ``keep`` of each stack alone."""
    return dataclasses.replace(trained, start=trained, keep=tuple(map(tuple, keep)))


@dataclass(frozen=True)
class Placement:
    """Where and how cells run: never part of a cell's identity, recorded for each segment of a run."""

    threads: int = 1
    """Torch threads and Ray CPUs per worker. Sums differ in their last bits between thread counts."""
    gpus: float | None = None
    """Ray GPUs per worker; fractions share one, 0 trains on the CPU. None: one where there are any."""
    workers: int = 1
    """Processes that train a cell together, each on its share of every batch. Sums differ in their last bits
    between numbers of workers; with dropout the draws differ too."""
    engine: Engine = "torch"
    """What brings the workers' gradients together: torch's DistributedDataParallel, or DeepSpeed."""
    zero_stage: int = 0
    """What DeepSpeed's workers share out among them: 0 nothing, 1 the optimiser's state, 2 gradients too."""

    def __post_init__(self) -> None:
        _at_least("threads", self.threads, 1)
        _at_least("workers", self.workers, 1)
        if self.gpus is not None and not (0 <= self.gpus <= 1 or (self.gpus > 1 and self.gpus % 1 == 0)):
            raise UserError(f"gpus is a fraction up to 1 or a whole number; received {self.gpus!r}.")
        if self.engine not in typing.get_args(Engine):
            raise unknown("engine", str(self.engine), typing.get_args(Engine))
        if self.zero_stage not in (0, 1, 2, 3):
            raise UserError(f"ZeRO has stages 0 to 3; received {self.zero_stage!r}.")
        if self.zero_stage and self.engine != "deepspeed":
            raise UserError(
                f"ZeRO is DeepSpeed's: stage {self.zero_stage} needs the engine deepspeed; received "
                f"{self.engine}. Give --engine deepspeed, or leave the stage out."
            )

    @property
    def alone(self) -> bool:
        """Whether a cell trains in one process that needs nobody else."""
        return self.workers == 1 and self.engine == "torch"


@dataclass(frozen=True)
class Comparison:
    """Two of a study's cells that differ in one change, for a table of what each change is worth.

    Those of equal labels whose cells differ in nothing but their seeds are one line of it.
    """

    label: str
    """What ``changed`` has and ``base`` has not."""
    base: Cell
    changed: Cell


@dataclass(frozen=True)
class Search:
    """Which arguments of a variant are best: some are drawn, trained and validated, and the winner becomes a row.

    Every trial is a cell of its own, so that the same search has the same trials on any machine, and a launch runs
    those that are missing. Population-based training is refused: its cells change their arguments as they run.
    """

    cell: Cell
    """What is trained: the arguments that ``space`` does not name stay as they are here."""
    space: Mapping[str, Distribution]
    """Argument -> what it is drawn from (suite.space)."""
    trials: int
    scheduler: Literal["random", "asha"] = "random"
    """``random`` trains every trial to its end; ``asha`` stops what is behind (Li et al. 2018, 1810.05934)."""
    grace: float = 0.25
    """asha: the share of the steps before which no trial is stopped."""
    reduction: int = 3
    """asha: of this many trials that reach a rung one goes on, to the next rung at this many times the steps."""
    seed: int = 1000
    """Of the draws and of the trials. Not one of the rows': the winner is trained again with other luck."""

    def __post_init__(self) -> None:
        if self.scheduler.lower() in ("pbt", "pb2", "population"):
            raise UserError(
                f"{self.scheduler} changes a cell's arguments while it runs, so that no configuration names the "
                "cell and none can be trained again. Choose random or asha."
            )
        if self.scheduler not in ("random", "asha"):
            raise unknown("scheduler", self.scheduler, ("random", "asha"))
        if not self.space:
            raise UserError(f"The search of {self.cell.variant} has an empty space. Name an argument to search.")
        if self.cell.keep is not None:
            raise UserError("A search trains its cell; received one that is evaluated only. Give its start.")
        if self.cell.validation in (self.cell.test, *self.cell.train):
            raise UserError(
                f"A search chooses on the validation split, expected apart from test and training splits; received "
                f"'{self.cell.validation}' for both. Give another split for validation."
            )
        _at_least("trials", self.trials, 1)
        _at_least("seed", self.seed, 0)
        _at_least("reduction", self.reduction, 2)
        if not 0 < self.grace < 1:
            raise UserError(f"grace is a share of the steps, above 0 and below 1; received {self.grace!r}.")

    @property
    def budget(self) -> int:
        """Training steps of all trials, were none stopped."""
        return self.trials * self.cell.protocol.steps


@dataclass(frozen=True)
class Study:
    """A question, and the cells whose comparison answers it."""

    name: str
    question: str
    cells: tuple[Cell, ...]
    """The rows of the tables."""
    floors: tuple[Cell, ...] = ()
    """What a row has to beat to have learned anything; reported outside the tables."""
    looked: float | None = None
    """Test accuracy in per cent below which a row has not learned to look at the pictures."""
    reference: Cell | None = None
    """The cell that a variant of one's own copies all but its method from; by default the first row."""
    comparisons: tuple[Comparison, ...] = ()
    """Pairs of ``cells`` that the report sets side by side."""
    searches: tuple[Search, ...] = ()
    """All with the same budget. The winner of each is a row at every seed that ``cells`` have."""

    def __post_init__(self) -> None:
        if len({search.budget for search in self.searches}) > 1:
            budgets = ", ".join(
                f"{one.cell.variant} {one.trials} trials x {one.cell.protocol.steps} steps = {one.budget}"
                for one in self.searches
            )
            raise UserError(
                f"All searches of a study have the same budget, or the one that tries more wins by that; received "
                f"{budgets}. Give them equal products of trials and steps."
            )
        if self.searches and not self.cells:
            raise UserError(f"The study {self.name} has searches and no cell to hold them against. Give it a row.")


def _at_least(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(f"{name} must be a whole number of at least {least}; received {value!r}.")


def over_seeds(study: Study, seeds: int) -> Study:
    """``study`` with every row, and every comparison, at the seeds 0 to ``seeds`` - 1. Starts keep theirs."""

    def at(cell: Cell, seed: int) -> Cell:
        start = cell.start and at(cell.start, seed) if cell.keep is not None else cell.start
        return dataclasses.replace(cell, seed=seed, start=start)

    return dataclasses.replace(
        study,
        cells=tuple(at(cell, seed) for cell in study.cells for seed in range(seeds)),
        comparisons=tuple(
            Comparison(pair.label, at(pair.base, seed), at(pair.changed, seed))
            for pair in study.comparisons
            for seed in range(seeds)
        ),
    )


def to_plain(value: Any) -> Any:
    """A dataclass of this file as JSON values, every field spelled out."""
    return json.loads(json.dumps(dataclasses.asdict(value)))


def from_plain(kind: type, plain: Mapping[str, Any]) -> Any:
    """The dataclass of type ``kind`` whose ``to_plain`` is ``plain``.

    Raises UserError for a field that the dataclass does not have, or a value of another type.
    """
    hints = _type_hints(kind)
    names = {field.name for field in dataclasses.fields(kind)}
    for name in plain:
        if name not in names:
            raise unknown(f"field of {kind.__name__}", name, names)
    return kind(**{name: _coerce(name, hints[name], value) for name, value in plain.items()})


# A study has a thousand cells of a few kinds.
_type_hints = functools.cache(typing.get_type_hints)


def _coerce(name: str, hint: Any, value: Any) -> Any:
    """``value`` (from JSON, or text from the command line) as the type that a field declares."""
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if value not in inside:
            raise unknown(f"value of {name}", str(value), map(str, inside))
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return _coerce(name, next(option for option in inside if option is not type(None)), value)
    if origin is tuple:
        parts = value.split(",") if isinstance(value, str) else list(value)
        wanted = [inside[0]] * len(parts) if inside[-1] is Ellipsis else list(inside)
        if len(parts) != len(wanted):
            raise UserError(f"{name} takes {len(wanted)} values with commas between; received {value!r}.")
        return tuple(_coerce(name, kind, part) for kind, part in zip(wanted, parts, strict=True))
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise UserError(f"{name} takes names and values; received {value!r}.")
        return dict(value)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else from_plain(hint, value)
    return _coerce_scalar(name, hint, value)


def _coerce_scalar(name: str, kind: type, value: Any) -> Scalar:
    try:
        if kind is bool:
            return {"true": True, "false": False}[str(value).lower()]
        if kind is int and float(value) == int(float(value)) and not isinstance(value, bool):
            return int(float(value))
        if kind is float and not isinstance(value, bool) and math.isfinite(float(value)):
            return float(value)
        if kind is str and isinstance(value, str):
            return value
    except (ValueError, TypeError, KeyError, OverflowError):
        pass
    wanted = {bool: "true or false", int: "a whole number", float: "a finite number", str: "a text"}[kind]
    raise UserError(f"{name} takes {wanted}; received {value!r}.")


def override(cell: Cell, settings: Mapping[str, str]) -> Cell:
    """``cell`` and its start with fields replaced: ``{"steps": "100", "model.width": "32"}``.

    A name is a field of Cell, Protocol or ModelSize, with or without the part's name before it.
    """
    paths = _field_paths()
    changes: dict[str, dict[str, Any]] = {"": {}, "protocol": {}, "model": {}}
    for name, text in settings.items():
        known = [path for path in paths if name in (path, path.rpartition(".")[2])]
        if not known:
            raise unknown("field", name, [path.rpartition(".")[2] for path in paths])
        part, _, leaf = known[0].rpartition(".")
        changes[part][leaf] = _coerce(name, paths[known[0]], text)
    if cell.start and cell.keep is None:
        for name in ("pretrained", "deeper"):
            changes[""].pop(name, None)  # They are for the cell at the root.
    return dataclasses.replace(
        cell,
        **changes[""],
        protocol=dataclasses.replace(cell.protocol, **changes["protocol"]),
        model=dataclasses.replace(cell.model, **changes["model"]),
        start=override(cell.start, settings) if cell.start else None,
    )


def _field_paths() -> dict[str, Any]:
    """Every field that ``override`` may set, as ``part.field`` with its declared type."""
    paths = {}
    for part, kind in (("", Cell), ("protocol.", Protocol), ("model.", ModelSize)):
        for name, hint in typing.get_type_hints(kind).items():
            if name not in ("variant", "arguments", "protocol", "model", "start", "keep"):
                paths[part + name] = hint
    return paths


def without_defaults(value: Any) -> dict[str, Any]:
    """The fields of a dataclass that differ from their defaults, nested ones too.

    What ids are hashed from: a field that is added later, and left at its default, keeps old ids.
    """
    plain = {}
    for item in dataclasses.fields(value):
        current = getattr(value, item.name)
        if item.type == "float":
            current = float(current)  # A study file says 1 where --set reads 1.0.
        default = item.default
        if item.default_factory is not dataclasses.MISSING:
            default = item.default_factory()
        if default is dataclasses.MISSING or current != default:
            plain[item.name] = without_defaults(current) if dataclasses.is_dataclass(current) else current
    return plain


def cell_id(cell: Cell, variant_source: str, data: str, start_id: str | None) -> str:
    """The name of a cell: its variant, its seed, and ten hex digits over all that can change its result.

    ``variant_source`` and ``data`` are digests of the method's source and of the data set's sources;
    ``cell.pretrained`` is the digest of the weights here, wherever they lie.
    """
    identity = without_defaults(cell) | {"variant_source": variant_source, "data": data, "start": start_id}
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return f"{cell.variant}-s{cell.seed}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"
