"""Readers of questions and answers: the real samples exactly; what is wrong is told with file, line and record."""

from __future__ import annotations

import copy
import gzip
import json
import os
import resource
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from transformers import BertTokenizer

from suite.data.questions import Reading, read_annotations, read_questions
from suite.data.store import DataError
from suite.data.wordpieces import bert_tokenizer, encode
from suite.errors import UserError

SAMPLES = Path(__file__).parents[3] / "shared" / "data"
OFFICIAL = [SAMPLES / "vqa2" / "questions.json", SAMPLES / "vqa2" / "annotations.json"]
MINIVAL = SAMPLES / "lxmert" / "minival_303images_rebuilt.json"
VOCAB = SAMPLES / "bert-base-uncased" / "vocab.txt"
needs_samples = pytest.mark.skipif(not MINIVAL.is_file(), reason="the real samples are not here")

HUMANS = ["net"] * 6 + ["netting", "mesh", "mesh", "pitcher"]


def lxmert(count: int = 4) -> list[dict[str, Any]]:
    return [
        {
            "question_id": 1000 + number,
            "img_id": f"COCO_val2014_{number // 2:012}",
            "sent": f"What is it, {number}?",
            "label": {"net": 1, "mesh": 0.6} if number else {},
        }
        for number in range(count)
    ]


def questions(count: int = 4, subtype: str = "val2014") -> dict[str, Any]:
    records = [
        {"question_id": 1000 + number, "image_id": number // 2, "question": f"What is it, {number}?"}
        for number in range(count)
    ]
    return {"data_type": "mscoco", "data_subtype": subtype, "questions": records}


def annotations(count: int = 4, subtype: str = "val2014") -> dict[str, Any]:
    records = [
        {
            "question_id": 1000 + number,
            "image_id": number // 2,
            "answers": [
                {"answer": answer, "answer_confidence": "yes", "answer_id": place}
                for place, answer in enumerate(HUMANS, 1)
            ],
            "answer_type": "other",
            "question_type": "what is",
            "multiple_choice_answer": "net",
        }
        for number in range(count)
    ]
    return {"data_type": "mscoco", "data_subtype": subtype, "annotations": records}


def write(path: Path, content: Any, indent: int | None = None) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content, indent=indent))
    return path


@needs_samples
def test_the_three_official_questions_with_their_ten_answers() -> None:
    frame = read_questions({"train": OFFICIAL}).frame
    assert frame["question_id"].tolist() == [458752000, 458752001, 458752002]
    assert frame["question_id"].dtype == np.int64
    assert set(frame["image_id"]) == {"COCO_train2014_000000458752"}
    assert set(frame["split"]) == {"train"}
    assert frame["text"].tolist() == [
        "What is this photo taken looking through?",
        "What position is this man playing?",
        "What color is the players shirt?",
    ]
    assert frame["humans"].tolist() == [
        ["net", "net", "net", "netting", "net", "net", "mesh", "net", "pitcher", "orange"],
        ["pitcher", "catcher", *["pitcher"] * 8],
        ["orange"] * 10,
    ]
    for humans, soft in zip(frame["humans"], frame["soft"], strict=True):
        # The mean over the ten of min(1, matches among the other nine / 3), by hand.
        assert soft.keys() == set(humans)
        for answer, score in soft.items():
            others = [humans[:place] + humans[place + 1 :] for place in range(10)]
            assert score == pytest.approx(sum(min(1, nine.count(answer) / 3) for nine in others) / 10, abs=1e-12)


@needs_samples
def test_the_minival_questions_with_their_scores() -> None:
    frame = read_questions({"minival": [MINIVAL]}).frame
    expected = json.loads(MINIVAL.read_text())
    assert len(frame) == len(expected) == 1546
    assert frame["image_id"].nunique() == 303
    for name, key in (("question_id", "question_id"), ("image_id", "img_id"), ("text", "sent"), ("soft", "label")):
        assert frame[name].tolist() == [record[key] for record in expected]
    assert set(map(len, frame["humans"])) == {0}
    scores = Counter(score for soft in frame["soft"] for score in soft.values())
    assert scores == {1: 1392, 0.3: 1255, 0.6: 384, 0.9: 209}


