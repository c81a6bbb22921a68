"""What several test files share: one thread, a registry that forgets plug-ins, and a data set of seconds."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import numpy as np
import pandas as pd
import pytest
import torch

from suite import registry
from suite.data.store import write_dataset

torch.set_num_threads(1)
# A busy machine must not turn a slow example into a failure.
hypothesis.settings.register_profile("suite", deadline=None)
hypothesis.settings.register_profile("fuzz", deadline=None, max_examples=300)
hypothesis.settings.load_profile("suite")

SPLITS = {"start": 40, "train": 40, "validation": 24, "test": 24}
WORDS, REGIONS, FEATURES, ANSWERS, VOCABULARY = 6, 3, 5, 4, 16


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of prepared data sets, whose ``easy_vqa`` is small: each answer shows in its picture."""
    rng = np.random.default_rng(0)
    split = np.repeat(list(SPLITS), list(SPLITS.values()))
    count = len(split)
    words = np.zeros((count, WORDS), dtype=np.int32)
    for row, length in zip(words, rng.integers(3, WORDS + 1, count), strict=True):
        row[:length] = [2, *rng.integers(5, VOCABULARY, length - 2), 3]
    answer = rng.integers(0, ANSWERS, count)
    regions = rng.normal(size=(count, REGIONS, FEATURES)).astype(np.float32)
    regions[np.arange(count), :, answer] += 3
    folder = tmp_path_factory.mktemp("datasets")
    write_dataset(
        folder / "easy_vqa",
        name="easy_vqa",
        title="A stand-in for easy-VQA",
        preparation=1,
        source="0" * 64,
        licence="none",
        attribution="nobody",
        questions=pd.DataFrame(
            {
                "question_id": np.arange(count) + 100,
                "image": np.arange(count),
                "split": split,
                "text": [f"question {number % 7}?" for number in range(count)],
                "labels": [[label] for label in answer],
                "scores": [[1.0]] * count,
                "humans": [["yes"] * 10] * count,
                "question_type": "",
                "answer_type": "other",
            }
        ),
        words=words,
        images=pd.DataFrame(
            {"image_id": [f"picture {n}" for n in range(count)], "width": 64, "height": 64, "picture": ""}
        ),
        pictures=[(regions, rng.uniform(size=(count, REGIONS, 4)).astype(np.float32))],
        tokenizer="{}",
        vocabulary=VOCABULARY,
        answers=["yes", "no", "red", "blue"],
    )
    return folder


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Writes a plug-in file; whatever was registered meanwhile is forgotten afterwards."""
    registered, files, modules = (
        dict(registry._from_plugins),
        dict(registry._plugin_files),
        set(sys.modules),
    )

    def write(text: str, name: str = "plugin.py") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    yield write
    for known, before in ((registry._from_plugins, registered), (registry._plugin_files, files)):
        known.clear()
        known.update(before)
    for module in set(sys.modules) - modules:
        if module.startswith("ablate_plugin_"):
            del sys.modules[module]
