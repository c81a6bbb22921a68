"""VQA 2.0 (Goyal et al. 2017, 1612.00837) from the files that people have, as a data set of the suite.

    ablate data prepare vqa2 --from FOLDER

FOLDER has the downloads under their own names, beside each other or as LXMERT's code keeps them (`vqa/`,
`mscoco_imgfeat/`): LXMERT's train, nominival, minival and test JSON, or the official questions and annotations; the
answers trainval_label2ans.json; the obj36 features, as TSV or zip. Every file can be named instead. Official
annotations beside LXMERT's JSON add what those lack: the ten humans' answers, which the official accuracy needs.

Splits are those of the files: LXMERT's, or train, val and test of the official ones. Questions are 20 word pieces
of bert-base-uncased, as LXMERT cuts them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas

from suite.data import store
from suite.data.answers import Labels, frequent_answers, read_answers, to_labels
from suite.data.convert import Conversion, Tell, check_destination, convert
from suite.data.questions import Reading, read_annotations, read_questions
from suite.data.regions import SHAPE, Unit, image_key, open_source
from suite.data.store import DataError
from suite.data.wordpieces import bert_tokenizer, encode
from suite.errors import UserError, few
from suite.terminal import say

NAME = "vqa2"
PREPARATION = 1  # counted up whenever what is written changes
MAX_WORDS = 20
MANY = 0.25  # share of the questions; of VQA 2.0's a fourteenth has no answer of its vocabulary
TOKENIZER = "bert-base-uncased"
PLACES = (".", "vqa", "data/vqa", "mscoco_imgfeat", "data/mscoco_imgfeat")
"""Where in a folder the files may lie: beside each other, or as LXMERT's code has them."""
LXMERT = {split: (f"{split}.json",) for split in ("train", "nominival", "minival", "test")}
OFFICIAL = {
    "train": ("v2_OpenEnded_mscoco_train2014_questions.json", "v2_mscoco_train2014_annotations.json"),
    "val": ("v2_OpenEnded_mscoco_val2014_questions.json", "v2_mscoco_val2014_annotations.json"),
    "test": ("v2_OpenEnded_mscoco_test2015_questions.json",),
}
"""Files of each split. test-dev is part of the test split, whose answers the server scores for both."""
ANSWERS = ("trainval_label2ans.json", "trainval_ans2label.json")
FEATURES = tuple(f"{images}_obj36" for images in ("train2014", "val2014", "test2015"))

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Files:
    """What a data set is made from."""

    splits: Mapping[str, Sequence[Path]]
    """Split -> LXMERT's JSON, or official questions and annotations."""
    features: Sequence[Path]
    """Obj36 TSV or zip, HDF5, or folders of npz."""
    annotations: Sequence[Path] = ()
    """Official annotations, for the humans' answers of questions in LXMERT's form."""
    answers: Path | None = None
    """The vocabulary; None: rebuilt from the annotations."""
    tokenizer: str = TOKENIZER
    """vocab.txt, a folder that has it, or a hub id."""
    dtype: Literal["float16", "float32"] = "float16"
    shape: tuple[int, int] = SHAPE
    """Regions of an image, features of a region."""
    boxes: Unit | None = None
    """What the boxes of the features are measured in; None: their first images tell."""
    skip_bad: bool = False
    """Leave out and list what is wrong, instead of ending at the first."""

    def __str__(self) -> str:
        lines = [f"split {split}: {_paths(paths)}" for split, paths in self.splits.items()]
        lines.append(f"features: {_paths(self.features)}")
        if self.annotations:
            lines.append(f"humans' answers: {_paths(self.annotations)}")
        lines.append(f"answers: {self.answers or 'rebuilt from the annotations'}")
        return "\n".join([*lines, f"word pieces: {self.tokenizer}"])


def find_files(folder: Path, splits: Sequence[str] = (), /, **named: object) -> Files:
    """The files in ``folder`` that have their usual names; of ``splits`` alone where any are given.

    LXMERT's JSON is taken where there is any, since its splits are the paper's; the official annotations are then
    read for the humans' answers. ``named`` are fields of Files, which come before what is found.

    Raises DataError where no questions, no features, or two files of one name are there, and for a split without
    its files.
    """
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}. Give --from the folder of the downloads.")
    lxmert = {split: found for split, names in LXMERT.items() if (found := _found(folder, names))}
    official = {
        split: found
        for split, names in OFFICIAL.items()
        if len(found := _found(folder, names)) == len(names) or (split == "test" and found)
    }
    given: dict[str, Sequence[Path]] = dict(lxmert or official)
    wanted = {split: given[split] for split in splits if split in given} if splits else given
    if missing := [split for split in splits if split not in given]:
        raise DataError(
            f"{folder} has no questions of the split {missing[0]!r}; found: {', '.join(given) or 'nothing'}. "
            f"Expected {LXMERT.get(missing[0], ('LXMERT or official files',))[0]} in it, or in its folder vqa/."
        )
    if not wanted and "splits" not in named:
        raise DataError(
            f"{folder} has no questions: expected {', '.join(names[0] for names in LXMERT.values())}, or the "
            f"official {OFFICIAL['train'][0]} with {OFFICIAL['train'][1]} and so on, in it or in its folder vqa/. "
            "Get them, or name them with --split train=FILE."
        )
    annotations = [path for split in ("train", "val") for path in _found(folder, OFFICIAL[split][1:])]
    answers = _found(folder, ANSWERS)
    features = [
        path for name in FEATURES for path in _found(folder, (f"{name}.tsv",)) or _found(folder, (f"{name}.zip",))
    ]
    if not features and "features" not in named:
        raise DataError(
            f"{folder} has no region features: expected {FEATURES[0]}.tsv or .zip and so on, in it or in its "
            "folder mscoco_imgfeat/. Get them, or name them with --features FILE."
        )
    found = {
        "splits": wanted,
        "features": features,
        "annotations": annotations if lxmert else (),
        "answers": answers[0] if answers else None,
    }
    if (vocabulary := folder / TOKENIZER / "vocab.txt").is_file() or (vocabulary := folder / "vocab.txt").is_file():
        found["tokenizer"] = str(vocabulary)
    return Files(**(found | named))  # type: ignore[arg-type]


