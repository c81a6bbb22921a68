"""What the attention of one cell learned, as sites.jsonl has it: by stack and direction, layer, step and head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reports.layout import plain
from reports.tables import CellRecord, Row
from suite.records import read_lines

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
    def title(self) -> str:
        if self.queries == self.keys:
            return plain(f"{self.stack}: {self.queries}")
        return plain(f"{self.stack}: {self.queries} to {self.keys}")


@dataclass(frozen=True)
class Recorded:
    """The sites of those cells of a row that have been evaluated."""

    row: Row
    cells: tuple[CellRecord, ...]
    lines: tuple[Lines, ...]
    """Of each of the cells."""

    @property
    def quantities(self) -> list[str]:
        """The columns that are a method's own: with a number, or one per head."""
        first: dict[str, bool] = {}
        for name, value in ((name, value) for line in self.lines[0] for name, value in line.items()):
            first[name] = first.get(name, True) and _numeric(value)
        return [name for name, numbers in first.items() if numbers and name not in KNOWN]


KNOWN = ("step", "site", "stack", "queries", "keys", "index", "density")


def recorded(row: Row) -> Recorded | None:
    """What the cells of ``row`` recorded of their attention; None where none has been evaluated."""
    read = [(cell, lines) for cell in row.cells if (lines := read_lines(cell.folder / "sites.jsonl"))]
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
    return {place: dict(sorted(layers.items())) for place, layers in found.items()}


def _numeric(value: Any) -> bool:
    """Missing values do not speak against a column."""
    if isinstance(value, list):
        return all(isinstance(one, int | float) for one in value)
    return value is None or isinstance(value, int | float)
