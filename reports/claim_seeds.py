"""What each seed says of a claim, and what they say together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reports.cells import CellRecord
from reports.notes import deviations
from reports.report import Row, Told

SOFTMAX, SPAN, ENTMAX, BOTH = "softmax-9-5-5", "span-9-5-5", "entmax-9-5-5", "span-entmax-9-5-5"
SHALLOW, DEEP = "layerdrop-9-5-5", "layerdrop-10-6-6"

FEWEST = 3
"""Evaluations that a course over training needs."""


@dataclass(frozen=True)
class Judgement:
    verdict: Told
    evidence: str
    cells: tuple[str, ...] = ()
    seeds: int = 0
    """0 where no seed counts."""


@dataclass(frozen=True)
class Seed:
    """What one seed says of a claim."""

    name: str
    holds: bool | None
    """None where it cannot be told."""
    numbers: str
    cells: tuple[CellRecord, ...]


def over_seeds(seeds: Sequence[Seed]) -> Judgement:
    said = {seed.holds for seed in seeds}
    verdict = "holds" if said == {True} else "does not hold" if said == {False} else "cannot tell"
    cells = {cell.id: cell for seed in seeds for cell in seed.cells}
    count = len({_seeds(cell) for cell in cells.values()})
    evidence = "; ".join(f"{seed.name}: {seed.numbers}" for seed in seeds) + "."
    return Judgement(verdict, evidence, tuple(cells), count)


def unfinished(rows: Mapping[str, Row], *keys: str) -> Judgement | None:
    """Why nothing can be told of a claim about the rows ``keys``; None where each has a finished seed."""
    lacking = [f"{rows[key].label} is {rows[key].state}" for key in keys if not finished(rows[key])]
    return Judgement("cannot tell", f"{'; '.join(lacking)}.") if lacking else None


def unlike(rows: Mapping[str, Row], *keys: str, but: Sequence[str] = ()) -> Judgement | None:
    """Why cells of the rows ``keys`` cannot be compared: they differ in more than method, layers and seed.

    Settings whose names begin with one of ``but`` may differ. None where they can be compared.
    """
    first, *others = keys
    for key in others:
        changed = [one for one in deviations(rows[key].cells, rows[first].cells) if not one.startswith(tuple(but))]
        if changed:
            text = f"{rows[key].label} differs from {rows[first].label} in more than method and layers"
            return Judgement("cannot tell", f"{text}: {'; '.join(changed)}.")
    return None


def finished(row: Row) -> list[CellRecord]:
    return [cell for cell in row.cells if cell.result is not None]


def seed_name(cell: CellRecord) -> str:
    return f"seed {cell.configuration['seed']}"


def equal_seeds(*rows: Row) -> list[tuple[CellRecord, ...]]:
    """The finished cells of ``rows`` side by side, for the seeds that all of them have."""
    by_seed = [{_seeds(cell): cell for cell in finished(row)} for row in rows]
    return [tuple(cells[seed] for cells in by_seed) for seed in by_seed[0] if all(seed in one for one in by_seed)]


def _seeds(cell: CellRecord) -> tuple[int, ...]:
    """Its own seed, its start's, and so on."""
    seeds, configuration = [], cell.configuration
    while configuration:
        seeds.append(configuration["seed"])
        configuration = configuration["start"]
    return tuple(seeds)


NO_SEEDS = Judgement("cannot tell", "No seed is finished in all rows that are compared.")
