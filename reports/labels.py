"""What rows are called: a method with its arguments and the layers that run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from reports.cells import Group
from reports.text import shortened
from suite.records import depth_text

LONGEST = 300
"""Characters of a variant's name, and of an argument's value, that a label has room for."""


def full_label(group: Group) -> str:
    one = group[0].configuration
    return _described(one, list(one["arguments"]), depth_text(one["layers"], group[0].keep))


def floor_label(group: Group) -> str:
    blind = group[0].configuration["pictures"] == "mean"
    return f"blind (mean picture) {full_label(group)}" if blind else full_label(group)


def short_label(group: Group, groups: Sequence[Group]) -> str:
    """Variant and layers, with the arguments in which rows of the same variant differ."""
    one = group[0].configuration
    rivals = [
        other[0].configuration["arguments"]
        for other in groups
        if other[0].configuration["variant"] == one["variant"]
    ]
    return _described(
        one,
        [name for name, value in one["arguments"].items() if any(rival.get(name) != value for rival in rivals)],
        depth_text(one["layers"], None),
    )


def _described(configuration: Mapping[str, Any], names: Iterable[str], layers: str) -> str:
    arguments = [f"{name} = {written(configuration['arguments'][name])}" for name in names]
    return ", ".join([shortened(configuration["variant"], LONGEST), *arguments, layers])


def written(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)
    return shortened(text, LONGEST)
