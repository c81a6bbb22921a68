"""One prepared easy-VQA for all tests of the data."""

from pathlib import Path

import pytest

from suite.data import easy_vqa
from suite.data.store import DataSet, open_dataset


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "easy_vqa"
    easy_vqa.prepare(folder)
    return folder


@pytest.fixture(scope="session")
def dataset(prepared: Path) -> DataSet:
    return open_dataset(prepared)
