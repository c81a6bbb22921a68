"""The build: every mixture of states, the same bytes for the same records, and a quick, lean import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from reports.build import build
from suite.files import digest
from suite.records import CellFolder, StudyFolder, read_lines

MakeStudy = Callable[..., Path]
ROOT = Path(__file__).parents[2]
TABLES = {"tables.csv", "tables.md", "tables.tex"}


def python(code: str, *arguments: object, **environment: str) -> str:
    command = [sys.executable, "-W", "error", "-c", code, *map(str, arguments)]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def written(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_importing_loads_nothing_heavy() -> None:
    code = "import sys, reports.build; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    assert not {"torch", "ray", "transformers", "matplotlib", "rich"} & set(python(code).split())


def test_every_file_of_a_build_is_known(make_study: MakeStudy, tmp_path: Path) -> None:
    build(make_study(names=["softmax-s0", "softmax-s1", "entmax-s0", "softmax-blind-s0"]), tmp_path / "one")
    one = written(tmp_path / "one")
    figures = {"training", "test-accuracy", "cost", "density", "alpha-entmax-9-5-5"}
    names = {f"figures/{name}.{form}" for name in figures for form in ("pdf", "svg", "png")}
    pages = {"index.html", "cell.html"}
    others = {"claims.csv", "built.txt", "figures/captions.txt", "provenance.json"}
    assert {name for name in one if not name.startswith("page/")} == TABLES | names | pages | others
    assert len([name for name in one if name.startswith("page/cells/")]) == 4


@pytest.mark.usefixtures("one_format")
def test_without_what_is_measured_the_bytes_do_not_tell_how_long_it_took(
    make_study: MakeStudy, tmp_path: Path
) -> None:
    study = make_study(names=["softmax-s0", "layerdrop-s0", "softmax-blind-s0"])
    build(study, tmp_path / "one", measured=False)
    for path in study.glob("*/result.json"):
        record, result = CellFolder(path.parent), json.loads(path.read_text())
        evaluations = read_lines(record.path / "metrics.jsonl")
        for one in evaluations:
            one["seconds"] *= 7
        (record.path / "metrics.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in evaluations))
        digests = {"metrics.jsonl": digest(record.path / "metrics.jsonl")}
        path.write_text(json.dumps(result | {"seconds": 7 * result["seconds"], "files": digests}))
    text = build(study, tmp_path / "two", measured=False)
    one, two = written(tmp_path / "one"), written(tmp_path / "two")
    assert one == two
    assert "seconds" not in text
    assert not [name for name in TABLES if b"seconds" in one[name]]
    build(study, tmp_path / "two")
    assert [name for name in TABLES if b"seconds" in written(tmp_path / "two")[name]]


def test_nothing_finished_still_builds(make_study: MakeStudy, tmp_path: Path) -> None:
    text = build(make_study(run=False), tmp_path / "report")
    assert "missing" in text
    assert "which is missing: they cannot be given yet" in " ".join(text.split())
    assert set(written(tmp_path / "report")) >= TABLES | {"figures/test-accuracy.pdf"}


def test_a_study_without_cells_still_builds(make_study: MakeStudy, tmp_path: Path) -> None:
    text = build(make_study(names=[]), tmp_path / "report")
    assert "The study has no rows" in text
    assert (tmp_path / "report" / "tables.md").read_text(encoding="utf-8").count("| not in study |") == 7


@pytest.mark.usefixtures("one_format")
def test_figures_of_an_earlier_build_are_removed_and_others_kept(make_study: MakeStudy, tmp_path: Path) -> None:
    report = tmp_path / "report"
    study = make_study(names=["softmax-s0", "entmax-s0"])
    build(study, report)
    (report / "figures" / "mine.png").write_bytes(b"")
    (report / "page" / "mine.js").write_bytes(b"")
    plain = StudyFolder(study).study()
    StudyFolder(study).write_study(plain | {"cells": plain["cells"][:1]})
    build(study, report)
    names = {path.name for path in (report / "figures").iterdir()}
    drawn = {"test-accuracy.svg", "training.svg", "cost.svg", "density.svg"}
    assert names == {"mine.png", "captions.txt", *drawn}
    assert [path.name for path in (report / "page" / "cells").iterdir()] == ["softmax-s0.js"]
    assert (report / "page" / "mine.js").exists()


@pytest.mark.usefixtures("one_format")
def test_names_that_no_font_has_are_drawn(make_study: MakeStudy, tmp_path: Path) -> None:
    study = make_study(names=["softmax-s0", "window-s0"])
    path = study / "study.json"
    path.write_text(path.read_text().replace("near|window_*", "$\\\\frac{$ \\u4e2d"))
    assert "中" in build(study, tmp_path / "report")
