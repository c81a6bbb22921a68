"""What other machines and people make of a data set: damage is told and never read, trouble passes, links end."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pyarrow.parquet
import pytest
from small_set import LABELS, content, flipped, sealed

from suite.data.store import ARRAYS, FILES, SMALL, DataError, already_prepared, open_dataset, write_dataset
from suite.data.verify import verify_dataset
from suite.files import strict_json

ROWS = np.arange(len(LABELS))


@pytest.fixture
def small(tmp_path: Path) -> Path:
    write_dataset(tmp_path / "small", **content())
    return tmp_path / "small"


@pytest.mark.parametrize("file", SMALL)
def test_a_bit_of_a_small_file_is_seen_when_the_set_is_opened(small: Path, file: str) -> None:
    for place in {0, 1, (small / file).stat().st_size // 2, (small / file).stat().st_size - 1}:
        flipped(small / file, place, 2)
        with pytest.raises(DataError, match=f"{file} is not as it was written"):
            open_dataset(small)
        flipped(small / file, place, 2)
    open_dataset(small)


def test_no_bit_of_the_description_passes(small: Path) -> None:
    """Neither where the word `checksums` or a name in it becomes another: nothing would be checked any more."""
    whole = (small / "dataset.json").read_bytes()
    expected = json.loads(whole)
    silent = []
    for place in range(0, len(whole), 2):
        flipped(small / "dataset.json", place)
        try:
            if open_dataset(small).information != expected:
                silent.append(place)
        except DataError:
            pass
        (small / "dataset.json").write_bytes(whole)
    assert silent == []


def test_every_bit_of_an_array_is_seen_before_it_is_used(small: Path) -> None:
    """The headers' too: one that is some bytes longer would move all pictures by them."""
    expected = open_dataset(small).batch(ROWS)
    used = []
    for file in ARRAYS:
        size = (small / file).stat().st_size
        for place in [*range(0, 128, 3), *range(128, size, 31)]:
            flipped(small / file, place, place % 8)
            try:
                batch = open_dataset(small).batch(ROWS)
                if not np.array_equal(batch.regions, expected.regions) or not np.array_equal(
                    batch.boxes, expected.boxes
                ):
                    used.append((file, place))
            except DataError:
                pass
            flipped(small / file, place, place % 8)
    assert used == []


@pytest.mark.parametrize("file", ARRAYS)
def test_a_damaged_image_is_named_and_the_others_serve(small: Path, file: str) -> None:
    array = np.load(small / file, mmap_mode="r+")
    array[2, 1, 1] += 0.25
    array.flush()
    opened = open_dataset(small)
    whole = np.flatnonzero(opened.image != 2)
    opened.batch(whole)
    for share in (False, True):
        with pytest.raises(DataError) as told:
            opened.batch(ROWS, share=share)
        assert (
            f"{small} is damaged: regions.npy or boxes.npy is not as it was written at the image 'c', row 2."
            in str(told.value)
        )
        assert "Delete" not in str(told.value)
    opened.batch(whole)
    with pytest.raises(DataError, match="'c', row 2"):
        opened.with_mean_pictures("train", "validation")
    opened.with_mean_pictures("train").batch(ROWS)  # A blind cell reads no image that it was not made of.


def test_damage_that_comes_after_the_set_was_opened_is_seen(small: Path) -> None:
    opened = open_dataset(small)
    for file, read in (
        ("questions.parquet", lambda: opened.questions("text")),
        ("images.parquet", lambda: opened.images("image_id")),
        ("tokenizer.json", lambda: opened.tokens(ROWS)),
    ):
        flipped(small / file, 1)
        with pytest.raises(DataError, match=f"{file} is not as it was written"):
            read()
        flipped(small / file, 1)


def test_a_set_without_checksums_opens(small: Path) -> None:
    """As older versions wrote them: without those of the images, too."""
    images = pyarrow.parquet.read_table(small / "images.parquet").drop_columns(["checksum"])
    pyarrow.parquet.write_table(images, small / "images.parquet")
    information = json.loads((small / "dataset.json").read_text())
    del information["checksums"]
    (small / "dataset.json").write_text(json.dumps(information))
    sealed(small)
    opened = open_dataset(small)
    assert opened.image_checks is None
    np.testing.assert_array_equal(opened.batch(ROWS).boxes, opened.boxes[opened.image])
    with pytest.raises(DataError, match=r"before checksums were kept\. To have them, prepare it again in another"):
        verify_dataset(small)


