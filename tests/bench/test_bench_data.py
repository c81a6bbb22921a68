"""`ablate bench data`: all ways to keep features give the same images, and the table follows from the samples."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from suite.bench.forms import (
    IN_HDF5,
    IN_NPZ,
    IN_RAM,
    IN_STORE,
    OPEN,
    check,
    generate,
    image_ids,
    in_processes,
    load_obj36,
)
from suite.bench.record import digits
from suite.cli import main
from suite.data.regions import Obj36
from suite.errors import UserError

IMAGES, BATCH, PROCESSES = 12, 4, 2


@pytest.fixture(scope="module")
def ways(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return generate(tmp_path_factory.mktemp("ways"), IMAGES, seed=0)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any], Path]:
    """The command: its page, its samples and its folder."""
    folder = tmp_path_factory.mktemp("bench")
    page, errors = io.StringIO(), io.StringIO()
    sizes = ["--images", IMAGES, "--batch", BATCH, "--processes", PROCESSES, "--rounds", 2, "--threads", 1]
    with redirect_stdout(page), redirect_stderr(errors):
        code = main(["bench", "data", *map(str, sizes), "--out", str(folder)])
    assert code == 0, errors.getvalue()
    return page.getvalue(), json.loads((folder / "samples.json").read_text()), folder


def test_the_decoder_to_beat_reads_what_ours_reads(ways: dict[str, Path]) -> None:
    images, source = load_obj36(ways[IN_RAM]), Obj36(ways[IN_RAM])
    records = list(source.records())
    assert [image["img_id"] for image in images] == image_ids(IMAGES) == [source.image_id(r) for r in records]
    for image, record in zip(images, records, strict=True):
        ours = source.decode(record)
        np.testing.assert_array_equal(image["features"], ours.features)
        assert (image["img_w"], image["img_h"], image["num_boxes"]) == (ours.width, ours.height, 36)


def test_all_ways_give_the_same_images(ways: dict[str, Path]) -> None:
    pytest.importorskip("h5py")
    assert list(ways) == [IN_RAM, IN_HDF5, IN_NPZ, IN_STORE]
    readers = {way: OPEN[way](path) for way, path in ways.items()}
    check(readers, np.array([3, 0, 3, 11]))
    features, boxes = readers[IN_STORE](np.array([1]))
    features[0, 0, 0] += 0.5
    with pytest.raises(UserError, match="npz per image gives others"):
        check({IN_STORE: readers[IN_STORE], IN_NPZ: lambda _: (features, boxes)}, np.array([1]))


def test_a_process_that_fails_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="ours: a process that reads it ended with an error"):
        in_processes(IN_STORE, tmp_path / "nothing", IMAGES, BATCH, 1)
    assert "does not exist" in capfd.readouterr().err


def spread(samples: np.ndarray) -> str:
    low, middle, high = np.percentile(samples, [25, 50, 75])
    return f"{digits(middle)} ({digits(low)}-{digits(high)})"


def test_the_table_follows_from_the_samples(done: tuple[str, dict[str, Any], Path]) -> None:
    page, samples, folder = done
    reading = [row for row in samples["rows"] if row["case"]["part"] == "reading"]
    lines = [line.strip("|").split("|") for line in page.splitlines() if line.startswith("| ")]
    head, _, *rest = ([cell.strip() for cell in line] for line in lines)
    printed = [dict(zip(head, line, strict=True)) for line in rest]
    first = np.array(reading[0]["seconds"]["read"])
    assert printed == [
        {
            "kept as": row["name"],
            "KiB an image": digits(row["facts"]["disk_bytes"] / IMAGES / 2**10),
            "open (s)": digits(row["facts"]["open_seconds"]),
            "opened (MiB)": digits(row["facts"]["opened_bytes"] / 2**20),
            "2 processes (MiB)": digits(row["facts"]["read_bytes"] / 2**20),
            "images/s": spread(BATCH / np.array(row["seconds"]["read"])),
            "speed-up": spread(first / np.array(row["seconds"]["read"])),
        }
        for row in reading
    ]
    theirs, ours = (np.array(row["seconds"]["cpu"]) for row in samples["rows"] if row not in reading)
    assert f"; {spread(theirs / ours)} times." in page
    assert samples["complete"] is True
    with Image.open(folder / "figure.png") as figure:
        assert np.asarray(figure.convert("L")).std() > 10


def test_the_store_is_the_smallest(done: tuple[str, dict[str, Any], Path]) -> None:
    """Half precision: less than half of the TSV, and half of float32 with the questions beside."""
    sizes = {row["name"]: row["facts"]["disk_bytes"] for row in done[1]["rows"] if row["facts"]}
    assert sizes[IN_STORE] < 0.55 * sizes[IN_NPZ] < 0.55 * sizes[IN_RAM]
