"""LXMERT for question answering (Tan and Bansal 2019, 1908.07490), the whole model in one file.

Parameter names are those of ``transformers.LxmertForQuestionAnswering``, whose state dict loads strictly.
How attention weights are made and which layers run comes from a Variant; its own parameters live under
``...weights`` of each attention block and ``lxmert.encoder.depth``.

It does only the work that the answer needs, and its logits are those of the whole network: padding enters no
linear layer, a picture that several questions share goes through the vision stack once, and of the last cross
layer only what the first word reads is computed.

Shapes: B questions, W words, P pictures, R regions, F features of a region, N width, H heads, A answers; T tokens
of all questions, or pictures, of a batch one after another.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, cast

import torch
from torch import Tensor, nn

from suite.attention import Depth, Positions, Site, Tokens, Variant, Weights

AttentionRecord = dict[str, Tensor]


@dataclass(frozen=True)
class LxmertConfig:
    """The sizes of a model; the defaults are the published base model on VQA 2.0."""

    vocabulary: int = 30522
    answers: int = 3129
    features: int = 2048
    width: int = 768
    heads: int = 12
    intermediate: int = 3072
    layers: tuple[int, int, int] = (9, 5, 5)
    """Language, vision, cross."""
    hidden_dropout: float = 0.1
    attention_dropout: float = 0.1
    positions: int = 512
    segments: int = 2
    pooling: Literal["first", "concatenated"] = "first"
    """What the answer is read from: the first word, as in LXMERT's code, or beside it the mean of the regions."""


@dataclass(frozen=True)
class LxmertOutputs:
    """Everything that a forward pass computes, for counting, tests and figures."""

    logits: Tensor
    """(B, A)"""
    words: Tensor
    """(B, W, N) after the last layer."""
    regions: Tensor
    """(B, R, N) after the last layer."""
    attention: AttentionRecord
    """Weights (B, H, Q, K) per site and direction, such as "cross.4.words-boxes"."""


@dataclass(frozen=True)
class Packed:
    """How one modality's tokens lie in a hidden state (T, N): in order, without padding."""

    tokens: Tokens
    """Where they stand, for the attention."""
    count: int
    """Questions, or pictures."""
    length: int
    """Tokens of each, padding included."""
    place: Tensor | None = None
    """(T,) of each token among the count * length padded ones; None where there is no padding."""
    first: Tensor | None = None
    """(count,) of each question's first token among the T."""
    picture: Tensor | None = None
    """(B,) the picture of each question, where pictures lie here and the attention is the questions'."""

    def split(self, hidden: Tensor, heads: int) -> Tensor:
        """(T, N) to (B, H, length, D): what attention takes, zeros for padding."""
        if self.place is not None:
            padded = hidden.new_zeros(self.count * self.length, hidden.shape[-1])
            hidden = padded.index_copy(0, self.place, hidden)
        return self._spread(hidden).unflatten(-1, (heads, -1)).transpose(1, 2)

    def join(self, mixed: Tensor) -> Tensor:
        """(B, H, length, D) back to (T, N)."""
        hidden = mixed.transpose(1, 2).flatten(2).flatten(0, 1)
        return hidden if self.place is None else hidden.index_select(0, self.place)

    def spread(self, hidden: Tensor) -> Tensor:
        """Each question's own copy of its picture's tokens: (P * R, N) to (B * R, N)."""
        return hidden if self.picture is None else self._spread(hidden).flatten(0, 1)

    def _spread(self, hidden: Tensor) -> Tensor:
        hidden = hidden.unflatten(0, (self.count, self.length))
        return hidden if self.picture is None else hidden.index_select(0, self.picture)

    def own(self) -> Packed:
        """The same tokens after ``spread``."""
        if self.picture is None:
            return self
        return replace(self, count=len(self.picture), picture=None)

    def firsts(self) -> Packed:
        """The first token of each question alone."""
        return Packed(replace(self.tokens, index=self.tokens.index[:1]), self.count, 1)


