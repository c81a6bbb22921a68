"""LXMERT's own recipe: the baseline that the paper quotes, 72.42 on test-dev, is a run of this and not of its own.

    ablate run lxmert --set pretrained=model_LXRT.pth

Tan and Bansal 2019 (1908.07490): Adam with weight decay, batches of 32, a rate that rises to 5e-5 over a tenth of
the steps and falls to zero, four epochs. Their log has 69.90 on minival.
"""

from __future__ import annotations

from dataclasses import replace

from ablations.studies.paper import SOFTMAX, steps
from suite.config import Protocol, Study

RECIPE = Protocol(
    steps=steps(32), batch_size=32, optimizer="adamw", schedule="linear", learning_rate=5e-5, warmup=0.1
)


def study() -> Study:
    return Study(
        name="lxmert",
        question="Does LXMERT's own recipe give its published accuracy here?",
        cells=(replace(SOFTMAX, protocol=RECIPE),),
    )
