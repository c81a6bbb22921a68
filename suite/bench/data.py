"""`ablate bench data`: region features kept in four ways, and two ways to decode them.

- TSV in RAM: LXMERT's way, obj36 TSV by `csv`, base64 and numpy into a dict, when the program starts;
- HDF5: one float32 array over all images, a row read at a time;
- npz: one file per image;
- ours: the store, float16, mapped.

All hold the same generated images, and a batch is what a model takes of them: float32 features and boxes as shares.
Files are read from the page cache. Shapes: B images of a batch, R regions, F features.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from suite.bench import show
from suite.bench.forms import (
    FEATURES,
    IN_HDF5,
    IN_RAM,
    IN_STORE,
    OPEN,
    REGIONS,
    Read,
    check,
    disk_bytes,
    generate,
    image_ids,
    in_processes,
    load_obj36,
)
from suite.bench.measure import Settings, interleave, say, timed
from suite.bench.record import Record, Row, Seconds, Spread, digits
from suite.data.convert import convert
from suite.data.generate import write_obj36
from suite.data.regions import Obj36
from suite.errors import UserError

READING, CONVERTING = "reading", "converting"
LXMERT_DECODES, OURS_CONVERTS = "csv, base64, numpy", "ours, all of the conversion"
CONVERTED = 200
"""Images of a turn of the conversion, at most."""
ROOM = 1.3 * 2**20
"""Bytes on disk of one image in all four ways, with room for the conversions."""


@dataclass(frozen=True)
class Data:
    images: int
    batch: int = 64
    processes: int = 4
    """That read at the same time where their memory is measured."""

    name = "data"
    reference = IN_RAM

    def arguments(self) -> dict[str, Any]:
        return asdict(self)

    def measure(self, record: Record, settings: Settings) -> Iterator[None]:
        record.notes += [
            f"{self.images} generated images of {REGIONS} x {FEATURES} features, read as float32 from the page "
            f"cache in random batches of {self.batch}. Memory is the proportional set size (PSS) above that of the "
            f"process before it opens; of {self.processes} processes together when each has read all images.",
            "Conversion: images a second of CPU time, everything included: ours also checks, rounds to float16, "
            "makes checksums and writes; the other only decodes.",
        ]
        with tempfile.TemporaryDirectory(prefix="ablate-bench-data-") as name:
            folder = Path(name)
            if (free := shutil.disk_usage(folder).free) < self.images * ROOM:
                raise UserError(
                    f"{self.images} images take {self.images * ROOM / 1e9:.1f} GB on disk; {folder.parent} has "
                    f"{free / 1e9:.1f} GB left. Give fewer --images, or set TMPDIR."
                )
            say(f"generating {self.images} images in every form")
            ways = generate(folder, self.images, settings.seed)
            if IN_HDF5 not in ways:
                record.notes.append("HDF5 is left out: the package h5py is not installed.")
            rng = np.random.default_rng(settings.seed)
            rows = {}
            for way, path in ways.items():
                say(f"{way}: opening in fresh processes")
                held = in_processes(way, path, self.images, self.batch, self.processes)
                facts = {"disk_bytes": disk_bytes(path)} | asdict(held)
                rows[way] = Row({"part": READING, "batch": self.batch}, way, facts)
            record.rows += rows.values()
            # Opened here only now: what this process maps too would count for the others by its share.
            say(f"reading: opening {len(ways)} ways")
            readers = {way: OPEN[way](path) for way, path in ways.items()}
            check(readers, np.arange(min(self.images, self.batch)))
            tasks = [
                (rows[way], partial(_read, read, rng, self.images, self.batch)) for way, read in readers.items()
            ]
            interleave(tasks, settings.rounds, READING)
            yield

            few = folder / "few.tsv"
            count = min(CONVERTED, self.images)
            write_obj36(few, image_ids(count), settings.seed)
            ours = partial(_convert, few, folder / "few", image_ids(count))
            steps = {LXMERT_DECODES: partial(_decode, few), OURS_CONVERTS: ours}
            tasks = [(Row({"part": CONVERTING, "images": count}, way), step) for way, step in steps.items()]
            record.rows += [row for row, _ in tasks]
            interleave(tasks, settings.rounds, CONVERTING)
            yield

    def table(self, record: Record) -> list[dict[str, str]]:
        return [
            {
                "kept as": row.name,
                "KiB an image": digits(row.facts["disk_bytes"] / self.images / 2**10),
                "open (s)": digits(row.facts["open_seconds"]),
                "opened (MiB)": digits(row.facts["opened_bytes"] / 2**20),
                f"{self.processes} processes (MiB)": digits(row.facts["read_bytes"] / 2**20),
                "images/s": speed(row).text(),
                "speed-up": Spread.of([1 / ratio for ratio in record.ratios(row)]).text(),
            }
            for row in _part(record, READING)
        ]

    def findings(self, record: Record) -> list[str]:
        rows = {row.name: row for row in _part(record, CONVERTING)}
        if not rows:
            return []
        theirs, ours = rows[LXMERT_DECODES], rows[OURS_CONVERTS]
        ratio = Spread.of([a / b for a, b in zip(theirs.totals(), ours.totals(), strict=True)])
        return [
            f"Conversion: {speed(ours).text()} images a second per core; {LXMERT_DECODES}: {speed(theirs).text()}; "
            f"{ratio.text()} times."
        ]

    def figure(self, record: Record) -> Figure:
        panels = {}
        for part, unit in ((READING, "images/s"), (CONVERTING, "images per second of CPU time")):
            marks = [
                show.Mark(
                    row.name, speed(row), digits(speed(row).middle), ours=row.name in (IN_STORE, OURS_CONVERTS)
                )
                for row in _part(record, part)
            ]
            if marks:
                panels[f"{part}, {unit}"] = marks
        return show.dots(panels, xlabel="images per second")


def _part(record: Record, part: str) -> list[Row]:
    return [row for row in record.measured() if row.case["part"] == part]


def speed(row: Row) -> Spread:
    """Images per second."""
    images = row.case["batch"] if row.case["part"] == READING else row.case["images"]
    return Spread.of([images / seconds for seconds in row.totals()])


def _read(read: Read, rng: np.random.Generator, images: int, batch: int) -> Seconds:
    numbers = rng.integers(0, images, batch)
    return {"read": timed(lambda: read(numbers), "cpu")[1]}


def _decode(path: Path) -> Seconds:
    began = time.process_time()
    load_obj36(path)
    return {"cpu": time.process_time() - began}


def _convert(path: Path, folder: Path, ids: list[str]) -> Seconds:
    began = time.process_time()
    convert([Obj36(path)], folder, wanted=ids, workers=1)
    seconds = time.process_time() - began
    shutil.rmtree(folder)
    return {"cpu": seconds}
