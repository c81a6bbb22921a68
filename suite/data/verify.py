"""Whether a prepared data set is still what was written: every file, and every image of the large arrays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from suite.data.store import (
    ARRAYS,
    FILES,
    DataError,
    DataSet,
    description_checksum,
    file_checksum,
    image_checksum,
    open_dataset,
)

NAMED = 10  # damaged images that are named; the others are counted


def verify_dataset(folder: Path, progress: Callable[[int, int], None] | None = None) -> list[str]:
    """What is damaged, a sentence each; none where all is whole. Reads everything once.

    `progress(images read, images in all)`. Raises DataError for a folder that cannot be opened, and for a data
    set that was prepared before checksums were kept.
    """
    dataset = open_dataset(folder)
    if "checksums" not in dataset.information:
        raise DataError(
            f"{folder} was prepared before checksums were kept. To have them, delete the folder and run "
            f"`ablate data prepare {dataset.name}`."
        )
    expected = dataset.information["checksums"]
    found = {file: file_checksum(dataset.folder / file) for file in FILES if file not in ARRAYS}
    found["dataset.json"] = description_checksum(dataset.information)
    damage = [
        f"{file} is not as it was written." for file, checksum in found.items() if expected.get(file) != checksum
    ]
    return damage + _damaged_images(dataset, progress)


def _damaged_images(dataset: DataSet, progress: Callable[[int, int], None] | None) -> list[str]:
    images = dataset.images("image_id", "checksum")
    damaged = []
    for row, expected in enumerate(images["checksum"]):
        regions, boxes = dataset.regions[row], dataset.boxes[row]
        if image_checksum(regions, boxes) != expected:
            damaged.append(row)
        if progress is not None:
            progress(row + 1, len(images))
    sentences = [
        f"{' or '.join(ARRAYS)}: image {images['image_id'].iloc[row]!r}, row {row}, is not as it was written."
        for row in damaged[:NAMED]
    ]
    if len(damaged) > NAMED:
        sentences.append(f"{len(damaged) - NAMED} more images are not, up to row {np.max(damaged)}.")
    return sentences
