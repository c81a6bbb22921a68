"""What several test files share: one thread, a registry that forgets plug-ins, and a data set of seconds."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
import torch
from small_grid import write_small_data

from suite import registry

torch.set_num_threads(1)
# A busy machine must not turn a slow example into a failure.
hypothesis.settings.register_profile("suite", deadline=None)
hypothesis.settings.register_profile("fuzz", deadline=None, max_examples=300)
hypothesis.settings.load_profile("suite")


LONG = (
    *("cluster", "cli", "campaigns", "chaos", "engine", "workers", "report_demo", "preflight", "search"),
    *("readme_cluster", "vqa2_commands", "bench_grid"),
)
"""Files that take minutes, the longest first: they begin first, so that those that end last are short."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path.stem.removeprefix("test_"), len(places)))


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of prepared data sets, whose ``easy_vqa`` is small: each answer shows in its picture."""
    return write_small_data(tmp_path_factory.mktemp("datasets"))


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
