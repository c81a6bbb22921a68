"""The commands of VQA 2.0, from the files to the server's answer in the tables; and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from suite.cli import main
from suite.data.generate import write_pretrained, write_vqa2
from suite.data.official import score_file
from suite.data.regions import open_source

SMALL = ("width=8", "heads=2", "intermediate=8", "steps=2", "evaluations=1", "batch_size=4")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vqa2")
    write_vqa2(folder / "lxmert", seed=5, images=4)
    vocabulary = len((folder / "lxmert/vocab.txt").read_text().splitlines())
    write_pretrained(folder / "lxmert", seed=5, vocabulary=vocabulary, width=8, heads=2, intermediate=8)
    return folder


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(place)
    return place


def settings(*more: str) -> list[str]:
    given = (*SMALL, "pretrained=lxmert/model_LXRT.pth", *more)
    return [part for setting in given for part in ("--set", setting)]


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(words) == 2
    return capsys.readouterr().err


def test_from_the_files_to_the_servers_answer(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "prepare", "vqa2", "--from", "lxmert"]) == 0
    prepared = capsys.readouterr()
    assert json.loads(prepared.out)["splits"]["minival"]["images"] == 4
    assert "split nominival: lxmert/vqa/nominival.json" in prepared.err
    assert "prepared 16 of 16 pictures" in prepared.err
    assert main(["data", "verify", "vqa2"]) == 0

    run = ["run", "paper", "--no-ray", "--no-report", "--variants", "softmax,span", "--seeds", "2", *settings()]
    assert main(run) == 0
    capsys.readouterr()
    assert main(["status", "paper", "--json"]) == 0
    cells = [row for row in json.loads(capsys.readouterr().out) if row["state"] == "finished"]
    assert [row["variant"] for row in cells] == ["softmax", "softmax", "span", "span"]
    cell = cells[2]["id"]
    (segment,) = map(json.loads, (here / "runs/paper" / cell / "segments.jsonl").read_text().splitlines())
    assert segment["start"]["kind"] == "pre-training by LXMERT"
    assert all(".weights." in name for name in segment["start"]["new"])

    words = ["predict", "paper", cell, "--out", "answers.json", "--questions", "lxmert/vqa/test.json"]
    assert main(words) == 0
    assert len(json.loads(Path("answers.json").read_text())) == len(
        json.loads(Path("lxmert/vqa/test.json").read_text())
    )
    assert main(["score", "add", cell, "--split", "test-dev", "71.9"]) == 0
    capsys.readouterr()
    assert main(["report", "paper"]) == 0
    tables = capsys.readouterr().out
    assert "71.90" in tables
    table = pd.read_csv("runs/paper/report/tables.csv")
    assert table.loc[table["variant"] == "span", "server_test_dev"].tolist() == [71.9]

    assert main(["data", "prepare", "vqa2", "--from", "lxmert"]) == 0
    assert "is there already and stays as it is" in capsys.readouterr().err
    assert main(run) == 0
    assert "nothing to run" in capsys.readouterr().err


def test_the_official_accuracy_of_a_result_file_is_that_of_the_record(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the questions of minival, out of the official annotations of all of val."""
    main(["data", "prepare", "vqa2", "--from", "lxmert"])
    main(["run", "paper", "--no-ray", "--no-report", "--variants", "softmax", *settings()])
    (result,) = Path("runs/paper").glob("softmax-s0-*/result.json")
    cell = result.parent.name
    capsys.readouterr()
    assert main(["predict", "paper", cell, "--split", "minival", "--out", "minival.json"]) == 0
    asked = {record["question_id"] for record in json.loads(Path("minival.json").read_text())}
    official = json.loads(Path("lxmert/vqa/v2_mscoco_val2014_annotations.json").read_text())
    official["annotations"] = [one for one in official["annotations"] if one["question_id"] in asked]
    Path("annotations.json").write_text(json.dumps(official))
    scores, _ = score_file(Path("minival.json"), Path("annotations.json"))
    assert json.loads(result.read_text())["official"] == {"minival": scores.overall}


