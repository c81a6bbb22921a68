"""Readers of region features: equal to csv, base64 and numpy; whatever is wrong is told with file and line."""

from __future__ import annotations

import base64
import errno
import gzip
import json
import pickle
import resource
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from suite.data.generate import write_obj36
from suite.data.regions import COLUMNS, Hdf5, NpzFolder, Obj36, Regions, Source, Unit, check, image_key, open_source
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
    for name in (
        "42.jpg",
        "000000000042.PNG",
        "COCO_val2014_000000000042.jpg",
        "COCO_val2014_000000000042.jpg.npz",
    ):
        assert image_key(name) == "42"
    for name in ("42.0", " 42\n", "b'42'", "b'COCO_val2014_000000000042.jpg'", "val2014/COCO_val2014_000000000042"):
        assert image_key(name) == "42"
    assert image_key("val2017/000000000042.jpg") == "42"
    assert image_key("train/42") == "train/42"
    assert image_key("v1.5") == "v1.5"
    assert image_key("a.jpg") == image_key("a") == "a"


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


def test_a_zip_of_macos_has_shadows_and_a_tsv_may_be_gzipped(tsv: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "small.zip", "w") as archive:
        archive.write(tsv, "small.tsv")
        archive.writestr("__MACOSX/._small.tsv", b"\0\5\x16\7")
    with gzip.open(tmp_path / "small.tsv.gz", "wb") as packed:
        packed.write(tsv.read_bytes())
    plain = decoded(open_source(tsv, SHAPE))
    for name in ("small.zip", "small.tsv.gz"):
        for (image_id, image), (expected_id, expected) in zip(
            decoded(open_source(tmp_path / name, SHAPE)), plain, strict=True
        ):
            assert image_id == expected_id
            np.testing.assert_array_equal(image.features, expected.features)
    whole = (tmp_path / "small.tsv.gz").read_bytes()
    (tmp_path / "small.tsv.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"small\.tsv\.gz cannot be read"):
        decoded(open_source(tmp_path / "small.tsv.gz", SHAPE))


def test_a_byte_order_mark_is_no_part_of_an_id(tsv: Path) -> None:
    tsv.write_bytes(b"\xef\xbb\xbf" + tsv.read_bytes())
    assert [image_id for image_id, _ in decoded(Obj36(tsv, SHAPE))] == IDS


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


def write_npz(path: Path, row: int = 0, **change: Any) -> Path:
    arrays = drawn(row + 1)
    content = {"features": arrays["features"][row], "boxes": arrays["pixels"][row], "image_w": 640, "image_h": 480}
    np.savez_compressed(path, allow_pickle=True, **(content | change))
    return path


def test_what_nobody_asked_for_is_not_read(tmp_path: Path) -> None:
    """Neither objects, which some extractors keep beside, nor what would not fit into memory."""
    path = write_npz(
        tmp_path / "42.npz", info=np.array({"objects": [1]}, dtype=object), pixels=np.zeros(2**26, "u1")
    )
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("readme.txt", "made at home")
    tracemalloc.start()
    ((_, image),) = decoded(NpzFolder(tmp_path, SHAPE))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(image.features, drawn(1)["features"][0])
    assert peak < 2**24


@pytest.mark.parametrize("name", ["features", "boxes", "image_w", "num_boxes"])
def test_no_array_is_larger_than_one_image_needs(name: str, tmp_path: Path) -> None:
    write_npz(tmp_path / "42.npz", **{name: np.zeros((2**26,), "u1")})
    with pytest.raises(DataError, match=rf"42\.npz: expected {name} of one image, .* got \(67108864,\) uint8"):
        decoded(NpzFolder(tmp_path, SHAPE))


def test_an_npz_that_holds_objects_or_is_damaged_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").touch()
    with pytest.raises(DataError, match=r"expected one \.npz file per image in this folder, got 'a.tsv'"):
        decoded(NpzFolder(tmp_path, SHAPE))
    path = tmp_path / "42.npz"
    write_npz(path, features=np.array([{"a": 1}], dtype=object))
    with pytest.raises(DataError, match=r"42\.npz cannot be read: features holds Python objects"):
        decoded(NpzFolder(tmp_path, SHAPE))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=r"42\.npz cannot be read"):
        decoded(NpzFolder(tmp_path, SHAPE))


def many(count: int = 4, regions: int = 36) -> tuple[np.ndarray, np.ndarray]:
    """Corners as shares, (N, R, 4) float32, and widths and heights, (N, 2), of images that none of is square."""
    rng = np.random.default_rng(1)
    corners = np.sort(rng.uniform(size=(count, regions, 2, 2)), axis=2).reshape(count, regions, 4)
    sides = np.array([[640, 480], [427, 640], [500, 375], [333, 500]])[np.arange(count) % 4]
    return corners.astype(np.float32), sides


