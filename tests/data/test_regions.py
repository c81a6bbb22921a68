"""Readers of region features: equal to csv, base64 and numpy; whatever is wrong is told with file and line."""

from __future__ import annotations

import base64
import json
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from suite.data.generate import write_obj36
from suite.data.regions import COLUMNS, Hdf5, NpzFolder, Obj36, Regions, Source, check, image_key, open_source
from suite.data.store import DataError

SAMPLE = Path(__file__).parents[3] / "shared" / "data" / "obj36" / "train2014_obj36_sample.tsv"
SHAPE = (3, 4)
IDS = ["COCO_train2014_000000000009", "COCO_train2014_000000000025", "COCO_train2014_000000000030"]


@pytest.fixture
def tsv(tmp_path: Path) -> Path:
    path = tmp_path / "small.tsv"
    write_obj36(path, IDS, seed=0, boxes=3, features=4)
    return path


def reference(line: bytes) -> dict[str, Any]:
    """The columns of one line, decoded by the standard library and numpy."""
    columns = dict(zip(COLUMNS, line.rstrip(b"\r\n").split(b"\t"), strict=True))
    count = int(columns["num_boxes"])

    def array(name: str) -> np.ndarray:
        return np.frombuffer(base64.b64decode(columns[name], validate=True), dtype=np.float32).reshape(count, -1)

    return {
        "id": columns["img_id"].decode(),
        "width": int(columns["img_w"]),
        "height": int(columns["img_h"]),
        "boxes": array("boxes"),
        "features": array("features"),
    }


def decoded(source: Source) -> list[tuple[str, Regions]]:
    found = []
    for record in source.records():
        image_id, image = source.image_id(record), source.decode(record)
        check(record.place, image, source.shape, np.inf)
        found.append((image_id, image))
    return found


def equals_reference(image_id: str, image: Regions, line: bytes) -> None:
    expected = reference(line)
    sides = np.array([expected["width"], expected["height"]] * 2, dtype=np.float32)
    assert (image_id, image.width, image.height) == (expected["id"], expected["width"], expected["height"])
    assert image.features.tobytes() == expected["features"].tobytes()
    np.testing.assert_array_equal(image.boxes, expected["boxes"] / sides)
    assert image.boxes.dtype == np.float32
    assert image.boxes.min() >= 0
    assert image.boxes.max() <= 1


@pytest.mark.skipif(not SAMPLE.is_file(), reason="the real sample is not here")
@pytest.mark.parametrize("zipped", [False, True])
def test_the_real_sample_bit_for_bit(zipped: bool, tmp_path: Path) -> None:
    path = SAMPLE
    if zipped:
        path = tmp_path / "sample.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(SAMPLE, "data/train2014_obj36.tsv")
    images = decoded(open_source(path))
    assert [image_id for image_id, _ in images] == [
        f"COCO_train2014_{number:012}" for number in (132417, 573195, 578174)
    ]
    for (image_id, image), line in zip(images, SAMPLE.read_bytes().splitlines(), strict=True):
        assert image.features.shape == (36, 2048)
        equals_reference(image_id, image, line)


@pytest.mark.skipif(not SAMPLE.is_file(), reason="the real sample is not here")
def test_generated_files_have_the_real_form(tmp_path: Path) -> None:
    write_obj36(tmp_path / "full.tsv", [f"COCO_train2014_{number:012}" for number in range(3)], seed=0)
    for ours, theirs in zip(
        (tmp_path / "full.tsv").read_bytes().splitlines(True), SAMPLE.read_bytes().splitlines(True), strict=True
    ):
        assert ours.endswith(b"\r\n")
        assert theirs.endswith(b"\r\n")
        assert [len(column) for column in ours.split(b"\t")] == [len(column) for column in theirs.split(b"\t")]


def test_generated_lines_equal_the_reference(tsv: Path) -> None:
    for (image_id, image), line in zip(decoded(Obj36(tsv, SHAPE)), tsv.read_bytes().splitlines(), strict=True):
        equals_reference(image_id, image, line)


