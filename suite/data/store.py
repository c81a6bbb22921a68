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

All of it is held against its checksums when it is read: each small file whenever the set is opened, each image
before a process uses it for the first time (suite/data/intact.py). Sets of older versions have no checksums.

Shapes: Q questions, I images, R regions of a picture, F features of a region, L words of a question,
A answers, B questions of a batch.
"""

import contextlib
import dataclasses
import difflib
import hashlib
import importlib.util
import json
import os
import re
import shutil
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas
import pyarrow
import pyarrow.parquet
from tokenizers import Tokenizer

from suite.data.intact import (
    DataError,
    ImageChecks,
    description_checksum,
    file_checksum,
    image_checksum,
    mapped,
    reading,
    size_of,
)
from suite.files import strict_json
from suite.records import settle

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
SMALL = tuple(file for file in FILES if file not in ARRAYS)  # theirs are in dataset.json
PICTURES = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp")  # of such files records keep copies
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
    regions: np.ndarray  # (I, R, F) float16 or float32; whoever reads images calls `check_images` first
    boxes: np.ndarray  # (I, R, 4) float32
    image_checks: ImageChecks | None  # None where there are no checksums, or nothing to check

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

        Raises DataError for no rows or rows out of range, and for an image that is not as it was written.
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
        self.check_images(image)

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

    def check_images(self, images: np.ndarray) -> None:
        """Raises DataError where one of the image rows `images` (P,) is not as it was written.

        Each image is looked at once in a process.
        """
        if self.image_checks is None or not (damaged := self.image_checks.damaged(images)):
            return
        ids = self.images("image_id")["image_id"]
        more = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
        raise DataError(
            f"{self.folder} is damaged: {' or '.join(ARRAYS)} is not as it was written at the image "
            f"{ids.iloc[damaged[0]]!r}, row {damaged[0]}{more}. `ablate data verify {self.folder.name}` lists all "
            f"that is damaged. {_advice(self.folder)}"
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
        names a run must record blindness beside it. Raises DataError for an unknown split, and for an image that
        is not as it was written.
        """
        images = np.unique(self.image[self.rows(*splits)])
        sums = [np.zeros(array.shape[1:], dtype=np.float64) for array in (self.regions, self.boxes)]
        for start in range(0, len(images), 256):  # Some at a time: VQA's are 18 GB.
            some = images[start : start + 256]
            self.check_images(some)
            for total, array in zip(sums, (self.regions, self.boxes), strict=True):
                total += array[some].sum(axis=0, dtype=np.float64)
        regions, boxes = ((total / len(images)).astype(np.float32) for total in sums)
        return dataclasses.replace(
            self,
            regions=np.broadcast_to(regions, self.regions.shape),
            boxes=np.broadcast_to(boxes, self.boxes.shape),
            image_checks=None,
        )

    def questions(self, *columns: str, rows: np.ndarray | None = None) -> pandas.DataFrame:
        """questions.parquet, or the given columns of it, one row per question; each call reads the file.

        With `rows` (N,) those questions alone, in that order, the index their rows. Raises DataError where the
        file is damaged.
        """
        table = self._table("questions.parquet", columns)
        return table.to_pandas() if rows is None else table.take(rows).to_pandas().set_index(pandas.Index(rows))

    def tokens(self, rows: np.ndarray) -> list[list[str]]:
        """The word pieces of the questions at `rows` (B,). Raises DataError where tokenizer.json is damaged."""
        self._check_file("tokenizer.json")
        path = self.folder / "tokenizer.json"
        with reading(path, _advice(self.folder)):
            tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
        return [
            [tokenizer.id_to_token(word) or f"#{word}" for word in row[row != 0].tolist()]
            for row in self.words[rows]
        ]

    def images(self, *columns: str) -> pandas.DataFrame:
        """images.parquet, or the given columns of it, one row per image; each call reads the file.

        Raises DataError where the file is damaged.
        """
        return self._table("images.parquet", columns).to_pandas()

    def picture(self, image: int) -> Path | None:
        """The picture file of an image row; None where the set has no pictures, or they are not here.

        A reference is `package:<name>/<path>` inside an installed Python package, or a path relative to the
        data set's folder. Raises DataError where it leads out of there: a data set from elsewhere must not have
        any file of its user copied into the records.
        """
        reference = self.images("picture")["picture"].iloc[image]
        if not reference:
            return None
        path = self.folder / "images.parquet"
        with reading(path, _advice(self.folder)):
            package, place = _picture_place(reference)
        root = package_folder(package) if package else self.folder
        if root is None or size_of(root / place) is None:
            return None
        found = (root / place).resolve()
        # An installer may link a package's files out of its cache, where they have the same places.
        linked = bool(package) and found.parts[-len(place.parts) - 1 :] == (package, *place.parts)
        if not found.is_file() or not (linked or found.is_relative_to(root.resolve())):
            raise DataError(
                f"{path}, row {image}: expected a picture inside {root}, got {reference!r}, which leads by links "
                f"to {found}. Put the picture itself there."
            )
        return root / place

    def _table(self, file: str, columns: Sequence[str]) -> pyarrow.Table:
        self._check_file(file)
        with reading(self.folder / file, _advice(self.folder)):
            return pyarrow.parquet.read_table(self.folder / file, columns=list(columns) or None)

    def _check_file(self, file: str) -> None:
        """Before it is parsed: a damaged Parquet file can end the process."""
        for sentence in damaged_files(self.folder, self.information, (file,)):
            raise DataError(f"{self.folder} is damaged: {sentence} {_advice(self.folder)}")


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
    together, and where `folder` already holds something else. A conversion is whole until the data set is.
    """
    folder = Path(folder)
    digest = dataset_digest(name, source, preparation)
    if already_prepared(folder, digest):
        return
    _check_questions(questions, words, images=len(images), answers=answers, vocabulary=vocabulary)
    if "picture" in images:
        _check_pictures(pandas.Series(images["picture"]))
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = folder.parent / f".{folder.name}.{uuid.uuid4().hex}.partial"
    draft.mkdir()
    try:
        _write_table(questions, "question_id", QUESTION_TYPES, draft / "questions.parquet")
        np.save(draft / "words.npy", np.ascontiguousarray(words, dtype=np.int32))
        if isinstance(pictures, Path):
            boxes, features = _check_arrays(pictures, images)
        else:
            boxes, features, checksum = _write_pictures(draft, pictures, len(images))
            images = images.assign(checksum=checksum)
        _write_table(images, "image_id", IMAGE_TYPES, draft / "images.parquet")
        (draft / "tokenizer.json").write_text(tokenizer, encoding="utf-8")
        (draft / "answers.json").write_text(
            json.dumps(list(answers), ensure_ascii=False, indent=0), encoding="utf-8"
        )
        arrays = pictures if isinstance(pictures, Path) else draft
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
            "bytes": {file: (arrays / file if file in ARRAYS else draft / file).stat().st_size for file in FILES},
        }
        if left_out:
            (draft / "left_out.txt").write_text("".join(f"{line}\n" for line in left_out), encoding="utf-8")
        checksums = {file: file_checksum(draft / file) for file in SMALL}
        information["checksums"] = checksums | {"dataset.json": description_checksum(information)}
        (draft / "dataset.json").write_text(json.dumps(information, ensure_ascii=False, indent=2), encoding="utf-8")
        if isinstance(pictures, Path):
            for file in ARRAYS:
                _name_again(pictures / file, draft / file)
        for path in draft.iterdir():
            settle(path)  # Before it has its name: what has one is whole, also after a power cut.
        try:
            os.rename(draft, folder)
        except OSError:
            # Another process was faster: fine if it wrote the same set, an error to tell if not.
            if not already_prepared(folder, digest):
                raise
        if isinstance(pictures, Path):
            shutil.rmtree(pictures)
    except BaseException:
        if isinstance(pictures, Path):
            for file in ARRAYS:
                _give_back(draft / file, pictures / file)
        raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def open_dataset(folder: Path) -> DataSet:
    """The data set in `folder`, without reading its large arrays.

    Raises DataError where the folder is missing, of another form, or where a file is missing, truncated or not as
    it was written. OSError and MemoryError pass: what raises them may be whole.
    """
    folder = Path(folder)
    information = read_description(folder)
    for sentence in damaged_files(folder, information):
        raise DataError(f"{folder} is damaged: {sentence} {_advice(folder)}")
    return _opened(folder, information)


def read_description(folder: Path) -> dict[str, Any]:
    """dataset.json of a folder that has all files of a data set, each as large as it must be. Raises DataError."""
    path = folder / "dataset.json"
    if size_of(folder) is None:
        raise DataError(
            f"{folder} does not exist; expected a prepared data set. Run `ablate data prepare {folder.name}`."
        )
    if size_of(path) is None:
        raise DataError(
            f"{folder} is incomplete: dataset.json, which is written last, is missing. {_advice(folder)}"
        )
    with reading(path, _advice(folder)):
        information = strict_json(path.read_text(encoding="utf-8"))
        if (form := information["form"]) != FORM:
            raise DataError(
                f"{folder} has form {form} of a data set; this program reads form {FORM}. Use the version of it "
                f"that prepared the set, or prepare it again in another folder: `ablate data prepare "
                f"{folder.name} --data OTHER`."
            )
        _check_description(information)
    for file in FILES:
        expected, received = information["bytes"][file], size_of(folder / file)
        if received != expected:
            has = "is missing" if received is None else f"has {received}"
            raise DataError(
                f"{folder} is incomplete: {file} should have {expected} bytes, {has}. {_advice(folder)}"
            )
    return information


def damaged_files(
    folder: Path, information: dict[str, Any], files: Sequence[str] = (*SMALL, "dataset.json")
) -> Iterator[str]:
    """A sentence for each of `files` that is not as it was written; none where checksums were not kept."""
    expected = information.get("checksums", {})
    for file in files:
        if file not in expected:
            continue
        path = folder / file
        with reading(path, _advice(folder)):
            found = description_checksum(information) if file == "dataset.json" else file_checksum(path)
        if found != expected[file]:
            yield f"{file} is not as it was written."


DESCRIBED = {
    "form": int, "name": str, "title": str, "preparation": int, "source": str, "digest": str, "licence": str,
    "attribution": str, "splits": dict, "boxes": int, "features": int, "max_words": int, "vocabulary": int,
    "answers": int, "tokenizer": str, "bytes": dict,
}  # fmt: skip
"""What dataset.json says; `checksums` too, but in sets of older versions."""


def _check_description(information: dict[str, Any]) -> None:
    """Raises ValueError where something that dataset.json must say is not there, or is not of its kind."""
    for name, kind in DESCRIBED.items():
        value: Any = information.get(name)
        if type(value) is not kind or (kind is int and name != "preparation" and value < 1):
            raise ValueError(f"expected {name} as {kind.__name__}, got {str(value)[:80]!r}")
    if not all(type(information["bytes"].get(file)) is int for file in FILES):
        raise ValueError(f"expected bytes of {_listed(FILES)}")
    if "checksums" in information:
        kept = information["checksums"]
        if not isinstance(kept, dict) or not all(type(kept.get(file)) is int for file in (*SMALL, "dataset.json")):
            raise ValueError(f"expected checksums of {_listed((*SMALL, 'dataset.json'))}")
    elif unknown := information.keys() - DESCRIBED.keys():
        # Not an older set, but one whose word `checksums` is another now.
        raise ValueError(f"it says {_listed(sorted(unknown))}, and no checksums")


def _opened(folder: Path, information: dict[str, Any]) -> DataSet:
    advice = _advice(folder)
    with reading(folder / "answers.json", advice):
        answers = strict_json((folder / "answers.json").read_text(encoding="utf-8"))
        if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
            raise ValueError("expected a list of texts")
        if len(answers) != information["answers"] or len(set(answers)) != len(answers):
            raise ValueError(f"expected {information['answers']} answers, each once")
    with reading(folder / "tokenizer.json", advice):
        if hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest() != information["tokenizer"]:
            raise ValueError("it is not the tokenizer that dataset.json names")
    with reading(folder / "images.parquet", advice):
        checksums = _check_images(folder / "images.parquet", "checksums" in information)
    with reading(folder / "questions.parquet", advice):
        questions = pyarrow.parquet.read_table(
            folder / "questions.parquet",
            columns=["image", "split", "labels", "scores"],
            read_dictionary=["split"],
        ).combine_chunks()
        image, labels, scores, split = (
            questions[name].combine_chunks() for name in ("image", "labels", "scores", "split")
        )
        _check_asked(image, labels, scores, split, images=len(checksums), answers=len(answers))
        counts = labels.value_lengths().to_numpy()
    arrays = {file: mapped(folder / file, advice) for file in ("words.npy", *ARRAYS)}
    shape = (len(checksums), information["boxes"])
    for file, types, expected in (
        ("words.npy", (np.int32,), (len(image), information["max_words"])),
        ("regions.npy", (np.float16, np.float32), (*shape, information["features"])),
        ("boxes.npy", (np.float32,), (*shape, 4)),
    ):
        with reading(folder / file, advice):
            _check_form(arrays[file], types, expected)
    words, regions, boxes = arrays.values()
    with reading(folder / "words.npy", advice):
        lengths = np.count_nonzero(words, axis=1)
        # Negative ids are the largest of all without their sign: one look at 100 MB, not two.
        if words.view(np.uint32).max() >= information["vocabulary"] or lengths.min() < 1:
            raise ValueError(f"expected at least a word a question, ids from 0 to {information['vocabulary'] - 1}")
    return DataSet(
        folder=folder,
        name=information["name"],
        title=information["title"],
        digest=information["digest"],
        answers=tuple(answers),
        information=information,
        words=words,
        lengths=lengths,
        image=image.to_numpy().astype(np.int64),
        split_names=tuple(split.dictionary.to_pylist()),
        split=split.indices.to_numpy().astype(np.int64),
        label_starts=np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]),
        labels=labels.flatten().to_numpy(),
        scores=scores.flatten().to_numpy(),
        regions=regions,
        boxes=boxes,
        image_checks=None if checksums.dtype == object else ImageChecks(regions, boxes, checksums),
    )


def _check_images(path: Path, has_checksums: bool) -> np.ndarray:
    """The checksums of all images, (I,) uint32; of older sets None for each.

    Raises ValueError where pictures lie where none may, and what pyarrow does where the file is damaged.
    """
    has_checksums = has_checksums or "checksum" in pyarrow.parquet.read_schema(path).names
    columns = ["picture", *(["checksum"] if has_checksums else [])]
    table = pyarrow.parquet.read_table(path, columns=columns, read_dictionary=["picture"]).combine_chunks()
    for reference in table["picture"].unique().to_pylist():
        if reference:
            _picture_place(reference)
    if not has_checksums:
        return np.full(len(table), None)
    if table["checksum"].null_count or table["checksum"].type != pyarrow.uint32():
        raise ValueError("expected a checksum of each image")
    return table["checksum"].to_numpy()


def _check_asked(
    image: pyarrow.Array,
    labels: pyarrow.Array,
    scores: pyarrow.Array,
    split: pyarrow.Array,
    *,
    images: int,
    answers: int,
) -> None:
    """Raises ValueError where a question is about no image, or a label is no answer."""
    if any(column.null_count for column in (image, labels, scores, split, labels.flatten(), scores.flatten())):
        raise ValueError("expected no empty cells")
    if not len(image) or not labels.value_lengths().equals(scores.value_lengths()):
        raise ValueError("expected questions, with a score for each label")
    for numbers, count, what in ((image, images, "images"), (labels.flatten(), answers, "answers")):
        found = numbers.to_numpy()
        if len(found) and (found.min() < 0 or found.max() >= count):
            raise ValueError(f"expected rows of {count} {what}, got {found.min()} to {found.max()}")
    if not np.isfinite(scores.flatten().to_numpy()).all():
        raise ValueError("expected finite scores")


def _check_pictures(references: pandas.Series) -> None:
    for reference in references.unique():
        try:
            if reference:
                _picture_place(reference)
        except ValueError as error:
            raise DataError(f"images: {error}.") from None


def _picture_place(reference: str) -> tuple[str, PurePosixPath]:
    """Package of a picture's reference, "" for the data set's own folder, and its place there.

    Raises ValueError for what is no picture's, or could lead out of there.
    """
    package, path = "", reference
    if is_packages := reference.startswith("package:"):
        package, _, path = reference.removeprefix("package:").partition("/")
    place = PurePosixPath(path)
    if (
        (is_packages and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", package))
        or place.is_absolute()
        or ".." in place.parts
        or "\0" in path
        or place.suffix.lower() not in PICTURES
    ):
        raise ValueError(
            f"expected a picture ({', '.join(PICTURES)}) as package:NAME/PATH or as a path in the data set's "
            f"folder, got {reference[:200]!r}"
        )
    return package, place


def _advice(folder: Path) -> str:
    """What to do where a data set is not whole; never to delete what may be the only copy."""
    return (
        f"Copy it again from where it is whole (is its disk mounted, was a copy of it ended?), or prepare it in "
        f"another folder: `ablate data prepare {folder.name} --data OTHER`."
    )


def already_prepared(folder: Path, digest: str) -> bool:
    """Whether `folder` holds the complete data set with this digest.

    False where there is nothing. Raises DataError where there is something else: an older preparation, other
    source files, a damaged set, or no data set at all. It is the user's.
    """
    folder = Path(folder)
    if size_of(folder) is None or (folder.is_dir() and not any(folder.iterdir())):
        return False
    found = open_dataset(folder).digest
    if found != digest:
        raise DataError(
            f"{folder} holds a data set with digest {found[:12]}, expected {digest[:12]}: made from other "
            "source files or by another preparation. The cells that were trained with it need it: prepare this "
            f"one in another folder, `ablate data prepare {folder.name} --data OTHER`."
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


def package_folder(package: str) -> Path | None:
    """The folder of an installed Python package, found without importing it; None where there is none.

    A folder without `__init__.py` is none: beside a script every folder would be.
    """
    specification = None
    with contextlib.suppress(ValueError):  # Of a name that is a module and has no place, as __main__.
        specification = importlib.util.find_spec(package)
    if specification is None or not specification.origin or not specification.submodule_search_locations:
        return None
    return Path(next(iter(specification.submodule_search_locations)))


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names)


def _check_form(array: np.ndarray, types: tuple[type, ...], shape: tuple[int, ...]) -> None:
    if array.dtype not in types or array.shape != shape or not array.flags.c_contiguous:
        raise ValueError(f"expected {shape} {types[0].__name__}, got {array.shape} {array.dtype}")


def _check_arrays(folder: Path, images: pandas.DataFrame) -> tuple[int, int]:
    """R and F of the arrays of a finished conversion. Raises DataError where they are not of these images."""
    if any(size_of(folder / file) is None for file in ("conversion.json", "images.parquet", *ARRAYS)):
        raise DataError(
            f"{folder}: expected a finished conversion, which has conversion.json and {_listed(ARRAYS)}."
        )
    advice = "Move the folder away, and run the same command to convert again."
    regions, boxes = (mapped(folder / file, advice) for file in ARRAYS)
    if len(regions) != len(images) or len(boxes) != len(images):
        raise DataError(
            f"expected regions of {len(images)} pictures, as many as rows of images, got {len(regions)}."
        )
    with reading(folder / "images.parquet", advice):
        converted = pyarrow.parquet.read_table(folder / "images.parquet", columns=["checksum"])
    if converted["checksum"].to_pylist() != images["checksum"].tolist():
        raise DataError(f"expected the images of {folder} in their order, got others. {advice}")
    return regions.shape[1], regions.shape[2]


def _name_again(file: Path, name: Path) -> None:
    """`file` under a second name, so that it is never without one; moved where the file system has no links."""
    try:
        os.link(file, name)
    except OSError:
        os.rename(file, name)


def _give_back(name: Path, file: Path) -> None:
    """Undoes `_name_again` where `name` is the last one: a conversion takes a day."""
    if size_of(name) is not None and size_of(file) is None:
        os.rename(name, file)


def _read_float32(array: np.ndarray, images: np.ndarray) -> np.ndarray:
    """The rows `images` of (I, R, F) as (P, R, F) float32. Looking halves up takes a fifth of casting them."""
    if array.dtype != np.float16:
        return array[images].astype(np.float32, copy=False)
    read = np.empty((len(images), *array.shape[1:]), dtype=np.float32)
    for place, image in enumerate(images):
        _HALVES.take(array[image].view(np.uint16), out=read[place], mode="clip")
    return read


_HALVES = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32)  # every half by its bits


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
    questions: pandas.DataFrame, words: np.ndarray, *, images: int, answers: Sequence[str], vocabulary: int
) -> None:
    if len(set(answers)) != len(answers):
        raise DataError(f"expected each of {len(answers)} answers once, got {len(set(answers))} different ones.")
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
        if any(not 0 <= label < len(answers) for label in labels):
            raise DataError(f"question {question}: expected labels from 0 to {len(answers) - 1}, got {labels}.")
