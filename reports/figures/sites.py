"""What the attention of one cell learned, as sites.jsonl has it: by stack and direction, layer, step and head."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reports.cells import CellRecord
from reports.report import Row
from reports.text import plain

Heads = dict[int, list[float]]
"""Step -> one number per head."""
Layers = dict[int, Heads]
"""Layer from 0 -> its evaluations."""
Lines = Sequence[Mapping[str, Any]]
"""Of sites.jsonl."""


@dataclass(frozen=True)
class Place:
    """One panel: a stack, and where it has several, the direction from queries to keys."""

    stack: str
    queries: str
    keys: str

    @property
    def order(self) -> tuple[bool, bool]:
        """Of a stack's directions: across first, then within; words before boxes."""
        return self.queries == self.keys, self.queries != "words"

    @property
    def title(self) -> str:
        if self.queries == self.keys:
            return plain(f"{self.stack}: {self.queries}")
        return plain(f"{self.stack}: {self.queries} to {self.keys}")


@dataclass(frozen=True)
class Recorded:
    """The sites of those cells of a row that have been evaluated, of at most ``SEEDS``."""

    row: Row
    cells: tuple[CellRecord, ...]
    lines: tuple[Lines, ...]
    """Of each of the cells."""

    @property
    def seeds(self) -> str:
        """The cells, for a caption."""
        count = len(self.cells)
        if count == 1:
            return f"seed {self.cells[0].configuration['seed']}"
        return (
            f"the first {count} of {len(self.row.cells)} seeds" if len(self.row.cells) > count else f"{count} seeds"
        )

    @property
    def first(self) -> str:
        """The first cell, for a caption."""
        seed = f"seed {self.cells[0].configuration['seed']}"
        return f"{seed}, the first of {len(self.row.cells)}" if len(self.row.cells) > 1 else seed

    @property
    def quantities(self) -> list[str]:
        """The columns that are a method's own: with a number, or one per head."""
        first: dict[str, bool] = {}
        for name, value in ((name, value) for line in self.lines[0] for name, value in line.items()):
            first[name] = first.get(name, True) and _numeric(value)
        return [name for name, numbers in first.items() if numbers and name not in KNOWN]


SEEDS = 10
"""Seeds of which a figure is made: each has hundreds of sites."""
KNOWN = ("step", "site", "stack", "queries", "keys", "index", "density")


def recorded(row: Row) -> Recorded | None:
    """What the cells of ``row`` recorded of their attention; None where none has been evaluated."""
    every = ((cell, cell.record.lines("sites")) for cell in row.cells)
    read = list(itertools.islice(((cell, lines) for cell, lines in every if lines), SEEDS))
    if not read:
        return None
    cells, lines = zip(*read, strict=True)
    return Recorded(row, cells, lines)


def by_place(lines: Lines, name: str) -> dict[Place, Layers]:
    """The column ``name`` for every site that has it, layers in their order."""
    found: dict[Place, Layers] = {}
    for line in lines:
        if line.get(name) is not None:
            value = line[name]
            place = Place(line["stack"], line["queries"], line["keys"])
            layer = found.setdefault(place, {}).setdefault(line["index"], {})
            layer[line["step"]] = list(value) if isinstance(value, list) else [value]
    stacks = list(dict.fromkeys(place.stack for place in found))
    ordered = sorted(found, key=lambda place: (stacks.index(place.stack), place.order))
    return {place: dict(sorted(found[place].items())) for place in ordered}


def _numeric(value: Any) -> bool:
    """Missing values do not speak against a column."""
    if isinstance(value, list):
        return all(isinstance(one, int | float) for one in value)
    return value is None or isinstance(value, int | float)
