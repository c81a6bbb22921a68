"""What does a batch that keeps a picture's questions together cost in accuracy?

    ablate run sharing

Softmax fine-tunes from the demo's start with its budget, once with questions drawn one by one, as the paper's
protocol has it, and once with all questions of a picture in one batch, so that the vision stack runs once for all
of them. A batch of as many questions then shows fewer pictures: its steps are faster, and tell the model less.
"""

from __future__ import annotations

from dataclasses import replace

from ablations.studies import demo
from suite.config import Comparison, Study


def study() -> Study:
    alone = demo.study().cells[0]
    together = replace(alone, protocol=replace(alone.protocol, share_pictures=True))
    return Study(
        name="sharing",
        question="What does a batch that keeps a picture's questions together cost in accuracy?",
        cells=(alone, together),
        looked=demo.study().looked,
        comparisons=(Comparison("softmax: a picture's questions in one batch", alone, together),),
    )
