"""easy-VQA (Victor Zhou, 2019): questions about one coloured shape on a plain background, 64 x 64 pixels.

The pictures and questions come with the Python package `easy_vqa`. A detector's regions are replaced by six
that simple rules find: the shape's crop, the whole picture, its four quadrants. The features of a region are
those a person would choose to tell the shapes and the colours, whatever the size and place of the shape.

Splits: the official test split is `test`. The training pictures are dealt by a hash of their id, whole
pictures at a time: 100 to `validation`, then half each to `start` (what a starting checkpoint is trained on)
and `train`.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas
from PIL import Image

from suite.data import store
from suite.data.convert import check_destination
from suite.data.store import DataError
from suite.data.wordpieces import encode, make_tokenizer

NAME = "easy_vqa"
PREPARATION = 1  # raise it with every change of this file or wordpieces.py that changes what is written

PICTURES = {"train": 4000, "test": 1000}
QUESTIONS = {"train": 38_575, "test": 9_673}
VALIDATION_PICTURES = 100
SIZE = 64

SHAPES = ("circle", "rectangle", "triangle")
YES_NO = ("yes", "no")

MASK_SIZE = 8  # side of the patch that shows the outline
COLOUR_SIZE = 4  # side of the patch that shows the colours
FEATURES = MASK_SIZE**2 + 3 * COLOUR_SIZE**2 + 27 + 3 + 2
# A shape differs from its background by at least 105 of 255 levels; a picture with less has no shape.
LEAST_CONTRAST = 32
# A feature that hardly varies is noise of a few pixels: dividing by its deviation would make it loud.
LEAST_DEVIATION = 0.05


def prepare(folder: Path, progress: Callable[[int, int], None] | None = None) -> None:
    """Write easy-VQA to `folder` unless it is there already; `progress(pictures read, pictures in all)`.

    Raises DataError where the package is missing or not whole, or `folder` holds something else.
    """
    package = _package()
    source = store.source_digest(package, _source_files(package))
    if store.already_prepared(folder, store.dataset_digest(NAME, source, PREPARATION)):
        return
    check_destination(folder)
    images = _images()
    answers = (package / "data" / "answers.txt").read_text(encoding="utf-8").split()
    questions = _questions(package, images, answers)
    regions, boxes = _regions(package, images, progress)
    tokenizer = make_tokenizer(questions["text"][questions["split"] != "test"])
    store.write_dataset(
        folder,
        name=NAME,
        title="easy-VQA",
        preparation=PREPARATION,
        source=source,
        licence="MIT",
        attribution="Victor Zhou, easy-VQA, https://github.com/vzhou842/easy-VQA",
        questions=questions,
        words=encode(tokenizer, questions["text"].tolist()),
        images=images,
        pictures=[(regions, boxes)],
        tokenizer=tokenizer.to_str(),
        vocabulary=tokenizer.get_vocab_size(),
        answers=answers,
    )


def digest() -> str:
    """The digest of the data set that `prepare` writes, known without preparing it."""
    package = _package()
    return store.dataset_digest(NAME, store.source_digest(package, _source_files(package)), PREPARATION)


def shape_box(picture: np.ndarray) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """How much each pixel belongs to the shape, (H, W) in [0, 1], and its box x0, y0, x1, y1 in pixels.

    `picture` is (H, W, 3) uint8. The background is the median of the border: a shape may touch the border but
    never covers half of it. A picture without contrast has no shape: all zeros, and the whole picture as box.
    """
    height, width = picture.shape[:2]
    border = np.concatenate([picture[0], picture[-1], picture[1:-1, 0], picture[1:-1, -1]])
    background = np.median(border, axis=0)
    difference = np.abs(picture - background).max(axis=2)
    contrast = difference.max()
    if contrast < LEAST_CONTRAST:
        return np.zeros((height, width)), (0, 0, width, height)
    mask = difference / contrast
    rows, columns = np.flatnonzero((mask > 0.5).any(axis=1)), np.flatnonzero((mask > 0.5).any(axis=0))
    return mask, (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


def picture_regions(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Features (6, FEATURES) float64, before standardising, and boxes (6, 4) of one picture (H, W, 3) uint8.

    The features of a region: its share of the shape as a small patch, which no colour changes; its colours as
    a smaller patch; how the shape's pixels in it fall on 3 x 3 x 3 colours, and their mean colour, which no
    outline changes; how much of it the shape covers; its aspect.
    """
    height, width = picture.shape[:2]
    mask, crop = shape_box(picture)
    middle_x, middle_y = width // 2, height // 2
    boxes = [
        crop,
        (0, 0, width, height),
        (0, 0, middle_x, middle_y),
        (middle_x, 0, width, middle_y),
        (0, middle_y, middle_x, height),
        (middle_x, middle_y, width, height),
    ]
    # Pillow scales bytes in integer arithmetic: the same on every machine.
    # The mask is scaled beside the colours, as a fourth channel.
    channels = np.dstack([picture, np.rint(mask * 255).astype(np.uint8)])
    whole = Image.frombuffer("RGBX", (width, height), channels.tobytes(), "raw", "RGBX", 0, 1)
    third = (picture.astype(np.int64) + 64) // 128
    colour_cell = third[..., 0] * 9 + third[..., 1] * 3 + third[..., 2]
    features = np.empty((len(boxes), FEATURES))
    for row, (x0, y0, x1, y1) in zip(features, boxes, strict=True):
        scaled = whole.resize((MASK_SIZE, MASK_SIZE), Image.Resampling.BILINEAR, box=(x0, y0, x1, y1))
        patch = np.frombuffer(scaled.tobytes(), dtype=np.uint8).reshape(MASK_SIZE, MASK_SIZE, 4) / 255
        step = MASK_SIZE // COLOUR_SIZE
        colours = patch[..., :3].reshape(COLOUR_SIZE, step, COLOUR_SIZE, step, 3).mean(axis=(1, 3))
        inside = mask[y0:y1, x0:x1] > 0.5
        shape_pixels = picture[y0:y1, x0:x1][inside]
        cells = np.bincount(colour_cell[y0:y1, x0:x1][inside], minlength=27)
        row[:] = np.concatenate(
            [
                patch[..., 3].ravel(),
                colours.ravel(),
                cells / max(len(shape_pixels), 1),
                shape_pixels.mean(axis=0) / 255 if len(shape_pixels) else np.full(3, 0.5),
                [mask[y0:y1, x0:x1].mean(), np.log2((x1 - x0) / (y1 - y0))],
            ]
        )
    return features, np.array(boxes) / (width, height, width, height)


