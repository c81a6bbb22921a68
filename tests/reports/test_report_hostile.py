"""Whatever the records say stays text: in no file of the report and on no terminal does it become anything else."""

from __future__ import annotations

import csv
import html.parser
import io
import json
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from latex_document import compile_log

from reports.build import build
from reports.checks import checks
from reports.formats.terminal import terminal
from reports.tables import build_report
from suite.records import CellFolder

HOSTILE = (
    "=HYPERLINK(\"http://a.example\",\"x\")",
    "+1+1|cmd",
    "-2+3",
    "@SUM(A1)",
    "\t=1+1",
    "\r=1+1",
    "\n=1+1",
    "\x00=1",
    "\x1b[31mred\x1b]0;title\x07\x9b2J",
    "[red]rich[/red] [link=http://a.example]x[/]",
    "a\u202egnp.exe\u2066\u200f\ufeff",
    "</td></table><script>alert(1)</script><img src=x onerror=alert(1)>",
    "\"><svg/onload=alert(1)> ]]> <!-- & &lt; &#60;",
    "$x^2$ \\end{tabular} \\input{/etc/passwd} \\write18{id} % # & _ ~ {",
    "| a | `b` ![x](http://a.example) **c** [d](javascript:alert(1))",
    "{{7*7}} ${HOME} %s %(x)s {0} \\n",
    "中文 العربية 😀 e\u0301",
)  # fmt: skip
TEXTS = {".css", ".csv", ".html", ".js", ".json", ".md", ".svg", ".tex", ".txt"}


