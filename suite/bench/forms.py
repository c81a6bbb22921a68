"""The ways to keep region features that `ablate bench data` compares: how they are written, opened and read.

Without torch, so that a process that only reads is no larger than it must be. Shapes: B images of a batch,
R regions, F features.
"""

from __future__ import annotations

import base64
import csv
import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import psutil

from suite.data.convert import convert
from suite.data.generate import write_obj36
from suite.data.regions import COLUMNS, Obj36
from suite.data.store import open_dataset, write_dataset
from suite.errors import UserError

IN_RAM, IN_HDF5, IN_NPZ, IN_STORE = "TSV in RAM", "HDF5", "npz per image", "ours"
REGIONS, FEATURES = 36, 2048
ANSWERS = 3129
PATIENCE = 1800.0
"""Seconds that processes wait for each other: one that ended early must not hold the others for ever."""

Batch = tuple[np.ndarray, np.ndarray]
Read = Callable[[np.ndarray], Batch]
"""Image numbers (B,) -> features (B, R, F) and boxes (B, R, 4), float32."""


def generate(folder: Path, images: int, seed: int) -> dict[str, Path]:
    """The same images kept in each way: name -> file or folder."""
    tsv, npz, hdf5 = folder / "images.tsv", folder / "npz", folder / "images.hdf5"
    ids = image_ids(images)
    write_obj36(tsv, ids, seed)
    source = Obj36(tsv)
    npz.mkdir()
    file = _new_hdf5(hdf5, images)
    for number, record in enumerate(source.records()):
        image = source.decode(record)
        np.savez(npz / f"{ids[number]}.npz", features=image.features, boxes=image.boxes)
        if file is not None:
            file["image_features"][number], file["spatial_features"][number] = image.features, image.boxes
    ways = {IN_RAM: tsv}
    if file is not None:
        file.close()
        ways[IN_HDF5] = hdf5
    done = convert([source], folder / "converted", wanted=ids)
    _write_store(folder / "store", done.folder, done.images)
    return ways | {IN_NPZ: npz, IN_STORE: folder / "store"}


def image_ids(images: int) -> list[str]:
    """Made-up images of COCO."""
    return [f"COCO_train2014_{number:012}" for number in range(1, images + 1)]


def _new_hdf5(path: Path, images: int) -> Any:
    try:
        import h5py
    except ImportError:
        return None
    file = h5py.File(path, "w")
    file.create_dataset("image_features", (images, REGIONS, FEATURES), "f4")
    file.create_dataset("spatial_features", (images, REGIONS, 4), "f4")
    return file


def _write_store(folder: Path, converted: Path, images: pandas.DataFrame) -> None:
    """A data set with one question about each image, in the images' order."""
    count = len(images)
    questions = pandas.DataFrame(
        {
            "question_id": np.arange(count),
            "image": np.arange(count),
            "split": "train",
            "text": "what is this?",
            "labels": [[number % ANSWERS] for number in range(count)],
            "scores": [[1.0]] * count,
            "humans": [[]] * count,
            "question_type": "",
            "answer_type": "other",
        }
    )
    write_dataset(
        folder,
        name="generated",
        title="generated images",
        preparation=1,
        source="",
        licence="",
        attribution="",
        questions=questions,
        words=np.tile(np.array([2, 5, 6, 7, 8, 3], dtype=np.int32), (count, 1)),
        images=images.assign(picture=""),
        pictures=converted,
        tokenizer="{}",
        vocabulary=9,
        answers=[str(number) for number in range(ANSWERS)],
    )


def load_obj36(path: Path) -> list[dict[str, Any]]:
    """All images of a TSV, decoded as LXMERT's loader does: `csv`, base64, numpy."""
    csv.field_size_limit(2**24)
    images: list[dict[str, Any]] = []
    with path.open(newline="", encoding="ascii") as stream:
        for image in csv.DictReader(stream, COLUMNS, delimiter="\t"):
            decoded: dict[str, Any] = {"img_id": image["img_id"]}
            for name in ("img_h", "img_w", "num_boxes"):
                decoded[name] = int(image[name])
            count = decoded["num_boxes"]
            arrays = {
                "objects_id": (np.int64, (count,)),
                "objects_conf": (np.float32, (count,)),
                "attrs_id": (np.int64, (count,)),
                "attrs_conf": (np.float32, (count,)),
                "boxes": (np.float32, (count, 4)),
                "features": (np.float32, (count, -1)),
            }
            for name, (dtype, shape) in arrays.items():
                decoded[name] = np.frombuffer(base64.b64decode(image[name]), dtype=dtype).reshape(shape)
            images.append(decoded)
    return images