def pack_words(words: Tensor, mask: Tensor | None) -> Packed:
    """The words (B, W) that ``mask`` (B, W) has, and every first one, which the answer reads.

    What is to the right of the longest question is not there for the attention either.
    """
    count, length = words.shape
    place, lengths = None, words.new_full((count,), length)
    if mask is not None:
        present = mask.clone()
        present[:, 0] = True
        place, lengths = present.flatten().nonzero().squeeze(1), present.sum(1)
        if len(place) == count * length:
            place = None
    return Packed(
        Tokens("words", _for_scores(mask), torch.arange(length, device=words.device)),
        count, length, place, first=lengths.cumsum(0) - lengths,
    )  # fmt: skip


def lay_regions(boxes: Tensor, mask: Tensor | None) -> Packed:
    """The regions of ``boxes`` (P, R, 4); those that ``mask`` (P, R) lacks are there, and not attended."""
    count, length = boxes.shape[:2]
    index = torch.arange(length, device=boxes.device)
    return Packed(Tokens("boxes", _for_scores(mask), index, boxes), count, length)


def of_questions(regions: Packed, picture: Tensor | None) -> Packed:
    """The pictures' regions as those of the questions that ``picture`` (B,) gives them to."""
    if picture is None:
        return regions
    tokens = regions.tokens
    mask = None if tokens.mask is None else tokens.mask[picture]
    return replace(
        regions, tokens=replace(tokens, mask=mask, boxes=cast(Tensor, tokens.boxes)[picture]), picture=picture
    )


def _for_scores(mask: Tensor | None) -> Tensor | None:
    return None if mask is None else mask[:, None, None, :]


class Embeddings(nn.Module):
    def __init__(self, config: LxmertConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocabulary, config.width, padding_idx=0)
        self.position_embeddings = nn.Embedding(config.positions, config.width, padding_idx=0)
        self.token_type_embeddings = nn.Embedding(config.segments, config.width, padding_idx=0)
        self.LayerNorm = nn.LayerNorm(config.width, eps=1e-12)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, words: Tensor, packed: Packed) -> Tensor:
        ids, index = words.flatten(), packed.tokens.index.repeat(packed.count)
        if packed.place is not None:
            ids, index = ids[packed.place], index[packed.place]
        # A question is one segment: all its words have token type 0.
        segment = self.token_type_embeddings(torch.zeros_like(index))
        return self.dropout(self.LayerNorm(self.word_embeddings(ids) + self.position_embeddings(index) + segment))


class RegionEmbeddings(nn.Module):
    def __init__(self, config: LxmertConfig) -> None:
        super().__init__()
        self.visn_fc = nn.Linear(config.features, config.width)
        self.visn_layer_norm = nn.LayerNorm(config.width, eps=1e-12)
        self.box_fc = nn.Linear(4, config.width)
        self.box_layer_norm = nn.LayerNorm(config.width, eps=1e-12)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, regions: Tensor, boxes: Tensor) -> Tensor:
        seen = self.visn_layer_norm(self.visn_fc(regions.flatten(0, 1)))
        placed = self.box_layer_norm(self.box_fc(boxes.flatten(0, 1)))
        return self.dropout((seen + placed) / 2)


class Attention(nn.Module):
    def __init__(self, config: LxmertConfig, site: Site, variant: Variant) -> None:
        super().__init__()
        self.site = site
        self.query = nn.Linear(config.width, config.width)
        self.key = nn.Linear(config.width, config.width)
        self.value = nn.Linear(config.width, config.width)
        self.weights: Weights = variant.weights(site)
        self.weights.dropout = config.attention_dropout

    def forward(
        self, hidden: Tensor, context: Tensor, queries: Packed, keys: Packed, record: AttentionRecord | None
    ) -> Tensor:
        query, key, value = self._project(hidden, context, queries, keys)
        positions = Positions(queries.tokens, keys.tokens)
        if record is None:
            mixed = self.weights.attend(query, key, value, keys.tokens.mask, positions)
        else:
            weights = self.weights(self.weights.scores(query, key), keys.tokens.mask, positions)
            direction = f"{queries.tokens.modality}-{keys.tokens.modality}"
            record[f"{self.site.stack}.{self.site.index}.{direction}"] = weights
            mixed = self.weights.mix(weights, value)
        return queries.own().join(mixed)

    def _project(self, hidden: Tensor, context: Tensor, queries: Packed, keys: Packed) -> tuple[Tensor, ...]:
        """Query, key and value (B, H, length, D) of hidden states (T, N)."""
        heads = self.site.heads
        if hidden is context:
            return keys.split(_together(hidden, self.query, self.key, self.value), 3 * heads).chunk(3, dim=1)
        pair = keys.split(_together(context, self.key, self.value), 2 * heads).chunk(2, dim=1)
        return queries.split(self.query(hidden), heads), *pair


