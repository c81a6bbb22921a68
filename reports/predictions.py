"""The predictions of a finished cell, a few columns at a time: answers and confidences are most of the file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow
import pyarrow.parquet

from suite.records import RecordError


def predictions_file(folder: Path) -> Path:
    """Of the cell at ``folder``."""
    return folder / "predictions.parquet"


def read_predictions(folder: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> pyarrow.Table | None:
    """``columns`` of the cell at ``folder``, a row per question, and of the ``optional`` ones those that it has.

    None where it has no predictions. Raises RecordError for a file that cannot be read or lacks one of ``columns``.
    """
    path = predictions_file(folder)
    if not path.exists():
        return None
    with damage_explained(folder), pyarrow.parquet.ParquetFile(path) as file:
        known = file.schema_arrow.names
        if lacking := set(columns) - set(known):
            raise RecordError(
                f"{path} has no column {', '.join(sorted(lacking))}: expected {', '.join(columns)}. "
                "Delete that cell's folder and run again."
            )
        return file.read([*columns, *(name for name in optional if name in known)], use_threads=False)


@contextlib.contextmanager
def damage_explained(folder: Path) -> Iterator[None]:
    """Raises RecordError where the predictions of the cell at ``folder`` turn out not to hold what they should."""
    try:
        yield
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise RecordError(
            f"{predictions_file(folder)} cannot be read ({reason}). Delete that cell's folder and run again."
        ) from None
