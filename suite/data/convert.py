"""One conversion of region features, in whichever form they came, into arrays that are mapped and not loaded.

    <folder>/
      regions.npy      (I, R, F) float16 or float32
      boxes.npy        (I, R, 4) float32, x0 y0 x1 y1 as shares of width and height
      images.parquet   image_id, width, height, checksum
      conversion.json  written last: what was asked for, what was left out
      journal.txt      what is done so far, a line at a time with its checksum; gone when all is

Threads do the work: what costs time (reading, base64, rounding, checksums, writing) runs outside of Python's lock,
so that they use all cores, share one process's memory and end with it, however it ends. Each holds one record, so
that the memory does not depend on the file's size, and writes each image to its own row; the journal then says
so. A conversion that was killed continues behind the journal's last line, and what it writes is the same: a row
depends on its image alone.

The journal is as safe as the page cache: it survives the end of the process, not that of the machine. After a
power failure `ablate data verify` says whether what was written reached the disk.

Shapes: I images, R regions of an image, F features of a region.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import json
import os
import shutil
import tempfile
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas

from suite.data.regions import Position, Record, Source, check, image_key
from suite.data.store import ARRAYS, DataError, image_checksum
from suite.errors import few, shown
from suite.lease import BEAT, SILENCE, Holder, Lease, LeaseLost, machine
from suite.records import write_json
from suite.room import cores
from suite.terminal import say

FORM = 1
PIECE = 8  # records of a task
MISSING, TORN, THERE, TWICE = 0, 1, 2, 3  # states of a row; TORN until a record of it is whole, TWICE for good
# What flock answers where there are no locks: Lustre mounted without them, NFS without their daemon.
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)

Progress = Callable[[int, int], None]
Tell = Callable[[str], None]
Outcome = dict[str, Any]
"""What became of a record: its row, and its place, size and checksum or its fault."""


@dataclass(frozen=True)
class Conversion:
    """A finished conversion; `write_dataset` takes its folder as `pictures` and moves the arrays."""

    folder: Path
    images: pandas.DataFrame
    """image_id as it was asked for, width, height, checksum: one row per row of the arrays."""
    left_out: list[str]
    """A sentence for everything that was skipped, with file and line. Empty without `skip_bad`."""

    @property
    def digest(self) -> str:
        """sha256 of what the arrays hold: ids, sizes and checksums, in their order."""
        total = hashlib.sha256()
        columns = (self.images[name] for name in ("image_id", "width", "height", "checksum"))
        for row in zip(*columns, strict=True):
            total.update("\t".join(map(str, row)).encode() + b"\n")
        return total.hexdigest()


def convert(
    sources: Sequence[Source],
    folder: Path,
    *,
    wanted: Iterable[str] | None = None,
    dtype: Literal["float16", "float32"] = "float16",
    workers: int | None = None,
    skip_bad: bool = False,
    progress: Progress | None = None,
    tell: Tell = say,
) -> Conversion:
    """The images `wanted` out of `sources` as arrays in `folder`, in the order of `wanted`.

    Without `wanted` all images are taken, in the order of the files, which are read twice for it. Images that
    nobody asked for are passed over. `workers` are threads, by default one per core. `progress(images done,
    images wanted)`. A folder whose conversion was interrupted is continued; one that is finished is returned.
    `tell` is told what was taken for granted by evidence alone.

    Raises DataError, with file and line, for the first thing that is wrong: see suite/data/regions.py, and an
    image that is there twice, with other contents, or not at all. With `skip_bad` they are left out and listed
    instead, the later rows moving into the gaps; an image that is there twice is left out altogether, one that is
    torn in one place and whole in another is taken from there. A file that cannot be read on is an error always.
    DataError also where `folder` holds something else, cannot be written or the disk has no room.
    """
    if not sources or len({source.shape for source in sources}) != 1:
        raise DataError("expected at least one file of region features, all of one shape.")
    folder = Path(folder)
    check_destination(folder)
    for source in sources:
        if source.unit == "shares":
            tell(f"{source.path}: boxes are taken as shares of the image, from 0 to 1, not as pixels.")
    ids = _image_ids(sources) if wanted is None else list(wanted)
    work = _Work(sources, folder, ids, np.dtype(dtype), skip_bad, progress)
    if (folder / "conversion.json").is_file():
        return _finished(folder, work.request, skip_bad)
    work.check_listed()
    with _journal(folder, tell) as (journal, lines):
        if (folder / "conversion.json").is_file():  # Another process has finished it since the look above.
            return _finished(folder, work.request, skip_bad)
        if not lines:
            work.allocate()
            journal.append(work.request)
        elif lines[0] != work.request:
            raise _other(folder)
        number, position = work.replay(lines[1:])
        work.run(journal, number, position, workers or cores())
        return work.finish()


def check_destination(folder: Path) -> None:
    """Raises DataError or OSError where `folder` cannot be written, or has a name that Parquet's writer refuses."""
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        raise DataError(
            f"{shown(str(folder))}: expected a folder whose name is UTF-8. Choose another; where its name is right "
            "already, run Python with PYTHONUTF8=1."
        ) from None
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder if folder.is_dir() else folder.parent):
        pass


