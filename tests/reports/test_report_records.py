"""What a report makes of records that are not what was written: never another number, and always a name."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import page_records
import pytest
from changed import change, change_accuracy, change_lines
from scored import write_all

from reports.build import build
from reports.cells import read_records
from reports.examples import read_attention, read_examples
from reports.formats.comma_separated import comma_separated
from reports.predictions import read_predictions
from reports.provenance import check
from reports.tables import build_report
from suite.files import digest, write_json
from suite.records import CellFolder, RecordError, StudyFolder

MakeStudy = Callable[..., Path]


def close(study: Path, *names: str) -> None:
    """Gives the results of finished cells the digests of their files, as today's engine does."""
    for name in names:
        record = CellFolder(study / name)
        result = record.result()
        assert result is not None
        record.write_result({key: value for key, value in result.items() if key != "files"})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, write_small: Callable[..., Path]) -> Path:
    """Two finished cells with predictions and examples, and one that has not finished."""
    study = write_small(tmp_path_factory.mktemp("runs") / "small", ["softmax-s0", "span-s0", "entmax-s0"])
    write_all(study)
    for number, name in enumerate(("softmax-s0", "span-s0")):
        page_records.write_examples(StudyFolder(study).cell(name), number)
        (study / name / "log.txt").write_text("a line\n")
    close(study, "softmax-s0", "span-s0")
    plain = StudyFolder(study).study()
    StudyFolder(study).write_study(plain)
    for name in ("metrics", "sites"):
        lines = CellFolder(study / "entmax-s0").lines(name)
        (study / "entmax-s0" / f"{name}.jsonl").unlink()
        CellFolder(study / "entmax-s0").append(name, lines)
    return study


@pytest.fixture
def study(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "runs" / "small")


