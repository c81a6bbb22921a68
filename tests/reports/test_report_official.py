"""VQA 2.0: the official accuracy, the test server's answers, and accuracies by type, in every format."""

from __future__ import annotations

import csv
import io
import random
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import pandas as pd
import pytest
from latex_document import compile_log

from reports.build import build
from reports.by_type import by_type
from reports.formats.comma_separated import comma_separated, types_comma_separated
from reports.formats.latex import escape_latex, latex
from reports.formats.markdown import markdown
from reports.formats.terminal import terminal
from reports.layout import TYPES, lay_out
from reports.report import Report, Row
from reports.tables import build_report
from reports.text import TextTable
from suite.records import CellFolder, RecordError, StudyFolder, read_json, write_json

SHA = "0123456789abcdef" * 4
ANSWER_TYPES = ("other", "yes/no", "number", "other", "yes/no")
QUESTION_TYPES = ("what is", "is the", "how many", "what color", "is this")
QUESTIONS = 60
OLD_COLUMNS = [
    "Method", "test-dev", "test-std", "diff.", "test", "seeds", "diff.", "p (Holm)", "verdict",
    "MACs (M)", "change (%)", "params (M)", "seconds",
]  # fmt: skip


def row(report: Report, cell_id: str) -> Row:
    return next(row for row in report.rows if cell_id in [cell.id for cell in row.cells])


def finished(folder: Path) -> list[CellFolder]:
    """The finished cells that are rows."""
    study = StudyFolder(folder)
    records = [study.cell(entry["id"]) for entry in study.study()["cells"] if entry["role"] == "row"]
    return [record for record in records if record.state == "finished"]