def test_what_cannot_be_prepared_is_told(here: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    data = ("--data", str(tmp_path / "data"))
    assert "--from FOLDER" in refused(capsys, "data", "prepare", "vqa2", *data)
    assert "--from FOLDER" in refused(capsys, "plan", "paper", *data)
    assert "There is no folder nowhere" in refused(capsys, "data", "prepare", "vqa2", "--from", "nowhere", *data)
    said = refused(capsys, "data", "prepare", "easy_vqa", "--from", "lxmert", *data)
    assert "prepared from a package" in said
    said = refused(capsys, "data", "prepare", "vqa2", "--answers", "lxmert/vqa/trainval_label2ans.json", *data)
    assert "Expected --from FOLDER (and --splits of it), or --split NAME=FILE and --features FILE" in said
    assert "Expected --from FOLDER" in refused(capsys, "data", "prepare", "vqa2", "--splits", "train", *data)
    named = ("--split", "minival=nowhere.json", "--from", "lxmert")
    assert "nowhere.json cannot be read" in refused(capsys, "data", "prepare", "vqa2", *named, *data)
    assert "`ablate data verify` takes no files" in refused(capsys, "data", "verify", "vqa2", "--skip-bad", *data)
    assert not (tmp_path / "data/vqa2").exists()


def test_files_may_be_named_one_by_one(here: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["data", "prepare", "vqa2", "--data", str(tmp_path), "--split", "minival=lxmert/vqa/minival.json"]
    words += ["--features", "lxmert/mscoco_imgfeat/val2014_obj36.tsv", "--tokenizer", "lxmert/vocab.txt"]
    words += ["--answers", "lxmert/vqa/trainval_label2ans.json", "--dtype", "float32"]
    assert main(words) == 0
    information = json.loads(capsys.readouterr().out)
    assert list(information["splits"]) == ["minival"]


def test_what_boxes_are_measured_in_is_said(here: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The same data set comes of boxes as shares; reduced images are refused, unless the user knows better."""
    folder = tmp_path / "npz"
    folder.mkdir()

    def prepared(name: str, scale: str, *more: str) -> tuple[int, str, str]:
        source = open_source(Path("lxmert/mscoco_imgfeat/val2014_obj36.tsv"))
        for record in source.records():
            image = source.raw(record)
            sides = np.array([image.width, image.height] * 2, dtype=np.float32)
            boxes = {"pixels": image.boxes, "shares": image.boxes / sides, "half": image.boxes / 2}[scale]
            content = {"x": image.features, "bbox": boxes, "image_w": image.width, "image_h": image.height}
            np.savez(folder / f"{source.image_id(record)}.jpg.npz", allow_pickle=False, **content)
        words = ["data", "prepare", "vqa2", "--data", str(tmp_path / name), "--features", str(folder)]
        words += ["--split", "minival=lxmert/vqa/minival.json", "--tokenizer", "lxmert/vocab.txt", *more]
        code = main([*words, "--answers", "lxmert/vqa/trainval_label2ans.json"])
        out, err = capsys.readouterr()
        return code, json.loads(out)["digest"] if out else "", err

    code, digest, said = prepared("a", "pixels")
    assert (code, "taken as shares" in said) == (0, False)
    code, same, said = prepared("b", "shares")
    assert (code, same) == (0, digest)
    assert f"{folder}: boxes are taken as shares of the image" in said
    code, _, said = prepared("c", "half")
    assert code == 2
    assert "Are they those of reduced images?" in said
    code, other, _ = prepared("d", "half", "--boxes", "pixels")
    assert code == 0
    assert other != digest


def test_a_split_of_the_server_cannot_be_tested_on(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["data", "prepare", "vqa2", "--from", "lxmert"])
    capsys.readouterr()
    assert "the split 'test' has no answers" in refused(capsys, "plan", "paper", *settings("test=test"))
    assert "There is no file or folder lost.pth" in refused(
        capsys, "plan", "paper", *settings("pretrained=lost.pth")
    )


def test_scores_of_the_server_need_a_finished_cell(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, "score", "add", "span-s0-none", "--split", "test-dev", "70", "--runs", "none")
    assert "There is no cell 'span-s0-none'" in said
    with pytest.raises(SystemExit):
        main(["score", "add", "span-s0-none", "--split", "minival", "70"])
    assert "invalid choice: 'minival'" in capsys.readouterr().err
