"""What the models are measured on: two sizes, and batches whose questions are as long as VQA 2.0's.

Contents are random: shapes decide how long a step takes. Shapes: B questions, W words, P pictures, R regions,
F features, A answers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from suite import registry
from suite.errors import UserError
from suite.models.lxmert import LxmertConfig

SizeName = Literal["base", "demo"]

LENGTHS = {
    6: 42, 7: 196, 8: 376, 9: 303, 10: 236, 11: 193, 12: 82, 13: 56, 14: 24, 15: 18, 16: 8, 17: 5, 18: 2, 19: 2,
    20: 3,
}  # fmt: skip
"""Word pieces -> questions, of 1,546 VQA 2.0 questions on 303 pictures of LXMERT's minival, [CLS] and [SEP]
included, by the vocabulary of bert-base-uncased and cut at 20 as LXMERT does."""
LONGEST = 20
"""What LXMERT pads every question to."""
QUESTIONS_PER_PICTURE = 5
"""Of these 303 pictures 5.1, of all of VQA 2.0 5.4."""


@dataclass(frozen=True)
class Size:
    config: LxmertConfig
    regions: int


@dataclass(frozen=True)
class Questions:
    """A batch on one device."""

    words: Tensor
    """(B, W) long, padded with 0 to the longest question of the batch."""
    word_mask: Tensor
    """(B, W) boolean, True = a word."""
    regions: Tensor
    """(P, R, F)"""
    boxes: Tensor
    """(P, R, 4)"""
    picture: Tensor
    """(B,) long: the picture of each question."""
    targets: Tensor
    """(B, A) soft scores in [0, 1]."""

    @property
    def shared(self) -> dict[str, Tensor]:
        """The model's inputs with every picture once."""
        return {
            "words": self.words,
            "word_mask": self.word_mask,
            "regions": self.regions,
            "boxes": self.boxes,
            "picture": self.picture,
        }

    @property
    def own(self) -> dict[str, Tensor]:
        """The model's inputs with a picture for every question, as (B, R, F) and (B, R, 4)."""
        return {
            "words": self.words,
            "word_mask": self.word_mask,
            "regions": self.regions[self.picture],
            "boxes": self.boxes[self.picture],
        }


def size(name: SizeName, dropout: float) -> Size:
    """``base`` is LXMERT's on VQA 2.0, 9-5-5; ``demo`` is the demo study's first row on easy-VQA.

    Raises UserError for a ``dropout`` that is no rate.
    """
    if not 0 <= dropout < 1:
        raise UserError(f"Expected a --dropout from 0 to below 1; received {dropout}.")
    base = LxmertConfig(hidden_dropout=dropout, attention_dropout=dropout)
    if name == "base":
        return Size(base, regions=36)
    cell = registry.make_study("demo").cells[0]
    demo = replace(
        base,
        vocabulary=74,
        answers=13,
        features=144,
        layers=cell.layers,
        width=cell.model.width,
        heads=cell.model.heads,
        intermediate=cell.model.intermediate,
    )
    return Size(demo, regions=6)


def draw(size: Size, count: int, seed: int, device: str) -> Questions:
    """``count`` questions, their contents and their order random, five about each picture."""
    generator = torch.Generator().manual_seed(seed)
    config = size.config
    length = lengths(count)[torch.randperm(count, generator=generator)]
    word_mask = torch.arange(int(length.max())) < length[:, None]
    pictures = -(-count // QUESTIONS_PER_PICTURE)
    words = torch.randint(1, config.vocabulary, word_mask.shape, generator=generator)
    drawn = Questions(
        words=words * word_mask,
        word_mask=word_mask,
        regions=torch.randn(pictures, size.regions, config.features, generator=generator),
        boxes=torch.rand(pictures, size.regions, 4, generator=generator),
        picture=torch.arange(count) // QUESTIONS_PER_PICTURE,
        targets=torch.rand(count, config.answers, generator=generator),
    )
    return Questions(**{name: tensor.to(device) for name, tensor in vars(drawn).items()})


def lengths(count: int) -> Tensor:
    """(count,) word pieces, ascending: the middle of each of ``count`` equal parts of LENGTHS.

    No batch is long or short by chance, and its longest question is a typical one for its size.
    """
    shares = torch.tensor(list(LENGTHS.values()), dtype=torch.float64).cumsum(0) / sum(LENGTHS.values())
    return torch.tensor(list(LENGTHS))[torch.searchsorted(shares, (torch.arange(count) + 0.5) / count)]
