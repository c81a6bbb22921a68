"""The cells of a study as reports need them, read from their records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from suite.records import CellFolder, RecordError, load_cells


@dataclass(frozen=True)
class CellRecord:
    """One cell as reports need it."""

    id: str
    role: str
    state: str
    stale: bool
    configuration: Mapping[str, Any]
    failure: str | None
    result: Mapping[str, Any] | None
    folder: Path
    start: str | None
    """Id of the cell that it starts from."""
    server: Mapping[str, Mapping[str, Any]]
    """What the test server answered (CellFolder.server) for a finished cell."""

    @property
    def keep(self) -> list[list[int]] | None:
        """The layers of each stack with which a trained cell, its start, is evaluated; None where it is trained."""
        return self.configuration.get("keep")

    @property
    def accuracy(self) -> float:
        """Test accuracy in per cent of a finished cell."""
        assert self.result is not None
        split = self.configuration["test"]
        try:
            return float(self.result["accuracy"][split])
        except KeyError:
            known = ", ".join(self.result["accuracy"]) or "none"
            raise RecordError(
                f"{self.folder / 'result.json'} has no accuracy for the test split '{split}', only: {known}. "
                "Delete that cell's folder and run again."
            ) from None

    @property
    def official(self) -> float | None:
        """Official accuracy of the test split in per cent; None where the humans' answers are not known."""
        return ((self.result or {}).get("official") or {}).get(self.configuration["test"])


Group: TypeAlias = tuple[CellRecord, ...]
"""Cells that differ in nothing but their seeds."""
Pair: TypeAlias = tuple[CellRecord, CellRecord]
"""Two finished cells of equal seeds: the second is subtracted."""


def read_cells(study_folder: Path | str) -> list[CellRecord]:
    """Every cell of the study, rows or not, in the study's order."""
    cells = []
    for plain in load_cells(study_folder).to_dict("records"):
        # pandas turns None into NaN in columns of numbers and of texts: results come from the record itself.
        record, finished = CellFolder(plain["folder"]), plain["state"] == "finished"
        failure = record.failure() if plain["state"] == "failed" else None
        cells.append(
            CellRecord(
                id=plain["id"],
                role=plain["role"],
                state=plain["state"],
                stale=bool(plain["stale"]),
                configuration=plain["cell"],
                failure=failure["message"] if failure else None,
                result=record.result() if finished else None,
                folder=record.path,
                start=plain["start"],
                server=record.server() if finished else {},
            )
        )
    return cells
