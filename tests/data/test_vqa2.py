"""VQA 2.0 out of the files that people have: found, joined, and each part where it belongs."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from suite.data import vqa2
from suite.data.convert import convert
from suite.data.generate import ANSWERS, write_vqa2
from suite.data.regions import open_source
from suite.data.store import DataError, DataSet, open_dataset
from suite.data.verify import verify_dataset

SHAPE = (4, 8)
OFFICIAL = "v2_mscoco_val2014_annotations.json"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lxmert")
    write_vqa2(folder, seed=3, boxes=SHAPE[0], features=SHAPE[1])
    return folder


@pytest.fixture
def copy(source: Path, tmp_path: Path) -> Path:
    return shutil.copytree(source, tmp_path / "downloads")


@pytest.fixture(scope="module")
def dataset(source: Path, tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    folder = tmp_path_factory.mktemp("data") / "vqa2"
    assert vqa2.prepare(folder, files=found(source)) == []
    return open_dataset(folder)


def found(folder: Path, **named: object) -> vqa2.Files:
    return vqa2.find_files(folder, **{"shape": SHAPE} | named)


def listed(folder: Path, split: str) -> list[dict]:
    return json.loads((folder / "vqa" / f"{split}.json").read_text())


def annotations(folder: Path) -> dict[int, dict]:
    return {
        record["question_id"]: record
        for name in ("v2_mscoco_train2014_annotations.json", OFFICIAL)
        for record in json.loads((folder / "vqa" / name).read_text())["annotations"]
    }


def test_every_question_has_its_files_texts_answers_and_image(source: Path, dataset: DataSet) -> None:
    questions, images = dataset.questions(), dataset.images("image_id")["image_id"]
    official = annotations(source)
    expected = [(split, record) for split in vqa2.LXMERT for record in listed(source, split)]
    assert len(questions) == len(expected)
    for (split, record), row in zip(expected, questions.itertuples(), strict=True):
        assert (row.question_id, row.split, row.text) == (record["question_id"], split, record["sent"])
        assert images[row.image] == record["img_id"]
        scored = {ANSWERS[label]: round(float(s), 4) for label, s in zip(row.labels, row.scores, strict=True)}
        assert scored == record.get("label", {})
        humans = official.get(record["question_id"], {"answers": []})["answers"]
        assert list(row.humans) == [answer["answer"] for answer in humans]
        assert row.answer_type == record.get("answer_type", "")


def test_regions_are_those_of_the_files(source: Path, dataset: DataSet) -> None:
    images = dataset.images("image_id")["image_id"].tolist()
    seen = 0
    for name in vqa2.FEATURES:
        features = open_source(source / "mscoco_imgfeat" / f"{name}.tsv", SHAPE)
        for record in features.records():
            row, decoded = images.index(features.image_id(record)), features.decode(record)
            assert np.array_equal(dataset.regions[row], decoded.features.astype(np.float16))
            assert np.array_equal(dataset.boxes[row], decoded.boxes)
            seen += 1
    assert seen == len(images)


def test_what_was_prepared_verifies(dataset: DataSet) -> None:
    assert verify_dataset(dataset.folder) == []


def test_splits_without_answers_cannot_be_tested_on(dataset: DataSet) -> None:
    dataset.check_answers("train", "nominival", "minival")
    with pytest.raises(DataError, match=r"the split 'test' has no answers .* `ablate predict`"):
        dataset.check_answers("train", "test")


def test_the_same_files_in_another_place_and_packed_are_the_same_data_set(
    copy: Path, dataset: DataSet, tmp_path: Path
) -> None:
    for path in (copy / "vqa").iterdir():
        path.rename(copy / path.name)
    for name in vqa2.FEATURES:
        path = copy / "mscoco_imgfeat" / f"{name}.tsv"
        with zipfile.ZipFile(path.with_suffix(".zip"), "w", zipfile.ZIP_DEFLATED) as packed:
            packed.write(path, f"{name}.tsv")
        path.unlink()
    vqa2.prepare(tmp_path / "vqa2", files=found(copy))
    assert open_dataset(tmp_path / "vqa2").digest == dataset.digest


@pytest.mark.parametrize("change", ["text", "score", "human", "feature", "answers", "dtype"])
def test_other_content_is_another_data_set(copy: Path, dataset: DataSet, tmp_path: Path, change: str) -> None:
    named: dict[str, object] = {"dtype": "float32"} if change == "dtype" else {}
    if change in ("text", "score"):
        records = listed(copy, "minival")
        if change == "text":
            records[0]["sent"] += "?"
        else:
            records[0]["label"] = {"yes": 0.3}
        (copy / "vqa/minival.json").write_text(json.dumps(records))
    elif change == "human":
        path = copy / "vqa" / OFFICIAL
        path.write_text(path.read_text().replace('"answer": "tennis"', '"answer": "golf"'))
    elif change == "feature":
        write_vqa2(copy / "other", seed=4, boxes=SHAPE[0], features=SHAPE[1])
        named["features"] = sorted((copy / "other/mscoco_imgfeat").iterdir())
    elif change == "answers":
        (copy / "vqa/trainval_label2ans.json").write_text(json.dumps(ANSWERS[::-1]))
    vqa2.prepare(tmp_path / "vqa2", files=found(copy, **named))
    assert open_dataset(tmp_path / "vqa2").digest != dataset.digest


def test_the_official_files_alone_are_enough(copy: Path, tmp_path: Path) -> None:
    """Their answers are few here: the vocabulary of those that nine questions have is small, and not empty."""
    for split in vqa2.LXMERT:
        (copy / "vqa" / f"{split}.json").unlink()
    (copy / "vqa/trainval_label2ans.json").unlink()
    files = found(copy)
    assert list(files.splits) == ["train", "val"]
    # By whatever name: a file is known by what is in it.
    other = shutil.copy(copy / "vqa" / OFFICIAL, tmp_path / "val.json")
    named = {"train": files.splits["train"], "val": [files.splits["val"][0], Path(other)]}
    vqa2.prepare(tmp_path / "vqa2", files=dataclasses.replace(files, splits=named))
    prepared = open_dataset(tmp_path / "vqa2")
    assert list(prepared.answers) == sorted(prepared.answers)
    assert 1 < len(prepared.answers) < len(ANSWERS)
    assert len(prepared.questions("question_id")) == len(annotations(copy))


def test_lxmerts_files_alone_need_a_vocabulary(copy: Path, tmp_path: Path) -> None:
    for path in (*(copy / "vqa").glob("*annotations.json"), copy / "vqa/trainval_label2ans.json"):
        path.unlink()
    with pytest.raises(DataError, match=r"Expected the vocabulary of answers .* Name it with --answers FILE"):
        vqa2.prepare(tmp_path / "vqa2", files=found(copy))


def test_some_of_the_splits_need_some_of_the_images(copy: Path, tmp_path: Path) -> None:
    (copy / "mscoco_imgfeat/test2015_obj36.tsv").unlink()
    with pytest.raises(DataError, match=r"8 are missing, such as COCO_test2015_000000003001"):
        vqa2.prepare(tmp_path / "vqa2", files=found(copy))
    shutil.rmtree(tmp_path / "vqa2.pictures")
    vqa2.prepare(tmp_path / "vqa2", files=vqa2.find_files(copy, ["train", "minival"], shape=SHAPE))
    assert open_dataset(tmp_path / "vqa2").split_names == ("train", "minival")


def test_what_is_wrong_is_left_out_counted_and_listed(copy: Path, tmp_path: Path) -> None:
    records = listed(copy, "minival")
    images = [record["img_id"] for record in records]
    del records[0]["sent"]
    lost = images[-1]
    (copy / "vqa/minival.json").write_text(json.dumps(records, indent=1))
    path = copy / "mscoco_imgfeat/val2014_obj36.tsv"
    path.write_bytes(b"".join(line for line in path.read_bytes().splitlines(True) if lost.encode() not in line))
    with pytest.raises(DataError, match=r"minival\.json, line 2, record 1: expected the key 'sent'"):
        vqa2.prepare(tmp_path / "vqa2", files=found(copy))

    left_out = vqa2.prepare(tmp_path / "vqa2", files=found(copy, skip_bad=True))
    prepared = open_dataset(tmp_path / "vqa2")
    gone = 1 + images.count(lost)
    assert prepared.information["splits"]["minival"]["left_out"] == gone
    assert "left_out" not in prepared.information["splits"]["train"]
    assert len(prepared.rows("minival")) == len(records) - gone
    assert len(left_out) == gone + 1  # Each question, and the image.
    assert (tmp_path / "vqa2/left_out.txt").read_text().splitlines() == left_out
    assert any(f"its image {lost} was left out" in sentence for sentence in left_out)


def test_a_picture_has_one_name_whatever_questions_call_it(copy: Path, dataset: DataSet, tmp_path: Path) -> None:
    """VQA-CP's files in LXMERT's form may say train2014 of all, beside the questions of val2014 themselves."""
    records = listed(copy, "nominival")
    for record in records[::2]:
        record["img_id"] = record["img_id"].replace("val2014", "train2014") + ".jpg"
    (copy / "vqa/nominival.json").write_text(json.dumps(records))
    files = vqa2.find_files(copy, ["nominival", "minival"], shape=SHAPE)
    assert vqa2.prepare(tmp_path / "vqa2", files=files) == []
    prepared = open_dataset(tmp_path / "vqa2")
    rows, before = prepared.rows("nominival"), dataset.rows("nominival")
    np.testing.assert_array_equal(prepared.boxes[prepared.image[rows]], dataset.boxes[dataset.image[before]])


def test_annotations_and_vocabularies_that_fit_little_are_told(copy: Path, tmp_path: Path) -> None:
    told: list[str] = []
    path = copy / "vqa" / OFFICIAL
    content = json.loads(path.read_text())
    kept = content["annotations"][:3]
    path.write_text(json.dumps(content | {"annotations": kept}))
    files = vqa2.find_files(copy, ["minival", "nominival"], shape=SHAPE, annotations=[path])
    asked = len(listed(copy, "minival")) + len(listed(copy, "nominival"))
    vqa2.prepare(tmp_path / "a", files=files, tell=told.append)
    assert [sentence.partition(" questions")[0] for sentence in told] == [f"{asked - 3} of {asked}"]

    official = {"train": [copy / "vqa" / name for name in vqa2.OFFICIAL["train"]]}
    named = {"splits": official, "shape": SHAPE, "annotations": ()}
    rare, other = tmp_path / "rare.json", tmp_path / "other.json"
    rare.write_text(json.dumps(["blue", "the sky"]))
    other.write_text(json.dumps(["the sky", "a kite"]))
    told.clear()
    vqa2.prepare(tmp_path / "b", files=vqa2.find_files(copy, **named, answers=rare), tell=told.append)
    assert "questions with answers have none of the vocabulary of 2" in told[0]
    with pytest.raises(DataError, match=r"vocabulary of 2: it has 'the sky', 'a kite', theirs are '"):
        vqa2.prepare(tmp_path / "c", files=vqa2.find_files(copy, **named, answers=other))


def test_equal_annotations_are_one(copy: Path, dataset: DataSet, tmp_path: Path) -> None:
    files = found(copy)
    again = shutil.copy(files.annotations[0], tmp_path / "again.json")
    given = [*files.annotations, Path(again)]
    vqa2.prepare(tmp_path / "vqa2", files=dataclasses.replace(files, annotations=given))
    prepared = open_dataset(tmp_path / "vqa2")
    humans, before = (list(map(list, one.questions("humans")["humans"])) for one in (prepared, dataset))
    assert humans == before
    content = json.loads(Path(again).read_text())
    content["annotations"][0]["answers"][0]["answer"] = "another"
    Path(again).write_text(json.dumps(content))
    with pytest.raises(DataError, match="twice, differing"):
        vqa2.prepare(tmp_path / "other", files=dataclasses.replace(files, annotations=given))


def test_files_may_have_names_that_are_no_utf8(copy: Path, dataset: DataSet, tmp_path: Path) -> None:
    """What was left out names them; a destination of such a name is refused before anything is read."""
    odd = tmp_path / os.fsdecode(b"caf\xe9")
    copy.rename(odd)
    records = listed(odd, "minival")
    del records[0]["sent"]
    (odd / "vqa/minival.json").write_text(json.dumps(records))
    (sentence,) = vqa2.prepare(tmp_path / "vqa2", files=found(odd, skip_bad=True))
    assert r"caf\udce9/vqa/minival.json, line 1, record 1" in sentence
    assert (tmp_path / "vqa2/left_out.txt").read_text() == f"{sentence}\n"
    with pytest.raises(DataError, match="expected a folder whose name is UTF-8"):
        vqa2.prepare(odd / "vqa2", files=vqa2.Files(splits={"a": [Path("nowhere")]}, features=[]))


def test_a_conversion_that_was_there_already_is_taken(source: Path, dataset: DataSet, tmp_path: Path) -> None:
    """As a kill after it leaves it."""
    files = found(source)
    wanted = sorted(set(dataset.images("image_id")["image_id"]))
    sources = [open_source(path, SHAPE) for path in files.features]
    convert(sources, tmp_path / "vqa2.pictures", wanted=wanted)
    before = (tmp_path / "vqa2.pictures/regions.npy").stat().st_ino
    vqa2.prepare(tmp_path / "vqa2", files=files)
    assert (tmp_path / "vqa2/regions.npy").stat().st_ino == before
    assert not (tmp_path / "vqa2.pictures").exists()
    assert open_dataset(tmp_path / "vqa2").digest == dataset.digest


def test_files_that_are_missing_twice_or_unrelated_are_told(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no folder"):
        vqa2.find_files(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"has no questions: expected train\.json"):
        vqa2.find_files(tmp_path)
    with pytest.raises(DataError, match=r"no questions of the split 'minval'; found: train, nominival"):
        vqa2.find_files(copy, ["minval"])
    shutil.copy(copy / "vqa/train.json", copy / "train.json")
    with pytest.raises(DataError, match=r"has train\.json twice"):
        vqa2.find_files(copy)
    (copy / "train.json").unlink()
    files = found(copy)
    other = json.loads((copy / "vqa" / OFFICIAL).read_text())
    for record in other["annotations"]:
        record["question_id"] += 10**8
    (copy / "vqa" / OFFICIAL).write_text(json.dumps(other))
    files = dataclasses.replace(files, annotations=[copy / "vqa" / OFFICIAL])
    with pytest.raises(DataError, match=r"None of the \d+ questions is in the annotations"):
        vqa2.prepare(tmp_path / "vqa2", files=files)
    shutil.rmtree(copy / "mscoco_imgfeat")
    with pytest.raises(DataError, match="has no region features: expected train2014_obj36"):
        vqa2.find_files(copy)


def test_without_files_it_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"ablate data prepare vqa2 --from FOLDER"):
        vqa2.prepare(tmp_path / "vqa2")
