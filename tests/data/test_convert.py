"""The conversion: every image in its row, killed and continued to the same bytes, faults told or left out."""

from __future__ import annotations

import base64
import contextlib
import errno
import fcntl
import json
import os
import random
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from suite.cli import main
from suite.data.convert import Conversion, _close_gaps, _without_gaps, convert
from suite.data.generate import write_obj36
from suite.data.regions import Hdf5, NpzFolder, Obj36, Regions, Source, open_source
from suite.data.store import FILES, DataError, open_dataset, write_dataset
from suite.data.verify import verify_dataset
from suite.lease import Lease

SAMPLE = Path(__file__).parents[3] / "shared" / "data" / "obj36" / "train2014_obj36_sample.tsv"
SHAPE = (3, 8)
IDS = [f"COCO_train2014_{number:012}" for number in range(1, 61)]


@pytest.fixture
def tsv(tmp_path: Path) -> Path:
    path = tmp_path / "small.tsv"
    write_obj36(path, IDS, seed=0, boxes=3, features=8)
    return path


def renamed(line: bytes, image_id: str) -> bytes:
    """The record of another image under this one's name."""
    return image_id.encode() + line[line.index(b"\t") :]


def by_hand(line: bytes) -> dict[str, Any]:
    """One line of obj36 by the standard library and numpy."""
    columns = line.split(b"\t")
    arrays = [
        np.frombuffer(base64.b64decode(text), dtype=np.float32).reshape(int(columns[7]), -1) for text in columns[8:]
    ]
    return {
        "image_h": int(columns[1]),
        "image_w": int(columns[2]),
        "boxes": arrays[0],
        "features": arrays[1],
    }


def expected(*sources: Source) -> dict[str, Regions]:
    return {source.image_id(r): source.decode(r) for source in sources for r in source.records()}


