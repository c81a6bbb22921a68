"""Reports built side by side, over links and after kills: whole in the end, and nobody else's files are touched."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from reports.build import build
from reports.provenance import check
from reports.publish import LIST, LOCK, contents, drafted, publish
from suite.errors import UserError
from suite.files import write_json
from suite.lease import Lease, LeaseLost
from suite.records import StudyFolder

MakeStudy = Callable[..., Path]
ROOT = Path(__file__).parents[2]

BUILD = """
import sys
from pathlib import Path
import reports.figures.write
from reports.build import build
reports.figures.write.FORMATS = ("svg",)
study = Path(sys.argv[1])
print("begun", flush=True)
for _ in range(int(sys.argv[2])):
    told = build(study, study / "report", check=sys.argv[3] == "check")
    assert sys.argv[3] != "check" or told == "", told
"""


def begin(study: Path, times: int, what: str = "build") -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", BUILD, str(study), str(times), what],
        cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    _, told = process.communicate(timeout=300)
    assert process.returncode == 0, told


def unlike(study: Path) -> str:
    return check(functools.partial(build, study), study / "report")


def hidden(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in folder.rglob(".*")]


@pytest.mark.usefixtures("one_format")
def test_builds_side_by_side_while_the_study_changes_leave_one_whole_report(make_study: MakeStudy) -> None:
    study = make_study(names=["softmax-s0", "softmax-s1", "window-s0", "softmax-blind-s0"])
    plain = StudyFolder(study).study()
    other = plain | {"name": "other", "cells": plain["cells"][:2]}
    builds = [begin(study, 2) for _ in range(3)]
    turn = 0
    while any(process.poll() is None for process in builds):
        turn += 1
        StudyFolder(study).write_study((plain, other)[turn % 2])
        time.sleep(0.05)
    for process in builds:
        end(process)
    # Whichever was there last: all of the report is of that one.
    report = study / "report"
    outputs = json.loads((report / "provenance.json").read_text())["outputs"]
    there = contents(report)
    assert {name: there[name] for name in outputs} == outputs
    assert set(there) == {*outputs, "provenance.json", LIST}
    assert hidden(report) == []
    StudyFolder(study).write_study(other)
    build(study, report)
    assert unlike(study) == ""
    assert {path.stem for path in (report / "page" / "cells").iterdir()} == {"softmax-s0", "softmax-s1"}


@pytest.mark.usefixtures("one_format")
def test_a_check_beside_builds_of_the_same_records_says_nothing(make_study: MakeStudy) -> None:
    study = make_study(names=["softmax-s0", "window-s0"])
    build(study, study / "report")
    processes = [begin(study, 2), begin(study, 2, "check"), begin(study, 2)]
    for process in processes:
        end(process)
    assert unlike(study) == ""


@pytest.mark.usefixtures("one_format")
def test_what_a_killed_build_leaves_is_swept_and_keeps_nobody_waiting(make_study: MakeStudy) -> None:
    study = make_study(names=["softmax-s0"])
    report = study / "report"
    for delay in (0.2, 0.6, 1.0):
        process = begin(study, 1000)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        process.stderr.close()
    # Killed while it had the lock too, with all that it had prepared.
    code = "import os, sys; from pathlib import Path; from suite.lease import Lease\n"
    code += (
        "lease = Lease(Path(sys.argv[1])); lease.take(); (lease.path / 'report').mkdir(); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(report / LOCK)], cwd=ROOT, check=False)
    assert hidden(report)
    began = time.monotonic()
    build(study, report)
    assert time.monotonic() - began < 30
    assert hidden(report) == []
    assert unlike(study) == ""


@pytest.mark.usefixtures("one_format")
def test_hidden_files_of_others_are_left_and_are_no_difference(make_study: MakeStudy) -> None:
    study = make_study(names=["softmax-s0"])
    build(study, study / "report")
    for name in (".notes", "page/.index.html.4711", f".build.{'0' * 8}-1-1-0"):
        (study / "report" / name).write_text("mine")
    assert unlike(study) == ""
    build(study, study / "report")
    assert len(hidden(study / "report")) == 3


def test_a_build_that_lost_its_turn_changes_nothing_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stood still while another took over: none of what it had prepared takes its place."""
    output = tmp_path / "report"
    with drafted(output) as draft:
        (draft / "index.html").write_text("ours")
        publish(draft, output)
    slow = Lease(output / LOCK)
    slow.take()
    assert slow.path is not None
    prepared = slow.path / "index.html"
    prepared.write_text("late")
    monkeypatch.setattr("suite.lease.SILENCE", 0.2)
    with drafted(output) as draft:
        (draft / "index.html").write_text("others")
        publish(draft, output)
    with pytest.raises(FileNotFoundError):
        os.replace(prepared, output / "index.html")
    with pytest.raises(LeaseLost):
        slow.check()
    assert (output / "index.html").read_text() == "others"
    assert hidden(output) == []


