"""Readers of region features, in the forms that people keep them.

- obj36 TSV, as LXMERT distributes it (https://github.com/airsplay/lxmert), plain or inside its zip, which is
  read as a stream and never unpacked;
- HDF5, as bottom-up-attention-vqa writes it (image_features, image_bb, spatial_features), or with the plainer
  names features, boxes, image_ids, image_w, image_h;
- a folder with one npz file per image.

A source lists its records cheaply and in one order; a record is decoded on its own, in any thread. All that is
wrong is a DataError that names the file with the line, row or file of the folder.

Shapes: R regions of an image, F features of a region, N images of a file.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import pybase64

from suite.data.store import DataError

SHAPE = (36, 2048)  # R, F of the published features
COLUMNS = (
    "img_id", "img_h", "img_w", "objects_id", "objects_conf", "attrs_id", "attrs_conf", "num_boxes", "boxes",
    "features",
)  # fmt: skip
OUTSIDE = 1e-3  # how far, as a share of the image, rounding may push a box over its edge


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


class Source(Protocol):
    """A file or folder of region features."""

    @property
    def path(self) -> Path: ...

    @property
    def shape(self) -> tuple[int, int]:
        """R and F that every image must have."""
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

    def decode(self, record: Record) -> Regions:
        """Raises DataError where anything is wrong with it."""
        ...


def open_source(path: Path, shape: tuple[int, int] = SHAPE) -> Source:
    """The reader for a .tsv, .zip, .h5 or .hdf5 file, or a folder of .npz files.

    Raises DataError where nothing is there, and for any other kind of file.
    """
    path = Path(path)
    if path.is_dir():
        return NpzFolder(path, shape)
    if not path.is_file():
        raise DataError(
            f"{path} does not exist; expected region features: a .tsv, .zip or .hdf5 file, or a folder."
        )
    kinds = {".tsv": Obj36, ".zip": Obj36, ".h5": Hdf5, ".hdf5": Hdf5}
    if path.suffix.lower() not in kinds:
        raise DataError(f"{path}: expected region features as {', '.join(kinds)} or a folder of .npz files.")
    return kinds[path.suffix.lower()](path, shape)


_COCO = re.compile(r"(?:COCO_(?:train|val|test)20[0-9]{2}_)?0*([0-9]+)")


def image_key(image_id: str) -> str:
    """What is equal for all names of one image: COCO_val2014_000000000042 and 42 are the same.

    COCO gives no number twice, in whichever of its sets.
    """
    found = _COCO.fullmatch(image_id)
    return found[1] if found else image_id


@dataclass(frozen=True)
class Obj36:
    """LXMERT's TSV, plain or in a zip: arrays are base64 of int64 and float32, boxes are in pixels."""

    path: Path
    shape: tuple[int, int] = SHAPE

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
            return line[: tabs[0]].decode()
        except UnicodeDecodeError:
            raise DataError(f"{record.place}: expected an img_id in UTF-8, got {line[:80]!r}.") from None

    def decode(self, record: Record) -> Regions:
        columns = _columns(record)
        height, width = (_whole(record.place, name, columns[name]) for name in ("img_h", "img_w"))
        regions, features = self.shape
        if (count := _whole(record.place, "num_boxes", columns["num_boxes"])) != regions:
            raise DataError(f"{record.place}: expected num_boxes {regions}, got {count}.")
        boxes = _floats(record.place, "boxes", columns["boxes"], (regions, 4))
        return Regions(
            width=width,
            height=height,
            boxes=_shares(record.place, boxes, width, height),
            features=_floats(record.place, "features", columns["features"], (regions, features)),
        )

    def _open(self) -> IO[bytes]:
        if self.path.suffix.lower() != ".zip":
            return self.path.open("rb", buffering=2**20)
        archive = zipfile.ZipFile(self.path)
        inside = [name for name in archive.namelist() if name.lower().endswith(".tsv")]
        if len(inside) != 1:
            raise DataError(f"{self.path}: expected one .tsv file inside, got {inside or archive.namelist()[:10]}.")
        return io.BufferedReader(archive.open(inside[0]), 2**20)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Hdf5:
    """Arrays over all images: features (N, R, F), boxes (N, R, 4) in pixels or (N, R, 4 or more) as shares.

    Image ids are an array of the file, or a JSON index {id: row} named <file>_imgid2idx.json beside it. Needs
    the package h5py.
    """

    path: Path
    shape: tuple[int, int] = SHAPE

    FEATURES = ("image_features", "features")
    PIXELS = ("image_bb", "boxes", "bbox")
    SHARES = ("spatial_features", "spatial")
    IDS = ("image_ids", "image_id", "ids")
    WIDTHS = ("image_w", "img_w", "width")
    HEIGHTS = ("image_h", "img_h", "height")

    def identity(self) -> dict[str, Any]:
        index = _file_identity(self._index) if self._index.is_file() else None
        return _file_identity(self.path) | {"index": index}

    def records(self, start: Position = Position()) -> Iterator[Record]:
        for row in range(start.records, len(self._ids)):
            yield Record(f"{self.path}, row {row}", Position(row + 1), row)

    def image_id(self, record: Record) -> str:
        return self._ids[record.content]

    def decode(self, record: Record) -> Regions:
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
            return Regions(width, height, _shares(place, pixels, width, height), features)
        shares = _shares(place, shares, 1, 1)
        if not width and pixels is not None:
            width, height = _sizes_behind(pixels, shares)
        return Regions(width, height, shares, features)

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
        return next((self._file[name] for name in names if name in self._file), None)

    @cached_property
    def _features(self) -> Any:
        """The array of features, when all that must be there is there and fits."""
        features, pixels, shares = map(self._array, (self.FEATURES, self.PIXELS, self.SHARES))
        if features is None or features.shape[1:] != self.shape:
            got = dict.fromkeys(self._file) if features is None else features.shape
            raise DataError(
                f"{self.path}: expected an array {' or '.join(self.FEATURES)} (N, {self.shape[0]}, "
                f"{self.shape[1]}), got {list(got)}."
            )
        sized = self._array(self.WIDTHS) is not None and self._array(self.HEIGHTS) is not None
        if shares is None and (pixels is None or not sized):
            raise DataError(
                f"{self.path}: expected boxes as shares ({' or '.join(self.SHARES)}), or in pixels "
                f"({' or '.join(self.PIXELS)}) with the images' sizes ({self.WIDTHS[0]} and {self.HEIGHTS[0]}); "
                f"got {sorted(self._file)}."
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
            if sizes is not None and sizes.shape != features.shape[:1]:
                raise DataError(f"{self.path}: expected {names[0]} ({len(features)},), got {sizes.shape}.")
        return features

    @cached_property
    def _ids(self) -> list[str]:
        """The image of each row."""
        rows = len(self._features)
        found = self._array(self.IDS)
        if found is not None:
            with _reading(self.path):
                ids = [value.decode() if isinstance(value, bytes) else str(value) for value in found[:]]
            if len(ids) != rows:
                raise DataError(f"{self.path}: expected as many image ids as features, {rows}, got {len(ids)}.")
            return ids
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
        try:
            named = {int(row): str(image) for image, row in json.loads(index.read_text(encoding="utf-8")).items()}
        except (ValueError, TypeError, AttributeError) as error:
            raise DataError(f"{index}: expected JSON of image id -> row, got something else ({error}).") from None
        if sorted(named) != list(range(rows)):
            raise DataError(f"{index}: expected each row from 0 to {rows - 1} once, got {len(named)} rows.")
        return [named[row] for row in range(rows)]


@dataclass(frozen=True)
class NpzFolder:
    """One npz per image, named by its id, with features, boxes in pixels, image_h and image_w.

    `x` and `bbox`, as bottom-up features are often kept, are known too; x may be (F, R).
    """

    path: Path
    shape: tuple[int, int] = SHAPE

    FEATURES = ("features", "x")
    BOXES = ("boxes", "bbox")
    WIDTH = ("image_w", "img_w")
    HEIGHT = ("image_h", "img_h")
    COUNT = ("num_boxes", "num_bbox")

    def identity(self) -> dict[str, Any]:
        listed = hashlib.sha256()
        for file in self._files:
            state = file.stat()
            listed.update(f"{file.name} {state.st_size} {state.st_mtime_ns}\n".encode())
        return {"path": str(self.path.resolve()), "files": len(self._files), "listed": listed.hexdigest()}

    def records(self, start: Position = Position()) -> Iterator[Record]:
        for number, file in enumerate(self._files[start.records :], start.records + 1):
            yield Record(str(file), Position(number), file)

    def image_id(self, record: Record) -> str:
        return record.content.stem

    def decode(self, record: Record) -> Regions:
        place = record.place
        # Opened here: np.load leaves a file open that it cannot read.
        with _reading(record.content), record.content.open("rb") as stream, np.load(stream) as file:
            arrays = {name: file[name] for name in file.files}

        def find(names: tuple[str, ...]) -> np.ndarray:
            for name in names:
                if name in arrays:
                    return arrays[name]
            raise DataError(f"{place}: expected an array {' or '.join(names)}, got {sorted(arrays)}.")

        features, boxes = find(self.FEATURES), find(self.BOXES)
        width, height = _size(place, "image_w", find(self.WIDTH)), _size(place, "image_h", find(self.HEIGHT))
        if "x" in arrays and features.shape == self.shape[::-1] != self.shape:
            features = np.ascontiguousarray(features.T)
        if any(name in arrays for name in self.COUNT):
            count = _size(place, "num_boxes", find(self.COUNT))
            if count != len(features):
                raise DataError(f"{place}: expected features of num_boxes = {count}, got {len(features)}.")
        return Regions(width, height, _shares(place, boxes, width, height), features)

    @cached_property
    def _files(self) -> list[Path]:
        files = sorted(self.path.glob("*.npz"))
        if not files:
            raise DataError(f"{self.path}: expected one .npz file per image in this folder, got none.")
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
    """Turns what a damaged file makes its reader raise into a DataError."""
    try:
        yield
    except (DataError, FileNotFoundError, PermissionError):
        raise
    except (
        zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError, KeyError, IndexError,
        TypeError, NotImplementedError, RuntimeError, MemoryError,
    ) as error:  # fmt: skip
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
        raise DataError(f"{place}: expected {name} as a whole number of at least 1, got {value}.")
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


def _shares(place: str, boxes: np.ndarray, width: int, height: int) -> np.ndarray:
    """Boxes (R, 4) in pixels as float32 shares of the image; what rounding put outside of it is clipped."""
    if boxes.ndim != 2 or boxes.shape[1] != 4 or boxes.dtype.kind not in "fiu":
        raise DataError(f"{place}: expected boxes (R, 4) as numbers, got {boxes.shape} {boxes.dtype}.")
    with np.errstate(over="ignore"):  # Infinity is outside, as what became it is.
        shares = boxes.astype(np.float32) / np.array([width, height, width, height], dtype=np.float32)
    # NaN is not inside of anything.
    inside = ((shares >= -OUTSIDE) & (shares <= 1 + OUTSIDE)).all(axis=1)
    inside &= (shares[:, :2] <= shares[:, 2:]).all(axis=1)
    if not inside.all():
        row = int(np.argmin(inside))
        raise DataError(
            f"{place}: expected boxes x0 y0 x1 y1 inside the image, {width} x {height}, with x0 <= x1 and "
            f"y0 <= y1; box {row} is {boxes[row].tolist()}."
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