def everywhere() -> str:
    return " ".join(HOSTILE)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of hostile variants whose arguments, failures, questions and answers are hostile too."""
    folder = tmp_path_factory.mktemp("runs") / "hostile"
    size = {"width": 8, "heads": 2, "intermediate": 8, "hidden_dropout": 0.0, "attention_dropout": 0.0}
    protocol = {"steps": 20, "batch_size": 4}
    cells = []
    for number, text in enumerate(("softmax", *HOSTILE)):
        cell = {
            "variant": text,
            "dataset": "easy-vqa",
            "protocol": protocol | {"schedule": text},
            "arguments": {} if text == "softmax" else {text: HOSTILE[-number], "more": number},
            "layers": [9, 5, 5],
            "model": size,
            "seed": 0,
            "train": ["train"],
            "validation": "validation",
            "test": "test",
            "pictures": "given",
            "start": None,
            "pretrained": text,
            "keep": None,
        }
        cells.append({"id": f"cell-{number}", "role": "row", "start": None, "cell": cell})
    cells.append(cells[1] | {"id": "floor", "role": "floor", "cell": cells[1]["cell"] | {"pictures": "mean"}})
    folder.mkdir()
    (folder / "study.json").write_text(
        json.dumps(
            {
                "name": everywhere(),
                "question": everywhere(),
                "engine": "one",
                "dataset": {
                    "name": everywhere(),
                    "title": everywhere(),
                    "splits": {"test": {"questions": 8, "images": 4}},
                    "answers": 3,
                },
                "floors": {"question_prior": 60.0, "looked": 70.0},
                "cells": cells,
                "comparisons": [{"label": text, "base": "cell-0", "changed": "cell-1"} for text in HOSTILE],
                "searches": [
                    {
                        "variant": everywhere(),
                        "layers": [9, 5, 5],
                        "trials": [],
                        "steps": 1,
                        "scheduler": {"name": everywhere()},
                        "winner": {"trial": "cell-0", "arguments": {text: text for text in HOSTILE}}
                        | {"accuracy": 1.0, "cells": []},
                        "complete": True,
                    }
                ],
            }
        )
    )
    for number, entry in enumerate(cells):
        record, text = CellFolder(folder / entry["id"]), HOSTILE[number % len(HOSTILE)]
        record.write_config({"id": entry["id"], "cell": entry["cell"], "code": {"engine": "one"}})
        lines = ({"step": step, "loss": 1.0, "train_loss": 1.0, "accuracy": 50.0} for step in (10, 20))
        record.append("metrics", lines)
        record.append(
            "sites",
            (
                {"step": step, "site": text, "stack": "language", "queries": "words", "keys": "words"}
                | {"index": 0, "density": [1.0, 1.0]}
                | ({text: [1.0, 2.0]} if number == 5 else {})
                for step in (10, 20)
            ),
        )
        if number % 4 == 3:
            record.write_failure({"kind": "not finite", "message": everywhere(), "log": text})
            continue
        record.write_predictions(
            pd.DataFrame(
                {
                    "question_id": range(8),
                    "image_id": [*HOSTILE[:4], *HOSTILE[:4]],
                    "question_type": [*HOSTILE[:7], ""],
                    "answer_type": [text] * 4 + ["other"] * 4,
                    "answer": [*HOSTILE[8:16]],
                    "score": [0.5] * 8,
                    "official": [0.5] * 8,
                    "top_answers": [[*HOSTILE[:5]]] * 8,
                    "top_confidences": [[0.9 - number / 100, 0.4, 0.3, 0.2, 0.1]] * 8,
                }
            )
        )
        record.write_result(
            {
                "accuracy": {"validation": 50.0, "test": 50.0},
                "official": {"test": 50.0},
                "macs": 10,
                "macs_reference": 10,
                "uncounted_operators": {text: 1},
                "parameters": 10,
                "kept": {text: [0]},
                "steps": 20,
                "seconds": 1.0,
            }
        )
        if number < 2:
            write_examples(record)
        record.append("server", [{"split": "test-dev", "accuracy": 1.0, "added": text, "submission": text}])
    return folder


def write_examples(record: CellFolder) -> None:
    questions = [
        {
            "question_id": number,
            "image_id": HOSTILE[number % 4],
            "split": "test",
            "text": text,
            "words": ["[CLS]", text, "[SEP]"],
            "boxes": [[0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0]],
            "width": 4,
            "height": 4,
            "picture": "",
            "answers": {text: 1.0, everywhere(): 0.3},
            "top_answers": [*HOSTILE[:5]],
            "top_confidences": [0.9, 0.4, 0.3, 0.2, 0.1],
        }
        for number, text in enumerate(HOSTILE[:8])
    ]
    attention = np.full((8, 2, 3, 2), 0.5, dtype=np.float16)
    record.write_examples(questions, {"cross.0.words-boxes": attention}, {})


@pytest.fixture(scope="module")
def shown(study: Path) -> str:
    return build(study, study / "report")


@pytest.fixture(scope="module")
def texts(study: Path, shown: str) -> dict[str, str]:
    """Every text file of the report, decoded; a file of another kind is not text."""
    report = study / "report"
    return {
        path.relative_to(report).as_posix(): path.read_bytes().decode()
        for path in sorted(report.rglob("*"))
        if path.suffix in TEXTS
    }


def controls(text: str, allowed: str = "\n") -> set[str]:
    """Characters that a reader does not see but obeys."""
    return {repr(one) for one in text if unicodedata.category(one) in ("Cc", "Cf", "Cs") and one not in allowed}


def test_no_file_has_a_control_character(texts: dict[str, str]) -> None:
    assert {"tables.csv", "tables.md", "tables.tex", "types.csv"} <= set(texts)
    # To a browser a tab is a blank.
    allowed = {name: "\n\t" if name.endswith((".html", ".js")) else "\n" for name in texts}
    assert {name: found for name, text in texts.items() if (found := controls(text, allowed[name]))} == {}


def test_no_file_has_a_name_that_is_not_plain(study: Path, texts: dict[str, str]) -> None:
    paths = [path.relative_to(study / "report") for path in (study / "report").rglob("*")]
    assert [str(path) for path in paths if not re.fullmatch(r"[A-Za-z0-9_./-]+", str(path))] == []


def numbers(text: str) -> bool:
    """Whether a spreadsheet takes it for numbers and nothing else."""
    return all(re.fullmatch(r"[+-]?\d+(\.\d+)?(e[+-]?\d+)?", one) for one in text.split())


def test_spreadsheets_find_no_formula(texts: dict[str, str]) -> None:
    tables = {name: text for name, text in texts.items() if name.endswith(".csv")}
    for text in tables.values():
        lines = list(csv.reader(io.StringIO(text), strict=True))
        assert {len(line) for line in lines} == {len(lines[0])}
        cells = [cell for line in lines for cell in line]
        assert [cell for cell in cells if cell[:1] in tuple("=+-@\t\r") and not numbers(cell)] == []
    assert any("'=HYPERLINK" in text for text in tables.values())


def test_markdown_is_tables_and_text(texts: dict[str, str]) -> None:
    for name, text in texts.items():
        if not name.endswith(".md"):
            continue
        lines, width = text.splitlines(), 0
        for line in lines:
            if line.startswith("|"):
                columns = len(re.findall(r"(?<!\\)\|", line))
                width = width or columns
                assert columns == width, line
            else:
                width = 0
                assert re.match(r"### |- |[^\s#>=+*-]|$", line), line
            bare = re.sub(r"\\[\\`*_{}\[\]<>#|~$&!]", "", line)
            assert not re.search(r"[`*_<>\[\]~$&!]", bare), line


def test_latex_compiles_and_reads_nothing(texts: dict[str, str], tmp_path: Path) -> None:
    for name, text in texts.items():
        if name.endswith(".tex"):
            commands = set(re.findall(r"(?<!\\)(?:\\\\)*\\([A-Za-z]+)", text))
            assert not {"input", "write", "immediate", "openout", "def", "csname", "catcode"} & commands
            compile_log(text, tmp_path)


class Tags(html.parser.HTMLParser):
    """What a browser would make of a page: its scripts, and attributes that run or load something."""

    def __init__(self) -> None:
        super().__init__()
        self.running: list[str] = []
        self.scripts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            leads_away = name in ("href", "src", "action", "xlink:href") and re.match(
                r"\s*(https?:|//|javascript:)", value or "", re.I
            )
            if name.startswith("on") or leads_away:
                self.running.append(f"<{tag} {name}={value!r}>")

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "script":
            self.scripts.append(data)


def markup(texts: dict[str, str]) -> Iterator[tuple[str, Tags]]:
    for name, text in texts.items():
        if name.endswith((".html", ".svg")):
            parser = Tags()
            parser.feed(text)
            yield name, parser


def test_pages_and_drawings_run_and_load_nothing_of_the_records(texts: dict[str, str]) -> None:
    for name, found in markup(texts):
        assert found.running == [], name
        assert "alert(1)" not in found.scripts, name


def test_terminals_show_what_they_would_obey(study: Path, shown: str) -> None:
    assert controls(shown) == set()
    report = build_report(study)
    assert len(checks(report)) >= len(HOSTILE)
    for width in (40, 100):
        styled = terminal(report, width, styled=True)
        # Bold, dim and back are the table's own.
        assert controls(re.sub(r"\x1b\[[0-9;]*m", "", styled)) == set()
        assert set(re.findall(r"\x1b\[([0-9;]*)m", styled)) <= {"0", "1", "2", "3", "22", "23"}


def test_nothing_hostile_is_lost_on_the_way(texts: dict[str, str]) -> None:
    """Escaped is not left out: what can be seen of each text is in the table of raw numbers."""
    shown = {cell.lstrip("'") for line in csv.reader(io.StringIO(texts["tables.csv"])) for cell in line}
    for text in HOSTILE:
        seen = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
        seen = "".join(" " if unicodedata.category(one).startswith("C") else one for one in seen)
        assert " ".join(seen.split()) in shown
