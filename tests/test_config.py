"""Cells as plain values: what names them, what survives JSON, what a person may set."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from suite.config import Cell, ModelSize, Placement, Protocol, cell_id, from_plain, only_layers, override, to_plain
from suite.errors import UserError

CELL = Cell(variant="span", dataset="easy_vqa", protocol=Protocol(steps=100))
POSITIVE = st.floats(1e-9, 1e9)
SHARE = st.floats(0, 1)

protocols = st.builds(
    Protocol,
    steps=st.integers(1, 10**6),
    batch_size=st.integers(1, 4096),
    optimizer=st.sampled_from(["lookahead_lamb", "adamw"]),
    schedule=st.sampled_from(["cyclic", "linear"]),
    learning_rate=POSITIVE,
    warmup=SHARE,
    weight_decay=SHARE,
    clip=POSITIVE,
    evaluations=st.integers(1, 100),
)
models = st.integers(1, 16).flatmap(
    lambda heads: st.builds(
        ModelSize,
        width=st.integers(1, 64).map(lambda part: part * heads),
        heads=st.just(heads),
        hidden_dropout=SHARE,
    )
)
scalars = st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()


def cells(starts: st.SearchStrategy[Cell | None]) -> st.SearchStrategy[Cell]:
    return st.builds(
        Cell,
        variant=st.text(min_size=1),
        dataset=st.text(min_size=1),
        protocol=protocols,
        arguments=st.dictionaries(st.text(), scalars, max_size=3),
        layers=st.tuples(*[st.integers(1, 12)] * 3),
        model=models,
        seed=st.integers(0, 2**31),
        train=st.lists(st.text(), min_size=1, max_size=2).map(tuple),
        pictures=st.sampled_from(["given", "mean"]),
        start=starts,
    )


def name(cell: Cell = CELL, source: str = "source", data: str = "data", start: str | None = None) -> str:
    return cell_id(cell, source, data, start)


# Ids


def test_an_id_is_the_variant_the_seed_and_ten_hex_digits() -> None:
    variant, seed, digest = name(dataclasses.replace(CELL, seed=3)).split("-")
    assert (variant, seed, len(digest)) == ("span", "s3", 10)
    assert int(digest, 16) >= 0


def test_an_id_is_what_it_was_when_this_was_written() -> None:
    """A change of this number gives every finished cell of every user another name."""
    assert name() == "span-s0-4b90a6d152"


def test_a_field_at_its_default_is_left_out_of_the_id() -> None:
    """So that a field that is added later keeps old ids."""

    @dataclasses.dataclass(frozen=True)
    class LaterProtocol(Protocol):
        later: float = 0.0

    later = dataclasses.replace(CELL, protocol=LaterProtocol(steps=100))
    changed = dataclasses.replace(CELL, protocol=LaterProtocol(steps=100, later=1.0))
    assert name(later) == name() != name(changed)


@pytest.mark.parametrize(
    "changed",
    [
        {"variant": "entmax"},
        {"dataset": "vqa"},
        {"protocol": Protocol(steps=101)},
        {"protocol": Protocol(steps=100, weight_decay=0.1)},
        {"arguments": {"ramp": 2}},
        {"layers": (5, 9, 5)},
        {"model": ModelSize(hidden_dropout=0.0)},
        {"seed": 1},
        {"train": ("start", "train")},
        {"validation": "test"},
        {"test": "validation"},
        {"pictures": "mean"},
    ],
    ids=str,
)
def test_every_field_changes_the_id(changed: dict[str, Any]) -> None:
    assert name(dataclasses.replace(CELL, **changed)) != name()


@pytest.mark.parametrize("changed", [{"source": "x"}, {"data": "x"}, {"start": "x"}], ids=str)
def test_source_data_and_start_change_the_id(changed: dict[str, str]) -> None:
    assert name(**changed) != name()


def test_the_order_of_arguments_does_not_change_the_id() -> None:
    one, other = ({"ramp": 2, "limit": 8}, {"limit": 8, "ramp": 2})
    assert name(dataclasses.replace(CELL, arguments=one)) == name(dataclasses.replace(CELL, arguments=other))


@pytest.mark.parametrize("field", ["learning_rate", "weight_decay", "clip"])
def test_equal_cells_have_equal_ids_however_a_number_is_written(field: str) -> None:
    """A study file says 1 where ``--set`` reads 1.0."""
    whole, decimal = (
        dataclasses.replace(CELL, protocol=Protocol(steps=100, **{field: value})) for value in (1, 1.0)
    )
    assert whole == decimal
    assert name(whole) == name(decimal)


# Plain values


@given(cells(cells(st.none()) | st.none()))
def test_a_cell_survives_json(cell: Cell) -> None:
    assert from_plain(Cell, json.loads(json.dumps(to_plain(cell)))) == cell


@given(cells(st.none()))
def test_a_cell_that_survived_json_has_its_id(cell: Cell) -> None:
    assert name(from_plain(Cell, to_plain(cell))) == name(cell)


def test_plain_values_spell_out_every_field() -> None:
    assert set(to_plain(CELL)) == {field.name for field in dataclasses.fields(Cell)}
    assert set(to_plain(CELL)["protocol"]) == {field.name for field in dataclasses.fields(Protocol)}


def test_an_unknown_field_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"no field of Protocol 'step'\. Did you mean 'steps'"):
        from_plain(Protocol, {"step": 1})


@pytest.mark.parametrize("value", ["many", 1.5, True, None, [1], "nan", "inf"], ids=repr)
def test_a_value_of_another_type_is_refused_with_what_was_received(value: Any) -> None:
    with pytest.raises(UserError, match=r"steps takes a whole number; received"):
        from_plain(Protocol, {"steps": value})


# Values that no run can have


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (Protocol, {"steps": 0}, "steps must be a whole number of at least 1; received 0"),
        (Protocol, {"steps": 1, "batch_size": True}, "batch_size must be a whole number"),
        (Protocol, {"steps": 1, "learning_rate": 0.0}, "learning_rate must be above 0; received 0.0"),
        (Protocol, {"steps": 1, "learning_rate": float("nan")}, "learning_rate must be above 0; received nan"),
        (Protocol, {"steps": 1, "warmup": 1.5}, "warmup is a share of the steps, from 0 to 1; received 1.5"),
        (Placement, {"threads": 0}, "threads must be a whole number of at least 1; received 0"),
        (Placement, {"gpus": 1.5}, "gpus is a fraction up to 1 or a whole number; received 1.5"),
        (Placement, {"gpus": float("inf")}, "gpus is a fraction up to 1 or a whole number; received inf"),
        (Placement, {"gpus": float("nan")}, "gpus is a fraction up to 1 or a whole number; received nan"),
        (Placement, {"gpus": -1.0}, "gpus is a fraction up to 1 or a whole number; received -1.0"),
    ],
)
def test_impossible_values_are_refused(kind: type, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        kind(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layers": (9, 5)}, r"layers are language, vision, cross, such as 9,5,5; received \(9, 5\)"),
        ({"layers": (9, 0, 5)}, "a number of layers must be a whole number of at least 1; received 0"),
        ({"seed": -1}, "seed must be a whole number of at least 0; received -1"),
        ({"model": ModelSize(width=10, heads=4)}, "width 10 must be a multiple of heads 4"),
    ],
)
def test_impossible_cells_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        dataclasses.replace(CELL, **fields)


@given(st.integers(1, 3000), st.integers(1, 50))
def test_evaluations_are_ascending_and_end_with_the_last_step(steps: int, evaluations: int) -> None:
    at = Protocol(steps=steps, evaluations=evaluations).evaluation_steps()
    assert at == sorted(set(at))
    assert at[0] >= 1
    assert at[-1] == steps
    assert len(at) == min(steps, evaluations)


# Overrides


@pytest.mark.parametrize(
    ("setting", "text", "expected"),
    [
        ("steps", "1e3", ("protocol", "steps", 1000)),
        ("protocol.steps", "7", ("protocol", "steps", 7)),
        ("learning_rate", "3", ("protocol", "learning_rate", 3.0)),
        ("schedule", "linear", ("protocol", "schedule", "linear")),
        ("width", "48", ("model", "width", 48)),
        ("model.width", "48", ("model", "width", 48)),
        ("layers", "10,6,6", (None, "layers", (10, 6, 6))),
        ("train", "start,train", (None, "train", ("start", "train"))),
        ("train", "start", (None, "train", ("start",))),
        ("pictures", "mean", (None, "pictures", "mean")),
    ],
)
def test_a_setting_replaces_one_field(setting: str, text: str, expected: tuple) -> None:
    part, field, value = expected
    changed = override(CELL, {setting: text})
    if part:
        wanted = dataclasses.replace(CELL, **{part: dataclasses.replace(getattr(CELL, part), **{field: value})})
    else:
        wanted = dataclasses.replace(CELL, **{field: value})
    assert changed == wanted


def test_settings_reach_the_start_too() -> None:
    changed = override(dataclasses.replace(CELL, start=CELL), {"steps": "5", "width": "24"})
    assert changed.start == dataclasses.replace(changed, start=None)


@pytest.mark.parametrize(
    ("setting", "text", "message"),
    [
        ("setps", "1", "There is no field 'setps'. Did you mean 'steps'"),
        ("model.steps", "1", "There is no field 'model.steps'"),
        ("variant", "softmax", "There is no field 'variant'"),
        ("steps", "many", "steps takes a whole number; received 'many'"),
        ("steps", "1.5", "steps takes a whole number; received '1.5'"),
        ("learning_rate", "fast", "learning_rate takes a .*number; received 'fast'"),
        ("clip", "inf", "clip"),
        ("weight_decay", "nan", "weight_decay"),
        ("schedule", "cylic", "There is no value of schedule 'cylic'. Did you mean 'cyclic'"),
        ("layers", "9,5", "layers takes 3 values with commas between; received '9,5'"),
        ("layers", "9,5,x", "layers takes a whole number; received 'x'"),
        ("steps", "0", "steps must be a whole number of at least 1; received 0"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(setting: str, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        override(CELL, {setting: text})


# Cells that are evaluated only


TRAINED = dataclasses.replace(CELL, layers=(3, 2, 2))
KEEP = ((0, 2), (1,), (0, 1))


def test_a_cell_that_is_evaluated_only_is_its_start_but_for_the_layers() -> None:
    cell = only_layers(TRAINED, [[0, 2], [1], [0, 1]])
    assert (cell.start, cell.keep) == (TRAINED, KEEP)
    assert dataclasses.replace(cell, start=None, keep=None) == TRAINED
    assert from_plain(Cell, json.loads(json.dumps(to_plain(cell)))) == cell


def test_the_layers_that_are_kept_name_the_cell() -> None:
    whole = only_layers(TRAINED, [range(layers) for layers in TRAINED.layers])
    names = {name(cell, start="start") for cell in (TRAINED, whole, only_layers(TRAINED, KEEP))}
    assert len(names) == 3
    again = from_plain(Cell, to_plain(only_layers(TRAINED, KEEP)))
    assert name(again, start="start") == name(only_layers(TRAINED, KEEP), start="start")


@pytest.mark.parametrize(
    "keep",
    [
        ((0,), (0,)),
        ((0,), (0,), ()),
        ((0, 3), (0,), (0,)),
        ((-1,), (0,), (0,)),
        ((1, 0), (0,), (0,)),
        ((0, 0), (0,), (0,)),
    ],
    ids=["two stacks", "an empty stack", "beyond the last", "below the first", "descending", "twice"],
)
def test_layers_that_the_model_does_not_have_are_refused(keep: tuple) -> None:
    with pytest.raises(UserError, match=r"keep has the language.* for a model of 3-2-2\. Name layers that it has"):
        only_layers(TRAINED, keep)


def test_without_a_trained_cell_there_is_nothing_to_evaluate() -> None:
    with pytest.raises(UserError, match="expected that cell as start"):
        dataclasses.replace(TRAINED, keep=KEEP)
    with pytest.raises(UserError, match="expected that cell as start"):
        only_layers(only_layers(TRAINED, KEEP), KEEP)


def test_no_cell_starts_from_one_that_is_evaluated_only() -> None:
    with pytest.raises(UserError, match="no cell can start from it"):
        dataclasses.replace(CELL, start=only_layers(TRAINED, KEEP))


def test_settings_reach_the_trained_cell_too() -> None:
    cell = override(only_layers(TRAINED, KEEP), {"steps": "7", "seed": "3"})
    assert cell == only_layers(override(TRAINED, {"steps": "7", "seed": "3"}), KEEP)
    with pytest.raises(UserError, match="for a model of 1-1-1"):
        override(only_layers(TRAINED, KEEP), {"layers": "1,1,1"})
    with pytest.raises(UserError, match="There is no field 'keep'"):
        override(CELL, {"keep": "0"})
