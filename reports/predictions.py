"""The predictions of a finished cell, a few columns at a time: answers and confidences are most of the file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow
import pyarrow.parquet

from reports.cells import told_of
from suite.files import damaged
from suite.records import CellFolder

NAME = "predictions.parquet"


def predictions_file(record: CellFolder) -> Path:
    return record.path / NAME


def read_predictions(
    record: CellFolder, columns: Sequence[str], optional: Sequence[str] = ()
) -> pyarrow.Table | None:
    """``columns`` of a cell's predictions, a row per question, and of the ``optional`` ones those that it has.

    None where it has no predictions. Raises RecordError for a file that is not what was written, or that cannot be
    read or lacks one of ``columns``.
    """
    path = predictions_file(record)
    record.verify(NAME)
    if not path.exists():
        return None
    with (
        damage_explained(record),
        # Where a digest has vouched for all of it there is no need of its own.
        pyarrow.parquet.ParquetFile(path, page_checksum_verification=NAME not in record.digests()) as file,
    ):
        known = file.schema_arrow.names
        if lacking := set(columns) - set(known):
            lacks, wanted = ", ".join(sorted(lacking)), ", ".join(columns)
            raise damaged(path, f"it has no column {lacks}: expected {wanted}")
        return file.read([*columns, *(name for name in optional if name in known)], use_threads=False)


@contextlib.contextmanager
def damage_explained(record: CellFolder) -> Iterator[None]:
    """Raises RecordError where the predictions of a cell turn out not to hold what they should.

    Errors with the system's number, such as no permission or too many open files, pass as they are.
    """
    with told_of(predictions_file(record)):
        yield
