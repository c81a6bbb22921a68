"""Layers chosen after training, and a trained model with fewer of them: from a table of scores to the study."""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from reports import figures
from reports.tables import build_report
from suite import pruning, registry
from suite.attention import AllLayers, Depth, Variant
from suite.cli import main
from suite.models.lxmert import LxmertConfig, LxmertForQuestionAnswering
from suite.pruning import LIMIT, best_combination, choose_layers, keep_only, kept_layers, renumbered
from suite.records import StudyFolder

LAYERS = (4, 3, 3)


def model_of(
    variant: str, layers: tuple[int, int, int] = LAYERS, **arguments: object
) -> LxmertForQuestionAnswering:
    return model_with(registry.find("variant", variant)(**arguments), layers)


def model_with(variant: Variant, layers: tuple[int, int, int]) -> LxmertForQuestionAnswering:
    """With weights so large that every layer matters."""
    torch.manual_seed(0)
    config = LxmertConfig(
        vocabulary=10, answers=3, features=4, width=8, heads=2, intermediate=8, layers=layers,
        hidden_dropout=0.0, attention_dropout=0.0,
    )  # fmt: skip
    model = LxmertForQuestionAnswering(config, variant)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ".weights." not in name:
                weight.add_(0.2 * torch.randn_like(weight))
    return model.eval()


def inputs() -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(1, 10, (5, 6), generator=generator)
    return words, torch.randn(5, 3, 4, generator=generator), torch.rand(5, 3, 4, generator=generator)


# The best combination


@st.composite
def tables(draw: st.DrawFn, most: int) -> np.ndarray:
    """A score for each combination of up to four choices; whole numbers, so that many are equal."""
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4).filter(lambda s: math.prod(s) <= most))
    scores = draw(st.lists(st.integers(0, 5), min_size=math.prod(shape), max_size=math.prod(shape)))
    return np.array(scores).reshape(shape)


def options_of(table: np.ndarray) -> list[list[int]]:
    return [list(range(count)) for count in table.shape]


@given(tables(most=LIMIT))
def test_of_few_combinations_the_best_is_that_of_brute_force(table: np.ndarray) -> None:
    best = best_combination(options_of(table), lambda places: float(table[places]))
    # argmax: of equal ones the earliest.
    assert best == np.unravel_index(table.argmax(), table.shape)


@given(st.integers(0, 1000))
def test_of_many_combinations_no_change_of_one_choice_is_better(seed: int) -> None:
    table = np.random.default_rng(seed).integers(0, 9, (5, 6, 4))
    best = best_combination(options_of(table), lambda places: float(table[places]))
    assert table[best] >= table[0, 0, 0]
    for axis in range(3):
        others = [(*best[:axis], place, *best[axis + 1 :]) for place in range(table.shape[axis])]
        assert table[best] >= max(table[other] for other in others)


@given(st.integers(0, 1000))
def test_of_many_combinations_whose_choices_add_up_the_best_is_found(seed: int) -> None:
    parts = [np.random.default_rng((seed, count)).normal(size=count) for count in (10, 6, 6)]
    best = best_combination(
        [range(len(part)) for part in parts],
        lambda places: float(sum(part[place] for part, place in zip(parts, places, strict=True))),
    )
    assert best == tuple(int(part.argmax()) for part in parts)


@pytest.mark.parametrize(("shape", "most"), [((4, 4, 4), 64), ((10, 6, 6), 100)])
def test_no_combination_is_scored_twice(shape: tuple[int, ...], most: int) -> None:
    table, tried = np.random.default_rng(0).integers(0, 3, shape), []

    def score(places: tuple[int, ...]) -> float:
        tried.append(places)
        return float(table[places])

    best_combination(options_of(table), score)
    assert len(tried) == len(set(tried)) <= most


@pytest.mark.parametrize(("variant", "arguments"), [("softmax", {}), ("layerdrop", {"p": 1})])
def test_a_model_without_a_choice_is_not_scored(variant: str, arguments: dict) -> None:
    choose_layers(model_of(variant, **arguments), lambda: pytest.fail("it was scored"))