def test_verify_lists_what_opening_refuses(small: Path) -> None:
    flipped(small / "tokenizer.json", 0)
    flipped(small / "boxes.npy", 130)
    assert verify_dataset(small) == [
        "tokenizer.json is not as it was written.",
        "regions.npy or boxes.npy: image 'a', row 0, is not as it was written.",
    ]
    flipped(small / "images.parquet", 30)
    assert verify_dataset(small)[-1].startswith("Nothing is known of regions.npy and boxes.npy")


# The system's trouble


def test_no_free_descriptor_is_no_damage(small: Path) -> None:
    opened = open_dataset(small)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    calls: list[Callable[[], Any]] = [
        lambda: open_dataset(small),
        lambda: opened.questions("text"),
        lambda: opened.tokens(ROWS),
        lambda: verify_dataset(small),
        lambda: already_prepared(small, opened.digest),
    ]
    caught = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        for call in calls:
            try:
                call()
            except BaseException as error:
                caught.append(error)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert [(type(error), getattr(error, "errno", None)) for error in caught] == [(OSError, errno.EMFILE)] * 5
    assert all(str(small) in str(error.filename) for error in caught)


LITTLE_MEMORY = """
import resource, sys
from pathlib import Path
from suite.data.store import open_dataset
resource.setrlimit(resource.RLIMIT_AS, (1 << 35, 1 << 35))
try:
    open_dataset(Path(sys.argv[1]))
except OSError as error:
    print(error.errno, error.filename)
"""