def _open_ram(path: Path) -> Read:
    images = load_obj36(path)

    def read(numbers: np.ndarray) -> Batch:
        chosen = [images[number] for number in numbers]
        sizes = np.array([[image[side] for side in ("img_w", "img_h") * 2] for image in chosen], dtype=np.float32)
        boxes = np.stack([image["boxes"] for image in chosen]) / sizes[:, None]
        return np.stack([image["features"] for image in chosen]), boxes

    return read


def _open_hdf5(path: Path) -> Read:
    import h5py

    file = h5py.File(path, "r")
    arrays: list[Any] = [file["image_features"], file["spatial_features"]]

    def read(numbers: np.ndarray) -> Batch:
        features, boxes = (np.stack([array[number] for number in numbers]) for array in arrays)
        return features, boxes

    return read


def _open_npz(path: Path) -> Read:
    files = sorted(path.iterdir())

    def read(numbers: np.ndarray) -> Batch:
        features, boxes = [], []
        for number in numbers:
            with np.load(files[number]) as image:
                features.append(image["features"])
                boxes.append(image["boxes"])
        return np.stack(features), np.stack(boxes)

    return read


def _open_store(path: Path) -> Read:
    dataset = open_dataset(path)

    def read(numbers: np.ndarray) -> Batch:
        batch = dataset.batch(numbers)
        return batch.regions, batch.boxes

    return read


OPEN: dict[str, Callable[[Path], Read]] = {
    IN_RAM: _open_ram,
    IN_HDF5: _open_hdf5,
    IN_NPZ: _open_npz,
    IN_STORE: _open_store,
}


def check(readers: dict[str, Read], numbers: np.ndarray) -> None:
    """Raises UserError unless all ways give the same images, the store's within half precision."""
    (_, expected), *others = ((way, read(numbers)) for way, read in readers.items())
    for way, got in others:
        half = 2.0**-11 if way == IN_STORE else 0.0
        same = all(
            got_array.dtype == np.float32 and np.allclose(got_array, expected_array, rtol=half, atol=1e-7)
            for got_array, expected_array in zip(got, expected, strict=True)
        )
        if not same:
            raise UserError(f"Expected the same images in every form; {way} gives others. Mend it first.")


@dataclass(frozen=True)
class Held:
    """What fresh processes measured that read one way at the same time."""

    open_seconds: float
    """Of one, while the others wait."""
    opened_bytes: int
    """Memory of that one above what it had before."""
    read_bytes: int
    """Of all together when each has read all images."""


def in_processes(way: str, path: Path, images: int, batch: int, processes: int) -> Held:
    """Opens and reads in so many fresh processes. Raises UserError where one of them fails."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(processes, timeout=PATIENCE), context.SimpleQueue()
    arguments = (way, path, images, batch, barrier, results)
    started = [context.Process(target=_probe, args=(number, *arguments)) for number in range(processes)]
    for process in started:
        process.start()
    for process in started:
        process.join()
    if any(process.exitcode for process in started):
        raise UserError(f"{way}: a process that reads it ended with an error, or for want of memory.")
    (_, seconds, opened, _), *_ = measured = sorted(results.get() for _ in started)
    return Held(seconds, opened, sum(read for *_, read in measured))


def _probe(number: int, way: str, path: Path, images: int, batch: int, barrier: Any, results: Any) -> None:
    """Opens, reads all images in an order of its own, and tells what it held while all others held theirs."""
    try:
        if number:  # The first opens alone.
            barrier.wait()
        before = _memory()
        began = time.perf_counter()
        read = OPEN[way](path)
        seconds = time.perf_counter() - began
        opened = _memory() - before
        if not number:
            barrier.wait()
        order = np.random.default_rng(number).permutation(images)
        for start in range(0, images, batch):
            read(order[start : start + batch])
        barrier.wait()
        results.put((number, seconds, opened, _memory() - before))
        barrier.wait()
    except BaseException:
        barrier.abort()
        raise


def _memory() -> int:
    """Proportional set size of this process, bytes: a page that n processes map counts one nth."""
    return psutil.Process().memory_full_info().pss


def disk_bytes(path: Path) -> int:
    """Of a file, or of the files of a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.iterdir())