Writer = Callable[[Path, np.ndarray, np.ndarray], Path]


def as_tsv(folder: Path, boxes: np.ndarray, sides: np.ndarray) -> Path:
    path = folder / "made.tsv"
    with path.open("wb") as file:
        for number, (image, (width, height)) in enumerate(zip(boxes, sides, strict=True)):
            regions = len(image)
            nothing = base64.b64encode(np.zeros(regions, np.float32))
            features = base64.b64encode(np.zeros((regions, 4), np.float32))
            numbers = [str(value).encode() for value in (number, height, width, regions)]
            corners = base64.b64encode(image.astype(np.float32, order="C"))
            file.write(b"\t".join([*numbers[:3], *[nothing] * 4, numbers[3], corners, features]) + b"\n")
    return path


def as_hdf5(folder: Path, boxes: np.ndarray, sides: np.ndarray) -> Path:
    count, regions = boxes.shape[:2]
    features = np.zeros((count, regions, 4), np.float32)
    arrays = {"features": features, "boxes": boxes, "image_ids": np.arange(count)}
    return write_hdf5(folder / "made.h5", arrays | {"image_w": sides[:, 0], "image_h": sides[:, 1]})


def as_npz(folder: Path, boxes: np.ndarray, sides: np.ndarray) -> Path:
    (folder / "made").mkdir()
    for number, (image, (width, height)) in enumerate(zip(boxes, sides, strict=True)):
        features = np.zeros((len(image), 4), np.float32)
        path = folder / "made" / f"{number:02}.npz"
        np.savez(path, features=features, boxes=image, image_w=width, image_h=height, allow_pickle=False)
    return folder / "made"


forms = pytest.mark.parametrize("write", [as_tsv, as_hdf5, as_npz])


def made(write: Writer, folder: Path, boxes: np.ndarray, sides: np.ndarray, unit: Unit | None = None) -> Source:
    return open_source(write(folder, boxes, sides), (boxes.shape[1], 4), unit)


@forms
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_shares_are_known_and_equal_to_their_pixels(write: Writer, dtype: type, tmp_path: Path) -> None:
    corners, sides = many()
    pixels = (corners * np.tile(sides, 2)[:, None]).astype(np.float32)
    both = []
    for name, boxes in (
        ("pixels", pixels),
        ("shares", pixels.astype(dtype) / np.tile(sides, 2)[:, None].astype(dtype)),
    ):
        (tmp_path / name).mkdir()
        source = made(write, tmp_path / name, boxes, sides)
        assert source.unit == name
        both.append([image.boxes for _, image in decoded(source)])
    np.testing.assert_array_equal(*both)
    np.testing.assert_allclose(both[0], corners, atol=1e-6)


@forms
def test_a_picture_whose_boxes_are_small_does_not_decide(write: Writer, tmp_path: Path) -> None:
    """Nor one that has all of them in a corner."""
    corners, sides = many()
    pixels = corners * np.tile(sides, 2)[:, None]
    pixels[0] = pixels[0] / 100
    pixels[1] = np.rint(pixels[1] / 700)
    source = made(write, tmp_path, pixels.astype(np.float32), sides)
    assert source.unit == "pixels"
    for (_, image), expected, (width, height) in zip(decoded(source), pixels, sides, strict=True):
        np.testing.assert_allclose(image.boxes, expected / ([width, height] * 2), atol=1e-6)


@forms
def test_boxes_may_be_small_in_the_middle_of_all_pictures(write: Writer, tmp_path: Path) -> None:
    corners, sides = many()
    middle = 0.4 + 0.2 * corners
    images = decoded(made(write, tmp_path, (middle * np.tile(sides, 2)[:, None]).astype(np.float32), sides))
    np.testing.assert_allclose([image.boxes for _, image in images], middle, atol=1e-6)


def test_pixels_under_the_name_of_shares_are_told(tmp_path: Path) -> None:
    corners, _ = many()
    content = {"features": np.zeros((4, 36, 4), np.float32), "spatial_features": corners * 100, "ids": range(4)}
    source = Hdf5(write_hdf5(tmp_path / "a.h5", content), (36, 4))
    with pytest.raises(DataError, match="row 0: expected boxes x0 y0 x1 y1 as shares of the image, from 0 to 1"):
        decoded(source)
    assert source.unit == "shares"


@forms
def test_one_picture_alone_may_have_any_boxes(write: Writer, tmp_path: Path) -> None:
    corners, sides = many(1)
    ((_, image),) = decoded(made(write, tmp_path, corners * 200, sides))
    np.testing.assert_allclose(image.boxes, corners[0] * 200 / np.tile(sides[0], 2), atol=1e-6)