def write_types(
    record: CellFolder,
    answer_types: Sequence[str] = ANSWER_TYPES,
    question_types: Sequence[str] = QUESTION_TYPES,
    known: bool = True,
) -> pd.DataFrame:
    """Predictions of ``QUESTIONS`` questions, with types in turn; without official accuracies unless ``known``."""
    chance = random.Random(record.id)
    table = pd.DataFrame(
        {
            "question_id": range(QUESTIONS),
            "image_id": [str(number // 5) for number in range(QUESTIONS)],
            "question_type": [question_types[number % len(question_types)] for number in range(QUESTIONS)],
            "answer_type": [answer_types[number % len(answer_types)] for number in range(QUESTIONS)],
            "answer": "yes",
            "score": [chance.choice((0.0, 0.3, 0.6, 0.9, 1.0)) for _ in range(QUESTIONS)],
            "official": [chance.choice((0.0, 1.0)) if known else float("nan") for _ in range(QUESTIONS)],
            "top_answers": [["yes", "no"]] * QUESTIONS,
            "top_confidences": [[0.9, 0.1]] * QUESTIONS,
        }
    )
    record.write_predictions(table)
    result = read_json(record.path / "result.json")
    cells = StudyFolder(record.path.parent).study()["cells"]
    test = next(entry["cell"]["test"] for entry in cells if entry["id"] == record.id)
    # That of another split stays: it is that of the last evaluation.
    accuracy = result["accuracy"] | {test: 100 * table["score"].mean()}
    official = {test: round(100 * table["official"].mean(), 2)} if known else {}
    write_json(record.path / "result.json", result | {"accuracy": accuracy, "official": official})
    return table


@pytest.fixture
def vqa2(study_folder: Path) -> Path:
    """The small study as one on VQA 2.0, from weights of a file, tested on minival."""
    study = read_json(study_folder / "study.json")
    splits = {"train": {"questions": 443757, "images": 82783}, "minival": {"questions": 25994, "images": 5000}}
    study["dataset"] |= {"name": "vqa2", "title": "VQA 2.0", "splits": splits}
    for entry in study["cells"]:
        entry["start"] = None
        weights = {"start": None, "pretrained": "/somewhere/of/mine/model_LXRT.pth"}
        entry["cell"] |= {"dataset": "vqa2", "validation": "minival", "test": "minival"} | weights
        path = study_folder / entry["id"] / "result.json"
        if path.exists():
            result = read_json(path)
            test = result["accuracy"]["test"]
            official = {"minival": round(test / 2, 1)}
            write_json(path, result | {"accuracy": {"minival": test}, "official": official})
    write_json(study_folder / "study.json", study)
    return study_folder


@pytest.fixture
def answered(vqa2: Path) -> Path:
    """With what the test server answered for three cells."""

    def add(cell: str, split: str, accuracy: float, submission: str | None = SHA) -> None:
        line = {
            "split": split,
            "accuracy": accuracy,
            "added": "2026-11-25 06:07:08 +0000",
            "submission": submission,
        }
        CellFolder(vqa2 / cell).append("server", [line])

    add("softmax-s0", "test-dev", 11.0)
    add("softmax-s0", "test-dev", 72.3)
    add("softmax-s0", "test-std", 72.5)
    add("softmax-s1", "test-dev", 72.5, None)
    add("window-s0", "test-dev", 50.125)
    return vqa2


def results(report: Report) -> list[TextTable]:
    return [table for table in lay_out(report).tables if table.columns[1].side == "paper"]


def columns(report: Report, side: str) -> list[str]:
    return [column.title for column in results(report)[0].columns if column.side == side]


def cells_of(report: Report, label: str) -> dict[tuple[str, str], str]:
    """(side, title) -> text of the row whose label begins so."""
    return next(
        {(column.side, column.title): text for column, text in zip(table.columns, line, strict=True)}
        for table in results(report)
        for line in table.rows
        if line[0].startswith(label)
    )


def read_csv(report: Report) -> dict[str, dict[str, str]]:
    """Line by its cells."""
    return {line["cells"]: line for line in csv.DictReader(io.StringIO(comma_separated(report)))}


def test_without_any_of_it_nothing_is_shown(study_folder: Path) -> None:
    report = build_report(study_folder)
    layout = lay_out(report)
    assert [[column.title for column in table.columns] for table in layout.tables] == [OLD_COLUMNS] * 3
    assert not re.search("official|server|types", " ".join(layout.remarks))
    assert types_comma_separated(report) is None
    assert all(
        line["official_accuracy"] == line["server_test_dev"] == line["server_test_std"] == ""
        for line in read_csv(report).values()
    )


def test_the_servers_numbers_are_means_over_the_cells_that_have_them(answered: Path) -> None:
    report = build_report(answered)
    measured = row(report, "softmax-s0").measured
    assert measured
    assert measured.server == {"test-dev": pytest.approx(72.4), "test-std": 72.5}
    assert columns(report, "ours")[:5] == ["test-dev", "test-std", "official", "test", "seeds"]
    softmax, span = cells_of(report, "softmax, 9-5-5"), cells_of(report, "adaptive attention span")
    assert (softmax["ours", "test-dev"], softmax["ours", "test-std"]) == ("72.40", "72.50")
    assert (softmax["paper", "test-dev"], softmax["paper", "test-std"]) == ("72.42", "72.54")
    assert (span["ours", "test-dev"], span["ours", "test-std"]) == ("-", "-")
    assert cells_of(report, "near|window")["ours", "test-dev"] == "50.12"
    lines = read_csv(report)
    assert float(lines["softmax-s0 softmax-s1"]["server_test_dev"]) == fmean([72.3, 72.5])
    assert float(lines["softmax-s0 softmax-s1"]["server_test_std"]) == 72.5
    assert float(lines["window-s0"]["server_test_dev"]) == 50.125
    assert (lines["window-s0"]["server_test_std"], lines["span-s0"]["server_test_dev"]) == ("", "")


def test_a_note_says_whose_the_servers_numbers_are(answered: Path) -> None:
    report = build_report(answered)
    assert row(report, "softmax-s0").notes[-1] == (
        "The test server's own, not computed here: test-dev 72.30 for softmax-s0 (added 2026-11-25, submission "
        "0123456789ab), 72.50 for softmax-s1 (added 2026-11-25, submission not known); test-std 72.50 for "
        "softmax-s0 (added 2026-11-25, submission 0123456789ab). Minus the published, points: test-dev -0.02, "
        "test-std -0.04."
    )
    assert "published" not in row(report, "window-s0").notes[-1]
    assert not any("server" in note for note in row(report, "span-s0").notes)


def test_a_cell_that_is_run_again_has_no_answer_of_the_server(answered: Path) -> None:
    (answered / "window-s0" / "result.json").unlink()
    again = row(build_report(answered), "window-s0")
    assert (again.state, again.measured) == ("started", None)
    assert cells_of(build_report(answered), "near|window")["ours", "test-dev"] == "-"


def test_the_official_accuracy_is_the_mean_over_seeds(vqa2: Path) -> None:
    report = build_report(vqa2)
    official = [round(test / 2, 1) for test in (92.123456, 93.654321)]
    softmax = row(report, "softmax-s0").measured
    assert softmax
    assert softmax.official == pytest.approx(fmean(official))
    assert columns(report, "ours")[:3] == ["official", "test", "seeds"]
    assert cells_of(report, "softmax, 9-5-5")["ours", "official"] == f"{fmean(official):.2f}"
    assert cells_of(report, "default")["ours", "official"] == "-"
    assert cells_of(report, "default")["ours", "test"] == "missing"
    assert float(read_csv(report)["softmax-s0 softmax-s1"]["official_accuracy"]) == fmean(official)
    (remark,) = [text for text in lay_out(report).remarks if "official" in text]
    assert "test: LXMERT's soft score" in remark
    assert "all ten humans' answers" in remark


@pytest.mark.parametrize("official", [{}, None])
def test_a_seed_without_the_official_accuracy_is_said(vqa2: Path, official: dict | None) -> None:
    path = vqa2 / "softmax-s1" / "result.json"
    result = read_json(path)
    changed = result | {"official": official}
    write_json(path, {name: value for name, value in changed.items() if value is not None})
    softmax = row(build_report(vqa2), "softmax-s0")
    assert softmax.measured
    assert softmax.measured.official == round(92.123456 / 2, 1)
    assert "Official accuracy of 1 of 2 seeds." in softmax.notes


def test_the_heading_on_vqa2_names_the_split_and_the_weights(vqa2: Path) -> None:
    heading = build_report(vqa2).heading
    assert "VQA 2.0, split minival (25,994 test questions)" in heading
    assert "starting weights model_LXRT.pth, fine-tuned for 600 steps" in heading
    assert "Our accuracies on minival are not the server's on test-dev and test-std" in heading
    assert "levels" not in heading
    assert "random" not in heading
    assert "somewhere" not in heading


def test_a_start_names_the_weights_that_it_is_from(study_folder: Path) -> None:
    study = read_json(study_folder / "study.json")
    for entry in study["cells"]:
        start = entry["cell"]["start"]
        entry["cell"]["start"] = start and start | {"pretrained": "unc-nlp/lxmert-base-uncased"}
    write_json(study_folder / "study.json", study)
    heading = build_report(study_folder).heading
    assert "starting weights trained for 1,200 steps x batch 64 from lxmert-base-uncased," in heading
    assert "compare differences, never levels" in heading


def test_records_from_before_pretrained_weights_still_build(study_folder: Path) -> None:
    study = read_json(study_folder / "study.json")
    for entry in study["cells"]:
        for cell in (entry["cell"], entry["cell"]["start"] or {}):
            cell.pop("pretrained", None)
            cell.pop("deeper", None)
        if entry["id"] == "window-s0":
            entry["cell"]["start"] = None
    write_json(study_folder / "study.json", study)
    report = build_report(study_folder)
    assert "trained for 1,200 steps x batch 64 or random," in report.heading
    assert any("start none (there trained)" in note for note in row(report, "window-s0").notes)


def test_other_weights_than_those_of_the_softmax_row_are_said(vqa2: Path) -> None:
    study = read_json(vqa2 / "study.json")
    entry = next(entry for entry in study["cells"] if entry["id"] == "span-s0")
    entry["cell"]["pretrained"] = "/elsewhere/model_LXRT.pth"
    write_json(vqa2 / "study.json", study)
    report = build_report(vqa2)
    weights = "start /elsewhere/model_LXRT.pth (there /somewhere/of/mine/model_LXRT.pth)"
    assert any(weights in note for note in row(report, "span-s0").notes)
    assert not any("model_LXRT" in note for note in row(report, "window-s0").notes)


def test_accuracies_by_type_are_those_of_the_predictions(vqa2: Path) -> None:
    tables = {record.id: write_types(record) for record in finished(vqa2)}
    report = build_report(vqa2)
    assert report.by_type
    assert report.by_type.official
    assert list(report.by_type.types("answer_type").items()) == [("yes/no", 24), ("number", 12), ("other", 24)]
    assert list(report.by_type.types("question_type")) == sorted(QUESTION_TYPES)
    for one in report.rows:
        seeds = [tables[cell.id] for cell in one.cells if cell.result is not None]
        for kind in ("answer_type", "question_type"):
            for name in report.by_type.types(kind):
                shown = report.by_type.accuracy(one.key, kind, name)
                if not seeds:
                    assert shown is None
                    continue
                by_hand = [fmean(seed["official"].to_numpy()[(seed[kind] == name).to_numpy()]) for seed in seeds]
                assert shown == pytest.approx(100 * fmean(by_hand))


def types_table(report: Report) -> TextTable:
    (table,) = [table for table in lay_out(report).tables if table.title.startswith(TYPES)]
    return table


def test_the_table_by_type_has_a_line_per_row_and_a_column_per_type(vqa2: Path) -> None:
    for record in finished(vqa2):
        write_types(record)
    report = build_report(vqa2)
    table = types_table(report)
    assert table.title == f"{TYPES}: official accuracy"
    assert [(column.side, column.title) for column in table.columns] == [
        ("", "Method"),
        *[("answer", "yes/no (24)"), ("answer", "number (12)"), ("answer", "other (24)")],
        *[("question", f"{name} (12)") for name in sorted(QUESTION_TYPES)],
    ]
    assert [line[0].removesuffix(" (stale)") for line in table.rows] == [one.label for one in report.rows]
    by_label = {line[0]: line[1:] for line in table.rows}
    assert by_label["adaptive sparse (entmax), 9-5-5"] == ("failed", *["-"] * 7)
    assert report.by_type
    number = report.by_type.accuracy("span-9-5-5", "answer_type", "number")
    assert by_label["adaptive attention span, 9-5-5"][1] == f"{number:.2f}"
    assert "LayerDrop p = 1, 9-5-5 (stale)" in by_label


def test_one_cell_without_official_accuracies_makes_the_table_of_soft_scores(vqa2: Path) -> None:
    tables = {record.id: write_types(record, known=record.id != "span-s0") for record in finished(vqa2)}
    report = build_report(vqa2)
    assert types_table(report).title == f"{TYPES}: LXMERT's soft score"
    assert report.by_type
    window = tables["window-s0"]
    expected = 100 * window.loc[window["answer_type"] == "number", "score"].mean()
    assert report.by_type.accuracy("window-s0", "answer_type", "number") == pytest.approx(expected)
    lines = list(csv.DictReader(io.StringIO(types_comma_separated(report) or "")))
    assert {line["score"] for line in lines} == {"soft"}


def test_older_predictions_are_left_out(vqa2: Path) -> None:
    for record in finished(vqa2):
        table = write_types(record)
        if record.id in ("span-s0", "softmax-s1"):
            record.write_predictions(table.drop(columns=["question_type", "answer_type", "official"]))
    report = build_report(vqa2)
    assert report.by_type
    assert report.by_type.official
    assert "span-9-5-5" not in report.by_type.rows
    by_label = {line[0]: line[1:] for line in types_table(report).rows}
    assert set(by_label["adaptive attention span, 9-5-5"]) == {"-"}
    softmax = CellFolder(vqa2 / "softmax-s0").predictions()
    number = 100 * softmax.loc[softmax["answer_type"] == "number", "official"].mean()
    assert by_label["softmax, 9-5-5"][1] == f"{number:.2f}"


def test_older_engines_with_types_and_no_official_column_have_soft_scores(vqa2: Path) -> None:
    for record in finished(vqa2):
        record.write_predictions(write_types(record).drop(columns="official"))
    assert types_table(build_report(vqa2)).title.endswith("LXMERT's soft score")


def test_types_that_are_empty_everywhere_give_no_table(vqa2: Path) -> None:
    for record in finished(vqa2):
        write_types(record, [""], [""])
    report = build_report(vqa2)
    assert report.by_type is None
    assert not any(table.title.startswith(TYPES) for table in lay_out(report).tables)


def test_seeds_with_other_types_stop_the_report(vqa2: Path) -> None:
    write_types(CellFolder(vqa2 / "softmax-s0"))
    write_types(CellFolder(vqa2 / "softmax-s1"), answer_types=("yes/no", "colour"))
    with pytest.raises(RecordError, match=r"softmax-s1 and softmax-s0 differ in their seeds alone: expected"):
        by_type({"softmax": [CellFolder(vqa2 / "softmax-s0"), CellFolder(vqa2 / "softmax-s1")]})


def test_many_types_are_in_the_file_alone(vqa2: Path) -> None:
    many = [f"what {number}" for number in range(20)]
    for record in finished(vqa2):
        write_types(record, ["yes/no", ""], many)
    report = build_report(vqa2)
    assert [column.title for column in types_table(report).columns] == ["Method", "yes/no (30)", "untyped (30)"]
    lines = list(csv.DictReader(io.StringIO(types_comma_separated(report) or "")))
    assert len(lines) == 7 * (2 + 20) - 22  # Seven cells, two of them seeds of one row.
    assert {line["type"] for line in lines if line["kind"] == "question_type"} == set(many)
    assert all(line["questions"] == "3" for line in lines if line["kind"] == "question_type")


def test_the_file_of_types_has_every_number_unrounded(vqa2: Path) -> None:
    tables = {record.id: write_types(record, ("=a|*b", "yes/no")) for record in finished(vqa2)}
    lines = list(csv.DictReader(io.StringIO(types_comma_separated(build_report(vqa2)) or "")))
    span = [line for line in lines if line["key"] == "span-9-5-5"]
    assert [(line["kind"], line["type"]) for line in span] == [
        ("answer_type", "yes/no"),
        ("answer_type", "'=a|*b"),
        *[("question_type", name) for name in sorted(QUESTION_TYPES)],
    ]
    assert {line["label"] for line in span} == {"adaptive attention span, 9-5-5"}
    assert {line["score"] for line in span} == {"official"}
    table = tables["span-s0"]
    for line in span:
        chosen = table.loc[table[line["kind"]] == line["type"].removeprefix("'"), "official"]
        assert int(line["questions"]) == len(chosen)
        assert float(line["accuracy"]) == pytest.approx(100 * chosen.mean(), rel=1e-14)


def test_the_file_of_types_comes_and_goes_with_the_types(vqa2: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("reports.build.draw_all", lambda *_: [])
        for record in finished(vqa2):
            write_types(record)
        text = build(vqa2, tmp_path / "report")
        written = tmp_path / "report" / "types.csv"
        assert written.read_text(encoding="utf-8") == types_comma_separated(build_report(vqa2))
        assert "types.csv" in text
        for record in finished(vqa2):
            (record.path / "predictions.parquet").unlink()
        assert "types.csv" not in build(vqa2, tmp_path / "report")
        assert not written.exists()


@pytest.mark.parametrize("content", [b"", b"PAR1 and no more"])
def test_predictions_that_cannot_be_read_are_named(vqa2: Path, content: bytes) -> None:
    (vqa2 / "span-s0" / "predictions.parquet").write_bytes(content)
    with pytest.raises(RecordError, match=r"span-s0/predictions\.parquet is damaged: .* Restore it"):
        build_report(vqa2)


@pytest.fixture
def full(answered: Path) -> Report:
    """With everything."""
    for record in finished(answered):
        write_types(record)
    return build_report(answered)


@pytest.mark.parametrize("width", [80, 100, 200])
def test_the_terminal_shows_all_of_it(full: Report, width: int) -> None:
    text = terminal(full, width)
    for table in lay_out(full).tables:
        for line in table.rows:
            assert all(word in text for cell in line[1:] for word in cell.split())
    assert max(map(len, text.splitlines())) <= width
    words = " ".join(text.split())
    assert "test-dev 72.30 for softmax-s0 (added 2026-11-25, submission 0123456789ab)" in words
    assert "what the VQA test server answered, mean over the seeds that have it; not computed here" in words
    assert text.count(f"{TYPES}: official accuracy") >= 1


def test_a_wide_terminal_has_each_table_once(full: Report) -> None:
    text = terminal(full, 250)
    for table in lay_out(full).tables:
        assert text.count(table.title) == 1


def test_a_narrow_terminal_keeps_the_servers_numbers_beside_the_papers(full: Report) -> None:
    lines = [line for line in terminal(full, 80).splitlines() if line.startswith(" softmax, 9-5-5")]
    first = lines[0].split()
    assert [first.count(number) for number in ("72.42", "72.54", "72.40", "72.50")] == [1] * 4


def test_markdown_has_the_columns(full: Report) -> None:
    text = markdown(full)
    assert (
        "| Method | paper: test-dev | paper: test-std | paper: diff. | ours: test-dev | ours: test-std | "
        "ours: official | ours: test | ours: seeds | ours: diff. | ours: p (Holm) | ours: verdict |"
    ) in text
    measured = row(full, "softmax-s0").measured
    assert measured
    numbers = rf"72\.42 \| 72\.54 \| \+0\.00 \| 72\.40 \| 72\.50 \| {measured.official:.2f} \|"
    assert re.search(rf"\| softmax, 9-5-5 .* \| {numbers}", text)
    assert f"### {TYPES}: official accuracy\n\n| Method | answer: yes/no (24) | answer: number (12) |" in text
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert len(tables) == 4
    for table in tables:
        assert len({len(re.split(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


def test_latex_has_the_columns(full: Report) -> None:
    text = latex(full)
    assert "\\multicolumn{3}{c}{paper} & \\multicolumn{5}{c}{ours}" in text
    parts = re.findall(r"\\multicolumn\{(\d)\}\{c\}\{(answer|question)\}", text)
    assert [sum(int(count) for count, side in parts if side == kind) for kind in ("answer", "question")] == [3, 5]
    measured = row(full, "softmax-s0").measured
    assert measured
    numbers = rf"72\.42 & 72\.54 & \$\+0\.00\$ & 72\.40 & 72\.50 & {measured.official:.2f} &"
    assert re.search(rf"softmax, 9-5-5 .* & {numbers}", text)
    assert f"\\caption{{{escape_latex(TYPES)}: official accuracy." in text
    for body in re.findall(r"\\midrule\n(.*?)\\bottomrule", text, re.DOTALL):
        assert len({len(re.findall(r"(?<!\\)&", line)) for line in body.strip().splitlines()}) == 1


def test_latex_of_all_of_it_compiles_within_the_page(full: Report, tmp_path: Path) -> None:
    assert "Overfull" not in compile_log(latex(full), tmp_path)


def test_the_name_of_a_type_is_text(vqa2: Path) -> None:
    for record in finished(vqa2):
        write_types(record, ("\x1b[31ma|b*", "yes/no"))
    report = build_report(vqa2)
    assert r"a\|b\* (30)" in markdown(report)
    assert r"a\textbar{}b{*} (30)" in latex(report)
    for text in (terminal(report), types_comma_separated(report) or ""):
        assert "a|b*" in text
        assert "\x1b" not in text