def _together(hidden: Tensor, *layers: nn.Linear) -> Tensor:
    """The outputs of several layers beside each other, by one product: narrow ones are slow one by one."""
    weight, bias = (torch.cat([getattr(layer, name) for layer in layers]) for name in ("weight", "bias"))
    return nn.functional.linear(hidden, weight, bias)


class Residual(nn.Module):
    """Projects a block's output and adds it to the block's input."""

    def __init__(self, config: LxmertConfig, inputs: int) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, config.width)
        self.LayerNorm = nn.LayerNorm(config.width, eps=1e-12)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, mixed: Tensor, hidden: Tensor) -> Tensor:
        return self.LayerNorm(self.dropout(self.dense(mixed)) + hidden)


class SelfAttention(nn.Module):
    def __init__(self, config: LxmertConfig, site: Site, variant: Variant) -> None:
        super().__init__()
        self.self = Attention(config, site, variant)
        self.output = Residual(config, config.width)

    def forward(self, hidden: Tensor, packed: Packed, record: AttentionRecord | None) -> Tensor:
        return self.output(self.self(hidden, hidden, packed, packed, record), hidden)

    def first(self, hidden: Tensor, packed: Packed) -> Tensor:
        """Of each question's first token alone: (B, N)."""
        asking = hidden[packed.first]
        return self.output(self.self(asking, hidden, packed.firsts(), packed, None), asking)


class CrossAttention(nn.Module):
    """One set of parameters, used from words to boxes and from boxes to words."""

    def __init__(self, config: LxmertConfig, site: Site, variant: Variant) -> None:
        super().__init__()
        self.att = Attention(config, site, variant)
        self.output = Residual(config, config.width)

    def forward(
        self, hidden: Tensor, context: Tensor, queries: Packed, keys: Packed, record: AttentionRecord | None
    ) -> Tensor:
        return self.output(self.att(hidden, context, queries, keys, record), queries.spread(hidden))


class Intermediate(nn.Module):
    def __init__(self, config: LxmertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.width, config.intermediate)

    def forward(self, hidden: Tensor) -> Tensor:
        return nn.functional.gelu(self.dense(hidden))


class Layer(nn.Module):
    """A layer of the language or the vision stack."""

    def __init__(self, config: LxmertConfig, site: Site, variant: Variant) -> None:
        super().__init__()
        self.attention = SelfAttention(config, site, variant)
        self.intermediate = Intermediate(config)
        self.output = Residual(config, config.intermediate)

    def forward(self, hidden: Tensor, packed: Packed, record: AttentionRecord | None) -> Tensor:
        hidden = self.attention(hidden, packed, record)
        return self.output(self.intermediate(hidden), hidden)


