"""Generated files in the forms that data sets come in, for tests and benches where the real ones are not.

    python -m suite.data.generate FOLDER [--base]

writes a small VQA 2.0 with pre-trained weights: a rehearsal of the paper's study before 60 GB are downloaded, with
``--base`` at LXMERT's size. Contents are random and depend on the seed alone: form and size are what is real.
"""

from __future__ import annotations

import argparse
import base64
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from suite.data.scoring import vqa_soft_score
from suite.data.wordpieces import SPECIAL

OBJECTS, ATTRIBUTES = 1601, 401  # classes of the detector, background included


def write_obj36(path: Path, ids: Sequence[str], seed: int, boxes: int = 36, features: int = 2048) -> None:
    """Region features of images `ids` as LXMERT distributes them: ten columns, tabs, no header, CRLF.

    Features are at least 0 and half of them are 0, about as in the real file; boxes are in pixels, within
    the image, not sorted.
    """
    rng = np.random.default_rng(seed)
    with path.open("wb") as stream:
        for image_id in ids:
            width, height = (int(side) for side in rng.integers(200, 641, 2))
            corners = np.sort(rng.uniform(size=(boxes, 2, 2)), axis=1).reshape(boxes, 4)
            arrays = [
                rng.integers(0, OBJECTS, boxes),
                rng.random(boxes, dtype=np.float32),
                rng.integers(0, ATTRIBUTES, boxes),
                rng.random(boxes, dtype=np.float32),
                (corners * (width, height, width, height)).astype(np.float32),
                np.maximum(rng.standard_normal((boxes, features), dtype=np.float32), 0),
            ]
            text = [base64.b64encode(array) for array in arrays]
            numbers = [str(number).encode() for number in (height, width, boxes)]
            line = [image_id.encode(), *numbers[:2], *text[:4], numbers[2], *text[4:]]
            stream.write(b"\t".join(line) + b"\r\n")


ANSWERS = ("yes", "no", "2", "red", "blue", "tennis", "3", "dog", "", "1 4")
HUMANS = ("yes", "no", "2", "two", "red", "Red.", "blue", "tennis", "3", "the dog", "dog", "a cat")
QUESTIONS = ("Is the man {}?", "What color is the {}?", "How many {} are there?", "What is on the {}?")
THINGS = ("dog", "table", "bus", "tennis racket", "skateboard", "clock", "umbrella", "train")
SPLITS = {"train": "train2014", "nominival": "val2014", "minival": "val2014", "test": "test2015"}
"""LXMERT's splits with the images that they are about."""


def write_vqa2(
    folder: Path, seed: int, images: int = 8, boxes: int = 36, features: int = 2048, pieces: int = 0
) -> None:
    """A VQA 2.0 of ``images`` images in each of LXMERT's splits, with the names and places that downloads have.

    Questions and answers in LXMERT's form and, but for test, annotations in the official one; obj36 features; and a
    vocabulary of at least ``pieces`` word pieces.
    """
    rng = np.random.default_rng(seed)
    for place in ("vqa", "mscoco_imgfeat"):
        (folder / place).mkdir(parents=True, exist_ok=True)
    ids: dict[str, list[str]] = {}
    asked: dict[str, list[dict]] = {"train2014": [], "val2014": []}
    annotated: dict[str, list[dict]] = {"train2014": [], "val2014": []}
    for number, (split, source) in enumerate(SPLITS.items()):
        listed = []
        for image in range(1000 * number + 1, 1000 * number + 1 + images):
            name = f"COCO_{source}_{image:012}"
            ids.setdefault(source, []).append(name)
            for place in range(int(rng.integers(1, 7))):
                kind = int(rng.integers(len(QUESTIONS)))
                sent = QUESTIONS[kind].format(rng.choice(THINGS))
                question = {"question_id": 1000 * image + place, "img_id": name, "sent": sent}
                listed.append(question)
                if split == "test":
                    continue
                favourite = rng.choice(HUMANS)
                humans = [str(favourite if rng.random() < 0.6 else rng.choice(HUMANS)) for _ in range(10)]
                counts = Counter(humans)
                types = {
                    "question_type": " ".join(QUESTIONS[kind].split()[:2]).lower(),
                    "answer_type": ("yes/no", "other", "number", "other")[kind],
                }
                soft = {answer: vqa_soft_score(n) for answer, n in counts.items() if answer in ANSWERS}
                question |= types | {"label": soft}
                same = {"question_id": question["question_id"], "image_id": image}
                asked[source].append(same | {"question": sent})
                annotated[source].append(
                    same
                    | types
                    | {"multiple_choice_answer": counts.most_common(1)[0][0]}
                    | {"answers": [{"answer": text, "answer_id": n + 1} for n, text in enumerate(humans)]}
                )
        _write_json(folder / "vqa" / f"{split}.json", listed)
    for source, questions in asked.items():
        head = {"data_type": "mscoco", "data_subtype": source}
        names = f"v2_OpenEnded_mscoco_{source}_questions.json", f"v2_mscoco_{source}_annotations.json"
        _write_json(folder / "vqa" / names[0], head | {"questions": questions})
        _write_json(folder / "vqa" / names[1], head | {"annotations": annotated[source]})
    _write_json(folder / "vqa" / "trainval_label2ans.json", ANSWERS)
    for number, (source, names) in enumerate(ids.items()):
        write_obj36(folder / "mscoco_imgfeat" / f"{source}_obj36.tsv", names, seed + number, boxes, features)
    words = sorted({word.strip("?").lower() for text in (*QUESTIONS, *THINGS) for word in text.split()} - {"{}"})
    vocabulary = [*SPECIAL, "?", *words]
    vocabulary += [f"[unused{number}]" for number in range(pieces - len(vocabulary))]
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in vocabulary), encoding="utf-8")


def write_pretrained(folder: Path, seed: int, **sizes: object) -> None:
    """``model_LXRT.pth`` of random weights with LXMERT's names, and ``all_ans.json`` beside it.

    ``sizes`` are fields of LxmertConfig; the model answers more than the data set, and lacks two of its answers.
    """
    import torch

    from suite.attention import Variant
    from suite.models.lxmert import LxmertConfig, LxmertForQuestionAnswering

    known = ["kite", *ANSWERS[:-2], "surfing"]
    torch.manual_seed(seed)
    model = LxmertForQuestionAnswering(LxmertConfig(answers=len(known), **sizes), Variant())  # type: ignore[arg-type]
    state = {f"module.{name.replace('lxmert.', 'bert.', 1)}": one for name, one in model.state_dict().items()}
    torch.save(state, folder / "model_LXRT.pth")
    _write_json(folder / "all_ans.json", [{"ans": answer, "dsets": ["vqa"]} for answer in known])


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="A small VQA 2.0 with pre-trained weights, generated.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--base", action="store_true", help="at LXMERT's size: 0.8 GB; else of width 32")
    arguments = parser.parse_args()
    write_vqa2(arguments.folder, seed=0, pieces=30522 if arguments.base else 0)
    pieces = len((arguments.folder / "vocab.txt").read_text(encoding="utf-8").splitlines())
    small = {} if arguments.base else {"width": 32, "heads": 2, "intermediate": 64}
    write_pretrained(arguments.folder, seed=0, vocabulary=pieces, **small)


if __name__ == "__main__":
    main()