def _image_ids(sources: Sequence[Source]) -> list[str]:
    """All images of the files, each once and in their order."""
    found: dict[str, str] = {}
    for source in sources:
        for record in source.records():
            try:
                image = source.image_id(record)
            except DataError:
                continue  # The conversion meets it again, and says so.
            found.setdefault(image_key(image), image)
    return list(found.values())


class _Work:
    """One conversion in progress: which rows are there, and how an image becomes one."""

    def __init__(
        self,
        sources: Sequence[Source],
        folder: Path,
        ids: list[str],
        dtype: np.dtype,
        skip_bad: bool,
        progress: Progress | None,
    ) -> None:
        self.sources, self.folder, self.ids, self.dtype = sources, folder, ids, dtype
        self.skip_bad, self.progress = skip_bad, progress
        self.rows = {image_key(image): row for row, image in enumerate(ids)}
        if not ids or len(self.rows) != len(ids):
            raise DataError(
                f"expected at least one image, each once; got {len(ids)} ids of {len(self.rows)} images."
            )
        self.shape = sources[0].shape
        self.most = float(np.finfo(dtype).max)
        self.request = {
            "form": FORM,
            "sources": [source.identity() for source in sources],
            "images": len(ids),
            "wanted": hashlib.sha256("\n".join(ids).encode()).hexdigest(),
            "dtype": dtype.name,
            "shape": list(self.shape),
        }
        if shared := [number for number, source in enumerate(sources) if source.unit == "shares"]:
            self.request["boxes as shares"] = shared
        self.state = np.full(len(ids), MISSING, dtype=np.int8)
        self.place: dict[int, str] = {}
        self.size = np.zeros((len(ids), 2), dtype=np.int32)
        self.checksum = np.zeros(len(ids), dtype=np.uint32)
        self.left_out: list[str] = []

    def check_listed(self) -> None:
        """Raises DataError for images that no source has, where all list theirs without being read."""
        listed = [source.ids() for source in self.sources]
        there = {image_key(image) for ids in listed for image in ids or ()}
        missing = [image for key, image in zip(self.rows, self.ids, strict=True) if key not in there]
        if missing and not self.skip_bad and None not in listed:
            raise self.missing(missing)

    def missing(self, images: list[str]) -> DataError:
        """The error for images that no source has: it says which ids they do have."""
        files = ", ".join(source.path.name for source in self.sources)
        return DataError(
            f"expected the features of {len(self.ids)} images in {files}; {len(images)} are missing, such as "
            f"{', '.join(images[:3])}.{self.have()} Give the file that has them, or leave them out with --skip-bad."
        )

    def have(self) -> str:
        """A sentence on what the ids of each source look like."""
        looks = []
        for source in self.sources[:3]:
            with contextlib.suppress(DataError):
                ids = [source.image_id(record) for record in islice(source.records(), 2)]
                looks.append(f"those of {source.path.name} look like {few(ids)}")
        return f" The ids: {'; '.join(looks)}." if looks else ""

    def allocate(self) -> None:
        """Both arrays at their full size; the disk fills as rows are written."""
        regions, features = self.shape
        needed = len(self.ids) * regions * (features * self.dtype.itemsize + 16)
        if (free := shutil.disk_usage(self.folder).free) < needed:
            raise DataError(
                f"{self.folder}: the arrays of {len(self.ids)} images take {needed / 1e9:.1f} GB; the disk has "
                f"{free / 1e9:.1f} GB left. Choose another folder, or make room."
            )
        for name, dtype, width in zip(ARRAYS, (self.dtype, np.float32), (features, 4), strict=True):
            shape = (len(self.ids), regions, width)
            np.lib.format.open_memmap(self.folder / name, mode="w+", dtype=dtype, shape=shape)

    def replay(self, entries: list[dict[str, Any]]) -> tuple[int, Position]:
        """Takes over what the journal says is done; returns the source to continue with, and where in it."""
        number, position = 0, Position()
        for entry in entries:
            number, position = entry["source"], Position(*entry["after"])
            self.accept(entry["outcomes"])
        if self.progress is not None and entries:
            self.progress(self.done, len(self.ids))
        return number, position

    @property
    def done(self) -> int:
        return int(np.count_nonzero(self.state))

    def run(self, journal: _Journal, number: int, position: Position, workers: int) -> None:
        """Converts what is left of the sources, from `position` of the source `number` on."""
        files = [os.open(self.folder / name, os.O_WRONLY) for name in ARRAYS]
        starts = [_data_start(self.folder / name) for name in ARRAYS]
        convert = partial(self.convert, list(zip(files, starts, strict=True)))
        try:
            for source in range(number, len(self.sources)):
                # Closed before the files are, so that no thread writes to what has their numbers then.
                with closing(_in_order(self.sources[source], position, convert, workers)) as converted:
                    for after, outcomes in converted:
                        self.accept(outcomes, self.progress)
                        entry = {"source": source, "after": [after.records, after.offset], "outcomes": outcomes}
                        journal.append(entry)
                position = Position()
            for file in files:
                os.fsync(file)
        finally:
            for file in files:
                os.close(file)

    def convert(self, files: list[tuple[int, int]], source: Source, record: Record) -> Outcome | None:
        """Writes an image to its row of both files, and says what became of it; None where nobody asked for it."""
        row = None
        try:
            row = self.rows.get(image_key(source.image_id(record)))
            if row is None:
                return None
            image = source.decode(record)
            check(record.place, image, self.shape, self.most)
        except DataError as error:
            return {"row": row, "fault": str(error)}
        arrays = _rounded(image.features, self.dtype), np.ascontiguousarray(image.boxes, dtype=np.float32)
        for (file, start), array in zip(files, arrays, strict=True):
            _write(file, array, start + row * array.nbytes)
        return {
            "row": row,
            "place": record.place,
            "width": image.width,
            "height": image.height,
            "checksum": image_checksum(*arrays),
        }

    def accept(self, outcomes: list[Outcome], progress: Progress | None = None) -> None:
        """Notes what became of some records. Raises DataError for a fault unless they are to be skipped."""
        for outcome in outcomes:
            row, fault = outcome["row"], outcome.get("fault")
            state = TORN
            if fault is None and row in self.place:
                same = (outcome["width"], outcome["height"], outcome["checksum"])
                if same == (*self.size[row].tolist(), self.checksum[row]):
                    continue
                image, before = self.ids[row], self.place[row]
                fault = f"{outcome['place']}: expected each image once; {image} was in {before} before, another."
                state = TWICE  # Of two records that are whole nobody knows which is right.
            if fault is not None:
                if not self.skip_bad:
                    raise DataError(fault)
                self.left_out.append(fault)
            else:
                self.place[row] = outcome["place"]
                self.size[row] = outcome["width"], outcome["height"]
                self.checksum[row] = outcome["checksum"]
                state = THERE
            if row is not None:
                self.state[row] = max(self.state[row], state)
            if progress is not None:
                progress(self.done, len(self.ids))

    def finish(self) -> Conversion:
        """Closes the gaps that left-out images leave, and writes what makes the folder complete."""
        missing = [self.ids[row] for row in np.flatnonzero(self.state == MISSING)]
        if missing:
            if not self.skip_bad:
                raise self.missing(missing)
            files = ", ".join(source.path.name for source in self.sources)
            self.left_out += [f"{image}: its features are missing from {files}." for image in missing]
        order = _without_gaps(self.state == THERE)
        if not len(order):
            left = f"no image is left of {len(self.ids)}; the first: {self.left_out[0]}"
            raise DataError(f"{self.folder}: {left}{self.have()}")
        for name in ARRAYS:
            _close_gaps(self.folder / name, order)
        images = pandas.DataFrame(
            {
                "image_id": [self.ids[row] for row in order],
                "width": self.size[order, 0],
                "height": self.size[order, 1],
                "checksum": self.checksum[order],
            }
        )
        images.to_parquet(self.folder / "images.parquet", index=False)
        write_json(self.folder / "conversion.json", {"request": self.request, "left_out": self.left_out})
        (self.folder / "journal.txt").unlink()
        return Conversion(self.folder, images, self.left_out)


