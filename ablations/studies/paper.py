"""The paper's study: seven ways of attending in LXMERT, fine-tuned on VQA 2.0 from the pre-trained weights.

    ablate data prepare vqa2 --from FOLDER
    ablate run paper --set pretrained=model_LXRT.pth --seeds 3

Section 3: batches of 128, Lookahead around LAMB, a cyclic rate from 1e-5 to 1e-4; train and nominival to train on,
minival as the local validation split. How long is not stated; LXMERT's four epochs are taken. The weights are
LXMERT's: by default the hub's; with ``model_LXRT.pth``, and ``all_ans.json`` beside it, the answers that were
pre-trained start from there too. The one layer more that 10-6-6 has in each stack starts random, or with
``--set deeper=neighbour`` as a copy of the last one.
"""

from __future__ import annotations

from dataclasses import replace

from suite.config import Cell, Protocol, Study

QUESTIONS = 632_117
"""Of train and nominival: VQA 2.0's train and val without minival's 25,994."""
EPOCHS = 4


def steps(batch_size: int) -> int:
    return QUESTIONS * EPOCHS // batch_size


SOFTMAX = Cell(
    variant="softmax",
    dataset="vqa2",
    protocol=Protocol(steps=steps(128)),
    train=("train", "nominival"),
    validation="minival",
    test="minival",
    pretrained="unc-nlp/lxmert-base-uncased",
)


def study() -> Study:
    shallow, deep = (9, 5, 5), (10, 6, 6)
    return Study(
        name="paper",
        question="How do softmax, adaptive span, entmax and LayerDrop compare on VQA 2.0?",
        cells=(
            SOFTMAX,
            replace(SOFTMAX, variant="span"),
            replace(SOFTMAX, variant="entmax"),
            replace(SOFTMAX, variant="layerdrop", arguments={"p": 1}, layers=deep),
            replace(SOFTMAX, variant="span_entmax"),
            replace(SOFTMAX, variant="layerdrop", arguments={"p": 0}, layers=deep),
            replace(SOFTMAX, variant="layerdrop", arguments={"p": 1}, layers=shallow),
        ),
    )