def flip(path: Path, place: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize(
    "name",
    [
        *("config.json", "metrics.jsonl", "sites.jsonl", "predictions.parquet", "result.json"),
        *("examples/questions.json", "examples/attention.npz", "examples/0.png", "examples/1.png"),
    ],
)
def test_no_flip_in_a_finished_record_passes(study: Path, name: str) -> None:
    path = study / "span-s0" / name
    before = path.read_bytes()
    for place in (0.02, 0.33, 0.5, 0.71, 0.97):
        flip(path, place)
        with pytest.raises(RecordError, match=f"span-s0/{name}.* is damaged"):
            read_records(study)
        path.write_bytes(before)
    read_records(study)


@pytest.mark.parametrize("name", ["metrics.jsonl", "sites.jsonl"])
def test_no_flip_in_a_record_that_grows_passes(study: Path, name: str) -> None:
    path = study / "entmax-s0" / name
    flip(path, 0.4)
    with pytest.raises(RecordError, match=rf"entmax-s0/{name}:\d+ is damaged"):
        read_records(study)


def test_every_damaged_file_is_named_at_once_and_none_is_to_be_deleted(study: Path) -> None:
    for name in ("softmax-s0/sites.jsonl", "span-s0/predictions.parquet", "span-s0/metrics.jsonl"):
        flip(study / name, 0.5)
    (study / "softmax-s0" / "examples" / "1.png").unlink()
    (study / "entmax-s0" / "failure.json").write_text("{")
    with pytest.raises(RecordError) as caught:
        build(study, study / "report")
    told = str(caught.value)
    assert told.startswith("5 files of the records in ")
    for name in ("sites.jsonl", "predictions.parquet", "metrics.jsonl", "examples/1.png", "failure.json"):
        assert f"{name} is damaged" in told
    assert "Restore them from a copy" in told
    assert "elete" not in told
    assert not (study / "report").exists()


def test_a_record_without_its_model_is_whole_for_a_report(study: Path) -> None:
    record = CellFolder(study / "span-s0")
    manifest = record.path / "checkpoint" / "step-00000600" / "manifest.json"
    manifest.parent.mkdir(parents=True)
    manifest.write_text("{}")
    close(study, "span-s0")
    flip(manifest, 0.0)
    with pytest.raises(RecordError, match=r"manifest\.json is damaged"):
        read_records(study)
    shutil.rmtree(record.path / "checkpoint")
    assert len(read_records(study).cells) == 3


def test_what_the_system_refuses_is_not_damage(study: Path) -> None:
    record = CellFolder(study / "span-s0")
    assert read_predictions(record, ["score"]) is not None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open(os.devnull, os.O_RDONLY)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            read_predictions(record, ["score"])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda cell: change(cell / "result.json", steps=599), "it is of step 599, and metrics.jsonl"),
        (lambda cell: change_accuracy(cell / "result.json", validation=50.0), "its accuracy on validation is 50"),
        (lambda cell: change(cell / "result.json", official={"test": 71.0}), "official score of nan %"),
        (lambda cell: change_accuracy(cell / "result.json", test=12.0), "an accuracy of 12.0000 %"),
        (lambda cell: change(cell / "result.json", accuracy={"test": 12.0}), "no accuracy for the split"),
        (lambda cell: change(cell / "result.json", macs="many"), "macs is expected to be a finite number"),
        (lambda cell: change_lines(cell / "sites.jsonl", lambda line: {"step": 1}), "sites.jsonl:1 is damaged"),
        (lambda cell: change_lines(cell / "metrics.jsonl", lambda line: {"stop": 1}), "metrics.jsonl:1 is damaged"),
        (lambda cell: (cell / "metrics.jsonl").write_bytes(b"\xff\xfe{}\n"), "metrics.jsonl:1 is damaged"),
        (lambda cell: (cell / "metrics.jsonl").write_text("[" * 100_000 + "\n"), "metrics.jsonl:1 is damaged"),
        (lambda cell: (cell / "metrics.jsonl").write_text("9" * 5000 + "\n"), "metrics.jsonl:1 is damaged"),
        (lambda cell: change(cell / "config.json", code={"engine": 1}), "code.engine is expected to be a text"),
        (lambda cell: change(cell / "config.json", packages=["torch"]), "span-s0 is damaged: "),
    ],
)  # fmt: skip
def test_a_record_that_does_not_add_up_is_named(
    make_study: MakeStudy, spoil: Callable[[Path], object], told: str
) -> None:
    study = make_study(names=["softmax-s0", "span-s0"])
    write_all(study)
    spoil(study / "span-s0")
    with pytest.raises(RecordError, match="span-s0") as caught:
        build(study, study / "report")
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("picture", "../../../other.png"), ("picture", "/etc/hostname"), ("picture", "."), ("picture", "none.png"),
        ("boxes", [[0, 0, 1]]), ("boxes", "all"), ("text", None), ("answers", {"yes": "1"}), ("words", [1]),
        ("top_confidences", [0.5]), ("width", "96"),
    ],
)  # fmt: skip
def test_examples_that_are_none_are_named(make_study: MakeStudy, field: str, value: object) -> None:
    study = make_study(names=["span-s0"])
    record = StudyFolder(study).cell("span-s0")
    page_records.write_examples(record, 0)
    (study.parent / "other.png").write_bytes(page_records.picture(0))
    path = record.path / "examples" / "questions.json"
    write_json(path, [json.loads(path.read_text())[0] | {field: value}])
    with pytest.raises(RecordError, match=r"span-s0/examples/.* is damaged"):
        read_examples(record)


