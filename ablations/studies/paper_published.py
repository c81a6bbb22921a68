"""The paper's study as its code runs it: its methods as published, with the settings that the code has.

    ablate run paper_published --set pretrained=model_LXRT.pth

prajjwal1/adaptive_transformer at 8f062a7: LAMB without bias correction and with a floor under its trust ratio, a
peak rate of 5e-5, a weight decay of 1.2e-6, Lookahead's 5 and 0.8. With LayerDrop the encoder is not loaded, p = 0
included. Two of its ways are left out: questions are shuffled here, and the span over entmax is the paper's, with
weights that are not made to sum to 1 again. `--set batch_size` does not change the number of the span's slots.
"""

from __future__ import annotations

from dataclasses import replace

from ablations.studies.paper import SOFTMAX
from suite.config import Study


def study() -> Study:
    softmax = replace(
        SOFTMAX,
        protocol=replace(
            SOFTMAX.protocol,
            optimizer="lookahead_lamb_published",
            learning_rate=5e-5,
            weight_decay=1.2e-6,
            min_trust=0.25,
            lookahead_share=0.8,
        ),
    )
    shallow, deep = (9, 5, 5), (10, 6, 6)
    dropped = replace(softmax, variant="layerdrop_published", arguments={"p": 1})
    return Study(
        name="paper_published",
        question="What does the paper's code, as it was published, reach on VQA 2.0?",
        cells=(
            softmax,
            replace(softmax, variant="span_published", arguments={"batch_size": softmax.protocol.batch_size}),
            replace(softmax, variant="entmax_published"),
            replace(dropped, layers=deep),
            replace(softmax, variant="span_entmax", arguments={"renormalise": False}),
            replace(dropped, arguments={"p": 0}, layers=deep),
            replace(dropped, layers=shallow),
        ),
    )