class CrossLayer(nn.Module):
    """A layer of the cross stack: cross attention, self-attention and feed-forward of both modalities."""

    def __init__(self, config: LxmertConfig, index: int, depth: int, variant: Variant) -> None:
        super().__init__()

        def site(queries, keys):
            return Site("cross", queries, keys, index, depth, config.heads)

        self.visual_attention = CrossAttention(config, site("both", "both"), variant)
        self.lang_self_att = SelfAttention(config, site("words", "words"), variant)
        self.visn_self_att = SelfAttention(config, site("boxes", "boxes"), variant)
        self.lang_inter = Intermediate(config)
        self.lang_output = Residual(config, config.intermediate)
        self.visn_inter = Intermediate(config)
        self.visn_output = Residual(config, config.intermediate)

    def words(
        self, words: Tensor, regions: Tensor, word: Packed, box: Packed, record: AttentionRecord | None
    ) -> Tensor:
        words = self.visual_attention(words, regions, word, box, record)
        words = self.lang_self_att(words, word, record)
        return self.lang_output(self.lang_inter(words), words)

    def first_words(self, words: Tensor, regions: Tensor, word: Packed, box: Packed) -> Tensor:
        """The first word of each question alone, (B, N)."""
        words = self.lang_self_att.first(self.visual_attention(words, regions, word, box, None), word)
        return self.lang_output(self.lang_inter(words), words)

    def regions(
        self, words: Tensor, regions: Tensor, word: Packed, box: Packed, record: AttentionRecord | None
    ) -> Tensor:
        regions = self.visual_attention(regions, words, box, word, record)
        regions = self.visn_self_att(regions, box.own(), record)
        return self.visn_output(self.visn_inter(regions), regions)


class Encoder(nn.Module):
    def __init__(self, config: LxmertConfig, variant: Variant) -> None:
        super().__init__()
        language, vision, cross = config.layers

        def layer(stack, modality, index, depth):
            return Layer(config, Site(stack, modality, modality, index, depth, config.heads), variant)

        self.visn_fc = RegionEmbeddings(config)
        self.layer = nn.ModuleList(layer("language", "words", i, language) for i in range(language))
        self.x_layers = nn.ModuleList(CrossLayer(config, i, cross, variant) for i in range(cross))
        self.r_layers = nn.ModuleList(layer("vision", "boxes", i, vision) for i in range(vision))
        self.depth = nn.ModuleDict(
            {
                stack: variant.depth(stack, layers)
                for stack, layers in zip(("language", "vision", "cross"), config.layers, strict=True)
            }
        )
        self.reads_regions = config.pooling == "concatenated"

    def forward(
        self,
        words: Tensor,
        regions: Tensor,
        word: Packed,
        box: Packed,
        picture: Tensor | None,
        generator: torch.Generator | None,
        record: AttentionRecord | None,
    ) -> tuple[Tensor, Tensor]:
        """Words (T, N) and regions (B * R, N) after the last layer.

        Without a ``record`` words are the first of each question, (B, N), and regions not brought up to date
        where the answer does not read them.
        """
        language, vision, cross = (
            cast(Depth, self.depth[stack]) for stack in ("language", "vision", "cross")
        )  # fmt: skip
        for index in language.keep(generator):
            words = language.gate(index, words, self.layer[index](words, word, record))
        for index in vision.keep(generator):
            regions = vision.gate(index, regions, self.r_layers[index](regions, box, record))
        box = of_questions(box, picture)
        crossing = cross.keep(generator)
        for index in crossing:
            layer = cast(CrossLayer, self.x_layers[index])
            last = record is None and index == crossing[-1]
            seen = regions
            if self.reads_regions or not last:
                seen = cross.gate(index, box.spread(regions), layer.regions(words, regions, word, box, record))
            if last:
                words = cross.gate(index, words[word.first], layer.first_words(words, regions, word, box))
            else:
                words = cross.gate(index, words, layer.words(words, regions, word, box, record))
            regions, box = seen, box.own()
        return words, regions


class Pooler(nn.Module):
    def __init__(self, config: LxmertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.width, config.width)

    def forward(self, hidden: Tensor) -> Tensor:
        return torch.tanh(self.dense(hidden))


class Lxmert(nn.Module):
    def __init__(self, config: LxmertConfig, variant: Variant) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config, variant)
        self.pooler = Pooler(config)


class AnswerHead(nn.Module):
    def __init__(self, config: LxmertConfig) -> None:
        super().__init__()
        self.logit_fc = nn.Sequential(
            nn.Linear(config.width, config.width * 2),
            nn.GELU(),
            nn.LayerNorm(config.width * 2, eps=1e-12),
            nn.Linear(config.width * 2, config.answers),
        )
        if config.pooling == "concatenated":
            # The second half of the first layer's inputs, apart from the first so that LXMERT's weights load.
            self.regions = nn.Sequential(Pooler(config), nn.Linear(config.width, config.width * 2, bias=False))

    def forward(self, pooled: Tensor, regions: Tensor | None) -> Tensor:
        hidden = self.logit_fc[0](pooled)
        if regions is not None:
            hidden = hidden + self.regions(regions)
        return self.logit_fc[1:](hidden)


