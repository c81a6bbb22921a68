"""LXMERT for question answering (Tan and Bansal 2019, 1908.07490), the whole model in one file.

Parameter names are those of ``transformers.LxmertForQuestionAnswering``, whose state dict loads strictly.
How attention weights are made and which layers run comes from a Variant; its own parameters live under
``...weights`` of each attention block and ``lxmert.encoder.depth``.

Shapes: B questions, W words, R regions, F features of a region, N width, H heads, A answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

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


class Embeddings(nn.Module):
    def __init__(self, config: LxmertConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocabulary, config.width, padding_idx=0)
        self.position_embeddings = nn.Embedding(config.positions, config.width, padding_idx=0)
        self.token_type_embeddings = nn.Embedding(config.segments, config.width, padding_idx=0)
        self.LayerNorm = nn.LayerNorm(config.width, eps=1e-12)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, words: Tensor, index: Tensor) -> Tensor:
        # A question is one segment: all its words have token type 0.
        segment = self.token_type_embeddings(torch.zeros_like(index))
        return self.dropout(self.LayerNorm(self.word_embeddings(words) + self.position_embeddings(index) + segment))


class RegionEmbeddings(nn.Module):
    def __init__(self, config: LxmertConfig) -> None:
        super().__init__()
        self.visn_fc = nn.Linear(config.features, config.width)
        self.visn_layer_norm = nn.LayerNorm(config.width, eps=1e-12)
        self.box_fc = nn.Linear(4, config.width)
        self.box_layer_norm = nn.LayerNorm(config.width, eps=1e-12)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, regions: Tensor, boxes: Tensor) -> Tensor:
        seen = self.visn_layer_norm(self.visn_fc(regions))
        placed = self.box_layer_norm(self.box_fc(boxes))
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
        self, hidden: Tensor, context: Tensor, positions: Positions, record: AttentionRecord | None
    ) -> Tensor:
        query, key, value = (
            project(tokens).unflatten(-1, (self.site.heads, -1)).transpose(1, 2)
            for project, tokens in ((self.query, hidden), (self.key, context), (self.value, context))
        )
        mask = positions.keys.mask
        if record is None:
            mixed = self.weights.attend(query, key, value, mask, positions)
        else:
            weights = self.weights(self.weights.scores(query, key), mask, positions)
            direction = f"{positions.queries.modality}-{positions.keys.modality}"
            record[f"{self.site.stack}.{self.site.index}.{direction}"] = weights
            mixed = self.weights.mix(weights, value)
        return mixed.transpose(1, 2).flatten(2)


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

    def forward(self, hidden: Tensor, tokens: Tokens, record: AttentionRecord | None) -> Tensor:
        return self.output(self.self(hidden, hidden, Positions(tokens, tokens), record), hidden)


class CrossAttention(nn.Module):
    """One set of parameters, used from words to boxes and from boxes to words."""

    def __init__(self, config: LxmertConfig, site: Site, variant: Variant) -> None:
        super().__init__()
        self.att = Attention(config, site, variant)
        self.output = Residual(config, config.width)

    def forward(
        self, hidden: Tensor, context: Tensor, positions: Positions, record: AttentionRecord | None
    ) -> Tensor:
        return self.output(self.att(hidden, context, positions, record), hidden)


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

    def forward(self, hidden: Tensor, tokens: Tokens, record: AttentionRecord | None) -> Tensor:
        hidden = self.attention(hidden, tokens, record)
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
        self, words: Tensor, regions: Tensor, word: Tokens, box: Tokens, record: AttentionRecord | None
    ) -> Tensor:
        words = self.visual_attention(words, regions, Positions(word, box), record)
        words = self.lang_self_att(words, word, record)
        return self.lang_output(self.lang_inter(words), words)

    def regions(
        self, words: Tensor, regions: Tensor, word: Tokens, box: Tokens, record: AttentionRecord | None
    ) -> Tensor:
        regions = self.visual_attention(regions, words, Positions(box, word), record)
        regions = self.visn_self_att(regions, box, record)
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

    def forward(
        self,
        words: Tensor,
        regions: Tensor,
        word: Tokens,
        box: Tokens,
        generator: torch.Generator | None,
        record: AttentionRecord | None,
    ) -> tuple[Tensor, Tensor]:
        regions = self.visn_fc(regions, box.boxes)
        for index in self._keep("language", generator):
            words = self.layer[index](words, word, record)
        for index in self._keep("vision", generator):
            regions = self.r_layers[index](regions, box, record)
        crossing = self._keep("cross", generator)
        for index in crossing:
            layer = cast(CrossLayer, self.x_layers[index])
            # The answer reads the first word: nothing looks at the regions after the last layer.
            read_again = record is not None or index != crossing[-1]
            seen = layer.regions(words, regions, word, box, record) if read_again else regions
            words, regions = layer.words(words, regions, word, box, record), seen
        return words, regions

    def _keep(self, stack: str, generator: torch.Generator | None) -> Sequence[int]:
        return cast(Depth, self.depth[stack]).keep(generator)


class Pooler(nn.Module):
    def __init__(self, config: LxmertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.width, config.width)

    def forward(self, words: Tensor) -> Tensor:
        return torch.tanh(self.dense(words[:, 0]))


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

    def forward(self, pooled: Tensor) -> Tensor:
        return self.logit_fc(pooled)


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
    ) -> Tensor:
        """Logits (B, A) of words (B, W) of word-piece ids, regions (B, R, F) and boxes (B, R, 4) in [0, 1].

        Masks (B, W) and (B, R) are boolean, True = present. ``generator`` draws the layers that run in
        training.
        """
        word, box = self._tokens(words, boxes, word_mask, region_mask)
        hidden = self.lxmert.embeddings(words, word.index)
        hidden, _ = self.lxmert.encoder(hidden, regions, word, box, generator, record=None)
        return self.answer_head(self.lxmert.pooler(hidden))

    def outputs(
        self,
        words: Tensor,
        regions: Tensor,
        boxes: Tensor,
        word_mask: Tensor | None = None,
        region_mask: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> LxmertOutputs:
        """The same forward pass with everything that it computes, both halves of the last layer included."""
        word, box = self._tokens(words, boxes, word_mask, region_mask)
        record: AttentionRecord = {}
        hidden = self.lxmert.embeddings(words, word.index)
        hidden, seen = self.lxmert.encoder(hidden, regions, word, box, generator, record)
        return LxmertOutputs(self.answer_head(self.lxmert.pooler(hidden)), hidden, seen, record)

    def sites(self) -> list[tuple[Site, Weights]]:
        """Every attention block with its Weights, in the order of the layers."""
        return [(module.site, module.weights) for module in self.modules() if isinstance(module, Attention)]

    @staticmethod
    def _tokens(
        words: Tensor, boxes: Tensor, word_mask: Tensor | None, region_mask: Tensor | None
    ) -> tuple[Tokens, Tokens]:
        def spread(mask: Tensor | None) -> Tensor | None:
            return None if mask is None else mask[:, None, None, :]

        word_index = torch.arange(words.shape[1], device=words.device)
        box_index = torch.arange(boxes.shape[1], device=words.device)
        return (
            Tokens("words", spread(word_mask), word_index),
            Tokens("boxes", spread(region_mask), box_index, boxes),
        )

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
            if isinstance(module, nn.Embedding):
                with torch.no_grad():
                    module.weight[module.padding_idx].zero_()