def _package() -> Path:
    """The folder of the installed package. Raises DataError where it, or a file of it, is missing."""
    package = store.package_folder(NAME)
    if package is None:
        raise DataError(
            "easy-VQA is read from the Python package easy_vqa, which is not installed. "
            "Run `pip install easy-vqa==1.0`, then `ablate data prepare easy_vqa`."
        )
    for path in _source_files(package):
        if not path.is_file():
            raise DataError(
                f"the package easy_vqa is not whole: {path} is missing. "
                "Run `pip install --force-reinstall easy-vqa==1.0`."
            )
    return package


def _source_files(package: Path) -> list[Path]:
    data = package / "data"
    pictures = [data / _picture_name(split, number) for split, count in PICTURES.items() for number in range(count)]
    return [data / "answers.txt", *(data / split / "questions.json" for split in PICTURES), *pictures]


def _picture_name(split: str, number: int) -> str:
    return f"{split}/images/{number}.png"


def _images() -> pandas.DataFrame:
    """One row per picture. Numbers restart in each split, so the id has both."""
    numbered = [(split, number) for split, count in PICTURES.items() for number in range(count)]
    return pandas.DataFrame(
        {
            "image_id": [f"{split}/{number}" for split, number in numbered],
            "width": SIZE,
            "height": SIZE,
            "picture": [f"package:{NAME}/data/{_picture_name(split, number)}" for split, number in numbered],
        }
    )


def _splits() -> dict[str, str]:
    """Image id -> our split. Dealt by hash: neither the order of files nor a random generator decides."""
    dealt = sorted(
        (f"train/{number}" for number in range(PICTURES["train"])),
        key=lambda image: hashlib.sha256(image.encode()).digest(),
    )
    middle = (VALIDATION_PICTURES + len(dealt)) // 2
    splits = {f"test/{number}": "test" for number in range(PICTURES["test"])}
    splits |= dict.fromkeys(dealt[:VALIDATION_PICTURES], "validation")
    splits |= dict.fromkeys(dealt[VALIDATION_PICTURES:middle], "start")
    splits |= dict.fromkeys(dealt[middle:], "train")
    return splits


def _questions(package: Path, images: pandas.DataFrame, answers: list[str]) -> pandas.DataFrame:
    split_of, image_row = _splits(), {image: row for row, image in enumerate(images["image_id"])}
    rows: list[dict[str, Any]] = []
    for official, expected in QUESTIONS.items():
        path = package / "data" / official / "questions.json"
        asked = json.loads(path.read_text(encoding="utf-8"))
        if len(asked) != expected:
            raise DataError(f"expected {expected} questions in {path}, got {len(asked)}. Install easy-vqa==1.0.")
        of_image: Counter[str] = Counter()
        for text, answer, number in asked:
            image = f"{official}/{number}"
            rows.append(
                {
                    # like VQA's: the image and a count within the image
                    "question_id": f"{image}/{of_image[image]}",
                    "image": image_row[image],
                    "split": split_of[image],
                    "text": text,
                    "labels": [answers.index(answer)],
                    "scores": [1.0],
                    "humans": [],
                    "question_type": _question_type(answer),
                    "answer_type": "yes/no" if answer in YES_NO else "other",
                }
            )
            of_image[image] += 1
    return pandas.DataFrame(rows)


def _question_type(answer: str) -> str:
    if answer in YES_NO:
        return "yes/no"
    return "shape" if answer in SHAPES else "color"


def _regions(
    package: Path, images: pandas.DataFrame, progress: Callable[[int, int], None] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Standardised features (I, 6, FEATURES) float16 and boxes (I, 6, 4) float32 of all pictures."""
    features = np.empty((len(images), 6, FEATURES))
    boxes = np.empty((len(images), 6, 4), dtype=np.float32)
    for row, image in enumerate(images["image_id"]):
        split, _, number = image.partition("/")
        with Image.open(package / "data" / _picture_name(split, int(number))) as picture:
            features[row], boxes[row] = picture_regions(np.asarray(picture.convert("RGB")))
        if progress is not None and (row + 1) % 100 == 0:
            progress(row + 1, len(images))
    # The test pictures must not shape what the model sees of the others.
    seen = features[: PICTURES["train"]].reshape(-1, FEATURES)
    features -= seen.mean(axis=0)
    features /= np.maximum(seen.std(axis=0), LEAST_DEVIATION)
    # Standardised features are small numbers: half precision keeps three digits of them, in half the memory.
    return features.astype(np.float16), boxes