class LxmertForQuestionAnswering(nn.Module):
    """Question and regions in, one logit per answer out.

    Weights are drawn from the global torch generator: normal with deviation 0.02, biases zero.
    """

    def __init__(self, config: LxmertConfig, variant: Variant) -> None:
        super().__init__()
        self.config = variant.configure(config)
        self.lxmert = Lxmert(self.config, variant)
        self.answer_head = AnswerHead(self.config)
        self._initialise()

    def forward(
        self,
        words: Tensor,
        regions: Tensor,
        boxes: Tensor,
        word_mask: Tensor | None = None,
        region_mask: Tensor | None = None,
        generator: torch.Generator | None = None,
        picture: Tensor | None = None,
    ) -> Tensor:
        """Logits (B, A) of words (B, W) of word-piece ids, regions (P, R, F) and boxes (P, R, 4) in [0, 1].

        Masks (B, W) and (P, R) are boolean, True = present. ``picture`` (B,) is the picture of each question;
        without it each question has its own, P = B. ``generator`` draws the layers that run in training.
        """
        if word_mask is not None:
            longest = int(word_mask.any(0).nonzero().max()) + 1 if word_mask.any() else 1
            words, word_mask = words[:, :longest], word_mask[:, :longest]
        word, box = pack_words(words, word_mask), lay_regions(boxes, region_mask)
        first, seen = self._encode(words, regions, word, box, picture, generator, record=None)
        return self._answer(first, seen, len(words))

    def outputs(
        self,
        words: Tensor,
        regions: Tensor,
        boxes: Tensor,
        word_mask: Tensor | None = None,
        region_mask: Tensor | None = None,
        generator: torch.Generator | None = None,
        picture: Tensor | None = None,
    ) -> LxmertOutputs:
        """The same forward pass with everything that LXMERT computes: padding and both halves of the last layer."""
        word = replace(pack_words(words, None), tokens=pack_words(words, word_mask).tokens)
        record: AttentionRecord = {}
        hidden, seen = self._encode(
            words, regions, word, lay_regions(boxes, region_mask), picture, generator, record
        )  # fmt: skip
        logits = self._answer(hidden[word.first], seen, len(words))
        return LxmertOutputs(logits, hidden.unflatten(0, words.shape), seen.unflatten(0, (len(words), -1)), record)

    def sites(self) -> list[tuple[Site, Weights]]:
        """Every attention block with its Weights, in the order of the layers."""
        return [(module.site, module.weights) for module in self.modules() if isinstance(module, Attention)]

    def _encode(
        self,
        words: Tensor,
        regions: Tensor,
        word: Packed,
        box: Packed,
        picture: Tensor | None,
        generator: torch.Generator | None,
        record: AttentionRecord | None,
    ) -> tuple[Tensor, Tensor]:
        encoder = self.lxmert.encoder
        hidden = self.lxmert.embeddings(words, word)
        seen = encoder.visn_fc(regions, box.tokens.boxes)
        return encoder(hidden, seen, word, box, picture, generator, record)

    def _answer(self, first: Tensor, seen: Tensor, questions: int) -> Tensor:
        """Logits (B, A) from the first words (B, N) and the regions (B * R, N)."""
        regions = seen.unflatten(0, (questions, -1)).mean(1) if self.config.pooling == "concatenated" else None
        return self.answer_head(self.lxmert.pooler(first), regions)

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
            if isinstance(module, nn.Embedding):
                with torch.no_grad():
                    module.weight[module.padding_idx].zero_()


def is_variants_own(name: str) -> bool:
    """Whether a tensor is a method's own: of its Weights, its Depth, or what ``configure`` added to the head."""
    return ".weights." in name or name.startswith(("lxmert.encoder.depth.", "answer_head.regions."))
