"""The rows that the paper published, read from ``published.json``: accuracies on VQA 2.0 in per cent."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SERVER_SPLITS = ("test-dev", "test-std")
"""VQA 2.0's splits whose answers the test server alone has."""


@dataclass(frozen=True)
class Published:
    """One published row."""

    key: str
    """Names the row in file names."""
    label: str
    group: str
    """``LXMERT`` for rows that a cell can repeat, ``comparison`` for other models."""
    cell: Mapping[str, Any] | None
    """The variant, the arguments that matter and the layers of the cell that repeats this row."""
    test_dev: float
    """Accuracy in per cent."""
    test_std: float | None
    """Accuracy in per cent; None where the paper prints a dash."""
    flops_change: float | None
    """Stated change of FLOPs against the softmax row, in per cent; None where nothing is stated."""
    difference: float
    """test_dev minus that of the softmax row, in points."""
    source: str
    """Table number and citation."""
    origin: str
    """Where the figure really comes from."""
    notes: tuple[str, ...]
    """Known problems, as sentences, each with its source."""

    @property
    def accuracies(self) -> dict[str, float]:
        """The test server's split -> accuracy in per cent, without those that the paper prints as a dash."""
        both = {"test-dev": self.test_dev, "test-std": self.test_std}
        return {split: accuracy for split, accuracy in both.items() if accuracy is not None}

    def matches(self, variant: str, arguments: Mapping[str, Any], layers: tuple[int, ...]) -> bool:
        """Whether a cell repeats this row: arguments that the row does not name may have any value."""
        return (
            self.cell is not None
            and self.cell["variant"] == variant
            and tuple(self.cell["layers"]) == layers
            and all(
                name in arguments and arguments[name] == value for name, value in self.cell["arguments"].items()
            )
        )


@dataclass(frozen=True)
class PublishedTable:
    title: str
    rows: tuple[Published, ...]


WIDTH, INTERMEDIATE = 768, 3072
"""Of the model that the paper trained and whose multiply-adds it counted."""


def is_published_size(model: Mapping[str, Any]) -> bool:
    """Whether a cell's ``model`` has the size of the paper's."""
    return (model["width"], model["intermediate"]) == (WIDTH, INTERMEDIATE)


@dataclass(frozen=True)
class Paper:
    """Everything that ``published.json`` holds."""

    citation: str
    code: str
    """The paper's repository and the revision that notes are about."""
    dataset: str
    """Its title."""
    dataset_name: str
    """By which our studies know it."""
    reference: Published
    """The row that differences are taken against: softmax."""
    tables: tuple[PublishedTable, ...]
    notes: tuple[str, ...]
    """Known problems that hold for every row, as sentences, each with its source."""


@functools.cache
def load_paper() -> Paper:
    """The paper's tables, rows in the paper's order."""
    plain = json.loads(Path(__file__).with_name("published.json").read_text(encoding="utf-8"))
    entries = {entry["key"]: entry for table in plain["tables"] for entry in table["rows"]}
    notes = {name: f"{note['text']} ({note['source']})" for name, note in plain["notes"].items()}
    level = entries[plain["reference"]]["test_dev"]
    rows = {
        key: Published(
            **entry | {"notes": tuple(notes[name] for name in entry["notes"])},
            # Two decimals are all that was published; more would show the error of binary fractions.
            difference=round(entry["test_dev"] - level, 2),
        )
        for key, entry in entries.items()
    }
    tables = tuple(
        PublishedTable(table["title"], tuple(rows[entry["key"]] for entry in table["rows"]))
        for table in plain["tables"]
    )
    return Paper(
        citation=plain["citation"],
        code=plain["code"],
        dataset=plain["dataset"],
        dataset_name=plain["dataset_name"],
        reference=rows[plain["reference"]],
        tables=tables,
        notes=tuple(notes[name] for name in plain["general_notes"]),
    )