# Fewer layers


KEPT = {"language": [0, 2, 3], "vision": [1], "cross": [0, 2]}
SMALLER = (3, 1, 2)


@pytest.mark.parametrize(
    ("variant", "arguments"), [("softmax", {}), ("span", {}), ("span_entmax", {}), ("layerdrop", {"p": 0})]
)
def test_a_model_that_keeps_layers_is_the_smaller_model_with_renumbered_weights(
    variant: str, arguments: dict
) -> None:
    model, smaller = model_of(variant, **arguments), model_of(variant, SMALLER, **arguments)
    whole = model(*inputs())
    keep_only(model, list(KEPT.values()))
    assert kept_layers(model) == KEPT
    smaller.load_state_dict(renumbered(model.state_dict(), kept_layers(model)), strict=True)
    assert torch.equal(model(*inputs()), smaller(*inputs()))
    assert not torch.allclose(model(*inputs()), whole)


def test_layers_that_the_method_would_drop_can_be_kept() -> None:
    model = model_of("layerdrop", p=1)
    pruned = model(*inputs())
    keep_only(model, [range(layers) for layers in LAYERS])
    assert torch.equal(model(*inputs()), model_of("softmax")(*inputs()))
    assert not torch.allclose(model(*inputs()), pruned)


class Halved(AllLayers):
    """A learned rate: evaluation scales what a layer changes."""

    def gate(self, index: int, before: Tensor, after: Tensor) -> Tensor:
        return (before + after) / 2


@dataclass(frozen=True)
class Halves(Variant):
    def depth(self, stack: str, layers: int) -> Depth:
        return Halved(layers)


def test_what_goes_on_from_a_kept_layer_is_the_methods_own() -> None:
    model, smaller = (model_with(Halves(), layers) for layers in (LAYERS, SMALLER))
    keep_only(model, list(KEPT.values()))
    smaller.load_state_dict(renumbered(model.state_dict(), KEPT), strict=True)
    assert torch.equal(model(*inputs()), smaller(*inputs()))


def test_renumbered_weights_are_those_of_the_kept_layers_in_their_order() -> None:
    tensors, modules = model_of("span").state_dict(), pruning.MODULES
    smaller = renumbered(tensors, KEPT)
    moved = {
        name.replace(f"{modules[stack]}.{old}.", f"{modules[stack]}.{new}.", 1): tensor
        for stack, kept in KEPT.items()
        for new, old in enumerate(kept)
        for name, tensor in tensors.items()
        if name.startswith(f"lxmert.encoder.{modules[stack]}.{old}.")
    }
    layers = tuple(f"lxmert.encoder.{module}." for module in modules.values())
    elsewhere = {name: tensor for name, tensor in tensors.items() if not name.startswith(layers)}
    assert smaller.keys() == (moved | elsewhere).keys() == model_of("span", SMALLER).state_dict().keys()
    assert all(smaller[name] is tensor for name, tensor in (moved | elsewhere).items())


@pytest.mark.parametrize("kind", ["search_on_valid", "data_driven"])
def test_what_says_which_layers_run_is_no_tensor_of_the_smaller_model(kind: str) -> None:
    model = model_of("layerdrop", pruning=kind)
    plain = model_of("softmax", (3, 2, 2))
    plain.load_state_dict(renumbered(model.state_dict(), kept_layers(model)), strict=True)
    assert torch.equal(model(*inputs()), plain(*inputs()))


# The study


def test_the_study_of_depth_has_each_trained_model_at_every_depth() -> None:
    study = registry.find("study", "depth")()
    trained = {cell for cell in map(repr, study.cells) if "keep=None" in cell}
    running = [(cell.arguments["p"], *map(len, cell.keep)) for cell in study.cells if cell.keep is not None]
    every = [(10, 6, 6), (9, 5, 5), (8, 4, 4), (7, 4, 4), (5, 3, 3)]
    as_trained = {0: (10, 6, 6), 1: (9, 5, 5)}
    assert running == [(p, *depth) for p in (0, 1) for depth in every if depth != as_trained[p]]
    assert {repr(cell.start) for cell in study.cells if cell.keep is not None} < trained


