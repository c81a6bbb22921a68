"""What a report was made from, and whether it still is what its records give."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from changed import change, change_accuracy

from reports.cells import read_records
from reports.provenance import check, write_provenance
from reports.publish import drafted, publish
from reports.tables import report_of
from suite import cli
from suite.errors import UserError
from suite.records import CellFolder

MakeStudy = Callable[..., Path]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def study(make_study: MakeStudy) -> Path:
    return make_study(names=["softmax-s0", "entmax-s0"])


def build(study: Path, place: Path, measured: bool = True) -> None:
    """A small report with all that provenance asks of one: files that depend on records and on the option."""
    with drafted(place) as output:
        write(study, output, measured)
        publish(output, place)


def write(study: Path, output: Path, measured: bool) -> None:
    records = read_records(study)
    report = report_of(records, measured)
    (output / "deeper").mkdir()
    accuracies = [row.measured.accuracy for row in report.rows if row.measured]
    (output / "accuracies.txt").write_text(f"{accuracies}\n")
    (output / "deeper" / "heading.txt").write_text(report.heading)
    if measured:
        (output / "seconds.txt").write_text(f"{[row.measured and row.measured.seconds for row in report.rows]}")
    write_provenance(records, output, {"measured": measured})


def told(study: Path) -> dict:
    return json.loads((study / "report" / "provenance.json").read_text())


def unlike(study: Path) -> list[str]:
    text = check(functools.partial(build, study), study / "report")
    return text.splitlines()


def test_every_file_has_the_digest_of_sha256sum(study: Path) -> None:
    examples = study / "softmax-s0" / "examples"
    examples.mkdir()
    (examples / "questions.json").write_text("[]")
    build(study, study / "report")
    inputs, outputs = told(study)["inputs"], told(study)["outputs"]
    assert set(outputs) == {"accuracies.txt", "deeper/heading.txt", "seconds.txt"}
    assert set(inputs) == {
        "published.json",
        "study.json",
        *(f"softmax-s0/{name}" for name in ("config.json", "metrics.jsonl", "sites.jsonl", "result.json")),
        "softmax-s0/examples/questions.json",
        *(f"entmax-s0/{name}" for name in ("config.json", "metrics.jsonl", "sites.jsonl", "failure.json")),
    }
    for name, digest in outputs.items():
        assert digest == hashlib.sha256((study / "report" / name).read_bytes()).hexdigest()
    for name, digest in inputs.items():
        path = ROOT / "reports" / name if name == "published.json" else study / name
        assert digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_it_has_neither_time_nor_place(study: Path) -> None:
    build(study, study / "report")
    text = (study / "report" / "provenance.json").read_text()
    assert str(study.parent) not in text
    assert str(ROOT) not in text
    os.utime(study / "report" / "accuracies.txt", (0, 0))
    build(study, study / "report")
    assert (study / "report" / "provenance.json").read_text() == text


def test_files_that_a_build_does_not_write_are_not_its_own(study: Path) -> None:
    build(study, study / "report")
    (study / "report" / "mine.txt").write_text("")
    build(study, study / "report", measured=False)
    assert set(told(study)["outputs"]) == {"accuracies.txt", "deeper/heading.txt"}


def test_the_same_records_are_the_same_report(study: Path) -> None:
    build(study, study / "report")
    assert unlike(study) == []


def test_a_changed_record_is_named_with_what_it_changes(study: Path) -> None:
    build(study, study / "report")
    change_accuracy(study / "softmax-s0" / "result.json", test=1.0)
    answer = {"split": "test-dev", "accuracy": 70.0, "added": "2026-01-01", "submission": None}
    CellFolder(study / "softmax-s0").append("server", [answer])
    (study / "entmax-s0" / "failure.json").unlink()
    assert unlike(study)[:-1] == [
        "differs: accuracies.txt",
        "differs: provenance.json",
        "input removed: entmax-s0/failure.json",
        "input changed: softmax-s0/result.json",
        "input added: softmax-s0/server.jsonl",
    ]


def test_changed_missing_and_extra_files_are_named(study: Path) -> None:
    build(study, study / "report")
    (study / "report" / "accuracies.txt").write_text("[99.9]\n")
    (study / "report" / "seconds.txt").unlink()
    (study / "report" / "deeper" / "more.txt").write_text("")
    assert unlike(study)[:-1] == [
        "differs: accuracies.txt",
        "extra: deeper/more.txt",
        "missing: seconds.txt",
        "No input has changed, and no program: somebody has changed the report's own files.",
    ]


def test_another_program_is_named(study: Path) -> None:
    build(study, study / "report")
    path = study / "report" / "provenance.json"
    change(path, program=told(study)["program"] | {"numpy": "1.0"})
    assert unlike(study)[:-1] == ["differs: provenance.json", "program changed: numpy"]


def test_the_option_is_remembered(study: Path) -> None:
    build(study, study / "report", measured=False)
    assert told(study)["options"] == {"measured": False}
    assert unlike(study) == []


def test_without_what_is_measured_two_runs_have_one_provenance(study: Path) -> None:
    build(study, study / "report", measured=False)
    before = told(study)
    change(study / "softmax-s0" / "result.json", seconds=7.0)
    change(study / "softmax-s0" / "config.json", hardware={"host": "another"})
    change(study / "entmax-s0" / "failure.json", log="elsewhere/log.txt")
    metrics = study / "softmax-s0" / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace('"seconds": ', '"seconds": 1'))
    for name in ("cost.json", "log.txt", "segments.jsonl"):
        (study / "softmax-s0" / name).write_text("{}")
    build(study, study / "report", measured=False)
    assert told(study) == before
    change(study / "softmax-s0" / "result.json", parameters=7)
    build(study, study / "report", measured=False)
    assert told(study) != before


def test_nothing_to_check_is_a_users_error(study: Path) -> None:
    with pytest.raises(UserError, match=r"no report to check: expected .* Make it first with `ablate report`"):
        unlike(study)


@pytest.mark.parametrize("text", ["{", "[]", '{"options": {}}'])
def test_a_damaged_provenance_is_a_users_error(study: Path, text: str) -> None:
    build(study, study / "report")
    (study / "report" / "provenance.json").write_text(text)
    with pytest.raises(UserError, match=r"is damaged, or another version wrote it\. Make the report again"):
        unlike(study)


@pytest.mark.usefixtures("one_format")
def test_the_command_says_by_its_exit_code(make_study: MakeStudy, capsys: pytest.CaptureFixture[str]) -> None:
    study = make_study(names=["softmax-s0"])

    def ablate(*options: str) -> tuple[int, str]:
        done = cli.main(["report", "small", "--runs", str(study.parent), *options])
        return done, capsys.readouterr().out

    assert ablate("--check") == (2, "")
    assert ablate("--no-measured")[0] == 0
    assert ablate("--check") == (0, f"{study / 'report'} is what the records give.\n")
    change(study / "softmax-s0" / "result.json", parameters=7)
    before = {path: path.read_bytes() for path in study.rglob("*") if path.is_file()}
    code, said = ablate("--check")
    assert code == 1
    assert "differs: tables.csv\n" in said
    assert "input changed: softmax-s0/result.json\n" in said
    assert {path: path.read_bytes() for path in study.rglob("*") if path.is_file()} == before
    # The options are those of the report that is there.
    assert ablate("--check", "--no-measured") == (2, "")
