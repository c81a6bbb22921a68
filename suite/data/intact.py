"""Whether what is read of a data set is what was written.

Damage is what a checksum or a parser says, and becomes a DataError that names the file. What the system raises (no
memory, no free descriptor, a disk or a server that does not answer, no permission) passes as the OSError that it
is, with the file's name: the file may be whole.

Shapes: I images, R regions of a picture, F features of a region, P pictures of a batch.
"""

from __future__ import annotations

import errno
import json
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from suite.errors import UserError


class DataError(UserError):
    """A data set that cannot be prepared, opened or asked for what was asked."""


@contextmanager
def reading(path: Path, advice: str) -> Iterator[None]:
    """Tells apart what reading `path` raises: DataError with `advice` for damage, OSError for trouble."""
    try:
        yield
    except (DataError, MemoryError):
        raise
    except OSError as error:
        # pyarrow's has no number where a file does not parse; EINVAL is of a place that no file has.
        if error.errno in (None, errno.EINVAL):
            raise DataError(f"{path} is damaged ({_first_line(error)}). {advice}") from error
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
    except Exception as error:  # Whatever a damaged file makes its parser raise.
        raise DataError(f"{path} is damaged ({_first_line(error)}). {advice}") from error


def size_of(path: Path) -> int | None:
    """Bytes of a file; None where there is none. Raises OSError where nobody can say."""
    try:
        return path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return None


def mapped(path: Path, advice: str) -> np.ndarray:
    """The array of an .npy file, unread. Raises DataError where it is not such a file from end to end."""
    with reading(path, advice):
        found = np.lib.format.open_memmap(path, mode="r")
        if found.offset + found.nbytes != path.stat().st_size:
            raise ValueError(f"its header asks for {found.offset + found.nbytes} bytes")
    # A plain view of the map: indexing the subclass np.memmap costs several microseconds more each time.
    return np.asarray(found)


def file_checksum(path: Path) -> int:
    """CRC-32 of a file's bytes."""
    total = 0
    with path.open("rb") as stream:
        while piece := stream.read(2**20):
            total = zlib.crc32(piece, total)
    return total


def image_checksum(regions: np.ndarray, boxes: np.ndarray) -> int:
    """CRC-32 of one image's regions (R, F) and boxes (R, 4) as they lie on disk."""
    return zlib.crc32(boxes.data, zlib.crc32(regions.data))


def description_checksum(information: dict[str, Any]) -> int:
    """CRC-32 of dataset.json without its checksums, however it is laid out."""
    plain = {name: value for name, value in information.items() if name != "checksums"}
    return zlib.crc32(json.dumps(plain, sort_keys=True).encode())


class ImageChecks:
    """Which images this process has held against their checksums: each is, before it is used for the first time."""

    def __init__(self, regions: np.ndarray, boxes: np.ndarray, checksums: np.ndarray) -> None:
        """`regions` (I, R, F) and `boxes` (I, R, 4) as they lie on disk, `checksums` (I,)."""
        self.regions, self.boxes, self.checksums = regions, boxes, checksums
        self._unread = np.ones(len(checksums), dtype=bool)

    def damaged(self, images: np.ndarray) -> list[int]:
        """Those of `images` (P,), any number of times each, that are not as they were written; ascending."""
        unread = images[self._unread[images]]
        if not unread.size:
            return []
        found = []
        for image in np.unique(unread).tolist():
            if image_checksum(self.regions[image], self.boxes[image]) == self.checksums[image]:
                self._unread[image] = False
            else:
                found.append(image)
        return found


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
