"""What is each difference between the paper's text and its published code worth?

    ablate run published

Every pair fine-tunes from the demo's start with the demo's budget: one row does what the paper says, the other what
prajjwal1/adaptive_transformer at 8f062a7 does. A table of its own has the difference of each pair in points.

The encoder that the published loader leaves at random should cost points, with LayerDrop and without: it would
explain why the paper's 66.x rows lie some six points below the others. The draws of LayerDrop, and the span per
batch slot, which no evaluation sees, should cost little. What is pooled is open: the regions bring a pooler that
the start has not trained, and a way to the answer past the first word. A free alpha may reach values at which the
loss is not a number; such a cell fails, and that is its result.

The span's number of slots is the demo's batch size and does not follow `--set batch_size`.
"""

from __future__ import annotations

from dataclasses import replace

from ablations.studies import demo
from suite.config import Cell, Comparison, Study


def study() -> Study:
    softmax = demo.study().cells[0]
    shallow, deep = (9, 5, 5), (10, 6, 6)

    def row(variant: str, layers: tuple[int, int, int] = shallow, **arguments: int | bool) -> Cell:
        return replace(softmax, variant=variant, layers=layers, arguments=arguments)

    comparisons = (
        Comparison(
            "span: one per batch slot, over the key's place",
            row("span"),
            row("span_published", batch_size=softmax.protocol.batch_size),
        ),
        Comparison("entmax: alpha is free after its start", row("entmax"), row("entmax_published")),
        *(
            comparison
            for layers in (deep, shallow)
            for comparison in (
                Comparison(
                    f"LayerDrop {_text(layers)}: drawn with replacement, in evaluation too",
                    row("layerdrop", layers, p=1),
                    row("layerdrop_published", layers, p=1, load_encoder=True),
                ),
                Comparison(
                    f"LayerDrop {_text(layers)}: drawn so, and the encoder not loaded",
                    row("layerdrop", layers, p=1),
                    row("layerdrop_published", layers, p=1, load_encoder=False),
                ),
            )
        ),
        Comparison("softmax: the encoder not loaded", softmax, row("unloaded_encoder")),
        Comparison("softmax: the first word pooled alone", row("concatenated"), softmax),
    )
    return Study(
        name="published",
        question="What is each difference between the paper's text and its published code worth?",
        cells=(softmax, *(cell for pair in comparisons for cell in (pair.base, pair.changed))),
        looked=demo.study().looked,
        comparisons=comparisons,
    )


def _text(layers: tuple[int, int, int]) -> str:
    return "-".join(map(str, layers))
