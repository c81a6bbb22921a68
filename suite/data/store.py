"""A prepared data set: questions with soft answer scores, and the regions of the pictures they ask about.

Every source (easy-VQA, VQA 2.0) is brought into this one form once; everything after that reads only this.

    <folder>/
      questions.parquet  question_id, image (row in the image arrays), split, text, labels, scores, humans,
                         question_type, answer_type
      words.npy          (Q, L) int32 word ids, [CLS] ... [SEP], padded with 0
      images.parquet     image_id, width, height, picture (see `DataSet.picture`), checksum of the image's arrays
      regions.npy        (I, R, F) float16 or float32
      boxes.npy          (I, R, 4) float32, x0 y0 x1 y1 as shares of width and height
      tokenizer.json     in the form of the `tokenizers` library
      answers.json       list of strings; a label is a position in it
      dataset.json       written last: what this is, how large each file must be, checksums of the others
      left_out.txt       only where something of the source was left out: a sentence for each

Shapes: Q questions, I images, R regions of a picture, F features of a region, L words of a question,
A answers, B questions of a batch.
"""

import dataclasses
import difflib
import hashlib
import importlib.util
import json
import os
import shutil
import uuid
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pyarrow
import pyarrow.parquet
from tokenizers import Tokenizer

from suite.errors import UserError

FORM = 1  # of the files above; a reader of another form refuses the folder
FILES = (
    "questions.parquet",
    "words.npy",
    "images.parquet",
    "regions.npy",
    "boxes.npy",
    "tokenizer.json",
    "answers.json",
)
ARRAYS = ("regions.npy", "boxes.npy")  # their checksums are in images.parquet, image by image
QUESTION_TYPES = {
    "image": pyarrow.int32(),
    "split": pyarrow.string(),
    "text": pyarrow.string(),
    "labels": pyarrow.list_(pyarrow.int32()),
    "scores": pyarrow.list_(pyarrow.float32()),
    "humans": pyarrow.list_(pyarrow.string()),
    "question_type": pyarrow.string(),
    "answer_type": pyarrow.string(),
}
IMAGE_TYPES = {
    "width": pyarrow.int32(),
    "height": pyarrow.int32(),
    "picture": pyarrow.string(),
    "checksum": pyarrow.uint32(),
}


class DataError(UserError):
    """A data set that cannot be prepared, opened or asked for what was asked."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Some questions with their pictures, in the order asked for, as plain arrays."""

    rows: np.ndarray  # (B,) int64, rows of the data set
    words: np.ndarray  # (B, L) int64, L the longest question here
    word_mask: np.ndarray  # (B, L) bool, True = a word
    regions: np.ndarray  # (P, R, F) float32
    boxes: np.ndarray  # (P, R, 4) float32
    picture: np.ndarray | None  # (B,) int64, which of the P each question is about; None: its own, P = B
    targets: np.ndarray  # (B, A) float32