STUDY = """
from dataclasses import replace

from suite.config import Cell, ModelSize, Protocol, Study, only_layers
from suite.registry import register


@register("shallow", "study")
def study():
    softmax = Cell(
        "softmax", "easy_vqa", Protocol(steps=6, batch_size=8, evaluations=2),
        layers=(2, 1, 1), model=ModelSize(width=8, heads=2, intermediate=8),
    )
    layerdrop = replace(softmax, variant="layerdrop", arguments={"p": 1}, layers=(3, 2, 2))
    seeds = [replace(layerdrop, seed=seed) for seed in (0, 1)]
    smaller = [only_layers(cell, keep) for keep in KEPT for cell in seeds]
    return Study("shallow", "?", (only_layers(softmax, ((1,), (0,), (0,))), softmax, *seeds, *smaller))


KEPT = (((0, 1, 2), (0, 1), (0, 1)), ((0, 2), (1,), (0,)), ((0,), (0,), (0,)))
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, data_folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """A study of two layers less, run to its end, and where it lies as options of the command."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "plugin.py").write_text(STUDY)
    places = ["--runs", str(folder), "--plugin", str(folder / "plugin.py")]
    assert main(["run", "shallow", "--no-ray", "--data", str(data_folder), *places]) == 0
    yield folder / "shallow", places
    registry._from_plugins.clear()
    registry._plugin_files.clear()


def table(study: Path) -> list[dict[str, str]]:
    """The lines of tables.csv that have cells of the study."""
    lines = csv.DictReader((study / "report/tables.csv").read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line["cells"]]


def test_a_trained_row_is_apart_from_its_model_at_other_depths(runs: tuple[Path, list[str]]) -> None:
    lines = {line["label"]: line for line in table(runs[0])}
    method = "layerdrop, p = 1, pruning = every_other, 3-2-2"
    assert {label: (line["table"], line["keep"], line["seeds"]) for label, line in lines.items()} == {
        "softmax, 2-1-1": ("Further variants", "", "1"),
        method: ("Further variants", "", "2"),
        "softmax, 2-1-1 at 1-1-1 without 0/-/-": (OTHER_DEPTHS, "[[1], [0], [0]]", "1"),
        f"{method} at 3-2-2": (OTHER_DEPTHS, "[[0, 1, 2], [0, 1], [0, 1]]", "2"),
        f"{method} at 2-1-1 without 1/0/1": (OTHER_DEPTHS, "[[0, 2], [1], [0]]", "2"),
        f"{method} at 1-1-1 without 1,2/1/1": (OTHER_DEPTHS, "[[0], [0], [0]]", "2"),
    }
    for line in lines.values():
        results = [StudyFolder(runs[0]).cell(cell).result() or {} for cell in line["cells"].split()]
        assert [float(text) for text in line["test_accuracies"].split()] == [
            result["accuracy"]["test"] for result in results
        ]
        assert (line["seconds"] == "") == bool(line["keep"]), "evaluating is no time of training"


OTHER_DEPTHS = "Trained models at other depths"


def test_differences_are_against_the_trained_softmax_and_notes_say_what_was_trained_alike(
    runs: tuple[Path, list[str]],
) -> None:
    """The study's first row is softmax, evaluated only."""
    for line in table(runs[0]):
        assert "Differs from the softmax row" not in line["notes"]
        assert ("Evaluated only" in line["notes"]) == bool(line["keep"])
    softmax = next(line for line in table(runs[0]) if line["label"] == "softmax, 2-1-1")
    assert (softmax["difference"], softmax["macs_reference_change"]) == ("0.0", "0.0")


def test_fewer_layers_are_counted_as_the_smaller_model(runs: tuple[Path, list[str]]) -> None:
    softmax, pruned = (
        next(line for line in table(runs[0]) if line["label"].endswith(label))
        for label in ("softmax, 2-1-1", "at 2-1-1 without 1/0/1")
    )
    for column in ("macs", "macs_reference", "parameters"):
        assert pruned[column] == softmax[column]


