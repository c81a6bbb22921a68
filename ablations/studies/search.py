"""Do methods with arguments come nearer to softmax when these are searched?

    ablate run search

Each search has the same budget, six trials of the demo's fine-tuning. The spans' limit, edge and penalty are
drawn under asha, which stops trials that are behind; top-k's number of keys and LayerDrop's ways to lose layers are
few, and each trial is trained to its end. The winners are chosen on the validation split and trained again with the
rows' seed. Softmax, entmax and the others have no argument to search.
"""

from __future__ import annotations

from dataclasses import replace

from ablations.studies import demo
from suite.config import Search, Study
from suite.space import Choice, Integers, LogUniform

TRIALS = 6


def study() -> Study:
    softmax = demo.study().cells[0]
    span, top_k = (replace(softmax, variant=name) for name in ("span", "topk_softmax"))
    layerdrop = replace(softmax, variant="layerdrop", layers=(10, 6, 6))
    return Study(
        name="search",
        question="Do methods with arguments come nearer to softmax when these are searched?",
        cells=(softmax, span, top_k),
        looked=demo.study().looked,
        searches=(
            Search(
                span,
                {"limit": Choice((4, 8, 16, 32, 64)), "ramp": Integers(1, 16), "penalty": LogUniform(1e-6, 1e-2)},
                trials=TRIALS,
                scheduler="asha",
            ),
            Search(top_k, {"k": Integers(1, 16)}, trials=TRIALS),
            Search(
                layerdrop,
                {"p": Integers(1, 3), "pruning": Choice(("every_other", "data_driven"))},
                trials=TRIALS,
            ),
        ),
    )