@needs_samples
@pytest.mark.filterwarnings("default")
def test_tokens_are_those_of_transformers() -> None:
    files = {"train": OFFICIAL, "minival": [MINIVAL]}
    hard = ["", "Café à la crème?", "日本 what", "x" * 101, "[SEP] a [MASK]", "What's  the\ttime, 5:30pm?"]
    texts = [*read_questions(files).frame["text"], *hard, "why " * 40]
    reference = BertTokenizer(vocab=str(VOCAB), do_lower_case=True)
    assert len(reference) == 30522
    expected = reference(texts, padding="max_length", truncation=True, max_length=20)["input_ids"]
    np.testing.assert_array_equal(encode(bert_tokenizer(VOCAB), texts, max_words=20), expected)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n", r"without \[MASK\]"),
        ("[UNK]\n[PAD]\n[CLS]\n[SEP]\n[MASK]\n", r"expected a word piece a line, each once, \[PAD\] first"),
        ("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\na\n", "7 lines, 6 different"),
        ("", "0 lines"),
        (b"\xff", "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_is_no_vocabulary(content: str | bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        bert_tokenizer(path)


def test_both_forms_of_one_question_are_one_row(tmp_path: Path) -> None:
    """What LXMERT's file says, the official files say too, but for the humans' own answers."""
    ours = [record | {"label": {"net": 1, "netting": 0.3, "mesh": 0.6, "pitcher": 0.3}} for record in lxmert()]
    typed = [record | {"answer_type": "other", "question_type": "what is"} for record in ours]
    first = read_questions({"val": [write(tmp_path / "lxmert.json", typed)]}).frame
    # In any order, after a byte order mark.
    paths = [tmp_path / "annotations.json", tmp_path / "questions.json"]
    paths[0].write_bytes(b"\xef\xbb\xbf" + json.dumps(annotations()).encode())
    write(paths[1], questions())
    second = read_questions({"val": paths}).frame
    for column in ("question_id", "image_id", "split", "text", "answer_type", "question_type", "soft", "record"):
        assert first[column].tolist() == second[column].tolist(), column
    assert second["humans"].tolist() == [HUMANS] * 4
    assert first["humans"].tolist() == [[]] * 4


@pytest.mark.parametrize("subtype", ["test2015", "test-dev2015"])
def test_test_questions_have_no_answers(subtype: str, tmp_path: Path) -> None:
    frame = read_questions({"test": [write(tmp_path / "q.json", questions(subtype=subtype))]}).frame
    assert frame["image_id"].iloc[-1] == "COCO_test2015_000000000001"
    assert frame["soft"].tolist() == [None] * 4
    assert frame["humans"].tolist() == [[]] * 4
    assert frame["answer_type"].tolist() == [""] * 4
    plain = [{"question_id": 7, "img_id": "COCO_test2015_000000000001", "sent": "Why?"}]
    assert read_questions({"test": [write(tmp_path / "l.json", plain)]}).frame["soft"].tolist() == [None]


def test_splits_keep_their_order_and_may_have_many_files(tmp_path: Path) -> None:
    late = [record | {"question_id": record["question_id"] + 4} for record in lxmert()]
    files = {
        "minival": [write(tmp_path / "a.json", lxmert())],
        "train": [write(tmp_path / "b.json", late), write(tmp_path / "c.json", questions(2, "train2014"))],
    }
    with pytest.raises(
        DataError, match=r"split 'train': expected answers to all.*b.json with and .*c.json without"
    ):
        read_questions(files)
    files["test"] = [files["train"].pop()]
    with pytest.raises(
        DataError, match=r"c.json, line 1, record 1: .*once in all files, got 1000 as in .*a.json, record 1"
    ):
        read_questions(files)
    reading = read_questions(files, skip_bad=True)
    assert reading.frame["question_id"].tolist() == list(range(1000, 1008))
    assert reading.frame["split"].tolist() == ["minival"] * 4 + ["train"] * 4
    assert len(reading.skipped) == 2


Change = Callable[[Any], Any]


def changed(content: Any, change: Change) -> Any:
    content = copy.deepcopy(content)
    result = change(content)
    return content if result is None else result


def put(record: int, key: str, value: Any, inside: str | None = None) -> Change:
    def change(content: Any) -> None:
        (content if inside is None else content[inside])[record][key] = value

    return change


def drop(record: int, key: str, inside: str | None = None) -> Change:
    def change(content: Any) -> None:
        del (content if inside is None else content[inside])[record][key]

    return change


LXMERT_FAULTS: list[tuple[Change, str]] = [
    (drop(2, "sent"), "expected the key 'sent', got"),
    (drop(2, "label"), "expected the key 'label', got"),
    (put(2, "question_id", "1002"), "expected question_id as a whole number, got '1002'"),
    (put(2, "question_id", True), "expected question_id as a whole number, got True"),
    (put(2, "question_id", 2**63), "expected question_id as a whole number"),
    (put(2, "question_id", 1000), "expected each question_id once in all files, got 1000 as in"),
    (put(2, "sent", None), "expected sent as text, got None"),
    (put(2, "sent", "\ud800"), r"expected sent as text, got '\\ud800'"),
    (put(2, "img_id", 5), "expected img_id as text, got 5"),
    (put(2, "img_id", "000000000001"), "expected img_id such as COCO_val2014_000000458752, got '000000000001'"),
    (put(2, "label", ["net"]), "expected label as an object of answer -> score, got"),
    (put(2, "label", {"net": 1.5}), "expected a score from 0 to 1 for the answer 'net', got 1.5"),
    (put(2, "label", {"net": float("nan")}), "expected a score from 0 to 1 for the answer 'net', got nan"),
    (put(2, "label", {"net": "1"}), "expected a score from 0 to 1 for the answer 'net', got '1'"),
    (put(2, "label", {"net": -0.1}), "expected a score from 0 to 1"),
    (put(2, "answer_type", 1), "expected answer_type as text, got 1"),
    (
        lambda content: content.__setitem__(2, []),
        r"expected an object with question_id, img_id, sent, label, got \[\]",
    ),
]


@pytest.mark.parametrize(("change", "message"), LXMERT_FAULTS)
@pytest.mark.parametrize("indent", [None, 1])
def test_faults_of_lxmerts_records(change: Change, message: str, indent: int | None, tmp_path: Path) -> None:
    path = write(tmp_path / "minival.json", changed(lxmert(), change), indent)
    if indent is None:
        place = f"{path}, line 1, record 3: "
    else:
        lines = path.read_text().splitlines()
        begins = [number for number, line in enumerate(lines, 1) if line in (" {", " []", " [],")]
        place = f"{path}, line {begins[2]}, record 3: "
    with pytest.raises(DataError, match=message) as raised:
        read_questions({"minival": [path]})
    assert str(raised.value).startswith(place)
    reading = read_questions({"minival": [path]}, skip_bad=True)
    assert reading.skipped == [str(raised.value)]
    assert reading.frame["question_id"].tolist() == [1000, 1001, 1003]


def test_pictures_of_several_sets_may_be_in_one_file(tmp_path: Path) -> None:
    """As in VQA-CP, which deals the questions of train and val anew; and their names may have endings."""
    names = [
        "COCO_train2014_000000000001", "COCO_val2014_000000000002.jpg", "COCO_test2015_000000000003.PNG",
        "val2014/COCO_val2014_000000000004.jpeg",
    ]  # fmt: skip
    content = lxmert()
    for record, name in zip(content, names, strict=True):
        record["img_id"] = name
    reading = read_questions({"minival": [write(tmp_path / "l.json", content)]})
    assert reading.skipped == []
    assert reading.frame["image_id"].tolist() == [
        "COCO_train2014_000000000001", "COCO_val2014_000000000002", "COCO_test2015_000000000003",
        "COCO_val2014_000000000004",
    ]  # fmt: skip


def test_equal_records_are_one_and_a_whole_one_counts_beside_a_torn_one(tmp_path: Path) -> None:
    whole = lxmert()
    torn = {key: value for key, value in whole[2].items() if key != "sent"}
    path = write(tmp_path / "l.json", [whole[0], *whole[:2], torn, *whole[2:], whole[2], torn])
    reading = read_questions({"minival": [path]}, skip_bad=True)
    assert reading.frame["question_id"].tolist() == [1000, 1001, 1002, 1003]
    assert len(reading.skipped) == 2
    assert reading.asked == {"minival": 6}
    # A question of two splits is trained and tested on.
    with pytest.raises(DataError, match="expected each question_id once in all files, got 1000"):
        read_questions({"a": [write(tmp_path / "a.json", whole)], "b": [write(tmp_path / "b.json", whole)]})

    asked, answered = questions(), annotations()
    for content, key in ((asked, "questions"), (answered, "annotations")):
        content[key] = [content[key][0], *content[key], content[key][3]]
    paths = [write(tmp_path / "q.json", asked), write(tmp_path / "an.json", answered)]
    reading = read_questions({"val": paths})
    assert reading.frame["humans"].tolist() == [HUMANS] * 4
    assert reading.asked == {"val": 4}
    assert read_annotations(paths[1]).frame["question_id"].tolist() == [1000, 1001, 1002, 1003]


def test_files_may_have_names_that_are_no_utf8(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    paths = [write(folder / "q.json", questions()), write(folder / "a.json", annotations())]
    assert read_questions({"val": paths}).frame["file"].tolist() == [str(paths[0])] * 4
    assert read_annotations(paths[1]).frame["file"].tolist() == [str(paths[1])] * 4


def test_files_of_other_forms_are_told_what_they_are(tmp_path: Path) -> None:
    lines = write(tmp_path / "l.jsonl", "\n".join(map(json.dumps, lxmert())))
    with pytest.raises(DataError, match=r"l.jsonl, line 2: .*a record a line. Wrap them in one list, as `jq -s"):
        read_questions({"val": [lines]})
    with gzip.open(tmp_path / "l.json.gz", "wt") as packed:
        json.dump(lxmert(), packed)
    with zipfile.ZipFile(tmp_path / "l.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("l.json", json.dumps(lxmert()))
    for name, by in (("l.json.gz", "gzip"), ("l.zip", "zip")):
        with pytest.raises(DataError, match=f"{name}: expected JSON, got a file packed by {by}. Unpack it first"):
            read_questions({"val": [tmp_path / name]})
    text = json.dumps(lxmert())
    with pytest.raises(DataError, match=r"Is the file whole\?"):
        read_questions({"val": [write(tmp_path / "cut.json", text[: len(text) // 2 + 2].rsplit(",", 1)[0])]})
    with pytest.raises(DataError, match="Mend it there"):
        read_questions({"val": [write(tmp_path / "quotes.json", text.replace('"', "'"))]})


def test_a_number_in_quotes_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "l.json", changed(lxmert(), put(2, "question_id", "1002")))
    with pytest.raises(DataError, match=r"as a whole number, got '1002'. Write it without quotes"):
        read_questions({"val": [path]})


def test_what_the_system_has_none_of_is_no_damage(tmp_path: Path) -> None:
    """Descriptors, here."""
    path, limit = write(tmp_path / "l.json", lxmert()), resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limit[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            read_questions({"val": [path]})
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)


OFFICIAL_FAULTS: list[tuple[str, Change, str]] = [
    ("q", put(2, "image_id", "1", "questions"), "expected image_id as a whole number from 0, got '1'"),
    ("q", put(2, "image_id", -1, "questions"), "expected image_id as a whole number from 0, got -1"),
    ("q", put(2, "question", 1, "questions"), "expected question as text, got 1"),
    ("q", put(2, "question_id", 1001, "questions"), "expected each question_id once"),
    ("q", drop(2, "question_id", "questions"), "expected the key 'question_id'"),
    ("a", put(2, "question_id", 5, "annotations"), "expected a question 5 in .*q.json, got none"),
    ("a", put(2, "question_id", 1001, "annotations"), "expected one annotation of question 1001"),
    (
        "a",
        put(2, "image_id", 9, "annotations"),
        "expected the question's picture COCO_val2014_000000000001",
    ),
    (
        "a",
        put(2, "image_id", None, "annotations"),
        "expected image_id as a whole number from 0, got None",
    ),
    ("a", put(2, "answers", [], "annotations"), "expected the answers of 10 humans, got 0"),
    ("a", put(2, "answers", {}, "annotations"), "expected answers as a list, got {}"),
    ("a", put(2, "answers", [{"answer": "net"}] * 11, "annotations"), "of 10 humans, got 11"),
    (
        "a",
        put(2, "answers", [{"answer": 1}] * 10, "annotations"),
        "with the text 'answer', got {'answer': 1}",
    ),
    ("a", put(2, "answers", ["net"] * 10, "annotations"), "with the text 'answer', got 'net'"),
    (
        "a",
        put(2, "answers", [{"answer": "net", "answer_id": 1}] * 10, "annotations"),
        "expected answer_id as another whole number for each human",
    ),
    ("a", put(2, "question_type", 3, "annotations"), "expected question_type as text, got 3"),
    (
        "a",
        lambda content: content["annotations"].__delitem__(2),
        "expected an annotation of question 1002",
    ),
    ("q", lambda content: content["questions"].__delitem__(2), "expected a question 1002 in"),
]


@pytest.mark.parametrize(("file", "change", "message"), OFFICIAL_FAULTS)
def test_faults_of_official_records(file: str, change: Change, message: str, tmp_path: Path) -> None:
    contents = {"q": questions(), "a": annotations()}
    contents[file] = changed(contents[file], change)
    paths = [write(tmp_path / f"{name}.json", content, 1) for name, content in contents.items()]
    with pytest.raises(DataError, match=message) as raised:
        read_questions({"val": paths})
    named, line, record = str(raised.value).partition(": ")[0].rsplit(", ", 2)
    text = Path(named).read_text().splitlines()
    number = int(record.removeprefix("record ")) - 1
    begins = [place for place, content in enumerate(text, 1) if content == "  {"]
    assert line == f"line {begins[number]}"
    reading = read_questions({"val": paths}, skip_bad=True)
    assert str(raised.value) in reading.skipped
    assert reading.frame["question_id"].tolist() == [1000, 1001, 1003]
    assert reading.frame["humans"].tolist() == [HUMANS] * 3


def test_without_annotation_ids_answers_stay_ten(tmp_path: Path) -> None:
    content = annotations()
    for record in content["annotations"]:
        for answer in record["answers"]:
            del answer["answer_id"]
    frame = read_annotations(write(tmp_path / "a.json", content)).frame
    assert frame["humans"].tolist() == [HUMANS] * 4
    assert frame["multiple_choice_answer"].tolist() == ["net"] * 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "line 1: expected JSON"),
        ('[{"sent": 1},\n\n{"sent": 2', "line 3: expected JSON"),
        ("[" * 100_000, "line 1: expected JSON that can be read"),
        ("[" + "1" * 5000 + "]", "line 1: expected JSON that can be read"),
        ("3", "got 3"),
        ("{}", r"got the keys \[\]"),
        ("[]", "got a list of nothing"),
        ('[{"question_id": 1, "answer": "yes"}]', "or LXMERT's list of question_id, img_id, sent; got a list of"),
        ('{"questions": [], "data_subtype": "val2014"}', "a list of at least one record"),
        ('{"questions": {"a": 1}, "data_subtype": "val2014"}', "a list of at least one record"),
        ('{"questions": [1], "annotations": [1]}', "got the keys"),
        (
            '{"questions": [1]}',
            "expected data_subtype as one of train2014, val2014, test2015, test-dev2015, got None",
        ),
        ('{"questions": [1], "data_subtype": ["val2014"]}', "expected data_subtype as one of"),
        ('{"questions": [1], "data_subtype": "train2015"}', "expected data_subtype as one of"),
        (
            '{"questions": [1], "data_subtype": "val2014", "data_type": "abstract_v002"}',
            "expected data_type 'mscoco'",
        ),
    ],
)
@pytest.mark.parametrize("skip_bad", [False, True])
def test_other_files_are_refused_whole(content: str, message: str, skip_bad: bool, tmp_path: Path) -> None:
    path = write(tmp_path / "other.json", content)
    with pytest.raises(DataError, match=message) as raised:
        read_questions({"val": [path]}, skip_bad=skip_bad)
    assert str(path) in str(raised.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.json", tmp_path):
        with pytest.raises(DataError, match="cannot be read"):
            read_questions({"val": [path]})
    (tmp_path / "latin.json").write_bytes(b'[\n{"sent": "caf\xe9"}]')
    with pytest.raises(DataError, match=r"latin.json, line 2: expected UTF-8, got byte 0xe9"):
        read_questions({"val": [tmp_path / "latin.json"]})
    with pytest.raises(DataError, match="at least one question"):
        read_questions({})


def test_files_of_a_split_that_do_not_belong_together(tmp_path: Path) -> None:
    asked = write(tmp_path / "q.json", questions())
    again = write(tmp_path / "q2.json", questions())
    train = write(tmp_path / "t.json", annotations(subtype="train2014"))
    with pytest.raises(DataError, match=r"t.json has annotations of train2014.*got questions of val2014"):
        read_questions({"val": [asked, train]})
    with pytest.raises(DataError, match=r"one file of questions of val2014, got .*q.json and .*q2.json"):
        read_questions({"val": [asked, again]})
    with pytest.raises(DataError, match="got questions of nothing"):
        read_questions({"val": [train]})
    with pytest.raises(DataError, match="expected official annotations"):
        read_annotations(asked)


def test_annotations_alone(tmp_path: Path) -> None:
    content = annotations()
    content["annotations"][3]["question_id"] = 1001
    path = write(tmp_path / "a.json", content)
    with pytest.raises(
        DataError, match=r"line 1, record 4: expected each question_id once, got 1001 as in record 2"
    ):
        read_annotations(path)
    reading = read_annotations(path, skip_bad=True)
    assert reading.frame["question_id"].tolist() == [1000, 1001, 1002]
    assert len(reading.skipped) == 1
    assert reading.frame["humans"].tolist() == [HUMANS] * 3


def test_nothing_left_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "l.json", [{"sent": 1}])
    with pytest.raises(DataError, match=r"at least one question, got none.*line 1, record 1"):
        read_questions({"val": [path]}, skip_bad=True)


def test_of_equal_keys_the_last_counts(tmp_path: Path) -> None:
    """As it does for the parser; the line that is told must be in that list."""
    path = tmp_path / "q.json"
    path.write_text(
        '{"questions": [{"question_id": 1}],\n"data_subtype": "val2014",\n"questions":\n[\n{"question_id": 2}]}'
    )
    with pytest.raises(DataError, match=r"line 5, record 1: expected the key 'image_id', got \['question_id'\]"):
        read_questions({"val": [path]})


# Mutated files: never anything but a DataError or a result that is whole.

WRONG = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), st.just([]), st.just({}),
    st.just("\ud800"), st.just(10**30), st.just({"net": 2}),
)  # fmt: skip


def nodes(content: Any) -> list[tuple[Any, Any]]:
    """Every (container, key or position) in a content of JSON."""
    found: list[tuple[Any, Any]] = []
    if isinstance(content, dict | list):
        keys = list(content) if isinstance(content, dict) else range(len(content))
        for key in keys:
            found += [(content, key), *nodes(content[key])]
    return found


@st.composite
def mutated(draw: st.DrawFn, content: Any) -> bytes:
    content = copy.deepcopy(content)
    for _ in range(draw(st.integers(0, 3))):
        places = nodes(content)
        if not places:
            break
        inside, key = draw(st.sampled_from(places))
        action = draw(st.sampled_from(("drop", "replace", "repeat", "rename")))
        if action == "drop":
            del inside[key]
        elif action == "replace":
            # A copy: the same list put in twice can come to hold itself.
            inside[key] = copy.deepcopy(draw(WRONG))
        elif isinstance(inside, list):
            inside.append(copy.deepcopy(inside[key]))
        elif action == "rename":
            inside[draw(st.text(max_size=3))] = inside.pop(key)
        else:
            inside[draw(st.sampled_from(sorted(inside)))] = copy.deepcopy(inside[key])
    data = json.dumps(content, indent=draw(st.sampled_from((None, 1)))).encode()
    damage = draw(st.sampled_from(("none", "none", "cut", "flip")))
    place = draw(st.integers(0, len(data) - 1))
    if damage == "cut":
        data = data[:place]
    elif damage == "flip":
        data = data[:place] + draw(st.binary(min_size=1, max_size=2)) + data[place + 1 :]
    return data


def read_or_fault(files: dict[str, list[Path]], skip_bad: bool) -> Reading | str:
    try:
        return read_questions(files, skip_bad=skip_bad)
    except DataError as error:
        return str(error)


def assert_whole(reading: Reading, answered: bool) -> None:
    frame = reading.frame
    assert len(frame) >= 1
    assert frame["question_id"].is_unique
    assert frame["question_id"].dtype == np.int64
    assert frame["image_id"].str.fullmatch("COCO_[a-z]+20[0-9]{2}_[0-9]{12}").all()
    for text in frame["text"]:
        text.encode()
    for humans, soft in zip(frame["humans"], frame["soft"], strict=True):
        assert len(humans) in (0, 10)
        assert (soft is not None) == answered
        assert all(0 <= score <= 1 for score in (soft or {}).values())


@pytest.mark.fuzz
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=mutated(lxmert(3)), skip_bad=st.booleans())
@example(data=b"", skip_bad=True)
def test_mutated_files_of_lxmert(data: bytes, skip_bad: bool, tmp_path: Path) -> None:
    path = tmp_path / "minival.json"
    path.write_bytes(data)
    reading = read_or_fault({"minival": [path]}, skip_bad)
    if isinstance(reading, str):
        assert str(path) in reading
        return
    records = json.loads(data)
    assert_whole(reading, answered=any("label" in record for record in records if isinstance(record, dict)))
    distinct = {json.dumps(record, sort_keys=True) for record in records}
    assert len(distinct) <= len(reading.frame) + len(reading.skipped) <= len(records)
    assert reading.asked == {"minival": len(reading.frame) + len(reading.skipped)}
    assert skip_bad or not reading.skipped


@pytest.mark.fuzz
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asked=mutated(questions(3)), answered=mutated(annotations(3)), skip_bad=st.booleans())
def test_mutated_official_files(asked: bytes, answered: bytes, skip_bad: bool, tmp_path: Path) -> None:
    paths = [tmp_path / "questions.json", tmp_path / "annotations.json"]
    for path, data in zip(paths, (asked, answered), strict=True):
        path.write_bytes(data)
    reading = read_or_fault({"val": paths}, skip_bad)
    if isinstance(reading, str):
        assert str(tmp_path) in reading
        return
    assert_whole(reading, answered=True)
    assert skip_bad or not reading.skipped
    with_answers = read_annotations(paths[1], skip_bad=skip_bad)
    assert set(reading.frame["question_id"]) <= set(with_answers.frame["question_id"])
