"""Readers of region features, in the forms that people keep them.

- obj36 TSV, as LXMERT distributes it (https://github.com/airsplay/lxmert), plain, or packed as a zip or .tsv.gz,
  which is read as a stream and never unpacked;
- HDF5, as bottom-up-attention-vqa writes it (image_features, image_bb, spatial_features), or with the plainer
  names features, boxes, image_ids, image_w, image_h;
- a folder with one npz file per image.

A source lists its records cheaply and in one order; a record is decoded on its own, in any thread. What boxes are
measured in no file says: the first images tell, since no real picture has all of its boxes within one pixel, and
none of several pictures ends far from its outermost box. All that is wrong is a DataError that names the file with
the line, row or file of the folder; what the system has no memory, descriptors or answer for passes as it is.

Shapes: R regions of an image, F features of a region, N images of a file.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import math
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple, Protocol, get_args

import numpy as np
import pybase64

from suite.data.json_records import load
from suite.data.store import DataError
from suite.errors import few, shown

SHAPE = (36, 2048)  # R, F of the published features
COLUMNS = (
    "img_id", "img_h", "img_w", "objects_id", "objects_conf", "attrs_id", "attrs_conf", "num_boxes", "boxes",
    "features",
)  # fmt: skip
OUTSIDE = 1e-3  # how far, as a share of the image, rounding may push a box over its edge
Unit = Literal["pixels", "shares"]
UNITS: tuple[Unit, ...] = get_args(Unit)
LOOKED = 8  # first images of a source, by which its boxes are measured
TELLING = 64  # boxes, of at least two images, that tell whether an image ends where its boxes do
FAR = 0.8  # share of an image's side: the outermost of an image's boxes lie beyond it
NEAR = 0.1  # share of where they end, within which the boxes of a reduced image begin
TURNED = 0.25  # share of the boxes that end before they begin, where they are no corners


@dataclass(frozen=True)
class Position:
    """Where a source continues: behind so many records, which take so many bytes of a TSV."""

    records: int = 0
    offset: int = 0


@dataclass(frozen=True)
class Record:
    """One image, still encoded."""

    place: str
    """For messages: the file and the line, row or member."""
    after: Position
    content: Any
    """The line of a TSV, the row of an HDF5, the path of an npz."""


@dataclass(frozen=True, eq=False)
class Regions:
    """One image, decoded."""

    width: int
    """In pixels; 0 where the file does not tell."""
    height: int
    boxes: np.ndarray
    """(R, 4) float32, x0 y0 x1 y1 as shares of width and height."""
    features: np.ndarray
    """(R, F) of a float type, as in the file."""


class Raw(NamedTuple):
    """One image, its boxes as its file has them."""

    width: int
    height: int
    boxes: np.ndarray
    features: np.ndarray


class Source(Protocol):
    """A file or folder of region features."""

    @property
    def path(self) -> Path: ...

    @property
    def shape(self) -> tuple[int, int]:
        """R and F that every image must have."""
        ...

    @property
    def boxes(self) -> Unit | None:
        """What its boxes are measured in, where somebody said so."""
        ...

    @property
    def unit(self) -> Unit:
        """What its boxes are measured in, said or looked at. Raises DataError where it is neither."""
        ...

    def ids(self) -> Sequence[str] | None:
        """Of all images, in the order of the records; None where only reading the whole file tells."""
        ...

    def identity(self) -> dict[str, Any]:
        """What changes when the file does, without reading it; values of JSON."""
        ...

    def records(self, start: Position = Position()) -> Iterator[Record]:
        """All records behind `start`, in the file's order. Raises DataError for a file that cannot be read."""
        ...

    def image_id(self, record: Record) -> str:
        """Raises DataError where the record is no record."""
        ...

    def raw(self, record: Record) -> Raw:
        """Raises DataError where it cannot be read, or is of another shape."""
        ...

    def decode(self, record: Record) -> Regions:
        """Raises DataError where anything is wrong with it."""
        ...


