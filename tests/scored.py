"""Predictions for the small study, with results that belong to them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy
import pandas
from changed import change, change_accuracy

from suite.records import CellFolder, StudyFolder, read_json, write_json

QUESTIONS, IMAGES = 120, 30
IDS = [1000 + 7 * number for number in range(QUESTIONS)]


def write_scores(
    record: CellFolder,
    scores: Sequence[float],
    ids: Sequence[int] | None = None,
    images: Sequence[str] | None = None,
) -> pandas.DataFrame:
    """Predictions with ``scores``, and the result that belongs to them."""
    table = pandas.DataFrame(
        {
            "question_id": IDS[: len(scores)] if ids is None else ids,
            "image_id": [f"i{n % IMAGES}" for n in range(len(scores))] if images is None else images,
            "question_type": "",
            "answer_type": "",
            "official": numpy.nan,
            "answer": "yes",
            "score": scores,
            "top_answers": [["yes", "no"]] * len(scores),
            "top_confidences": [[0.9, 0.1]] * len(scores),
        }
    )
    record.path.mkdir(parents=True, exist_ok=True)
    record.write_predictions(table)
    if record.result() is not None:
        change_accuracy(record.path / "result.json", test=100 * float(numpy.mean(scores)))
    return table


def draw(name: str, accuracy: float = 0.7) -> list[float]:
    chance = numpy.random.default_rng(list(name.encode()))
    return numpy.where(chance.random(QUESTIONS) < accuracy, 1.0, chance.choice([0.0, 0.3], QUESTIONS)).tolist()


def write_all(study_folder: Path) -> dict[str, pandas.DataFrame]:
    """Predictions of every finished cell that is a row or a floor."""
    study = StudyFolder(study_folder)
    records = [study.cell(entry["id"]) for entry in study.study()["cells"] if entry["role"] != "start"]
    return {record.id: write_scores(record, draw(record.id)) for record in records if record.state == "finished"}


def add_seed(study_folder: Path, cell_id: str, seed: int) -> str:
    """A further seed of a cell, with what it left; its id."""
    study = read_json(study_folder / "study.json")
    place, entry = next((n, entry) for n, entry in enumerate(study["cells"]) if entry["id"] == cell_id)
    other = f"{cell_id.rpartition('-')[0]}-s{seed}"
    study["cells"].insert(place + 1, entry | {"id": other, "cell": entry["cell"] | {"seed": seed}})
    write_json(study_folder / "study.json", study)
    if (study_folder / cell_id).exists():
        shutil.copytree(study_folder / cell_id, study_folder / other)
        config = study_folder / other / "config.json"
        change(config, id=other)
    return other