def _finished(folder: Path, request: dict[str, Any], skip_bad: bool) -> Conversion:
    """The conversion in `folder`, if it is the one that is asked for."""
    try:
        said = json.loads((folder / "conversion.json").read_text(encoding="utf-8"))
        same, left_out = said["request"] == request, list(said["left_out"])
        images = pandas.read_parquet(folder / "images.parquet")
    except (MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:  # Whatever a damaged file makes its reader raise.
        if isinstance(error, OSError) and error.errno:  # What the system says; Arrow has errors without a number.
            raise
        raise DataError(f"{folder} is damaged ({error}). Move the folder away and begin again.") from error
    if not same or not all((folder / name).is_file() for name in ARRAYS):
        raise _other(folder)
    if left_out and not skip_bad:
        raise DataError(left_out[0])
    return Conversion(folder, images, left_out)


def _other(folder: Path) -> DataError:
    return DataError(
        f"{folder} holds a conversion of other files or settings. Give those again to go on with it, or move the "
        "folder away to begin anew; delete it where nobody needs it."
    )


@contextmanager
def _journal(folder: Path, tell: Tell) -> Iterator[tuple[_Journal, list[dict[str, Any]]]]:
    """The folder's journal, held by this process alone, and its whole lines; a torn last one is cut off."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "journal.txt"
    if not path.exists() and any(folder.iterdir()):
        raise DataError(f"{folder} holds something else than a conversion. Choose another folder.")
    with path.open("a+b") as journal, ExitStack() as held:
        check = None
        try:
            fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _held(folder) from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            tell(f"{folder}: its file system has no locks ({error.strerror}); a lease in it keeps others away.")
            check = held.enter_context(_leased(folder, tell))
        journal.seek(0)
        lines, whole, before = [], 0, 0
        for line in journal:
            checksum, _, text = line.partition(b" ")
            if not line.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(text, before):
                if any(journal):
                    raise DataError(f"{path} is damaged. Move {folder} away and begin again.")
                break  # The last line is what a kill left of it.
            lines.append(json.loads(text))
            whole, before = whole + len(line), zlib.crc32(text, before)
        journal.truncate(whole)
        if len(lines) > 1 and not all((folder / name).is_file() for name in ARRAYS):
            raise DataError(f"{folder}: its arrays are gone. Restore them, or move the folder away.")
        yield _Journal(journal, before, check), lines


def _held(folder: Path) -> DataError:
    return DataError(f"{folder}: another process is at this conversion. Wait for it.")


@contextmanager
def _leased(folder: Path, tell: Tell) -> Iterator[Callable[[], None]]:
    """The folder is this process's by a file that it touches, as a cell is; what is yielded raises if it is not."""
    lease, done = Lease(folder), threading.Event()
    since: float | None = None

    def waiting(holder: Holder | None) -> None:
        # One on another machine may be gone without a word: silence tells.
        nonlocal since
        if since is None:
            since = time.monotonic()
            if holder is None or holder.machine != machine():
                where = holder.host if holder else "some machine"
                tell(f"{folder}: waiting for up to {SILENCE:.0f} s whether a process on {where} still works there.")
        if (holder is not None and holder.machine == machine()) or time.monotonic() - since > SILENCE + 10 * BEAT:
            raise _held(folder)

    def check() -> None:
        try:
            lease.check()
        except LeaseLost:
            raise _held(folder) from None

    def beat() -> None:
        while not done.wait(BEAT):
            lease.beat()

    lease.take(waiting)
    beating = threading.Thread(target=beat, daemon=True)
    beating.start()
    try:
        yield check
    finally:
        done.set()
        beating.join()
        lease.release()


@dataclass
class _Journal:
    """Lines of JSON, each behind the checksum of all lines so far: one that is lost shows too."""

    file: io.BufferedRandom
    checksum: int
    check: Callable[[], None] | None
    """Raises DataError where the conversion is another process's by now; None where a lock keeps it."""

    def append(self, entry: dict[str, Any]) -> None:
        if self.check is not None:
            self.check()
        text = json.dumps(entry).encode() + b"\n"
        self.checksum = zlib.crc32(text, self.checksum)
        self.file.write(b"%08x " % self.checksum + text)
        self.file.flush()


def _in_order(
    source: Source, position: Position, convert: Callable[[Source, Record], Outcome | None], workers: int
) -> Generator[tuple[Position, list[Outcome]], None, None]:
    """What became of the records behind `position`, in their order, whichever thread was faster.

    So the first fault that is told is the first in the file. A thread reads the record that it decodes, while it
    alone reads: handed over from another thread, and so from another core's cache, a record takes twice the time.
    """
    records, reading = enumerate(_and_error(source, position)), threading.Lock()

    def task() -> list[tuple[int, Position, Outcome | DataError | None]]:
        done: list[tuple[int, Position, Outcome | DataError | None]] = []
        while len(done) < PIECE:
            with reading:
                index, record = next(records, (0, None))
            if record is None:
                break
            if isinstance(record, DataError):
                done.append((index, position, record))
            else:
                done.append((index, record.after, convert(source, record)))
        return done

    waiting: dict[int, tuple[Position, Outcome | DataError | None]] = {}
    settled = 0
    with ThreadPoolExecutor(workers) as pool:
        tasks = deque(pool.submit(task) for _ in range(2 * workers))
        try:
            while tasks:
                done = tasks.popleft().result()
                if len(done) == PIECE:
                    tasks.append(pool.submit(task))
                waiting |= {index: (after, outcome) for index, after, outcome in done}
                outcomes: list[Outcome] = []
                before, error = settled, None
                while settled in waiting:
                    after, outcome = waiting.pop(settled)
                    if isinstance(outcome, DataError):
                        error = outcome
                        break
                    settled, position = settled + 1, after
                    outcomes += [] if outcome is None else [outcome]
                if settled > before:
                    yield position, outcomes
                if error is not None:
                    raise error
        finally:
            for left in tasks:
                left.cancel()


def _and_error(source: Source, position: Position) -> Iterator[Record | DataError]:
    """The records of a source, and last the error that ended them, where one did."""
    try:
        yield from source.records(position)
    except DataError as error:
        yield error


def _rounded(features: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Features to the nearest number of `dtype`, ties to even."""
    if features.dtype != np.float32 or dtype != np.float16:
        return np.ascontiguousarray(features, dtype=dtype)
    # It would be the longest step by far: torch takes a thirtieth of numpy's time. Imported here, because it takes
    # seconds: who only asks what a data set holds does without.
    import torch

    rounded = np.empty(features.shape, dtype)
    # From 32,768 numbers on torch would use threads of its own, which fight with the workers for cores.
    few = max(1, (2**15 - 1) // features.shape[1])
    for start in range(0, len(features), few):
        torch.from_numpy(rounded[start : start + few]).copy_(torch.from_numpy(features[start : start + few]))
    return rounded


def _write(file: int, array: np.ndarray, offset: int) -> None:
    content = array.data.cast("B")
    while content:
        written = os.pwrite(file, content, offset)
        content, offset = content[written:], offset + written


def _data_start(path: Path) -> int:
    """Where the numbers of an .npy file begin."""
    return np.load(path, mmap_mode="r").offset


def _without_gaps(there: np.ndarray) -> np.ndarray:
    """Which row each row of the result is, (kept,): the last ones that are there move into the gaps."""
    kept = int(np.count_nonzero(there))
    order = np.arange(kept)
    order[~there[:kept]] = kept + np.flatnonzero(there[kept:])
    return order


def _close_gaps(path: Path, order: np.ndarray) -> None:
    """Moves the rows of an .npy file and cuts it; stopped at any point, it can be done again."""
    array = np.load(path, mmap_mode="r+")
    start, size = array.offset, array.offset + len(order) * array[0].nbytes
    # The header is changed when the rows have moved: with the new one there is nothing left but the cut.
    if len(array) != len(order):
        for row in np.flatnonzero(order != np.arange(len(order))):
            array[row] = array[order[row]]
        array.flush()
        header = io.BytesIO()
        description = {
            "descr": np.lib.format.dtype_to_descr(array.dtype),
            "fortran_order": False,
            "shape": (len(order), *array.shape[1:]),
        }
        np.lib.format.write_array_header_1_0(header, description)
        assert len(header.getvalue()) == start, "numpy leaves room in the header for any number of rows"
        with path.open("r+b") as file:
            file.write(header.getvalue())
    os.truncate(path, size)