def test_plan_and_status_say_what_is_evaluated_only(
    runs: tuple[Path, list[str]], data_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "shallow", "--json", "--data", str(data_folder), *runs[1]]) == 0
    planned = {row["id"]: row for row in json.loads(capsys.readouterr().out)["cells"]}
    assert main(["status", "shallow", "--json", *runs[1]]) == 0
    states = {row["id"]: row for row in json.loads(capsys.readouterr().out)}
    assert planned.keys() == states.keys()
    assert {row["state"] for row in states.values()} == {"finished"}
    only = {name: row for name, row in planned.items() if " at " in row["what"]}
    assert len(only) == 7
    for name, row in planned.items():
        assert row["what"].endswith(states[name]["layers"])
        if name in only:
            assert (row["steps"], states[name]["step"]) == (0, None)
            assert planned[row["start"]]["what"] == row["what"].partition(" at ")[0]
        else:
            assert (row["steps"], states[name]["step"]) == (6, "6/6")


def test_a_second_run_evaluates_nothing_again(
    runs: tuple[Path, list[str]], data_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "shallow", "--no-ray", "--no-report", "--data", str(data_folder), *runs[1]]) == 0
    assert "nothing to run" in capsys.readouterr().err


def test_the_figure_has_a_line_per_trained_model_and_a_point_per_depth(runs: tuple[Path, list[str]]) -> None:
    report = build_report(runs[0])
    drawn = figures.over_depth(report)
    assert drawn is not None
    (axes,) = drawn.figure.axes
    lines = {str(line.get_label()): line for line in axes.lines if not str(line.get_label()).startswith("_")}
    assert list(lines) == ["softmax, 2-1-1", "layerdrop, 3-2-2"]
    expected = sorted(
        (float(line["macs_reference"]), float(line["test_accuracy"]))
        for line in table(runs[0])
        if line["variant"] == "layerdrop"
    )
    points = lines["layerdrop, 3-2-2"].get_xydata()
    assert np.asarray(points)[:, 0].tolist() == [macs for macs, _ in expected]
    assert sorted(map(tuple, np.asarray(points).tolist())) == expected
    ticks = {text.get_text() for text in axes.get_xticklabels()}
    assert ticks == {"1-1-1", "2-1-1", "3-2-2"}


def test_the_other_figures_show_the_trained_rows_alone(runs: tuple[Path, list[str]]) -> None:
    report = build_report(runs[0])
    (axes,) = figures.test_accuracy(report).figure.axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["softmax, 2-1-1", "layerdrop, 3-2-2"]
    curves = figures.curves(report)
    assert curves is not None
    assert [text.get_text() for text in curves.figure.legends[0].get_texts()] == [
        "softmax, 2-1-1",
        "layerdrop, 3-2-2",
    ]


def test_a_depth_without_a_result_is_told(runs: tuple[Path, list[str]], tmp_path: Path) -> None:
    shutil.copytree(runs[0], tmp_path / "shallow")
    label = "layerdrop, p = 1, pruning = every_other, 3-2-2 at 1-1-1 without 1,2/1/1"
    cells = next(line for line in table(runs[0]) if line["label"] == label)["cells"].split()
    for cell in cells:
        (tmp_path / "shallow" / cell / "result.json").unlink()
    report = build_report(tmp_path / "shallow")
    assert next(row for row in report.rows if row.label == label).state == "started"
    drawn = figures.over_depth(report)
    assert drawn is not None
    assert "layerdrop, 3-2-2 (1 of 4 depths missing)" in [
        text.get_text() for text in drawn.figure.legends[0].get_texts()
    ]


def test_a_study_of_trained_rows_alone_has_no_figure_of_depth(runs: tuple[Path, list[str]], tmp_path: Path) -> None:
    shutil.copytree(runs[0], tmp_path / "shallow")
    study = StudyFolder(tmp_path / "shallow")
    plain = study.study()
    study.write_study(plain | {"cells": [entry for entry in plain["cells"] if not entry["cell"]["keep"]]})
    assert figures.over_depth(build_report(study.path)) is None