def prepare(
    folder: Path, progress: Progress | None = None, files: Files | None = None, tell: Tell = say
) -> list[str]:
    """Writes the data set into ``folder``, which must not exist; returns a sentence for everything left out.

    Regions are converted beside it first (suite/data/convert.py), so that what is killed goes on where it was.
    ``progress`` is told how many images of how many are done, ``tell`` what was taken for granted. The data set's
    identity is the content of the questions' files, the vocabularies, and the converted features with the order of
    the images: the same features out of TSV, zip or HDF5 are the same data set.

    Raises DataError, with file and line, for the first thing that is wrong; with ``files.skip_bad`` it is left out.
    """
    if files is None:
        raise DataError(
            f"{folder} does not exist, and {NAME} is prepared from files of yours: `ablate data prepare {NAME} "
            "--from FOLDER`, the folder with the questions, the answers and the features."
        )
    pictures = folder.with_name(f"{folder.name}.pictures")
    check_destination(pictures)
    reading = read_questions(files.splits, skip_bad=files.skip_bad)
    frame, left_out = _with_one_name(reading.frame), list(reading.skipped)
    official = _humans(files, left_out)
    if official is not None:
        frame = _with_humans(frame, official, tell)
    answers = _vocabulary(files, frame, official)
    labels = to_labels(frame, answers, skip_bad=files.skip_bad)
    left_out += labels.skipped
    _check_vocabulary(frame, answers, labels, tell)
    frame = frame.assign(labels=labels.labels, scores=labels.scores)
    tokenizer = bert_tokenizer(_vocab_file(files.tokenizer))

    conversion = convert(
        [open_source(path, files.shape, files.boxes) for path in files.features],
        pictures,
        wanted=sorted(set(frame["image_id"])),
        dtype=files.dtype,
        skip_bad=files.skip_bad,
        progress=progress,
        tell=tell,
    )
    left_out += conversion.left_out
    row = {image: place for place, image in enumerate(conversion.images["image_id"])}
    image = [row.get(image) for image in frame["image_id"]]
    left_out += [
        f"{file}, record {record + 1}: question {question}: its image {image_id} was left out."
        for file, record, question, image_id, place in zip(
            *(frame[name] for name in ("file", "record", "question_id", "image_id")), image, strict=True
        )
        if place is None
    ]
    # A file's name may be no UTF-8; what names it is written as that.
    left_out = [sentence.encode(errors="backslashreplace").decode() for sentence in left_out]
    frame = frame.assign(image=image).dropna(subset=["image"]).astype({"image": int}).reset_index(drop=True)
    store.write_dataset(
        folder,
        name=NAME,
        title="VQA 2.0",
        preparation=PREPARATION,
        source=_digest(files, answers, tokenizer.to_str(), conversion),
        licence="CC BY 4.0",
        attribution="VQA 2.0, https://visualqa.org; features of LXMERT, https://github.com/airsplay/lxmert",
        questions=frame,
        words=encode(tokenizer, frame["text"].tolist(), MAX_WORDS),
        images=conversion.images.assign(picture=""),
        pictures=pictures,
        tokenizer=tokenizer.to_str(),
        vocabulary=tokenizer.get_vocab_size(),
        answers=answers,
        asked=reading.asked,
        left_out=left_out,
    )
    return left_out


def _found(folder: Path, names: Sequence[str]) -> list[Path]:
    """The first place of each of ``names`` that is in ``folder``. Raises DataError where it is in two."""
    found = []
    for name in names:
        paths = [path for place in PLACES if (path := folder / place / name).is_file()]
        if len(paths) > 1:
            raise DataError(f"{folder} has {name} twice: {_paths(paths)}. Leave one of them, or name the files.")
        found += paths
    return found


