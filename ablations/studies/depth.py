"""How much accuracy does one trained 10-6-6 keep where fewer of its layers run?

    ablate run depth

Two 10-6-6 fine-tune from the demo's start with the demo's budget: the default, p = 0, and LayerDrop with p = 1.
Each is evaluated as it was trained (the default with all layers, LayerDrop without the deepest of each stack) and,
with no more training, at the other depths that Every Other pruning has for 10-6-6. Softmax 9-5-5, trained at that
depth, is what a pruned model has to beat. Layers that were dropped in training can be missed (Fan et al. 2019,
1909.11556, section 4): LayerDrop's line should start lower and fall less.
"""

from __future__ import annotations

from dataclasses import replace

from ablations.studies import demo
from ablations.variants.layerdrop import every_other
from suite.config import Study, only_layers

DEEP = (10, 6, 6)
DROPPED = ((0, 0, 0), (1, 1, 1), (2, 2, 2), (3, 2, 2), (5, 3, 3))
"""Language, vision and cross layers; Every Other's rule has no other counts where the stacks lose about alike."""


def study() -> Study:
    softmax = demo.study().cells[0]
    trained = [replace(softmax, variant="layerdrop", arguments={"p": p}, layers=DEEP) for p in (0, 1)]
    smaller = [
        only_layers(cell, [every_other(layers, p) for layers, p in zip(DEEP, dropped, strict=True)])
        for cell in trained
        for dropped in DROPPED
        if set(dropped) != {cell.arguments["p"]}  # As it was trained: it has that evaluation already.
    ]
    return Study(
        name="depth",
        question="How much accuracy does one trained 10-6-6 keep where fewer of its layers run?",
        cells=(softmax, *trained, *smaller),
        looked=demo.study().looked,
    )