def test_a_source_continues_where_it_was(tsv: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "small.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(tsv, tsv.name)
    for source in (Obj36(tsv, SHAPE), Obj36(tmp_path / "small.zip", SHAPE)):
        records = list(source.records())
        assert [record.place for record in records] == [f"{source.path}, line {number}" for number in (1, 2, 3)]
        assert list(source.records(records[0].after)) == records[1:]
        assert list(source.records(records[2].after)) == []


def test_all_names_of_a_coco_image_are_one() -> None:
    assert image_key("COCO_val2014_000000000042") == image_key("42") == image_key("000000000042") == "42"
    assert image_key("COCO_test2015_000000000000") == image_key("0")
    assert image_key("train/42") == "train/42"


def changed(column: str, change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """A line with one of its columns changed."""

    def mutate(line: bytes) -> bytes:
        columns = line.rstrip(b"\r\n").split(b"\t")
        place = COLUMNS.index(column)
        columns[place] = change(columns[place])
        return b"\t".join(columns) + b"\r\n"

    return mutate


def with_number(index: int, value: float) -> Callable[[bytes], bytes]:
    """A base64 column with one of its numbers replaced."""

    def change(text: bytes) -> bytes:
        numbers = np.frombuffer(base64.b64decode(text), dtype=np.float32).copy()
        numbers[index] = value
        return base64.b64encode(numbers)

    return change


FAULTS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "a column less": (lambda line: line.split(b"\t", 1)[1], "expected 10 columns .*got 9"),
    "a column more": (lambda line: b"x\t" + line, "expected 10 columns .*got 11"),
    "an empty line": (lambda line: b"\r\n", "expected 10 columns .*got 1"),
    "an id that is no text": (changed("img_id", lambda _: b"\xff"), "expected an img_id in UTF-8"),
    "another count": (changed("num_boxes", lambda _: b"2"), "expected num_boxes 3, got 2"),
    "no count": (changed("num_boxes", lambda _: b"many"), "expected num_boxes as a whole number.*many"),
    "no width": (changed("img_w", lambda _: b"0"), "expected img_w as a whole number of at least 1, got b'0'"),
    "a negative height": (changed("img_h", lambda _: b"-5"), "expected img_h as a whole number"),
    "too few boxes": (changed("boxes", lambda text: text[:-20] + b"A" * 4), "expected boxes of num_boxes x 4"),
    "too few features": (
        changed("features", lambda text: base64.b64encode(base64.b64decode(text)[:-4])),
        "expected features of num_boxes x 4 = 3 x 4 float32, 48 bytes, got 44",
    ),
    "truncated base64": (changed("features", lambda text: text[:-3]), "features is not whole base64"),
    "corrupt base64": (changed("boxes", lambda text: b"*" + text[1:]), "boxes is not whole base64"),
    "a NaN": (changed("features", with_number(5, np.nan)), "expected finite features"),
    "an infinity": (changed("features", with_number(0, -np.inf)), "expected finite features"),
    "a box to the left": (changed("boxes", with_number(4, -3.0)), "box 1 is"),
    "a box below": (changed("boxes", with_number(11, 1000.0)), "box 2 is"),
    "a box of NaN": (changed("boxes", with_number(0, np.nan)), "box 0 is"),
    "a box turned over": (changed("boxes", with_number(2, 0.0)), "box 0 is"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_told_with_file_and_line(name: str, tsv: Path) -> None:
    change, message = FAULTS[name]
    lines = tsv.read_bytes().splitlines(True)
    tsv.write_bytes(b"".join([lines[0], change(lines[1]), lines[2]]))
    with pytest.raises(DataError, match=message) as told:
        decoded(Obj36(tsv, SHAPE))
    assert str(told.value).startswith(f"{tsv}, line 2: ")


def test_a_box_that_rounding_put_over_the_edge_is_clipped(tsv: Path) -> None:
    line = tsv.read_bytes().splitlines(True)[0]
    width = reference(line)["width"]
    line = changed("boxes", with_number(2, width * 1.0005))(changed("boxes", with_number(0, -width * 0.0005))(line))
    tsv.write_bytes(line)
    ((_, image),) = decoded(Obj36(tsv, SHAPE))
    assert image.boxes[0, [0, 2]].tolist() == [0, 1]


def test_another_kind_of_file_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "zeros.tsv"
    with path.open("wb") as stream:
        stream.truncate(2**40)
    with pytest.raises(DataError, match=r"zeros\.tsv, line 1: .*another kind of file"):
        decoded(Obj36(path, SHAPE))


def test_zips_that_cannot_be_read(tsv: Path, tmp_path: Path) -> None:
    path = tmp_path / "small.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(tsv, tsv.name)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"small\.zip cannot be read"):
        decoded(Obj36(path, SHAPE))
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 0xFF]) + whole[middle + 1 :])
    with pytest.raises(DataError, match=r"small\.zip"):
        decoded(Obj36(path, SHAPE))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "no features")
    with pytest.raises(DataError, match=r"expected one \.tsv file inside.*readme"):
        decoded(Obj36(path, SHAPE))