@pytest.mark.usefixtures("one_format")
@pytest.mark.parametrize("name", ["", "page", "page/cells", "figures"])
def test_a_folder_that_is_a_link_is_never_followed(make_study: MakeStudy, tmp_path: Path, name: str) -> None:
    study = make_study(names=["softmax-s0"])
    build(study, study / "report")
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "keep").write_text("precious")
    place = study / "report" / name
    place.rename(tmp_path / "moved")
    place.symlink_to(theirs)
    with pytest.raises(UserError, match="is a link"):
        build(study, study / "report")
    assert [path.name for path in theirs.iterdir()] == ["keep"]
    assert (theirs / "keep").read_text() == "precious"


@pytest.mark.usefixtures("one_format")
def test_a_file_that_is_a_link_is_replaced_and_not_written_through(make_study: MakeStudy, tmp_path: Path) -> None:
    study = make_study(names=["softmax-s0"])
    build(study, study / "report")
    theirs = tmp_path / "theirs"
    theirs.write_text("precious")
    names = ("tables.csv", "index.html", "page/study.js", "figures/training.svg", "provenance.json")
    for name in names:
        (study / "report" / name).unlink()
        (study / "report" / name).symlink_to(theirs)
    (study / "report" / "mine").symlink_to(theirs)
    build(study, study / "report")
    assert theirs.read_text() == "precious"
    assert not any((study / "report" / name).is_symlink() for name in names)
    assert unlike(study).startswith("extra: mine\n")


@pytest.mark.usefixtures("one_format")
def test_the_list_is_no_links_way_out(make_study: MakeStudy, tmp_path: Path) -> None:
    study = make_study(names=["softmax-s0"])
    build(study, study / "report")
    theirs = tmp_path / "theirs"
    theirs.write_text("precious")
    (study / "report" / LIST).unlink()
    (study / "report" / LIST).symlink_to(theirs)
    with pytest.raises(UserError, match="is a link"):
        build(study, study / "report")
    assert theirs.read_text() == "precious"


@pytest.mark.usefixtures("one_format")
def test_no_list_removes_what_is_not_the_reports(make_study: MakeStudy, tmp_path: Path) -> None:
    study = make_study(names=["softmax-s0"])
    report = study / "report"
    build(study, report)
    precious = [tmp_path / "precious", study / "softmax-s0" / "notes", study / "drain", report / "deep" / "own"]
    for path in precious:
        path.parent.mkdir(exist_ok=True)
        path.write_text("precious")
    (report / "out").symlink_to(tmp_path)
    (report / "page" / "out").symlink_to(tmp_path)
    hostile = [
        str(tmp_path / "precious"), "../../../precious", "../softmax-s0/notes", "page/../../drain", "out/precious",
        "page/out/precious", "..", ".", "", "/", "page", "deep", "page//x", "./x", "a\0b", ".hidden/x",
    ]  # fmt: skip
    gone = report / "page" / "cells" / "gone.js"
    for name, content in {
        LIST: "\n".join([*hostile, "page/cells/gone.js"]),
        "provenance.json": json.dumps({"outputs": dict.fromkeys([*hostile, "page/cells/gone.js"], "0")}),
    }.items():
        gone.write_text("of an earlier build")
        (report / LIST).unlink(missing_ok=True)
        (report / name).write_text(content)
        build(study, report)
        assert all(path.read_text() == "precious" for path in precious)
        assert not gone.exists()


@pytest.mark.usefixtures("one_format")
@pytest.mark.parametrize("name", ["log.txt", "examples/0.png", "sites.jsonl", "examples", "predictions.parquet"])
def test_nothing_that_a_record_links_to_is_published(make_study: MakeStudy, tmp_path: Path, name: str) -> None:
    study = make_study(names=["softmax-s0"])
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key").write_text("secret")
    place = study / "softmax-s0" / name
    place.parent.mkdir(exist_ok=True)
    place.unlink(missing_ok=True)
    place.symlink_to(tmp_path / "secret" / ("" if name == "examples" else "key"))
    with pytest.raises(UserError, match="is a link"):
        build(study, study / "report")
    assert not (study / "report").exists()


@pytest.mark.parametrize("wrong", ["../../evil", "/evil", "..", ".", "a/b", "a\\b", "", "a\0b", "é", "x" * 300])
def test_no_id_becomes_a_path(make_study: MakeStudy, wrong: str) -> None:
    study = make_study(names=["softmax-s0"])
    plain = json.loads((study / "study.json").read_text())
    plain["cells"][0]["id"] = wrong
    write_json(study / "study.json", plain)
    with pytest.raises(UserError, match="is no cell's id"):
        build(study, study / "report")
    assert {path.name for path in study.parent.parent.iterdir()} == {"runs"}


def test_a_report_may_go_where_nobody_listens(make_study: MakeStudy) -> None:
    study = make_study(names=["softmax-s0"])
    command = f'"{sys.executable}" -m suite report small --runs "{study.parent}" >&-'
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert unlike(study) == ""