def _with_one_name(frame: pandas.DataFrame) -> pandas.DataFrame:
    """``frame`` with one name for each picture, the first: VQA-CP's files may say train2014 of one of val2014."""
    first: dict[str, str] = {}
    names = {image: first.setdefault(image_key(image), image) for image in dict.fromkeys(frame["image_id"])}
    if len(first) == len(names):
        return frame
    return frame.assign(image_id=[names[image] for image in frame["image_id"]])


def _humans(files: Files, left_out: list[str]) -> pandas.DataFrame | None:
    """The official annotations that are given beside LXMERT's files; None without."""
    if not files.annotations:
        return None
    readings: list[Reading] = [read_annotations(path, skip_bad=files.skip_bad) for path in files.annotations]
    left_out += [sentence for reading in readings for sentence in reading.skipped]
    frame = pandas.concat([reading.frame for reading in readings], ignore_index=True)
    said = zip(*(frame[name] for name in ("question_id", "humans", "answer_type", "question_type")), strict=True)
    first: dict[int, list] = {}
    for question, *given in said:
        if first.setdefault(question, given) != given:
            raise DataError(
                f"{_paths(files.annotations)}: expected each question once, got {question} twice, differing."
            )
    return frame.drop_duplicates("question_id", ignore_index=True)


def _with_humans(frame: pandas.DataFrame, official: pandas.DataFrame, tell: Tell) -> pandas.DataFrame:
    """``frame`` with the humans' answers and the types of ``official`` where it has none itself.

    ``tell`` is told of questions with scores that are not there. Raises DataError where none of them is: files that
    do not belong together.
    """
    row = {question: place for place, question in enumerate(official["question_id"])}
    places = [row.get(question) for question in frame["question_id"]]
    files = _paths(sorted(set(official["file"])))
    if all(place is None for place in places):
        asked, there = (few(one["question_id"].tolist(), 3) for one in (frame, official))
        raise DataError(
            f"None of the {len(frame)} questions is in the annotations {files}: theirs are {there}, the questions "
            f"{asked}. Give those of the same questions, or leave them out."
        )
    scored = [place is None for place, soft in zip(places, frame["soft"], strict=True) if soft is not None]
    if any(scored):
        tell(
            f"{sum(scored)} of {len(scored)} questions with scores are not in the annotations {files}: a split "
            "with such questions gets no official accuracy."
        )
    columns = {}
    for name in ("humans", "answer_type", "question_type"):
        there = official[name].tolist()
        columns[name] = [
            own if len(own) or place is None else there[place]
            for own, place in zip(frame[name], places, strict=True)
        ]
    return frame.assign(**columns)


def _vocabulary(files: Files, frame: pandas.DataFrame, official: pandas.DataFrame | None) -> tuple[str, ...]:
    if files.answers is not None:
        return read_answers(files.answers)
    given = official if official is not None else frame
    said = [
        answer
        for answer, humans in zip(given["multiple_choice_answer"], given["humans"], strict=True)
        if len(humans)
    ]
    if not said:
        raise DataError(
            f"Expected the vocabulary of answers ({ANSWERS[0]}), or official annotations to rebuild it from; got "
            "neither. Name it with --answers FILE."
        )
    return frequent_answers(said)


def _check_vocabulary(frame: pandas.DataFrame, answers: Sequence[str], labels: Labels, tell: Tell) -> None:
    """Raises DataError where no question has an answer of the vocabulary; ``tell`` is told where many have none."""
    scored = [soft for soft in frame["soft"] if soft]
    without = labels.without - sum(soft == {} for soft in frame["soft"])
    if not scored or without <= MANY * len(scored):
        return
    if without < len(scored):
        tell(f"{without} of {len(scored)} questions with answers have none of the vocabulary of {len(answers)}.")
        return
    given = few(dict.fromkeys(answer for soft in scored[:100] for answer in soft), 3)
    raise DataError(
        f"None of the {len(scored)} questions with answers has one of the vocabulary of {len(answers)}: it has "
        f"{few(answers, 3)}, theirs are {given}. Give their vocabulary with --answers FILE, or leave it out."
    )


def _vocab_file(source: str) -> Path:
    path = Path(source).expanduser()
    if path.is_dir():
        path = path / "vocab.txt"
    if path.exists() or path.suffix == ".txt":
        return path
    from transformers.utils.hub import cached_file

    try:
        return Path(str(cached_file(source, "vocab.txt")))
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0][:200]
        raise UserError(
            f"There is no vocab.txt at {source}, and the hub gave none ({reason}). Download that of {TOKENIZER} "
            "where there is a network, and give it with --tokenizer FILE."
        ) from error


def _digest(files: Files, answers: Sequence[str], tokenizer: str, conversion: Conversion) -> str:
    """sha256 over what the data set is made from; names and places of files do not count."""

    def content(paths: Sequence[Path]) -> list[str]:
        return sorted(hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in paths)

    parts = {
        "splits": {split: content(paths) for split, paths in files.splits.items()},
        "annotations": content(files.annotations),
        "answers": list(answers),
        "tokenizer": hashlib.sha256(tokenizer.encode()).hexdigest(),
        "features": conversion.digest,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _paths(paths: Sequence[Path | str]) -> str:
    return ", ".join(map(str, paths))