def open_source(path: Path, shape: tuple[int, int] = SHAPE, boxes: Unit | None = None) -> Source:
    """The reader for a .tsv, .tsv.gz, .zip, .h5 or .hdf5 file, or a folder of .npz files.

    `boxes` says what its boxes are measured in; None: its first images tell. Raises DataError where nothing is
    there, and for any other kind of file.
    """
    path = Path(path)
    if path.is_dir():
        return NpzFolder(path, shape, boxes)
    if not path.is_file():
        raise DataError(
            f"{path} does not exist; expected region features: a .tsv, .zip or .hdf5 file, or a folder."
        )
    kinds = {".tsv": Obj36, ".zip": Obj36, ".tsv.gz": Obj36, ".h5": Hdf5, ".hdf5": Hdf5}
    kind = next((kind for ending, kind in kinds.items() if path.name.lower().endswith(ending)), None)
    if kind is None:
        raise DataError(f"{path}: expected region features as {', '.join(kinds)} or a folder of .npz files.")
    return kind(path, shape, boxes)


_ENDINGS = re.compile(r"(?:\.(?:jpe?g|png|np[yz]))+$", re.IGNORECASE)
_BYTES = re.compile(r"""b(['"])(.*)\1""")
_COCO = re.compile(r"(?:(?:.*/)?COCO_(?:train|val|test)20[0-9]{2}_|.*/(?=[0-9]{12}$))?0*([0-9]+)(?:\.0+)?")


def image_key(image_id: str) -> str:
    """What is equal for all names of one image: COCO_val2014_000000000042, 42 and 42.jpg are the same.

    COCO gives no number twice, in whichever of its sets. A number may be written as a float, a name behind the
    folder that it lies in or as Python shows bytes.
    """
    name = image_id.strip()
    if shows_bytes := _BYTES.fullmatch(name):
        name = shows_bytes[2]
    stem = _ENDINGS.sub("", name)
    coco = _COCO.fullmatch(stem)
    return coco[1] if coco else stem