@dataclass(frozen=True, eq=False)
class DataSet:
    """An opened data set. The arrays of pictures and words stay on disk until a batch reads them."""

    folder: Path
    name: str
    title: str
    digest: str  # of name, source files and preparation: what a cell's identity uses
    answers: tuple[str, ...]
    information: dict[str, Any]  # dataset.json
    words: np.ndarray  # (Q, L) int32
    lengths: np.ndarray  # (Q,) int64, words of each question
    image: np.ndarray  # (Q,) int64, row in the image arrays
    split_names: tuple[str, ...]
    split: np.ndarray  # (Q,) int64, position in split_names
    # labels[label_starts[q]:label_starts[q + 1]] are the answers of question q that score, scores beside them
    label_starts: np.ndarray  # (Q + 1,) int64
    labels: np.ndarray  # int32
    scores: np.ndarray  # float32
    regions: np.ndarray  # (I, R, F) float16 or float32
    boxes: np.ndarray  # (I, R, 4) float32

    def rows(self, *splits: str) -> np.ndarray:
        """The rows of all questions of the given splits, (N,) int64, ascending.

        Raises DataError for an unknown split, and where none is named.
        """
        if not splits:
            raise DataError(f"{self.title}: expected at least one split of {_listed(self.split_names)}, got none.")
        for name in splits:
            if name not in self.split_names:
                close = difflib.get_close_matches(name, self.split_names, n=1)
                hint = f" Did you mean {close[0]!r}?" if close else ""
                raise DataError(
                    f"{self.title} has no split {name!r}; its splits are {_listed(self.split_names)}.{hint}"
                )
        wanted = [self.split_names.index(name) for name in splits]
        return np.flatnonzero(np.isin(self.split, wanted))

    def check_answers(self, *splits: str) -> None:
        """Raises DataError for an unknown split, and for one without answers, as the test server's."""
        for split in splits:
            rows = self.rows(split)
            if not np.any(self.label_starts[rows + 1] > self.label_starts[rows]):
                raise DataError(
                    f"{self.title}: the split {split!r} has no answers to train or test with. Choose another; "
                    "`ablate predict` answers its questions."
                )

    def batch(self, rows: np.ndarray | Sequence[int], share: bool = False) -> Batch:
        """The questions at `rows`, (B,), in that order; with `share` each picture once for all its questions.

        Raises DataError for no rows or rows out of range.
        """
        rows = np.asarray(rows, dtype=np.int64)
        if rows.ndim != 1 or rows.size == 0 or rows.min() < 0 or rows.max() >= len(self.image):
            raise DataError(
                f"{self.title}: expected at least one row from 0 to {len(self.image) - 1} in one dimension, "
                f"got {rows!r}."
            )
        words = self.words[rows, : self.lengths[rows].max()].astype(np.int64)
        image, picture = self.image[rows], None
        if share:
            image, picture = np.unique(image, return_inverse=True)

        question, labels, scores = self.scored_answers(rows)
        targets = np.zeros((len(rows), len(self.answers)), dtype=np.float32)
        targets[question, labels] = scores

        return Batch(
            rows=rows,
            words=words,
            word_mask=words != 0,
            regions=_read_float32(self.regions, image),
            boxes=self.boxes[image],
            picture=picture,
            targets=targets,
        )

    def scored_answers(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All answers that score for the questions at `rows` (B,): positions in `rows`, answer ids, scores.

        Three arrays of one length, (E,), in the order of `rows`.
        """
        starts = self.label_starts[rows]
        counts = self.label_starts[rows + 1] - starts
        position = np.repeat(np.arange(len(rows)), counts)
        # where an entry lies in the flat arrays: its question's start plus its place within the question
        entry = np.arange(len(position)) + np.repeat(starts - (np.cumsum(counts) - counts), counts)
        return position, self.labels[entry], self.scores[entry]

    def with_mean_pictures(self, *splits: str) -> "DataSet":
        """This data set with every picture replaced by the mean picture of the given splits.

        A model trained on it is blind: what it scores is the floor that a seeing model must pass. Regions and
        boxes are views of one mean picture, not copies. The digest stays that of the files on disk: whoever
        names a run must record blindness beside it. Raises DataError for an unknown split.
        """
        images = np.unique(self.image[self.rows(*splits)])
        return dataclasses.replace(
            self,
            regions=np.broadcast_to(_mean(self.regions, images), self.regions.shape),
            boxes=np.broadcast_to(_mean(self.boxes, images), self.boxes.shape),
        )

    def questions(self, *columns: str, rows: np.ndarray | None = None) -> pandas.DataFrame:
        """questions.parquet, or the given columns of it, one row per question; each call reads the file.

        With `rows` (N,) those questions alone, in that order, the index their rows.
        """
        table = pyarrow.parquet.read_table(self.folder / "questions.parquet", columns=list(columns) or None)
        return table.to_pandas() if rows is None else table.take(rows).to_pandas().set_index(pandas.Index(rows))

    def tokens(self, rows: np.ndarray) -> list[list[str]]:
        """The word pieces of the questions at `rows` (B,). Raises DataError where tokenizer.json is damaged."""
        path = self.folder / "tokenizer.json"
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # The library raises nothing narrower.
            raise DataError(f"{path} is damaged ({error}). Prepare the data set again.") from None
        return [
            [tokenizer.id_to_token(word) or f"#{word}" for word in row[row != 0].tolist()]
            for row in self.words[rows]
        ]

    def images(self, *columns: str) -> pandas.DataFrame:
        """images.parquet, or the given columns of it, one row per image; each call reads the file."""
        return pandas.read_parquet(self.folder / "images.parquet", columns=list(columns) or None)

    def picture(self, image: int) -> Path | None:
        """The picture file of an image row; None where the set has no pictures, or they are not here.

        A reference is `package:<name>/<path>` inside an installed Python package, or a path relative to the
        data set's folder.
        """
        reference = self.images("picture")["picture"].iloc[image]
        if not reference:
            return None
        if reference.startswith("package:"):
            package, _, path = reference.removeprefix("package:").partition("/")
            found = package_folder(package)
            return None if found is None or not (found / path).is_file() else found / path
        path = self.folder / reference
        return path if path.is_file() else None


def write_dataset(
    folder: Path,
    *,
    name: str,
    title: str,
    preparation: int,
    source: str,
    licence: str,
    attribution: str,
    questions: pandas.DataFrame,
    words: np.ndarray,
    images: pandas.DataFrame,
    pictures: Iterable[tuple[np.ndarray, np.ndarray]] | Path,
    tokenizer: str,
    vocabulary: int,
    answers: Sequence[str],
    asked: Mapping[str, int] | None = None,
    left_out: Sequence[str] = (),
) -> None:
    """Write a data set, so that `folder` either holds all of it or does not exist.

    `questions` and `images` have the columns of the files; `words` is (Q, L). `pictures` yields pieces of
    the image arrays in the order of `images`: regions (n, R, F) and boxes (n, R, 4), so that a set larger
    than the memory can be written; the first piece sets the type. Or `pictures` is the folder of a finished
    conversion (suite/data/convert.py) on the same file system, and `images` has its `checksum` too: the arrays
    are moved, not copied, and the folder is gone. `tokenizer` is the text of tokenizer.json. `asked` has the
    questions of each split in the source, where some were left out of it: dataset.json then says how many, and
    left_out.txt has the sentences `left_out`.

    All is built in a sibling folder, then renamed. Of two processes that write the same set at once, the
    second finds the first one's folder and leaves it. Raises DataError for content that does not fit
    together, and where `folder` already holds something else.
    """
    folder = Path(folder)
    digest = dataset_digest(name, source, preparation)
    if already_prepared(folder, digest):
        return
    _check_questions(questions, words, images=len(images), answers=len(answers), vocabulary=vocabulary)
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = folder.parent / f".{folder.name}.{uuid.uuid4().hex}.partial"
    draft.mkdir()
    try:
        _write_table(questions, "question_id", QUESTION_TYPES, draft / "questions.parquet")
        np.save(draft / "words.npy", np.ascontiguousarray(words, dtype=np.int32))
        if isinstance(pictures, Path):
            boxes, features = _check_arrays(pictures, len(images))
        else:
            boxes, features, checksum = _write_pictures(draft, pictures, len(images))
            images = images.assign(checksum=checksum)
        _write_table(images, "image_id", IMAGE_TYPES, draft / "images.parquet")
        (draft / "tokenizer.json").write_text(tokenizer, encoding="utf-8")
        (draft / "answers.json").write_text(
            json.dumps(list(answers), ensure_ascii=False, indent=0), encoding="utf-8"
        )
        if isinstance(pictures, Path):
            # Late: what fails before leaves the conversion whole.
            for file in ARRAYS:
                os.rename(pictures / file, draft / file)
        counted = questions.groupby("split", sort=False)["image"]
        information = {
            "form": FORM,
            "name": name,
            "title": title,
            "preparation": preparation,
            "source": source,
            "digest": digest,
            "licence": licence,
            "attribution": attribution,
            "splits": {
                str(split): {"questions": len(image), "images": len(set(image))}
                | ({"left_out": asked[str(split)] - len(image)} if asked and asked[str(split)] > len(image) else {})
                for split, image in counted
            },
            "boxes": boxes,
            "features": features,
            "max_words": int(words.shape[1]),
            "vocabulary": vocabulary,
            "answers": len(answers),
            "tokenizer": hashlib.sha256(tokenizer.encode()).hexdigest(),
            "bytes": {file: (draft / file).stat().st_size for file in FILES},
        }
        if left_out:
            (draft / "left_out.txt").write_text("".join(f"{line}\n" for line in left_out), encoding="utf-8")
        checksums = {file: file_checksum(draft / file) for file in FILES if file not in ARRAYS}
        information["checksums"] = checksums | {"dataset.json": description_checksum(information)}
        (draft / "dataset.json").write_text(json.dumps(information, ensure_ascii=False, indent=2), encoding="utf-8")
        try:
            os.rename(draft, folder)
        except OSError:
            # Another process was faster: fine if it wrote the same set, an error to tell if not.
            if not already_prepared(folder, digest):
                raise
        if isinstance(pictures, Path):
            shutil.rmtree(pictures)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def open_dataset(folder: Path) -> DataSet:
    """The data set in `folder`, without reading its large arrays.

    Raises DataError where the folder is missing, of another form, or where a file is missing or truncated.
    """
    folder = Path(folder)
    advice = f"Delete the folder and run `ablate data prepare {folder.name}`."
    if not folder.is_dir():
        raise DataError(
            f"{folder} does not exist; expected a prepared data set. Run `ablate data prepare {folder.name}`."
        )
    try:
        information = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
        form, sizes = information["form"], {file: information["bytes"][file] for file in FILES}
        checksums = dict(information.get("checksums", {}))
    except FileNotFoundError:
        raise DataError(
            f"{folder} is incomplete: dataset.json, which is written last, is missing. {advice}"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder} is damaged: dataset.json cannot be read ({error!r}). {advice}") from None
    if form != FORM:
        raise DataError(f"{folder} has form {form} of a data set; this program reads form {FORM}. {advice}")
    for file, expected in sizes.items():
        path = folder / file
        if not path.is_file():
            raise DataError(f"{folder} is incomplete: {file} should have {expected} bytes, is missing. {advice}")
        if (received := path.stat().st_size) != expected:
            raise DataError(
                f"{folder} is incomplete: {file} should have {expected} bytes, has {received}. {advice}"
            )

    for file in ("questions.parquet", "images.parquet", "answers.json"):
        # Checked before it is parsed: a damaged Parquet file can end the process. Older sets have no checksums.
        if file in checksums and file_checksum(folder / file) != checksums[file]:
            raise DataError(f"{folder} is damaged: {file} is not as it was written. {advice}")
    try:
        return _opened(folder, information)
    except PermissionError:
        raise
    except Exception as error:  # Whatever a damaged file makes its reader raise.
        raise DataError(f"{folder} is damaged ({error}). {advice}") from error


def _opened(folder: Path, information: dict[str, Any]) -> DataSet:
    questions = pyarrow.parquet.read_table(
        folder / "questions.parquet",
        columns=["image", "split", "labels", "scores"],
        read_dictionary=["split"],
    ).combine_chunks()
    split = questions["split"].combine_chunks()
    counts = questions["labels"].combine_chunks().value_lengths().to_numpy()
    words, image = _mapped(folder / "words.npy"), questions["image"].to_numpy().astype(np.int64)
    regions, boxes = _mapped(folder / "regions.npy"), _mapped(folder / "boxes.npy")
    shape = (pyarrow.parquet.read_metadata(folder / "images.parquet").num_rows, information["boxes"])
    _check_form(regions, (np.float16, np.float32), (*shape, information["features"]), "regions.npy")
    _check_form(boxes, (np.float32,), (*shape, 4), "boxes.npy")
    _check_form(words, (np.int32,), (len(image), information["max_words"]), "words.npy")
    return DataSet(
        folder=folder,
        name=information["name"],
        title=information["title"],
        digest=information["digest"],
        answers=tuple(json.loads((folder / "answers.json").read_text(encoding="utf-8"))),
        information=information,
        words=words,
        lengths=np.count_nonzero(words, axis=1),
        image=image,
        split_names=tuple(split.dictionary.to_pylist()),
        split=split.indices.to_numpy().astype(np.int64),
        label_starts=np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]),
        labels=questions["labels"].combine_chunks().flatten().to_numpy(),
        scores=questions["scores"].combine_chunks().flatten().to_numpy(),
        regions=regions,
        boxes=boxes,
    )


def already_prepared(folder: Path, digest: str) -> bool:
    """Whether `folder` holds the complete data set with this digest.

    False where there is nothing. Raises DataError where there is something else: an older preparation, other
    source files, a damaged set, or no data set at all. It is the user's to delete.
    """
    folder = Path(folder)
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    found = open_dataset(folder).digest
    if found != digest:
        raise DataError(
            f"{folder} holds a data set with digest {found[:12]}, expected {digest[:12]}: made from other "
            f"source files or by another preparation. Delete the folder and run "
            f"`ablate data prepare {folder.name}`."
        )
    return True


def source_digest(folder: Path, files: Iterable[Path]) -> str:
    """sha256 over the names relative to `folder` and the bytes of source files, in the order of the names."""
    total = hashlib.sha256()
    for name, path in sorted((path.relative_to(folder).as_posix(), path) for path in files):
        with path.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        total.update(f"{content}  {name}\n".encode())
    return total.hexdigest()


def dataset_digest(name: str, source: str, preparation: int) -> str:
    """The digest that identifies a data set: by what it was made from and how."""
    identity = {"name": name, "preparation": preparation, "source": source}
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def image_checksum(regions: np.ndarray, boxes: np.ndarray) -> int:
    """CRC-32 of one image's regions (R, F) and boxes (R, 4) as they lie on disk."""
    return zlib.crc32(boxes.data, zlib.crc32(regions.data))


def file_checksum(path: Path) -> int:
    """CRC-32 of a file's bytes."""
    total = 0
    with path.open("rb") as stream:
        while piece := stream.read(2**20):
            total = zlib.crc32(piece, total)
    return total


def description_checksum(information: dict[str, Any]) -> int:
    """CRC-32 of dataset.json without its checksums, however it is laid out."""
    plain = {name: value for name, value in information.items() if name != "checksums"}
    return zlib.crc32(json.dumps(plain, sort_keys=True).encode())


def package_folder(package: str) -> Path | None:
    """The folder of an installed Python package, found without importing it; None where there is none."""
    specification = importlib.util.find_spec(package)
    if specification is None or not specification.submodule_search_locations:
        return None
    return Path(next(iter(specification.submodule_search_locations)))


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names)