def test_attention_that_does_not_unpack_is_named(make_study: MakeStudy) -> None:
    study = make_study(names=["span-s0"])
    record = StudyFolder(study).cell("span-s0")
    page_records.write_examples(record, 0)
    path = record.path / "examples" / "attention.npz"
    content = path.read_bytes()
    for place in range(40, len(content), len(content) // 40):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :])
        with contextlib.suppress(RecordError):  # A flip in what zip repeats changes nothing.
            read_attention(record)
    # Two thousand times as much as it holds: nobody waits for that.
    with path.open("wb") as file:
        np.savez_compressed(file, **{"language.0.words-words": np.zeros(3 << 28, np.uint8)})
    with pytest.raises(RecordError, match="unpacks to 805,306,"):
        read_attention(record)


@pytest.mark.usefixtures("one_format")
def test_texts_of_megabytes_are_cut_and_say_so(make_study: MakeStudy) -> None:
    study = make_study(names=["softmax-s0", "entmax-s0"])
    page_records.write_examples(StudyFolder(study).cell("softmax-s0"), 0)
    path = study / "softmax-s0" / "examples" / "questions.json"
    write_json(path, [one | {"text": "why " * 500_000} for one in json.loads(path.read_text())])
    change(study / "entmax-s0" / "failure.json", message="no " * 2_000_000, kind="not finite")
    for name in ("softmax-s0", "entmax-s0"):
        (study / name / "log.txt").write_text("x" * 10_000_000)
    assert "characters more)" in build(study, study / "report")
    files = [path for path in (study / "report").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 3_000_000
    assert "(5,998,000 characters more)" in (study / "report" / "tables.csv").read_text()


@pytest.mark.parametrize("text", ["=1+1", "＝1+1", "＋1", "－1", "＠A1", "﹦1", "−1", "\t=1", "\r＝1", "\u200b=1"])
def test_no_sign_begins_a_formula(make_study: MakeStudy, text: str) -> None:
    study = make_study(names=["window-s0"])
    name = json.loads((study / "study.json").read_text())
    name["cells"][0]["cell"]["variant"] = text
    write_json(study / "study.json", name)
    assert f",'{text.strip()}".replace("\u200b", "") in comma_separated(build_report(study))


@pytest.mark.usefixtures("one_format")
def test_a_check_notices_any_flip_in_records_and_report(study: Path) -> None:
    def again(output: Path, **options: bool) -> None:
        build(study, output, **options)

    build(study, study / "report")
    assert check(again, study / "report") == ""
    names = (
        "tables.csv",
        "page/cells/span-s0.js",
        "built.txt",
    )
    for name in names:
        path = study / "report" / name
        before = path.read_bytes()
        flip(path, 0.5)
        told = check(again, study / "report")
        assert f"differs: {name}\n" in told
        assert "somebody has changed the report's own files" in told
        path.write_bytes(before)
    (study / "span-s0" / "log.txt").write_text("another line\n")
    assert "input changed: span-s0/log.txt" in check(again, study / "report")
    flip(study / "span-s0" / "examples" / "attention.npz", 0.9)
    with pytest.raises(RecordError, match=r"attention\.npz is damaged"):
        check(again, study / "report")


def test_each_file_is_hashed_as_sha256sum_does(study: Path) -> None:
    found = read_records(study).digests
    for path in [study / "study.json", *study.glob("*/*.*"), *study.glob("*/examples/*")]:
        assert found[path.relative_to(study).as_posix()] == digest(path)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda study: study["cells"][0]["cell"].pop("pictures"), "it has no cells"),
        (lambda study: study["cells"][0]["cell"].update(start={"variant": "softmax"}), "start"),
        (lambda study: study["cells"][0]["cell"].update(test="elsewhere"), "no split of the data set"),
        (lambda study: study["dataset"]["splits"]["test"].pop("questions"), "questions"),
        (lambda study: study.update(comparisons=[{"label": "", "base": "x", "changed": "y"}]), "compares 'x'"),
        (lambda study: study.update(cells=study["cells"] * 2), "twice"),
        (lambda study: study["cells"][0]["cell"]["model"].update(width="wide"), "width is expected to be a whole"),
    ],
)  # fmt: skip
def test_a_study_that_is_none_is_named(make_study: MakeStudy, spoil: Callable[[dict], object], told: str) -> None:
    study = make_study(names=["softmax-s0"])
    plain = json.loads((study / "study.json").read_text())
    spoil(plain)
    write_json(study / "study.json", plain)
    with pytest.raises(RecordError, match=r"study\.json is damaged") as caught:
        build(study, study / "report")
    assert told in str(caught.value)