@dataclass(frozen=True)
class Obj36:
    """LXMERT's TSV, plain or packed: arrays are base64 of int64 and float32; LXMERT's own boxes are in pixels."""

    path: Path
    shape: tuple[int, int] = SHAPE
    boxes: Unit | None = None

    @property
    def unit(self) -> Unit:
        return self.boxes or self._measured

    @cached_property
    def _measured(self) -> Unit:
        return _measured(self)

    def ids(self) -> None:
        return None

    def identity(self) -> dict[str, Any]:
        return _file_identity(self.path)

    def records(self, start: Position = Position()) -> Iterator[Record]:
        regions, features = self.shape
        # Longer than twice a right line it is another kind of file, whose first "line" may be all of it.
        longest = 8 * -(-4 * regions * features // 3) + 2**20
        number, offset = start.records, start.offset
        with _reading(self.path), self._open() as stream:
            stream.seek(start.offset)
            while line := stream.readline(longest):
                number, offset = number + 1, offset + len(line)
                place = f"{self.path}, line {number}"
                if len(line) == longest:
                    raise DataError(
                        f"{place}: expected obj36 TSV of {regions} x {features} features, got more than "
                        f"{longest} bytes in a line. Is this another kind of file?"
                    )
                yield Record(place, Position(number, offset), line)

    def image_id(self, record: Record) -> str:
        line, tabs = record.content, _tabs(record)
        if line.find(b"\t", tabs[-1] + 1) >= 0:
            raise _wrong_columns(record)
        try:
            return line[: tabs[0]].decode("utf-8-sig")
        except UnicodeDecodeError:
            raise DataError(f"{record.place}: expected an img_id in UTF-8, got {line[:80]!r}.") from None

    def decode(self, record: Record) -> Regions:
        return _regions(self, record)

    def raw(self, record: Record) -> Raw:
        columns = _columns(record)
        height, width = (_whole(record.place, name, columns[name]) for name in ("img_h", "img_w"))
        regions, features = self.shape
        if (count := _whole(record.place, "num_boxes", columns["num_boxes"])) != regions:
            raise DataError(f"{record.place}: expected num_boxes {regions}, got {count}.")
        return Raw(
            width,
            height,
            _floats(record.place, "boxes", columns["boxes"], (regions, 4)),
            _floats(record.place, "features", columns["features"], (regions, features)),
        )

    def _open(self) -> IO[bytes]:
        suffix = self.path.suffix.lower()
        if suffix == ".gz":
            return io.BufferedReader(gzip.open(self.path), 2**20)
        if suffix != ".zip":
            return self.path.open("rb", buffering=2**20)
        archive = zipfile.ZipFile(self.path)
        # macOS packs a shadow of each file beside it.
        names = [name for name in archive.namelist() if not name.startswith("__MACOSX/")]
        inside = [name for name in names if name.lower().endswith(".tsv")]
        if len(inside) != 1:
            raise DataError(f"{self.path}: expected one .tsv file inside, got {few(inside or names)}.")
        return io.BufferedReader(archive.open(inside[0]), 2**20)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Hdf5:
    """Arrays over all images: features (N, R, F), boxes (N, R, 4), or with more behind them where they are shares.

    Image ids are an array of the file, or a JSON index {id: row} named <file>_imgid2idx.json beside it. Needs
    the package h5py.
    """

    path: Path
    shape: tuple[int, int] = SHAPE
    boxes: Unit | None = None

    FEATURES = ("image_features", "features")
    PIXELS = ("image_bb", "boxes", "bbox")
    SHARES = ("spatial_features", "spatial")
    IDS = ("image_ids", "image_id", "ids")
    WIDTHS = ("image_w", "img_w", "width")
    HEIGHTS = ("image_h", "img_h", "height")

    @property
    def unit(self) -> Unit:
        return (self._named or self.boxes) if self.boxes else self._measured

    @cached_property
    def _measured(self) -> Unit:
        return _measured(self, self._named)

    @cached_property
    def _named(self) -> Unit | None:
        """What the name of the array of boxes says that they are measured in."""
        return None if self._array(self.SHARES) is None else "shares"

    def ids(self) -> Sequence[str]:
        return self._ids

    def identity(self) -> dict[str, Any]:
        index = _file_identity(self._index) if self._index.is_file() else None
        return _file_identity(self.path) | {"index": index}

    def records(self, start: Position = Position()) -> Iterator[Record]:
        for row in range(start.records, len(self._ids)):
            yield Record(f"{self.path}, row {row}", Position(row + 1), row)

    def image_id(self, record: Record) -> str:
        return self._ids[record.content]

    def decode(self, record: Record) -> Regions:
        if self._named is None:
            return _regions(self, record)
        width, height, shares, features = self.raw(record)
        return Regions(width, height, _shares(record.place, shares, 1, 1), features)

    def raw(self, record: Record) -> Raw:
        place, row = record.place, record.content
        pixels, shares, widths, heights = map(self._array, (self.PIXELS, self.SHARES, self.WIDTHS, self.HEIGHTS))
        width = height = 0
        with _reading(self.path, row):
            features = self._features[row]
            pixels = None if pixels is None else pixels[row]
            shares = None if shares is None else shares[row][:, :4]
            if widths is not None and heights is not None:
                width = _size(place, "width", widths[row])
                height = _size(place, "height", heights[row])
        if shares is None:
            assert pixels is not None, "checked where the file is opened"
            return Raw(width, height, pixels, features)
        if not width and pixels is not None:
            width, height = _sizes_behind(pixels, _shares(place, shares, 1, 1))
        return Raw(width, height, shares, features)

    @property
    def _index(self) -> Path:
        return self.path.with_name(f"{self.path.stem}_imgid2idx.json")

    @cached_property
    def _file(self) -> Any:
        try:
            import h5py
        except ImportError:
            raise DataError(
                f"{self.path} is read with the package h5py, which is not installed. Run `pip install h5py`."
            ) from None
        with _reading(self.path):
            return h5py.File(self.path, "r")

    def _array(self, names: tuple[str, ...]) -> Any:
        """The first array of one of these names; what is no array, such as an image's group, has no shape."""
        found = (self._file[name] for name in names if name in self._file)
        return next((array for array in found if hasattr(array, "shape")), None)

    @cached_property
    def _features(self) -> Any:
        """The array of features, when all that must be there is there and fits."""
        features, pixels, shares = map(self._array, (self.FEATURES, self.PIXELS, self.SHARES))
        if features is None or features.shape[1:] != self.shape:
            got = few(self._file) if features is None else features.shape
            raise DataError(
                f"{self.path}: expected an array {' or '.join(self.FEATURES)} (N, {self.shape[0]}, "
                f"{self.shape[1]}) of all images, got {got}."
            )
        sized = self._array(self.WIDTHS) is not None and self._array(self.HEIGHTS) is not None
        if shares is None and (pixels is None or not sized):
            raise DataError(
                f"{self.path}: expected boxes as shares ({' or '.join(self.SHARES)}), or in pixels "
                f"({' or '.join(self.PIXELS)}) with the images' sizes ({self.WIDTHS[0]} and {self.HEIGHTS[0]}); "
                f"got {few(self._file)}."
            )
        for names in (self.PIXELS, self.SHARES):
            boxes = self._array(names)
            fits = boxes is None or (boxes.ndim == 3 and boxes.shape[:2] == features.shape[:2])
            if boxes is not None and not (fits and boxes.shape[2] >= 4):
                raise DataError(
                    f"{self.path}: expected boxes (N, R, 4) for features {features.shape}, got {boxes.shape}."
                )
        for names in (self.WIDTHS, self.HEIGHTS):
            sizes = self._array(names)
            if sizes is not None and (sizes.size != len(features) or sizes.shape[:1] != features.shape[:1]):
                raise DataError(f"{self.path}: expected {names[0]} ({len(features)},), got {sizes.shape}.")
        return features

    @cached_property
    def _ids(self) -> list[str]:
        """The image of each row."""
        rows = len(self._features)
        found = self._array(self.IDS)
        if found is not None:
            with _reading(self.path):
                ids = np.asarray(found[()]).reshape(-1)  # (N, 1), too
            if len(ids) != rows:
                raise DataError(f"{self.path}: expected as many image ids as features, {rows}, got {len(ids)}.")
            if ids.dtype.kind == "f":
                # Beyond its digits a float names another image than was meant.
                whole = (ids % 1 == 0) & (np.abs(ids) < 2.0 ** (np.finfo(ids.dtype).nmant + 1))
                if not whole.all():
                    row = int(np.argmin(whole))
                    raise DataError(
                        f"{self.path}, row {row}: expected image ids as text or whole numbers that {ids.dtype} "
                        f"tells apart, got {ids[row]}."
                    )
                ids = ids.astype(np.int64)
            try:
                return [value.decode() if isinstance(value, bytes) else str(value) for value in ids.tolist()]
            except UnicodeDecodeError as error:
                raise DataError(f"{self.path}: expected image ids in UTF-8, got {shown(error.object)}.") from None
        index = self._index
        pickled = index.with_suffix(".pkl")
        if not index.is_file():
            advice = (
                f" {pickled.name} beside it is a pickle, which can run code when it is read. If you trust it, "
                f'turn it into JSON in its folder: python -c "import json, pickle; json.dump(pickle.load(open('
                f"'{pickled.name}', 'rb')), open('{index.name}', 'w'))\""
            )
            raise DataError(
                f"{self.path}: expected image ids in an array ({' or '.join(self.IDS)}) or in {index.name} "
                f"beside it; there is neither.{advice if pickled.is_file() else ''}"
            )
        found = load(index)
        try:
            named = {int(row): str(image) for image, row in found.items()}
        except (ValueError, TypeError, AttributeError) as error:
            raise DataError(f"{index}: expected JSON of image id -> row, got something else ({error}).") from None
        if sorted(named) != list(range(rows)):
            raise DataError(f"{index}: expected each row from 0 to {rows - 1} once, got {len(named)} rows.")
        return [named[row] for row in range(rows)]


@dataclass(frozen=True)
class NpzFolder:
    """One npz per image, named by its id, with features, boxes, image_h and image_w.

    `x` and `bbox`, as bottom-up features are often kept, are known too; x may be (F, R). What else a file holds is
    not read.
    """

    path: Path
    shape: tuple[int, int] = SHAPE
    boxes: Unit | None = None

    FEATURES = ("features", "x")
    BOXES = ("boxes", "bbox")
    WIDTH = ("image_w", "img_w")
    HEIGHT = ("image_h", "img_h")
    COUNT = ("num_boxes", "num_bbox")

    @property
    def unit(self) -> Unit:
        return self.boxes or self._measured

    @cached_property
    def _measured(self) -> Unit:
        return _measured(self)

    def ids(self) -> Sequence[str]:
        return [file.stem for file in self._files]

    def identity(self) -> dict[str, Any]:
        listed = hashlib.sha256()
        for file in self._files:
            state = file.stat()
            listed.update(os.fsencode(file.name) + f" {state.st_size} {state.st_mtime_ns}\n".encode())
        return {"path": str(self.path.resolve()), "files": len(self._files), "listed": listed.hexdigest()}

    def records(self, start: Position = Position()) -> Iterator[Record]:
        for number, file in enumerate(self._files[start.records :], start.records + 1):
            yield Record(str(file), Position(number), file)

    def image_id(self, record: Record) -> str:
        return record.content.stem

    def decode(self, record: Record) -> Regions:
        return _regions(self, record)

    def raw(self, record: Record) -> Raw:
        place = record.place
        most = 16 * math.prod(self.shape) + 2**16  # bytes of an array: any type of number, and a few boxes more
        # Opened here: np.load leaves a file open that it cannot read.
        with _reading(record.content), record.content.open("rb") as stream, np.load(stream) as file:

            def find(names: tuple[str, ...]) -> np.ndarray:
                for name in names:
                    if name in file.files:
                        _check_member(file, place, name, most)
                        return file[name]
                raise DataError(f"{place}: expected an array {' or '.join(names)}, got {few(file.files)}.")

            features, boxes, width, height = map(find, (self.FEATURES, self.BOXES, self.WIDTH, self.HEIGHT))
            count = find(self.COUNT) if any(name in file.files for name in self.COUNT) else None
            turned = self.FEATURES[0] not in file.files and features.shape == self.shape[::-1] != self.shape
        if turned:
            features = np.ascontiguousarray(features.T)
        if count is not None and (expected := _size(place, "num_boxes", count)) != len(features):
            raise DataError(f"{place}: expected features of num_boxes = {expected}, got {len(features)}.")
        return Raw(_size(place, "image_w", width), _size(place, "image_h", height), boxes, features)

    @cached_property
    def _files(self) -> list[Path]:
        files = sorted(self.path.glob("*.npz"))
        if not files:
            there = few(sorted(file.name for file in self.path.iterdir()))
            raise DataError(f"{self.path}: expected one .npz file per image in this folder, got {there}.")
        return files


def check(place: str, image: Regions, shape: tuple[int, int], most: float) -> None:
    """Raises DataError unless the image has R boxes and (R, F) finite features, none beyond `most`."""
    features = image.features
    if features.dtype.kind != "f" or features.shape != shape:
        raise DataError(
            f"{place}: expected features {shape[0]} x {shape[1]} as floats, got {features.shape} {features.dtype}."
        )
    if len(image.boxes) != shape[0]:
        raise DataError(f"{place}: expected {shape[0]} boxes, got {len(image.boxes)}.")
    low, high = features.min(), features.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise DataError(f"{place}: expected finite features, got NaN or infinity.")
    if max(-low, high) > most:
        raise DataError(f"{place}: expected features up to {most:g}, got {low:g} to {high:g}. Convert to float32.")


@contextmanager
def _reading(path: Path, row: int | None = None) -> Iterator[None]:
    """Turns what a damaged file makes its reader raise into a DataError; what the system raises stays that."""
    try:
        yield
    except DataError:
        raise
    except (
        zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError, KeyError, IndexError,
        TypeError, NotImplementedError, RuntimeError,
    ) as error:  # fmt: skip
        # Readers raise OSError for contents too, without a number, or with that of a place that cannot be.
        if isinstance(error, OSError) and error.errno not in (None, 0, errno.EINVAL):
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
        where = "" if row is None else f", row {row}"
        raise DataError(
            f"{path}{where} cannot be read ({error}). Is it whole? Download or copy it again."
        ) from error


def _file_identity(path: Path) -> dict[str, Any]:
    state = path.stat()
    return {"path": str(path.resolve()), "bytes": state.st_size, "modified": state.st_mtime_ns}


def _tabs(record: Record) -> list[int]:
    """Where the tabs of a line are that part its ten columns. There may be more: `image_id` looks."""
    line: bytes = record.content
    tabs = [line.find(b"\t")]
    while tabs[-1] >= 0 and len(tabs) < len(COLUMNS) - 1:
        tabs.append(line.find(b"\t", tabs[-1] + 1))
    if tabs[-1] < 0:
        raise _wrong_columns(record)
    return tabs


def _columns(record: Record) -> dict[str, memoryview]:
    """Name -> text of each column of a line, which is not copied."""
    line, tabs = record.content, _tabs(record)
    end = len(line) - (2 if line.endswith(b"\r\n") else line.endswith(b"\n"))
    view = memoryview(line)
    return {
        name: view[start + 1 : stop] for name, start, stop in zip(COLUMNS, [-1, *tabs], [*tabs, end], strict=True)
    }


def _wrong_columns(record: Record) -> DataError:
    got = record.content.count(b"\t") + 1
    return DataError(
        f"{record.place}: expected {len(COLUMNS)} columns separated by tabs ({', '.join(COLUMNS)}), got {got}."
    )


def _whole(place: str, name: str, column: memoryview) -> int:
    text = bytes(column)
    if not text.isdigit() or len(text) > 9 or int(text) < 1:
        raise DataError(f"{place}: expected {name} as a whole number of at least 1, got {text[:40]!r}.")
    return int(text)


def _size(place: str, name: str, value: Any) -> int:
    """A whole number of at least 1 that an array of one number holds."""
    value = np.asarray(value)
    if value.size != 1 or value.dtype.kind not in "fiu" or not 1 <= value.item() <= 10**9 or value.item() % 1:
        got = value.item() if value.size == 1 else f"{value.shape} {value.dtype}"
        raise DataError(f"{place}: expected {name} as a whole number of at least 1, got {shown(got)}.")
    return int(value.item())


def _floats(place: str, name: str, text: memoryview, shape: tuple[int, int]) -> np.ndarray:
    """The float32 that `text` encodes, as an array of `shape`."""
    try:
        content = pybase64.b64decode_as_bytearray(text, validate=True)
    except ValueError as error:
        raise DataError(f"{place}: {name} is not whole base64 ({error}); it has {len(text)} characters.") from None
    expected = 4 * shape[0] * shape[1]
    if len(content) != expected:
        raise DataError(
            f"{place}: expected {name} of num_boxes x {shape[1]} = {shape[0]} x {shape[1]} float32, {expected} "
            f"bytes, got {len(content)}."
        )
    return np.frombuffer(content, dtype="<f4").reshape(shape)


def _regions(source: Source, record: Record) -> Regions:
    """An image decoded. Raises DataError where its boxes are measured in something else than the source's."""
    place, raw = record.place, source.raw(record)
    boxes, shared = raw.boxes, source.unit == "shares"
    if shared:
        _shares(place, boxes, 1, 1)
        # By way of pixels: shares that were made from them, or they from these, become the same to the last bit.
        boxes = boxes * np.array([raw.width, raw.height] * 2, dtype=np.float32)
    shares = _shares(place, boxes, raw.width, raw.height)
    if not shared and source.boxes is None and _within_a_pixel([raw]) and (raw.boxes % 1).any():
        raise DataError(
            f"{place}: expected boxes in pixels, as those of the first images are; these are within one pixel, "
            "as shares of the image are. Give images of either kind in files of their own."
        )
    return Regions(raw.width, raw.height, shares, raw.features)


def _measured(source: Source, unit: Unit | None = None) -> Unit:
    """What the boxes of a source are measured in, by its first images; `unit` where their name says so.

    Raises DataError where they are no corners, or not of images of these sizes: what no image alone shows.
    """
    looked: list[Raw] = []
    for record in islice(source.records(), LOOKED):
        with suppress(DataError):  # It is told when its turn comes.
            raw = source.raw(record)
            boxes = raw.boxes
            if boxes.size and boxes.shape[1:] == (4,) and boxes.dtype.kind in "fiu" and np.isfinite(boxes).all():
                looked.append(raw)
    if unit is None:
        unit = "shares" if _within_a_pixel(looked) else "pixels"
    sides = [(1, 1) if unit == "shares" else (raw.width, raw.height) for raw in looked]
    shares = [raw.boxes / np.array(side * 2, dtype=np.float64) for raw, side in zip(looked, sides, strict=True)]
    if unit == "shares" and any(image.max() > 1 + OUTSIDE for image in shares):
        return unit  # Theirs is a name alone: the first that is none is told as its image's fault.
    if fault := _size_fault(shares, sides) if shares else None:
        raise DataError(
            f"{source.path}: the boxes of its first {len(looked)} images {fault} If they are right as they are, "
            "say so with --boxes pixels or --boxes shares."
        )
    return unit


def _within_a_pixel(images: Sequence[Raw]) -> bool:
    """Whether all boxes lie within the first pixel of images that have more: as shares do."""
    boxes = [image.boxes for image in images if image.boxes.size and (image.width != 1 or image.height != 1)]
    if not boxes or any(box.max() > 1 + OUTSIDE or box.min() < -OUTSIDE for box in boxes):
        return False
    return any((box[:, 2:] > box[:, :2]).all(axis=1).any() for box in boxes)


def _size_fault(shares: Sequence[np.ndarray], sides: Sequence[tuple[int, int]]) -> str | None:
    """What is wrong with the boxes of several images, each (R, 4) as shares by what is taken for their sizes."""
    boxes = np.concatenate(shares)
    turned = (boxes[:, 2:] < boxes[:, :2]).any(axis=1)
    if turned.mean() >= TURNED and (boxes[:, :2] + boxes[:, 2:]).max() <= 1 + OUTSIDE and boxes.min() >= -OUTSIDE:
        return "look like x, y, width and height; expected the corners x0, y0, x1, y1. Add x and y to the others."
    if len(shares) < 2 or len(boxes) < TELLING:
        return None
    starts = np.array([image[:, :2].min(axis=0) for image in shares])
    ends = np.array([image[:, 2:].max(axis=0) for image in shares])
    swapped = np.array([end * side / side[::-1] for end, side in zip(ends, np.array(sides), strict=True)])
    oblong = np.array([width != height for width, height in sides])
    beyond = ends.max(axis=1) > 1 + OUTSIDE
    if np.count_nonzero(beyond) > 1 and beyond[oblong].all() and swapped.max() <= 1 + OUTSIDE:
        return "end within the images if these are as wide as the file says that they are high. Swap the two."
    far = f"end at up to {ends[:, 0].max():.2g} of the width and {ends[:, 1].max():.2g} of the height of each."
    if beyond.all():
        return f"{far} Are they those of enlarged images? Give the sizes of the images that the boxes are of."
    # In the middle of all images they may be small; those of a reduced one begin at its corner.
    if ends.min(axis=1).max() < FAR and (starts <= NEAR * ends).all():
        return f"{far} Are they those of reduced images? Give the sizes of the images that the boxes are of."
    return None


def _shares(place: str, boxes: np.ndarray, width: int, height: int) -> np.ndarray:
    """Boxes (R, 4) of an image of these sides as float32 shares; what rounding put outside of it is clipped."""
    if boxes.ndim != 2 or boxes.shape[1] != 4 or boxes.dtype.kind not in "fiu":
        raise DataError(f"{place}: expected boxes (R, 4) as numbers, got {boxes.shape} {boxes.dtype}.")
    with np.errstate(over="ignore"):  # Infinity is outside, as what became it is.
        shares = boxes.astype(np.float32) / np.array([width, height, width, height], dtype=np.float32)
    # NaN is not inside of anything.
    inside = ((shares >= -OUTSIDE) & (shares <= 1 + OUTSIDE)).all(axis=1)
    inside &= (shares[:, :2] <= shares[:, 2:]).all(axis=1)
    if not inside.all():
        row = int(np.argmin(inside))
        where = (
            "as shares of the image, from 0 to 1"
            if width == height == 1
            else f"inside the image, {width} x {height}"
        )
        raise DataError(
            f"{place}: expected boxes x0 y0 x1 y1 {where}, with x0 <= x1 and y0 <= y1; box {row} is "
            f"{boxes[row].tolist()}."
        )
    return shares.clip(0, 1)


def _sizes_behind(pixels: np.ndarray, shares: np.ndarray) -> tuple[int, int]:
    """Width and height of an image whose boxes are known in pixels and as shares; 0 where they do not tell."""
    sizes = [0, 0]
    for side in (0, 1):
        box = int(np.argmax(shares[:, 2 + side]))
        pixel, share = float(pixels[box, 2 + side]), float(shares[box, 2 + side])
        if share > 0 and 0 <= pixel / share < 10**9:
            sizes[side] = round(pixel / share)
    return sizes[0], sizes[1]


def _check_member(file: Any, place: str, name: str, most: int) -> None:
    """Raises DataError for an array of an npz that is of no numbers, or larger than any that is right."""
    if f"{name}.npy" not in file.zip.namelist():
        raise DataError(f"{place}: expected {name} as an array of numpy, got something else.")
    with file.zip.open(f"{name}.npy") as member:
        version = np.lib.format.read_magic(member)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(member)
    if dtype.hasobject:
        raise DataError(
            f"{place} cannot be read: {name} holds Python objects, a pickle, which can run code. Save it as "
            "numbers."
        )
    if math.prod(shape) * dtype.itemsize > most:
        raise DataError(f"{place}: expected {name} of one image, at most {most} bytes, got {shape} {dtype}.")