def _mapped(path: Path) -> np.ndarray:
    # A plain view of the map: indexing the subclass np.memmap costs several microseconds more each time.
    return np.asarray(np.load(path, mmap_mode="r"))


def _check_form(array: np.ndarray, types: tuple[type, ...], shape: tuple[int, ...], file: str) -> None:
    if array.dtype not in types or array.shape != shape or not array.flags.c_contiguous:
        raise ValueError(f"{file} should be {shape}, is {array.shape} {array.dtype}")


def _check_arrays(folder: Path, images: int) -> tuple[int, int]:
    """R and F of the arrays of a finished conversion. Raises DataError where they are not of so many images."""
    if not all((folder / file).is_file() for file in ("conversion.json", *ARRAYS)):
        raise DataError(
            f"{folder}: expected a finished conversion, which has conversion.json and {_listed(ARRAYS)}."
        )
    try:
        regions, boxes = (_mapped(folder / file) for file in ARRAYS)
    except ValueError as error:
        raise DataError(f"{folder} is damaged ({error}). Delete the folder and convert again.") from error
    if len(regions) != images or len(boxes) != images:
        raise DataError(f"expected regions of {images} pictures, as many as rows of images, got {len(regions)}.")
    return regions.shape[1], regions.shape[2]


def _read_float32(array: np.ndarray, images: np.ndarray) -> np.ndarray:
    """The rows `images` of (I, R, F) as (P, R, F) float32. Looking halves up takes a fifth of casting them."""
    if array.dtype != np.float16:
        return array[images].astype(np.float32, copy=False)
    read = np.empty((len(images), *array.shape[1:]), dtype=np.float32)
    for place, image in enumerate(images):
        _HALVES.take(array[image].view(np.uint16), out=read[place], mode="clip")
    return read


