"""The tokenizer: the same in every process, and able to spell what it has not seen."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from suite.data.store import DataSet
from suite.data.wordpieces import SPECIAL, encode, make_tokenizer

QUESTIONS = ["What color is it?", "what shape is it?", "is it a circle?"]


def test_special_tokens_come_first() -> None:
    tokenizer = make_tokenizer(QUESTIONS)
    assert [tokenizer.token_to_id(token) for token in SPECIAL] == [0, 1, 2, 3, 4]
    # equal counts by the alphabet
    vocabulary = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    assert vocabulary[5:13] == ["?", "is", "it", "what", "a", "circle", "color", "shape"]


def test_words_are_lower_cased_ended_and_padded() -> None:
    tokenizer = make_tokenizer(QUESTIONS)
    words = encode(tokenizer, ["IS it?", "what color is it?"])
    tokens = [[tokenizer.id_to_token(int(word)) for word in row] for row in words]
    assert tokens == [
        ["[CLS]", "is", "it", "?", "[SEP]", "[PAD]", "[PAD]"],
        ["[CLS]", "what", "color", "is", "it", "?", "[SEP]"],
    ]
    assert words.dtype == np.int32


def test_unseen_words_are_spelt_and_unseen_characters_unknown() -> None:
    tokenizer = make_tokenizer(QUESTIONS)
    assert tokenizer.encode("cat").tokens == ["[CLS]", "c", "##a", "##t", "[SEP]"]
    assert tokenizer.encode("ß").tokens == ["[CLS]", "[UNK]", "[SEP]"]


def test_long_questions_keep_their_end() -> None:
    tokenizer = make_tokenizer(QUESTIONS)
    words = encode(tokenizer, ["what color is it?", "is"], max_words=4)
    assert words.shape == (2, 4)
    assert words[0, [0, 3]].tolist() == [2, 3]
    assert words[1, 2:].tolist() == [3, 0]
    with pytest.raises(ValueError, match="at least 3"):
        encode(tokenizer, QUESTIONS, max_words=2)


def test_a_small_vocabulary_keeps_the_frequent_words() -> None:
    least = len(SPECIAL) + 2 * len(set("".join(QUESTIONS).lower()) - {" "})
    tokenizer = make_tokenizer(QUESTIONS, max_vocabulary=least + 2)
    assert tokenizer.token_to_id("is") is not None
    assert tokenizer.token_to_id("circle") is None
    assert tokenizer.get_vocab_size() <= least + 2
    with pytest.raises(ValueError, match=f"alone need {least}"):
        make_tokenizer(QUESTIONS, max_vocabulary=least - 1)


@settings(max_examples=50, deadline=None)
@given(st.permutations([*QUESTIONS, "is there a red shape?", "is there a teal shape?"]))
def test_the_order_of_questions_does_not_matter(questions: list[str]) -> None:
    assert make_tokenizer(questions).to_str() == make_tokenizer(sorted(questions)).to_str()


def test_fresh_processes_and_folders_agree(dataset: DataSet, tmp_path: Path) -> None:
    text = dataset.questions("text")["text"].iloc[dataset.rows("start", "train", "validation")]
    (tmp_path / "questions").write_text("\n".join(text))
    code = (
        "import sys; from pathlib import Path; from suite.data.wordpieces import make_tokenizer; "
        "sys.stdout.write(make_tokenizer(Path(sys.argv[1]).read_text().splitlines()).to_str())"
    )
    expected = (dataset.folder / "tokenizer.json").read_text()
    for seed in ("1", "2", "3"):
        folder = tmp_path / seed
        folder.mkdir()
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[2])}
        command = [sys.executable, "-c", code, str(tmp_path / "questions")]
        made = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
        assert made.stdout == expected


def test_the_file_gives_the_words_back(dataset: DataSet) -> None:
    tokenizer = Tokenizer.from_file(str(dataset.folder / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == dataset.information["vocabulary"]
    rows = dataset.rows("test")[:200]
    text = dataset.questions("text")["text"].iloc[rows].tolist()
    words = encode(tokenizer, text, max_words=dataset.information["max_words"])
    np.testing.assert_array_equal(words, dataset.words[rows])
    assert not (words == tokenizer.token_to_id("[UNK]")).any()