@forms
def test_images_of_either_unit_in_one_file_are_told(write: Writer, tmp_path: Path) -> None:
    corners, sides = many(12)
    pixels = corners * np.tile(sides, 2)[:, None]
    for name, first, then, message in (
        ("a", pixels, corners, "expected boxes in pixels, as those of the first images are; these are within one"),
        ("b", corners, pixels, "expected boxes x0 y0 x1 y1 as shares of the image, from 0 to 1"),
    ):
        (tmp_path / name).mkdir()
        source = made(write, tmp_path / name, np.concatenate([first[:10], then[10:]]), sides)
        records = list(source.records())
        for record in records[:10]:
            source.decode(record)
        with pytest.raises(DataError, match=message) as told:
            source.decode(records[10])
        assert str(told.value).startswith(records[10].place)


def sized(corners: np.ndarray) -> np.ndarray:
    return np.concatenate([corners[..., :2], corners[..., 2:] - corners[..., :2]], axis=-1)


@forms
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda corners, sides: sized(corners) * np.tile(sides, 2)[:, None], "look like x, y, width and height"),
        (lambda corners, sides: sized(corners), "look like x, y, width and height"),
        (
            lambda corners, sides: corners * np.tile(sides[:, ::-1], 2)[:, None],
            "as the file says that they are high",
        ),
        (lambda corners, sides: corners[..., [1, 0, 3, 2]] * np.tile(sides[:, ::-1], 2)[:, None], "they are high"),
        (lambda corners, sides: corners * 224, "reduced images"),
        (lambda corners, sides: corners * 100, "reduced images"),
        (lambda corners, sides: corners * np.tile(sides, 2)[:, None] * 0.5, "reduced images"),
        (lambda corners, sides: corners * np.tile(sides, 2)[:, None] * 1.6, "enlarged images"),
        (lambda corners, sides: corners * 1000, "enlarged images"),
    ],
    ids=["x y w h", "shares x y w h", "swapped", "y x y x", "224 x 224", "per cent", "half", "enlarged", "1000"],
)
def test_boxes_of_other_images_than_the_sizes_are_refused(
    write: Writer, change: Callable[[np.ndarray, np.ndarray], np.ndarray], message: str, tmp_path: Path
) -> None:
    """Also where what is bad may be left out: every one is, and those whose boxes fit are not right."""
    corners, sides = many()
    source = made(write, tmp_path, change(corners, sides).astype(np.float32), sides)
    with pytest.raises(DataError, match=message) as told:
        assert source.unit
    assert str(told.value).startswith(f"{source.path}: the boxes of its first 4 images ")
    assert "--boxes pixels" in str(told.value)


@forms
def test_what_boxes_are_measured_in_may_be_said(write: Writer, tmp_path: Path) -> None:
    corners, sides = many()
    reduced = (corners * np.tile(sides, 2)[:, None] / 4).astype(np.float32)
    images = decoded(made(write, tmp_path, reduced, sides, "pixels"))
    np.testing.assert_allclose([image.boxes for _, image in images], corners / 4, atol=1e-6)


def test_an_hdf5_with_a_group_for_each_image_is_told_in_a_line(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "groups.h5"
    with h5py.File(path, "w") as file:
        for number in range(2000):
            file[f"COCO_val2014_{number:012}/features"] = np.zeros(1)
        file["features/of"] = np.zeros(1)
    with pytest.raises(DataError, match="and 1996 more") as told:
        decoded(Hdf5(path, SHAPE))
    assert len(str(told.value)) < 600


def test_what_the_system_has_none_of_is_no_damage(tsv: Path, tmp_path: Path) -> None:
    """Descriptors, here."""
    (tmp_path / "npz").mkdir()
    write_npz(tmp_path / "npz" / "42.npz")
    arrays = drawn(2)
    path = write_hdf5(
        tmp_path / "a.h5", {"features": arrays["features"], "spatial": arrays["shares"], "ids": [1, 2]}
    )
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    for source in (Obj36(tsv, SHAPE), NpzFolder(tmp_path / "npz", SHAPE), Hdf5(path, SHAPE)):
        record = next(iter(source.records())) if isinstance(source, NpzFolder) else None
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, limit[1]))
        try:
            with pytest.raises(OSError, match="Too many open files") as told:
                source.raw(record) if record else next(iter(source.records()))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limit)
        assert told.value.errno == errno.EMFILE
        assert told.value.filename
    with pytest.raises(FileNotFoundError):
        next(iter(Hdf5(tmp_path / "gone.h5", SHAPE).records()))