def test_no_room_for_a_map_is_no_damage(small: Path) -> None:
    """Of an array of 240 GB, of which the disk keeps its header."""
    features = 4 * 10**9
    np.lib.format.open_memmap(
        small / "regions.npy", mode="w+", dtype=np.float16, shape=(5, 3, features)
    )  # fmt: skip
    sealed(small, features=features)
    done = subprocess.run(
        [sys.executable, "-c", LITTLE_MEMORY, str(small)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        check=True,
    )
    assert done.stdout == f"{errno.ENOMEM} {small / 'regions.npy'}\n", done.stderr


@pytest.mark.parametrize("file", [*FILES, "dataset.json", ""])
def test_a_file_that_cannot_be_looked_at_is_no_damage(small: Path, file: str) -> None:
    path = small / file
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    path.symlink_to(path)
    for call in (open_dataset, verify_dataset, lambda folder: already_prepared(folder, "")):
        with pytest.raises(OSError, match=os.strerror(errno.ELOOP)) as told:
            call(small)
        assert told.value.errno == errno.ELOOP


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("file", FILES)
def test_a_file_that_may_not_be_read_is_no_damage(small: Path, file: str) -> None:
    (small / file).chmod(0)
    with pytest.raises(PermissionError, match=file):
        open_dataset(small)


def test_nothing_that_may_be_whole_is_to_be_deleted(small: Path) -> None:
    """An older form, a folder whose disk is not mounted, a copy that was ended, another preparation."""
    said = []

    def told(call: Callable[[], Any]) -> None:
        with pytest.raises(DataError) as caught:
            call()
        said.append(str(caught.value))

    told(lambda: write_dataset(small, **content(preparation=2)))
    (small / "boxes.npy").rename(small / "elsewhere")
    told(lambda: open_dataset(small))
    (small / "elsewhere").rename(small / "boxes.npy")
    sealed(small, form=2)
    told(lambda: open_dataset(small))
    (small / "dataset.json").unlink()
    told(lambda: open_dataset(small))
    assert not [sentence for sentence in said if "elete" in sentence]
    assert all("in another folder" in sentence for sentence in said)


# A conversion is never lost


def test_a_data_set_that_cannot_be_named_gives_the_conversion_back(tmp_path: Path) -> None:
    """`folder` becomes a file while the rest is written: the arrays are of a day's work."""
    pictures = conversion(tmp_path)
    before = {file: (pictures / file).read_bytes() for file in ARRAYS}
    images = pandas.read_parquet(pictures / "images.parquet").assign(picture="")
    (tmp_path / "parent").mkdir()
    given = content(images=images, pictures=pictures)

    class Late(list):
        """The last thing that is written before the folder has its name."""

        def __iter__(self) -> Any:
            (tmp_path / "small").write_text("somebody's")
            return super().__iter__()

    with pytest.raises((OSError, DataError)):
        write_dataset(tmp_path / "small", **given, left_out=Late(["nothing"]))
    assert {file: (pictures / file).read_bytes() for file in ARRAYS} == before
    assert (tmp_path / "small").read_text() == "somebody's"
    (tmp_path / "small").unlink()
    write_dataset(tmp_path / "small", **given)
    assert verify_dataset(tmp_path / "small") == []
    assert not pictures.exists()


def test_images_of_another_conversion_are_refused(tmp_path: Path) -> None:
    """As many, in another order: an equal number says nothing."""
    pictures = conversion(tmp_path)
    images = pandas.read_parquet(pictures / "images.parquet").assign(picture="")
    with pytest.raises(DataError, match="in their order"):
        write_dataset(tmp_path / "small", **content(images=images[::-1], pictures=pictures))
    assert (pictures / "regions.npy").exists()


def conversion(folder: Path) -> Path:
    """The arrays of `content` as a conversion leaves them."""
    write_dataset(folder / "first", **content())
    pictures = folder / "converted"
    pictures.mkdir()
    for file in ARRAYS:
        shutil.copy(folder / "first" / file, pictures / file)
    pandas.read_parquet(folder / "first/images.parquet").drop(columns="picture").to_parquet(
        pictures / "images.parquet"
    )
    (pictures / "conversion.json").write_text("{}")
    shutil.rmtree(folder / "first")
    return pictures


# Data sets from elsewhere


def with_picture(folder: Path, reference: str) -> Path:
    """A data set of a stranger whose first picture is `reference`: every checksum of it is right."""
    write_dataset(folder / "small", **content())
    table = pandas.read_parquet(folder / "small/images.parquet")
    table.loc[0, "picture"] = reference
    table.astype({"checksum": "uint32"}).to_parquet(folder / "small/images.parquet", index=False)
    sealed(folder / "small")
    return folder / "small"


@pytest.mark.parametrize(
    "reference",
    [
        "/etc/passwd",
        "/secret.png",
        "../secret.png",
        "inside/../../secret.png",
        "package:easy_vqa/../secret.png",
        "package:easy_vqa//etc/secret.png",
        "package:../secret.png",
        "package:/secret.png",
        "package:os.path/secret.png",
        "package:easy_vqa",
        "package:",
        "notes.txt",
        ".bashrc",
        "nul\0.png",
        ".",
    ],
)
def test_a_picture_outside_the_data_set_is_refused_when_it_is_opened(tmp_path: Path, reference: str) -> None:
    """Before anything is trained with it, since pictures are copied into the records."""
    (tmp_path / "secret.png").write_text("secret")
    with pytest.raises(DataError, match=r"images\.parquet.*expected a picture"):
        open_dataset(with_picture(tmp_path, reference))
    images = content()["images"].assign(picture=reference)
    with pytest.raises(DataError, match="expected a picture"):
        write_dataset(tmp_path / "written", **content(images=images))
    assert not (tmp_path / "written").exists()


def test_a_link_to_a_picture_outside_the_data_set_is_refused(tmp_path: Path) -> None:
    folder = with_picture(tmp_path, "pictures/0.png")
    secret = tmp_path / "secret.png"
    secret.write_text("secret")
    opened = open_dataset(folder)
    assert opened.picture(0) is None
    (folder / "pictures").mkdir()
    (folder / "pictures/0.png").symlink_to(secret)
    with pytest.raises(DataError, match="which leads by links"):
        opened.picture(0)
    shutil.rmtree(folder / "pictures")
    (tmp_path / "0.png").write_text("secret")
    (folder / "pictures").symlink_to(tmp_path)
    with pytest.raises(DataError, match="which leads by links"):
        opened.picture(0)
    (folder / "pictures").unlink()
    (folder / "pictures").mkdir()
    (folder / "pictures/1.png").write_text("its own")
    (folder / "pictures/0.png").symlink_to("1.png")
    assert opened.picture(0) == folder / "pictures/0.png"


def test_a_package_is_an_installed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a folder beside the program; its own files may be links out of an installer's cache."""
    monkeypatch.syspath_prepend(tmp_path)
    opened = open_dataset(with_picture(tmp_path, "package:documents/0.png"))
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents/0.png").write_text("secret")
    assert opened.picture(0) is None
    (tmp_path / "documents/__init__.py").touch()
    assert opened.picture(0) == tmp_path / "documents/0.png"
    cached = tmp_path / "cache/documents/0.png"
    cached.parent.mkdir(parents=True)
    (tmp_path / "documents/0.png").rename(cached)
    (tmp_path / "documents/0.png").symlink_to(cached)
    assert opened.picture(0) == tmp_path / "documents/0.png"
    (tmp_path / "documents/0.png").unlink()
    (tmp_path / "documents/0.png").symlink_to(with_secret(tmp_path))
    with pytest.raises(DataError, match="which leads by links"):
        opened.picture(0)
    sys.modules.pop("documents", None)


def with_secret(folder: Path) -> Path:
    (folder / "secret.png").write_text("secret")
    return folder / "secret.png"


def header(path: Path, shape: str, dtype: str = "'<f2'", order: str = "False") -> None:
    """An .npy file that says what it likes."""
    text = f"{{'descr': {dtype}, 'fortran_order': {order}, 'shape': {shape}, }}".ljust(117) + "\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + bytes(120))


@pytest.mark.parametrize(
    "written",
    [
        lambda path: header(path, f"({2**62}, 3, 4)"),
        lambda path: header(path, f"({2**80}, 3, 4)"),
        lambda path: header(path, "(-5, 3, 4)"),
        lambda path: header(path, "()"),
        lambda path: header(path, "(5, 3, 4)", "'|O'"),
        lambda path: header(path, "(5, 3, 4)", "[('a', '<f2')]"),
        lambda path: header(path, "(5, 3, 4)", order="True"),
        lambda path: header(path, "(5, 3, 3)"),
        lambda path: header(path, "(5, 3, 4"),
        lambda path: path.write_bytes(b"PK\x03\x04" + bytes(100)),
        lambda path: path.write_bytes(b"\x80\x04K\x00."),
        lambda path: path.write_bytes(b""),
    ],
)
def test_an_array_that_is_none_is_one_sentence(small: Path, written: Callable[[Path], Any]) -> None:
    for file in ("words.npy", *ARRAYS):
        whole = (small / file).read_bytes()
        written(small / file)
        sealed(small)
        with pytest.raises(DataError, match=rf"{file} is damaged \(.+\)\. Copy it again"):
            open_dataset(small)
        (small / file).write_bytes(whole)


@pytest.mark.parametrize(
    "column",
    [
        {"image": [0, 0, 1, 2, 2, 3, 5]},
        {"image": [0, 0, 1, 2, 2, 3, -1]},
        {"image": [0, 0, 1, 2, 2, 3, None]},
        {"image": ["0"] * 7},
        {"labels": [[3], *LABELS[1:]]},
        {"labels": [[-1], *LABELS[1:]]},
        {"labels": [[0, 1], *LABELS[1:]]},
        {"scores": [[float("nan")]] + [[1.0] * len(labels) for labels in LABELS[1:]]},
        {"split": [None] * 7},
    ],
)
def test_questions_that_point_nowhere_are_one_sentence(small: Path, column: dict[str, list[Any]]) -> None:
    table = pyarrow.parquet.read_table(small / "questions.parquet")
    ((name, values),) = column.items()
    pyarrow.parquet.write_table(
        table.set_column(table.column_names.index(name), name, pyarrow.array(values)), small / "questions.parquet"
    )
    sealed(small)
    with pytest.raises(DataError, match=r"questions\.parquet is damaged"):
        open_dataset(small)


@pytest.mark.parametrize(("place", "word"), [((0, 0), 20), ((2, 3), -1), ((0, slice(None)), 0)])
def test_words_that_are_no_words_are_one_sentence(small: Path, place: Any, word: int) -> None:
    words = np.load(small / "words.npy")
    words[place] = word
    np.save(small / "words.npy", words)
    sealed(small)
    with pytest.raises(DataError, match=r"words\.npy is damaged \(expected at least a word"):
        open_dataset(small)


@pytest.mark.parametrize(
    "text", ['["yes", "no"]', '["yes", "no", "no"]', '["yes", "no", 3]', '{"yes": 0}', "[" * 10**5, "NaN"]
)
def test_answers_that_are_none_are_one_sentence(small: Path, text: str) -> None:
    (small / "answers.json").write_text(text)
    sealed(small)
    with pytest.raises(DataError, match=r"answers\.json is damaged"):
        open_dataset(small)


@pytest.mark.parametrize(
    "changes",
    [{"answers": -3}, {"answers": True}, {"boxes": "3"}, {"features": None}, {"splits": []}, {"title": 1}],
)
def test_a_description_that_is_none_is_one_sentence(small: Path, changes: dict[str, Any]) -> None:
    sealed(small, **changes)
    with pytest.raises(DataError, match=rf"dataset\.json is damaged \(expected {next(iter(changes))}"):
        open_dataset(small)


def test_json_is_strict() -> None:
    for text in ("NaN", "[Infinity]", '{"a": -Infinity}', '{"a": 1, "a": 1}', '[{"b": {"a": 1, "a": 2}}]'):
        with pytest.raises(ValueError, match=r"is no number|twice"):
            strict_json(text)
    assert strict_json('{"a": [1, {"a": 2.5}]}') == {"a": [1, {"a": 2.5}]}
