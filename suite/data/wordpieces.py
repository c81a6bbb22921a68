"""Word-piece tokenizers: BERT's, and one whose vocabulary depends on nothing but the questions it is made from.

The trainer of `tokenizers` breaks ties by the order of a hash table, so that its vocabulary differs from
process to process even for sorted input (tokenizers 0.23). Here the vocabulary is counted instead: whole
words, the most frequent first and equal counts by the alphabet, then single characters, from which every
other word can be spelt.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from suite.errors import UserError

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")  # ids 0 to 4


def make_tokenizer(questions: Iterable[str], max_vocabulary: int = 30_000) -> Tokenizer:
    """A lower-casing tokenizer that knows the words of `questions`; it adds [CLS] and [SEP].

    Raises ValueError where `max_vocabulary` has no room for the special tokens and the characters.
    """
    normalizer = normalizers.BertNormalizer(lowercase=True)
    pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    counts: Counter[str] = Counter()
    for question, times in Counter(questions).items():
        for word, _ in pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(question)):
            counts[word] += times
    words = sorted(counts, key=lambda word: (-counts[word], word))
    characters = sorted({character for word in words for character in word})
    pieces = characters + [f"##{character}" for character in characters]
    room = max_vocabulary - len(SPECIAL) - len(pieces)
    if room < 0:
        raise ValueError(
            f"max_vocabulary is {max_vocabulary}; the special tokens and the characters alone need "
            f"{len(SPECIAL) + len(pieces)}."
        )
    # dict.fromkeys: a word of one character is also a character, and keeps its first place
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys((*SPECIAL, *words[:room], *pieces)))}
    return _tokenizer(vocabulary)


def bert_tokenizer(vocab_file: Path) -> Tokenizer:
    """The lower-casing tokenizer of BERT's vocab.txt, one word piece a line, which adds [CLS] and [SEP].

    Raises UserError where the file cannot be read, lacks a special token, has a piece twice, or does not begin
    with [PAD], whose id pads.
    """
    try:
        # Not splitlines: the vocabulary has characters that it takes for ends of lines.
        pieces = Path(vocab_file).read_text(encoding="utf-8-sig").split("\n")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, UnicodeDecodeError) as error:
        raise UserError(
            f"{vocab_file} cannot be read ({error}). Expected vocab.txt of bert-base-uncased."
        ) from None
    if not pieces[-1]:
        pieces.pop()
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    missing = [token for token in SPECIAL if token not in vocabulary]
    if missing or len(vocabulary) != len(pieces) or pieces[0] != "[PAD]":
        raise UserError(
            f"{vocab_file}: expected a word piece a line, each once, [PAD] first, {', '.join(SPECIAL)} among them; "
            f"got {len(pieces)} lines, {len(vocabulary)} different, without {', '.join(missing) or 'none'}. "
            "Give vocab.txt of bert-base-uncased."
        )
    return _tokenizer(vocabulary)


def _tokenizer(vocabulary: dict[str, int]) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [(token, vocabulary[token]) for token in ("[SEP]", "[CLS]")]
    tokenizer.post_processor = processors.BertProcessing(*ends)
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer


def encode(tokenizer: Tokenizer, questions: Sequence[str], max_words: int | None = None) -> np.ndarray:
    """Word ids of the questions, (Q, L) int32, [CLS] ... [SEP], padded with 0.

    L is `max_words`, or the longest question where that is None. Longer questions are cut and keep their
    [SEP]. Raises ValueError where `max_words` has no room for a word.
    """
    if max_words is not None and max_words < 3:
        raise ValueError(f"max_words is {max_words}; expected at least 3: [CLS], a word, [SEP].")
    encoded = [encoding.ids for encoding in tokenizer.encode_batch(list(questions))]
    length = max_words if max_words is not None else max(map(len, encoded), default=0)
    words = np.zeros((len(encoded), length), dtype=np.int32)
    for row, ids in zip(words, encoded, strict=True):
        if len(ids) > length:
            ids = [*ids[: length - 1], ids[-1]]
        row[: len(ids)] = ids
    return words