_HALVES = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32)  # every half by its bits


def _mean(array: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Mean over the given images of (I, R, D), as (R, D) float32, some images at a time: VQA's are 18 GB."""
    total = np.zeros(array.shape[1:], dtype=np.float64)
    for start in range(0, len(images), 256):
        total += array[images[start : start + 256]].sum(axis=0, dtype=np.float64)
    return (total / len(images)).astype(np.float32)


def _write_table(frame: pandas.DataFrame, key: str, types: dict[str, pyarrow.DataType], path: Path) -> None:
    missing = [column for column in (key, *types) if column not in frame.columns]
    if missing:
        raise DataError(f"{path.name} needs the columns {_listed((key, *types))}; missing: {_listed(missing)}.")
    twice = [value for value, count in Counter(frame[key]).items() if count > 1]
    if twice:
        raise DataError(f"{path.name}: expected each {key} once, got {twice[0]!r} more than once.")
    key_type = pyarrow.int64() if pandas.api.types.is_integer_dtype(frame[key]) else pyarrow.string()
    schema = pyarrow.schema([(key, key_type), *types.items()])
    table = pyarrow.Table.from_pandas(frame[[key, *types]], schema=schema, preserve_index=False)
    pyarrow.parquet.write_table(table.replace_schema_metadata(None), path, compression="zstd")


def _write_pictures(
    draft: Path, pictures: Iterable[tuple[np.ndarray, np.ndarray]], images: int
) -> tuple[int, int, list[int]]:
    """Write regions.npy and boxes.npy piece by piece; returns R, F and the checksum of each image."""
    all_regions = all_boxes = None
    checksums: list[int] = []
    done = 0
    for regions, boxes in pictures:
        if all_regions is None or all_boxes is None:
            if regions.dtype not in (np.float16, np.float32):
                raise DataError(f"regions must be float16 or float32, got {regions.dtype}.")
            shape = (images, *regions.shape[1:])
            open_map = np.lib.format.open_memmap
            all_regions = open_map(draft / "regions.npy", mode="w+", dtype=regions.dtype, shape=shape)
            all_boxes = open_map(draft / "boxes.npy", mode="w+", dtype=np.float32, shape=(*shape[:2], 4))
        end = done + len(regions)
        if regions.shape[1:] != all_regions.shape[1:] or boxes.shape != (len(regions), *all_boxes.shape[1:]):
            raise DataError(
                f"pictures {done} to {end}: expected regions (n, *{all_regions.shape[1:]}) and boxes "
                f"(n, *{all_boxes.shape[1:]}), got {regions.shape} and {boxes.shape}."
            )
        if end > images:
            raise DataError(f"expected regions of {images} pictures, as many as rows of images, got {end} or more.")
        if not np.isfinite(regions).all():
            raise DataError(f"pictures {done} to {end}: expected finite features, got NaN or infinity.")
        if not ((boxes >= 0) & (boxes <= 1)).all():
            raise DataError(
                f"pictures {done} to {end}: expected boxes in [0, 1], got {boxes.min()} to {boxes.max()}."
            )
        all_regions[done:end] = regions
        all_boxes[done:end] = boxes
        checksums += map(image_checksum, all_regions[done:end], all_boxes[done:end])
        done = end
    if all_regions is None or all_boxes is None or done != images:
        raise DataError(f"expected regions of {images} pictures, as many as rows of images, got {done}.")
    all_regions.flush()
    all_boxes.flush()
    return all_regions.shape[1], all_regions.shape[2], checksums


def _check_questions(
    questions: pandas.DataFrame, words: np.ndarray, *, images: int, answers: int, vocabulary: int
) -> None:
    if len(questions) == 0 or words.ndim != 2 or len(words) != len(questions):
        raise DataError(f"expected words for each of {len(questions)} (at least one) questions, got {words.shape}.")
    if words.min() < 0 or words.max() >= vocabulary:
        raise DataError(f"expected word ids from 0 to {vocabulary - 1}, got {words.min()} to {words.max()}.")
    padding = words == 0
    if padding[:, 0].any() or (padding[:, :-1] & ~padding[:, 1:]).any():
        raise DataError("expected each row of words to be words first, then only the padding 0.")
    image = questions["image"].to_numpy()
    if image.min() < 0 or image.max() >= images:
        raise DataError(f"expected image rows from 0 to {images - 1}, got {image.min()} to {image.max()}.")
    for question, labels, scores in zip(
        questions["question_id"], questions["labels"], questions["scores"], strict=True
    ):
        if len(labels) != len(scores) or len(set(labels)) != len(labels):
            raise DataError(
                f"question {question}: expected each label once with one score, got {labels}, {scores}."
            )
        if any(not 0 <= label < answers for label in labels):
            raise DataError(f"question {question}: expected labels from 0 to {answers - 1}, got {labels}.")