def check(done: Conversion, ids: list[str], images: dict[str, Regions], dtype: type) -> None:
    regions, boxes = (np.load(done.folder / name, mmap_mode="r") for name in ("regions.npy", "boxes.npy"))
    assert done.images["image_id"].tolist() == ids
    assert regions.dtype == dtype
    for row, image_id in enumerate(ids):
        image = images[image_id]
        np.testing.assert_array_equal(regions[row], image.features.astype(dtype))
        np.testing.assert_array_equal(boxes[row], image.boxes)
        assert done.images[["width", "height"]].iloc[row].tolist() == [image.width, image.height]
    assert sorted(path.name for path in done.folder.iterdir()) == [
        "boxes.npy",
        "conversion.json",
        "images.parquet",
        "regions.npy",
    ]


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("workers", [1, 3])
def test_wanted_images_of_two_files_in_the_order_asked_for(
    tsv: Path, tmp_path: Path, dtype: Any, workers: int
) -> None:
    other = tmp_path / "other.tsv"
    more = [f"COCO_val2014_{number:012}" for number in range(100, 120)]
    write_obj36(other, more, seed=1, boxes=3, features=8)
    with zipfile.ZipFile(tmp_path / "other.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(other, "other.tsv")
    sources = [Obj36(tsv, SHAPE), Obj36(tmp_path / "other.zip", SHAPE)]
    wanted = random.Random(0).sample(IDS + more, 50)
    told: list[tuple[int, int]] = []
    done = convert(
        sources,
        tmp_path / "out",
        wanted=wanted,
        dtype=dtype,
        workers=workers,
        progress=lambda *step: told.append(step),
    )
    check(done, wanted, expected(*sources), getattr(np, dtype))
    assert told == [(number, 50) for number in range(1, 51)]
    assert done.left_out == []
    # A finished one is returned as it is.
    again = convert(sources, tmp_path / "out", wanted=wanted, dtype=dtype)
    pandas.testing.assert_frame_equal(again.images, done.images)
    assert again.digest == done.digest


def test_without_wanted_all_images_are_taken(tsv: Path, tmp_path: Path) -> None:
    source = Obj36(tsv, SHAPE)
    check(convert([source], tmp_path / "out"), IDS, expected(source), np.float16)


def test_the_digest_is_of_what_the_arrays_hold(tsv: Path, tmp_path: Path) -> None:
    first = convert([Obj36(tsv, SHAPE)], tmp_path / "a")
    copy = tmp_path / "copy.tsv"
    shutil.copy(tsv, copy)
    assert convert([Obj36(copy, SHAPE)], tmp_path / "b").digest == first.digest
    assert convert([Obj36(copy, SHAPE)], tmp_path / "c", dtype="float32").digest != first.digest
    assert convert([Obj36(copy, SHAPE)], tmp_path / "d", wanted=IDS[:-1]).digest != first.digest


def test_every_form_of_the_same_images_becomes_the_same(tsv: Path, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    images = [by_hand(line) for line in tsv.read_bytes().splitlines()]
    with zipfile.ZipFile(tmp_path / "small.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(tsv, tsv.name)
    with h5py.File(tmp_path / "small.h5", "w") as file:
        for name in ("features", "boxes", "image_w", "image_h"):
            file[name] = np.stack([image[name] for image in images])
        file["image_ids"] = np.arange(1, len(IDS) + 1)
    (tmp_path / "npz").mkdir()
    for image_id, image in zip(IDS, images, strict=True):
        np.savez(tmp_path / "npz" / f"{image_id}.npz", allow_pickle=False, **image)
    digests = {}
    for number, name in enumerate(("small.tsv", "small.zip", "small.h5", "npz")):
        source = open_source(tmp_path / name, SHAPE)
        digests[name] = convert([source], tmp_path / f"out{number}", wanted=IDS[::-1], workers=3).digest
    assert len(set(digests.values())) == 1


@pytest.mark.skipif(not SAMPLE.is_file(), reason="the real sample is not here")
def test_the_real_sample_converted(tmp_path: Path) -> None:
    images = [by_hand(line) for line in SAMPLE.read_bytes().splitlines()]
    for dtype in (np.float16, np.float32):
        done = convert([Obj36(SAMPLE)], tmp_path / dtype.__name__, dtype=dtype.__name__)
        regions, boxes = (np.load(done.folder / name) for name in ("regions.npy", "boxes.npy"))
        for row, image in enumerate(images):
            assert regions[row].tobytes() == image["features"].astype(dtype).tobytes()
            sides = np.array([image["image_w"], image["image_h"]] * 2, dtype=np.float32)
            np.testing.assert_array_equal(boxes[row], image["boxes"] / sides)
        assert boxes.min() >= 0
        assert boxes.max() <= 1


KILLED = """
import sys, time
from pathlib import Path
from suite.data.convert import convert
from suite.data.regions import Obj36
tsv, out, *wanted = sys.argv[1:]
convert([Obj36(Path(tsv), (3, 8))], Path(out), wanted=wanted, dtype="float32", workers=2,
        skip_bad=True, progress=lambda done, total: time.sleep(0.003))
"""


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_killed_five_times_it_ends_with_the_same_bytes(tmp_path: Path) -> None:
    """Two images are faulty, one is there twice, differing, and one is missing: the gaps are closed too."""
    ids = [f"COCO_train2014_{number:012}" for number in range(1, 801)]
    tsv = tmp_path / "large.tsv"
    write_obj36(tsv, ids, seed=0, boxes=3, features=8)
    lines = tsv.read_bytes().splitlines(True)
    lines[100] = lines[100][:-20] + b"\r\n"
    lines[500] = lines[500].replace(b"\t3\t", b"\t2\t")
    tsv.write_bytes(b"".join([*lines[:700], renamed(lines[21], ids[20]), *lines[700:]]))
    wanted = [*ids, "COCO_train2014_000000009999"]
    whole = convert([Obj36(tsv, SHAPE)], tmp_path / "whole", wanted=wanted, dtype="float32", skip_bad=True)
    assert len(whole.images) == 797
    out, journal = tmp_path / "killed", tmp_path / "killed" / "journal.txt"
    command = [sys.executable, "-c", KILLED, str(tsv), str(out), *wanted]
    for after in sorted(random.Random(time.time_ns()).sample(range(3, 60), 5)):
        process = subprocess.Popen(command)
        try:
            deadline = time.monotonic() + 120
            while not journal.is_file() or journal.read_bytes().count(b"\n") < after:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.001)
        finally:
            process.kill()
            process.wait()
        assert not (out / "conversion.json").exists()
    assert subprocess.run(command).returncode == 0
    assert contents(out) == contents(tmp_path / "whole")


@pytest.fixture
def torn(tsv: Path) -> Path:
    """A file whose 41st line is none: a conversion stops there."""
    lines = tsv.read_bytes().splitlines(True)
    tsv.write_bytes(b"".join([*lines[:40], b"torn\n", *lines[40:]]))
    return tsv


def test_a_torn_line_of_the_journal_is_done_again(torn: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(DataError, match=r"small.tsv, line 41: expected 10 columns"):
        convert([Obj36(torn, SHAPE)], out, wanted=IDS, workers=1)
    journal = out / "journal.txt"
    whole = journal.read_bytes()
    assert whole.count(b"\n") == 6  # what was asked for, and the five pieces before the fault
    journal.write_bytes(whole[:-10])
    done = convert([Obj36(torn, SHAPE)], out, wanted=IDS, skip_bad=True)
    assert done.images["image_id"].tolist() == IDS
    assert len(done.left_out) == 1


def test_faults_are_left_out_and_listed(tsv: Path, tmp_path: Path) -> None:
    lines = tsv.read_bytes().splitlines(True)
    lines[3] = lines[3][:-9] + b"\r\n"
    source = Obj36(tsv, SHAPE)
    images = expected(source)
    tsv.write_bytes(b"".join([*lines, renamed(lines[8], IDS[7])]))
    wanted = [*IDS, "nobody"]
    with pytest.raises(DataError, match=r"small.tsv, line 4: features is not whole base64"):
        convert([source], tmp_path / "out", wanted=wanted)
    with pytest.raises(
        DataError, match=r"line 61: expected each image once; .*008 was in .*small.tsv, line 8 before"
    ):
        convert([source], tmp_path / "twice", wanted=IDS[5:])
    done = convert([source], tmp_path / "out", wanted=wanted, skip_bad=True)
    assert [text.removeprefix(f"{tsv}, ")[:12] for text in done.left_out[:2]] == ["line 4: feat", "line 61: exp"]
    assert done.left_out[2] == "nobody: its features are missing from small.tsv."
    check(done, [*IDS[:3], IDS[58], *IDS[4:7], IDS[59], *IDS[8:58]], images, np.float16)
    # Nobody is given gaps without having asked for them.
    with pytest.raises(DataError, match="line 4"):
        convert([source], tmp_path / "out", wanted=wanted)


def test_missing_images_are_named_and_what_the_file_has(tsv: Path, tmp_path: Path) -> None:
    with pytest.raises(
        DataError,
        match=r"features of 61 images in small.tsv; 1 are missing, such as nobody. The ids: those of small.tsv "
        r"look like 'COCO_train2014_000000000001', 'COCO_train2014_000000000002'. Give the file that has them",
    ):
        convert([Obj36(tsv, SHAPE)], tmp_path / "out", wanted=[*IDS, "nobody"])
    with pytest.raises(DataError, match=r"no image is left of 1; .* look like 'COCO_train2014_000000000001'"):
        convert([Obj36(tsv, SHAPE)], tmp_path / "none", wanted=["nobody"], skip_bad=True)


def test_what_a_source_lists_is_held_against_what_is_wanted_before_it_is_read(tmp_path: Path) -> None:
    for name in ("a", "b"):
        np.savez(tmp_path / f"{name}.npz", features=np.zeros(SHAPE), boxes=np.zeros((3, 4)), image_w=8, image_h=8)
    with pytest.raises(DataError, match=r"1 are missing, such as c\. The ids: those of .* look like 'a', 'b'"):
        convert([NpzFolder(tmp_path, SHAPE)], tmp_path / "out", wanted=["a", "c"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("skip_bad", [False, True])
def test_equal_records_of_an_image_are_one(tsv: Path, tmp_path: Path, skip_bad: bool) -> None:
    source = Obj36(tsv, SHAPE)
    images = expected(source)
    lines = tsv.read_bytes().splitlines(True)
    tsv.write_bytes(b"".join([*lines, lines[7], lines[7]]))
    # In another form, too.
    with zipfile.ZipFile(tmp_path / "again.zip", "w") as archive:
        archive.writestr("again.tsv", lines[7])
    sources = [source, Obj36(tmp_path / "again.zip", SHAPE)]
    done = convert(sources, tmp_path / "out", wanted=IDS, skip_bad=skip_bad)
    assert done.left_out == []
    check(done, IDS, images, np.float16)


@pytest.mark.parametrize("order", [(0, 1), (1, 0), (0, 1, 0, 1)], ids=str)
def test_of_a_torn_and_a_whole_record_the_whole_one_counts(
    tsv: Path, tmp_path: Path, order: tuple[int, ...]
) -> None:
    source = Obj36(tsv, SHAPE)
    images = expected(source)
    lines = tsv.read_bytes().splitlines(True)
    torn_or_whole = lines[7][:-9] + b"\r\n", lines[7]
    tsv.write_bytes(b"".join([*lines[:7], *(torn_or_whole[which] for which in order), *lines[8:]]))
    done = convert([source], tmp_path / "out", wanted=IDS, skip_bad=True)
    check(done, IDS, images, np.float16)
    assert len(done.left_out) == order.count(0)
    assert all("features is not whole base64" in sentence for sentence in done.left_out)


def test_of_two_whole_records_that_differ_none_counts_whatever_is_beside_them(tsv: Path, tmp_path: Path) -> None:
    lines = tsv.read_bytes().splitlines(True)
    tsv.write_bytes(b"".join([*lines, renamed(lines[8], IDS[7]), lines[7][:-9] + b"\r\n", lines[7]]))
    done = convert([Obj36(tsv, SHAPE)], tmp_path / "out", wanted=IDS, skip_bad=True)
    assert IDS[7] not in done.images["image_id"].tolist()
    assert len(done.images) == 59


def test_shares_become_what_their_pixels_are_and_it_is_said(tsv: Path, tmp_path: Path) -> None:
    """A data set does not depend on what its boxes were measured in."""
    pixels = convert([Obj36(tsv, SHAPE)], tmp_path / "pixels", wanted=IDS)
    as_shares = []
    for line in tsv.read_bytes().splitlines():
        columns = line.split(b"\t")
        height, width = map(int, columns[1:3])
        boxes = np.frombuffer(base64.b64decode(columns[8]), np.float32).reshape(3, 4)
        columns[8] = base64.b64encode(boxes / np.array([width, height] * 2, np.float32))
        as_shares.append(b"\t".join(columns) + b"\n")
    path = tmp_path / "shares.tsv"
    path.write_bytes(b"".join(as_shares))
    told: list[str] = []
    shares = convert([Obj36(path, SHAPE)], tmp_path / "shares", wanted=IDS, tell=told.append)
    assert told == [f"{path}: boxes are taken as shares of the image, from 0 to 1, not as pixels."]
    assert shares.digest == pixels.digest
    assert contents(shares.folder)["boxes.npy"] == contents(pixels.folder)["boxes.npy"]


@pytest.mark.parametrize("answer", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_keeps_others_away_with_a_lease(
    tsv: Path, tmp_path: Path, answer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file system here lacks them: its answer stands in for flock's."""
    out, told = tmp_path / "out", []
    monkeypatch.setattr(fcntl, "flock", answering(answer))
    out.mkdir()
    (out / "journal.txt").touch()
    lease = Lease(out)
    lease.take()
    with pytest.raises(DataError, match="another process is at this conversion"):
        convert([Obj36(tsv, SHAPE)], out, tell=told.append)
    assert "its file system has no locks" in told[0]
    lease.release()

    # Taken over while it works, as by a process that heard nothing of it for too long.
    def takes(done: int, of: int) -> None:
        if done == 20:
            (out / "lease" / "000002" / "theirs").mkdir(parents=True)

    with pytest.raises(DataError, match="another process is at this conversion"):
        convert([Obj36(tsv, SHAPE)], out, workers=1, progress=takes, tell=told.append)
    shutil.rmtree(out / "lease")
    images = expected(Obj36(tsv, SHAPE))
    check(convert([Obj36(tsv, SHAPE)], out, tell=told.append), IDS, images, np.float16)


def answering(number: int) -> Callable[[object, int], None]:
    def flock(file: object, how: int) -> None:
        raise OSError(number, os.strerror(number))

    return flock


def test_what_else_a_lock_is_answered_passes(tsv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", answering(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        convert([Obj36(tsv, SHAPE)], tmp_path / "out")


def test_what_the_system_has_none_of_is_no_damage(tsv: Path, tmp_path: Path) -> None:
    """Of descriptors, where a finished conversion is opened; and what is damage still is."""
    code = (
        "import resource, sys\nfrom pathlib import Path\nfrom suite.data.convert import _finished\n"
        "import pandas, pyarrow.parquet, json\n"
        "limit = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (3, limit[1]))\n"
        "try:\n    _finished(Path(sys.argv[1]), {}, False)\n"
        "except Exception as error:\n    told = type(error).__name__, getattr(error, 'errno', None)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, limit)\nprint(*told)"
    )
    out = convert([Obj36(tsv, SHAPE)], tmp_path / "out").folder
    done = subprocess.run([sys.executable, "-c", code, str(out)], capture_output=True, text=True, check=True)
    assert done.stdout == f"OSError {errno.EMFILE}\n"
    (out / "images.parquet").write_bytes(b"PAR1 and nothing more")
    with pytest.raises(DataError, match="is damaged"):
        convert([Obj36(tsv, SHAPE)], out)


def test_a_destination_is_looked_at_before_the_work(tsv: Path, tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    with pytest.raises(DataError, match="expected a folder whose name is UTF-8"):
        convert([Obj36(tsv, SHAPE)], tmp_path / name / "out")
    assert not (tmp_path / name).exists()
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"File exists|Not a directory"):
        convert([Obj36(tsv, SHAPE)], tmp_path / "file" / "out")


def test_files_of_images_may_have_names_that_are_no_utf8(tsv: Path, tmp_path: Path) -> None:
    folder = tmp_path / "npz"
    folder.mkdir()
    arrays = {"features": np.zeros(SHAPE), "boxes": np.zeros((3, 4)), "image_w": 8, "image_h": 8}
    np.savez(folder / "42.npz", **arrays)
    os.rename(shutil.copy(folder / "42.npz", folder / "a.npz"), os.fsencode(folder) + b"/caf\xe9.npz")
    assert len(convert([NpzFolder(folder, SHAPE)], tmp_path / "out", wanted=["42"]).images) == 1


def test_image_ids_of_an_hdf5_in_other_forms(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    text = np.array(["COCO_val2014_000000000042.jpg", "val2014/COCO_val2014_000000000009.JPG"], dtype="S40")
    forms = {
        "endings": text,
        "columns": text[:, None],
        "padded": np.char.ljust(text, 40),
        "objects": np.array([one.decode() for one in text], dtype=object)[:, None],
        "numbers": np.array([[42], [9]]),
        "floats": np.array([42.0, 9.0], dtype=np.float32),
        "shown": np.array([b"b'COCO_val2014_000000000042'", b"b'COCO_val2014_000000000009'"]),
    }
    rng = np.random.default_rng(0)
    features = rng.random((2, *SHAPE), dtype=np.float32)
    boxes = np.sort(rng.uniform(0, 8, (2, 3, 2, 2)), axis=2).reshape(2, 3, 4)
    for name, ids in forms.items():
        path = tmp_path / f"{name}.h5"
        with h5py.File(path, "w") as file:
            file["features"], file["boxes"], file["image_ids"] = features, boxes, ids
            file["image_w"] = file["image_h"] = np.full((2, 1), 8)
        wanted = ["COCO_val2014_000000000009", "COCO_val2014_000000000042"]
        done = convert([Hdf5(path, SHAPE)], tmp_path / name, wanted=wanted, dtype="float32")
        np.testing.assert_array_equal(np.load(done.folder / "regions.npy"), features[::-1])
        with h5py.File(path, "r+") as file:
            del file["image_ids"]
            file["image_ids"] = np.array([2.0**25, 9.0], dtype=np.float32)
        with pytest.raises(DataError, match=r"row 0: expected image ids as text or whole numbers that float32"):
            convert([Hdf5(path, SHAPE)], tmp_path / f"{name}.other", wanted=wanted)


def test_features_beyond_half_precision_are_refused_there(tmp_path: Path) -> None:
    np.savez(tmp_path / "42.npz", features=np.full(SHAPE, 70000.0), boxes=np.zeros((3, 4)), image_w=8, image_h=8)
    with pytest.raises(DataError, match=r"expected features up to 65504, got .* Convert to float32"):
        convert([NpzFolder(tmp_path, SHAPE)], tmp_path / "out", wanted=["42"])
    assert len(convert([NpzFolder(tmp_path, SHAPE)], tmp_path / "full", wanted=["42"], dtype="float32").images) == 1


def test_what_cannot_be_asked_for(tsv: Path, tmp_path: Path) -> None:
    source = Obj36(tsv, SHAPE)
    with pytest.raises(DataError, match="at least one file"):
        convert([], tmp_path / "out")
    with pytest.raises(DataError, match="all of one shape"):
        convert([source, Obj36(tsv, (3, 9))], tmp_path / "out")
    with pytest.raises(DataError, match="each once; got 2 ids of 1 images"):
        convert([source], tmp_path / "out", wanted=["COCO_train2014_000000000001", "1"])
    assert not (tmp_path / "out").exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "precious.txt").write_text("keep")
    with pytest.raises(DataError, match="something else than a conversion"):
        convert([source], tmp_path / "other")
    assert (tmp_path / "other" / "precious.txt").read_text() == "keep"


def test_another_conversion_in_the_folder_is_kept(tsv: Path, tmp_path: Path) -> None:
    source = Obj36(tsv, SHAPE)
    with pytest.raises(DataError, match="are missing"):
        convert([source], tmp_path / "begun", wanted=[*IDS, "nobody"])
    convert([source], tmp_path / "finished", wanted=IDS)
    for folder in (tmp_path / "begun", tmp_path / "finished"):
        before = contents(folder)
        with pytest.raises(DataError, match="holds a conversion of other files or settings"):
            convert([source], folder, wanted=IDS[:5])
        assert contents(folder) == before


def test_two_conversions_at_once_are_refused(tsv: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with (out / "journal.txt").open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="another process is at this conversion"):
            convert([Obj36(tsv, SHAPE)], out)


@given(there=st.lists(st.booleans(), min_size=1).filter(any))
def test_the_last_rows_move_into_the_gaps(there: list[bool]) -> None:
    order = _without_gaps(np.array(there))
    assert sorted(order) == list(np.flatnonzero(there))
    kept = len(order)
    assert all(row == place for place, row in enumerate(order) if there[place])
    assert all(row >= kept for place, row in enumerate(order) if not there[place])


def test_closing_gaps_can_be_done_again(tmp_path: Path) -> None:
    """Stopped when rows have moved, or when the header is new and the file is not yet cut."""
    order = _without_gaps(np.array([True, False, True, False, True]))
    array = np.arange(10, dtype=np.float32).reshape(5, 2)
    for name in ("a.npy", "moved.npy", "header.npy"):
        np.save(tmp_path / name, array)
    _close_gaps(tmp_path / "a.npy", order)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), array[order])
    cut = (tmp_path / "a.npy").read_bytes()
    moved = np.load(tmp_path / "moved.npy", mmap_mode="r+")
    moved[1] = moved[4]
    moved.flush()
    long = (tmp_path / "moved.npy").read_bytes()
    (tmp_path / "header.npy").write_bytes(cut + long[len(cut) :])
    for name in ("a.npy", "moved.npy", "header.npy"):
        _close_gaps(tmp_path / name, order)
        assert (tmp_path / name).read_bytes() == cut


def content(images: pandas.DataFrame, pictures: Any) -> dict[str, Any]:
    count = len(images)
    return {
        "name": "generated",
        "title": "generated",
        "preparation": 1,
        "source": "0" * 64,
        "licence": "none",
        "attribution": "nobody",
        "questions": pandas.DataFrame(
            {
                "question_id": np.arange(count),
                "image": np.arange(count),
                "split": "train",
                "text": "what?",
                "labels": [[0]] * count,
                "scores": [[1.0]] * count,
                "humans": [[]] * count,
                "question_type": "",
                "answer_type": "",
            }
        ),
        "words": np.tile(np.array([2, 5, 3], dtype=np.int32), (count, 1)),
        "images": images.assign(picture=""),
        "pictures": pictures,
        "tokenizer": "{}",
        "vocabulary": 9,
        "answers": ["yes", "no"],
    }


@pytest.fixture
def store(tsv: Path, tmp_path: Path) -> Path:
    done = convert([Obj36(tsv, SHAPE)], tmp_path / "converted", wanted=IDS)
    write_dataset(tmp_path / "store", **content(done.images, done.folder))
    return tmp_path / "store"


def test_a_conversion_becomes_a_data_set_without_a_copy(tsv: Path, tmp_path: Path) -> None:
    done = convert([Obj36(tsv, SHAPE)], tmp_path / "converted", wanted=IDS)
    inode = (done.folder / "regions.npy").stat().st_ino
    arrays = [np.load(done.folder / name) for name in ("regions.npy", "boxes.npy")]
    write_dataset(tmp_path / "moved", **content(done.images, done.folder))
    assert (tmp_path / "moved" / "regions.npy").stat().st_ino == inode
    assert not done.folder.exists()
    # The same as from pieces, to the last byte.
    write_dataset(tmp_path / "written", **content(done.images.drop(columns="checksum"), [tuple(arrays)]))
    assert contents(tmp_path / "moved") == contents(tmp_path / "written")


def test_what_fails_before_the_arrays_move_leaves_the_conversion(tsv: Path, tmp_path: Path) -> None:
    done = convert([Obj36(tsv, SHAPE)], tmp_path / "converted", wanted=IDS)
    twice = done.images.assign(image_id="same")
    before = contents(done.folder)
    with pytest.raises(DataError, match="each image_id once"):
        write_dataset(tmp_path / "store", **content(twice, done.folder))
    with pytest.raises(DataError, match="regions of 59 pictures"):
        write_dataset(tmp_path / "store", **content(done.images[:59], done.folder))
    assert contents(done.folder) == before
    with pytest.raises(DataError, match="expected a finished conversion"):
        write_dataset(tmp_path / "store", **content(done.images, tmp_path))


def test_verify_names_what_is_damaged(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["data", "verify", "store", "--data", str(store.parent)]
    assert main(command) == 0
    assert capsys.readouterr().out == f"{store}: every file and every image is as it was written.\n"
    for name, image in (("regions.npy", 17), ("boxes.npy", 40)):
        array = np.load(store / name, mmap_mode="r+")
        array[image, 1, 2] += 0.25
        array.flush()
    words = np.load(store / "words.npy", mmap_mode="r+")
    words[0, 1] = 6
    words.flush()
    information = json.loads((store / "dataset.json").read_text()) | {"licence": "mine"}
    (store / "dataset.json").write_text(json.dumps(information))
    assert main(command) == 1
    assert capsys.readouterr().out.splitlines() == [
        "words.npy is not as it was written.",
        "dataset.json is not as it was written.",
        f"regions.npy or boxes.npy: image {IDS[17]!r}, row 17, is not as it was written.",
        f"regions.npy or boxes.npy: image {IDS[40]!r}, row 40, is not as it was written.",
        f"{store}: damaged.",
    ]


def test_verify_counts_damage_that_is_everywhere(store: Path) -> None:
    array = np.load(store / "regions.npy", mmap_mode="r+")
    array[:, 0, 0] += 1
    array.flush()
    damage = verify_dataset(store)
    assert len(damage) == 11
    assert damage[-1] == "50 more images are not, up to row 59."


def test_verify_says_that_older_sets_have_no_checksums(store: Path) -> None:
    information = json.loads((store / "dataset.json").read_text())
    del information["checksums"]
    (store / "dataset.json").write_text(json.dumps(information))
    open_dataset(store)
    with pytest.raises(DataError, match="before checksums were kept"):
        verify_dataset(store)


@pytest.mark.fuzz
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_mutated_journal_is_refused_or_ends_in_the_same_bytes(
    data: st.DataObject, torn: Path, tmp_path: Path
) -> None:
    """Whatever of its lines a damaged disk gives back."""
    whole, stopped, out = tmp_path / "whole", tmp_path / "stopped", tmp_path / "out"
    if not whole.exists():
        convert([Obj36(torn, SHAPE)], whole, wanted=IDS, skip_bad=True)
        with pytest.raises(DataError, match="line 41"):
            convert([Obj36(torn, SHAPE)], stopped, wanted=IDS)
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(stopped, out)
    lines = (out / "journal.txt").read_bytes().splitlines(True)
    for _ in range(data.draw(st.integers(1, 3))):
        number = data.draw(st.integers(0, len(lines) - 1))
        match data.draw(st.sampled_from(["change", "lose", "swap"])):
            case "change":
                place = data.draw(st.integers(0, len(lines[number]) - 1))
                lines[number] = (
                    lines[number][:place] + bytes([data.draw(st.integers(0, 255))]) + lines[number][place + 1 :]
                )
            case "lose" if len(lines) > 1:
                del lines[number]
            case _:
                lines[0], lines[number] = lines[number], lines[0]
    (out / "journal.txt").write_bytes(b"".join(lines))
    with contextlib.suppress(DataError):
        convert([Obj36(torn, SHAPE)], out, wanted=IDS, skip_bad=True)
        assert contents(out) == contents(whole)


@pytest.mark.fuzz
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_mutated_store_is_refused_or_whole_or_verified_as_damaged(data: st.DataObject, store: Path) -> None:
    before = contents(store)
    whole = open_dataset(store)
    expected = [whole.batch(np.arange(60)), whole.information, whole.answers]
    name = data.draw(st.sampled_from([*FILES, "dataset.json"]))
    mutated = bytearray(before[name])
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, max(len(mutated) - 1, 0)))
        match data.draw(st.sampled_from(["change", "change", "delete", "cut"])):
            case "change":
                mutated[place : place + 1] = bytes([data.draw(st.integers(0, 255))])
            case "delete":
                del mutated[place : place + 1]
            case _:
                del mutated[place:]
    try:
        (store / name).write_bytes(mutated)
        opened = open_dataset(store)
        damage = verify_dataset(store)
        if not damage:
            batch = opened.batch(np.arange(60))
            for field in ("words", "regions", "boxes", "targets"):
                np.testing.assert_array_equal(getattr(batch, field), getattr(expected[0], field))
            assert [opened.information, opened.answers] == expected[1:]
    except DataError:
        pass
    finally:
        (store / name).write_bytes(before[name])
