"""Whether a prepared data set is still what was written: every file, and every image of the large arrays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas
import pyarrow.parquet

from suite.data.intact import DataError, image_checksum, mapped, reading
from suite.data.store import ARRAYS, damaged_files, open_dataset, read_description

NAMED = 10  # damaged images that are named; the others are counted
ADVICE = "Copy it again from where it is whole."


def verify_dataset(folder: Path, progress: Callable[[int, int], None] | None = None) -> list[str]:
    """What is damaged, a sentence each; none where all is whole. Reads everything once.

    `progress(images read, images in all)`. Raises DataError for a folder that is not a data set of this form, and
    for one that was prepared before checksums were kept.
    """
    folder = Path(folder)
    information = read_description(folder)
    if "checksums" not in information:
        raise DataError(
            f"{folder} was prepared before checksums were kept. To have them, prepare it again in another folder: "
            f"`ablate data prepare {folder.name} --data OTHER`."
        )
    damage = list(damaged_files(folder, information))
    if not damage:
        open_dataset(folder)  # Raises for what was written wrong.
    elif any(sentence.startswith("images.parquet") for sentence in damage):
        return [*damage, f"Nothing is known of {' and '.join(ARRAYS)}: their checksums are in images.parquet."]
    return damage + _damaged_images(folder, progress)


def _damaged_images(folder: Path, progress: Callable[[int, int], None] | None) -> list[str]:
    with reading(folder / "images.parquet", ADVICE):
        images: pandas.DataFrame = pyarrow.parquet.read_table(
            folder / "images.parquet", columns=["image_id", "checksum"]
        ).to_pandas()
    regions, boxes = (mapped(folder / file, ADVICE) for file in ARRAYS)
    if not len(regions) == len(boxes) == len(images):
        return [f"{' or '.join(ARRAYS)} should have {len(images)} images: {len(regions)} and {len(boxes)}."]
    damaged = []
    for row, expected in enumerate(images["checksum"]):
        if image_checksum(regions[row], boxes[row]) != expected:
            damaged.append(row)
        if progress is not None:
            progress(row + 1, len(images))
    sentences = [
        f"{' or '.join(ARRAYS)}: image {images['image_id'].iloc[row]!r}, row {row}, is not as it was written."
        for row in damaged[:NAMED]
    ]
    if len(damaged) > NAMED:
        sentences.append(f"{len(damaged) - NAMED} more images are not, up to row {damaged[-1]}.")
    return sentences