@pytest.mark.parametrize(("name", "message"), [("a.tsv", "does not exist"), ("a.csv", r"expected region features")])
def test_files_that_are_no_source(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("1,2")
    with pytest.raises(DataError, match=message):
        open_source(tmp_path / name)


@pytest.mark.fuzz
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_mutated_line_is_refused_or_read_right(data: st.DataObject, tsv: Path) -> None:
    line = bytearray(tsv.read_bytes().splitlines(True)[0])
    for _ in range(data.draw(st.integers(1, 3))):
        if not line:  # Cut to one byte, and that one deleted.
            break
        place = data.draw(st.integers(0, len(line) - 1))
        match data.draw(st.sampled_from(["change", "delete", "insert", "cut", "repeat"])):
            case "change":
                line[place] = data.draw(st.integers(0, 255))
            case "delete":
                del line[place]
            case "insert":
                line[place:place] = data.draw(st.sampled_from([b"\t", b"\n", b"=", b"A", b"\x00", b"0"]))
            case "cut":
                del line[place + 1 :]
            case _:
                line += line[place:]
    path = tsv.with_name("mutated.tsv")
    path.write_bytes(line)
    try:
        images = decoded(Obj36(path, SHAPE))
    except DataError:
        return
    lines = bytes(line).split(b"\n")
    for (image_id, image), text in zip(images, [text for text in lines if text], strict=True):
        expected = reference(text)
        assert (image_id, image.width, image.height) == (expected["id"], expected["width"], expected["height"])
        assert image.features.tobytes() == expected["features"].tobytes()
        sides = np.array([expected["width"], expected["height"]] * 2, dtype=np.float32)
        np.testing.assert_array_equal(image.boxes, np.clip(expected["boxes"] / sides, 0, 1))


def drawn(count: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    corners = np.sort(rng.uniform(size=(count, 3, 2, 2)), axis=2).reshape(count, 3, 4).astype(np.float32)
    return {
        "features": rng.normal(size=(count, 3, 4)).astype(np.float32),
        "shares": corners,
        "pixels": corners * np.array([640, 480, 640, 480], dtype=np.float32),
    }


def write_hdf5(path: Path, arrays: dict[str, Any]) -> Path:
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return path


def test_hdf5_of_bottom_up_attention_vqa(tmp_path: Path) -> None:
    """Boxes in pixels and six spatial numbers, ids in an index beside; sizes follow from both kinds of boxes."""
    arrays = drawn(2)
    sides = arrays["shares"][..., 2:] - arrays["shares"][..., :2]
    path = write_hdf5(
        tmp_path / "val36.hdf5",
        {
            "image_features": arrays["features"],
            "image_bb": arrays["pixels"],
            "spatial_features": np.concatenate([arrays["shares"], sides], axis=2),
        },
    )
    index = tmp_path / "val36_imgid2idx.json"
    index.write_text(json.dumps({"42": 1, "9": 0}))
    images = decoded(open_source(path, SHAPE))
    assert [image_id for image_id, _ in images] == ["9", "42"]
    for row, (_, image) in enumerate(images):
        assert (image.width, image.height) == (640, 480)
        np.testing.assert_array_equal(image.features, arrays["features"][row])
        np.testing.assert_array_equal(image.boxes, arrays["shares"][row])
    index.write_text(json.dumps({"42": 1, "9": 1}))
    with pytest.raises(DataError, match="expected each row from 0 to 1 once"):
        decoded(open_source(path, SHAPE))
    index.unlink()
    (tmp_path / "val36_imgid2idx.pkl").write_bytes(pickle.dumps({42: 1, 9: 0}))
    with pytest.raises(DataError, match=r"val36_imgid2idx.json beside it.*pickle, which can run code.*python -c"):
        decoded(open_source(path, SHAPE))


def test_hdf5_with_plain_names(tmp_path: Path) -> None:
    arrays = drawn(2)
    plain = {
        "features": arrays["features"],
        "boxes": arrays["pixels"],
        "image_ids": ["9", "42"],
        "image_w": [640, 640],
        "image_h": [480, 480],
    }
    images = decoded(Hdf5(write_hdf5(tmp_path / "plain.h5", plain), SHAPE))
    for row, (image_id, image) in enumerate(images):
        assert (image_id, image.width, image.height) == (["9", "42"][row], 640, 480)
        np.testing.assert_allclose(image.boxes, arrays["shares"][row], atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"features": np.zeros((2, 3, 5), np.float32)},
            r"expected an array image_features or features \(N, 3, 4\)",
        ),
        ({"image_ids": ["9"]}, "as many image ids as features, 2, got 1"),
        ({"image_w": [640, 0]}, "plain.h5, row 1: expected width"),
        ({"image_w": [640]}, r"expected image_w \(2,\), got \(1,\)"),
        ({"boxes": np.zeros((2, 2, 4))}, r"expected boxes \(N, R, 4\)"),
        ({"boxes": np.full((2, 3, 4), 700.0)}, "plain.h5, row 0: expected boxes"),
        ({"features": np.full((2, 3, 4), np.nan)}, "plain.h5, row 0: expected finite features"),
        ({"boxes": None}, "expected boxes as shares"),
    ],
    ids=str,
)
def test_hdf5_faults_are_told(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    arrays = drawn(2)
    plain = {
        "features": arrays["features"],
        "boxes": arrays["pixels"],
        "image_ids": ["9", "42"],
        "image_w": [640, 640],
        "image_h": [480, 480],
    } | change
    path = write_hdf5(tmp_path / "plain.h5", {name: array for name, array in plain.items() if array is not None})
    with pytest.raises(DataError, match=message):
        decoded(Hdf5(path, SHAPE))


def test_hdf5_that_is_none_and_h5py_that_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "a.hdf5"
    path.write_bytes(b"no hdf5")
    pytest.importorskip("h5py")
    with pytest.raises(DataError, match=r"a\.hdf5 cannot be read"):
        decoded(Hdf5(path, SHAPE))
    code = (
        "import sys; sys.modules['h5py'] = None\n"
        "from pathlib import Path; from suite.data.regions import Hdf5\n"
        f"list(Hdf5(Path({str(path)!r})).records())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "DataError" in done.stderr
    assert "Run `pip install h5py`" in done.stderr


@pytest.mark.parametrize("names", [("features", "boxes"), ("x", "bbox")])
def test_a_folder_of_npz(names: tuple[str, str], tmp_path: Path) -> None:
    arrays = drawn(2)
    for row, image_id in enumerate(["42", "9"]):
        features = arrays["features"][row] if names[0] == "features" else arrays["features"][row].T
        content = {names[0]: features, names[1]: arrays["pixels"][row]}
        np.savez(tmp_path / f"{image_id}.npz", image_w=640, image_h=480, num_bbox=3, allow_pickle=False, **content)
    images = decoded(open_source(tmp_path, SHAPE))
    assert [image_id for image_id, _ in images] == ["42", "9"]
    for row, (_, image) in enumerate(images):
        assert (image.width, image.height) == (640, 480)
        np.testing.assert_array_equal(image.features, arrays["features"][row])
        np.testing.assert_allclose(image.boxes, arrays["shares"][row], atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_w": 0}, "expected image_w as a whole number"),
        ({"num_boxes": 2}, "expected features of num_boxes = 2, got 3"),
        ({"features": None}, "expected an array features or x"),
        ({"features": np.zeros((3, 5))}, r"expected features 3 x 4 as floats, got \(3, 5\)"),
        ({"boxes": np.zeros((2, 4))}, "expected 3 boxes, got 2"),
        ({"boxes": np.array(["a"])}, r"expected boxes \(R, 4\)"),
        ({"boxes": np.full((3, 4), 1e300)}, "expected boxes x0 y0"),
    ],
    ids=str,
)
def test_npz_faults_are_told(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    arrays = drawn(1)
    content = {"features": arrays["features"][0], "boxes": arrays["pixels"][0], "image_w": 640, "image_h": 480}
    kept = {name: value for name, value in (content | change).items() if value is not None}
    np.savez(tmp_path / "42.npz", allow_pickle=False, **kept)
    with pytest.raises(DataError, match=message) as told:
        decoded(NpzFolder(tmp_path, SHAPE))
    assert str(told.value).startswith(f"{tmp_path / '42.npz'}: ")


def test_an_npz_that_holds_objects_or_is_damaged_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected one \.npz file per image"):
        decoded(NpzFolder(tmp_path, SHAPE))
    path = tmp_path / "42.npz"
    np.savez(path, allow_pickle=True, features=np.array([{"a": 1}], dtype=object))
    with pytest.raises(DataError, match=r"42\.npz cannot be read"):
        decoded(NpzFolder(tmp_path, SHAPE))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=r"42\.npz cannot be read"):
        decoded(NpzFolder(tmp_path, SHAPE))
