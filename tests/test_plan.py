"""From a study to jobs: names, order, and what a launch refuses before it starts."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from small_set import sealed

from suite import grid, plan, registry
from suite.config import Cell, Comparison, ModelSize, Protocol, Study, only_layers, over_seeds, override
from suite.data.generate import write_pretrained
from suite.errors import UserError
from suite.models.pretrained import identity
from suite.plan import Job, check_folder, keep_plugins, load_study, resolve, selected
from suite.records import StudyFolder

SMALL = ModelSize(width=8, heads=2, intermediate=8)
START = Cell(
    variant="softmax", dataset="easy_vqa", protocol=Protocol(steps=4), model=SMALL, train=("start",)
)  # fmt: skip
ROW = dataclasses.replace(START, train=("train",), start=START)
FLOOR = dataclasses.replace(START, pictures="mean")

PLUGIN = """
from dataclasses import dataclass
from suite.attention import Variant
from suite.registry import register

@register("mine")
@dataclass(frozen=True)
class Mine(Variant):
    size: int = 3
"""


def study(*cells: Cell, floors: tuple[Cell, ...] = ()) -> Study:
    return Study(name="test", question="?", cells=cells, floors=floors)


def jobs_of(data: Path, *cells: Cell, floors: tuple[Cell, ...] = ()) -> list[Job]:
    return plan.plan(study(*cells, floors=floors), data)


def id_of(cell: Cell, data: Path) -> str:
    return jobs_of(data, cell)[-1].id


# Ids


def test_pretrained_weights_count_by_their_content(data_folder: Path, tmp_path: Path) -> None:
    def at(folder: str, seed: int) -> Cell:
        (tmp_path / folder).mkdir()
        write_pretrained(tmp_path / folder, seed=seed, width=8, heads=2, intermediate=8, layers=(1, 1, 1))
        return dataclasses.replace(START, pretrained=str(tmp_path / folder / "model_LXRT.pth"))

    one, same, other = at("one", 0), at("same", 0), at("other", 1)
    assert id_of(one, data_folder) == id_of(same, data_folder) != id_of(other, data_folder)
    (tmp_path / "same/all_ans.json").unlink()
    identity.cache_clear()
    assert id_of(one, data_folder) != id_of(same, data_folder) != id_of(START, data_folder)


def test_pretrained_weights_are_named_by_their_full_path(
    data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pretrained(tmp_path, seed=0, width=8, heads=2, intermediate=8, layers=(1, 1, 1))
    monkeypatch.chdir(tmp_path)
    (job,) = jobs_of(data_folder, dataclasses.replace(START, pretrained="model_LXRT.pth"))
    assert job.cell.pretrained == str(tmp_path / "model_LXRT.pth")
    assert job.pretrained == identity(str(tmp_path / "model_LXRT.pth"))


def test_a_job_reaches_its_worker_whole(data_folder: Path, tmp_path: Path) -> None:
    """As JSON values: all that Ray carries."""
    write_pretrained(tmp_path, seed=0, width=8, heads=2, intermediate=8, layers=(1, 1, 1))
    root = dataclasses.replace(START, pretrained=str(tmp_path / "model_LXRT.pth"))
    for job in jobs_of(data_folder, dataclasses.replace(ROW, start=root)):
        assert grid._job_from_plain(json.loads(json.dumps(grid._job_to_plain(job)))) == job


def test_pretrained_weights_that_are_not_there_are_told_before_anything_runs(data_folder: Path) -> None:
    with pytest.raises(UserError, match=r"There is no file or folder .*/no/such\.pth"):
        jobs_of(data_folder, dataclasses.replace(START, pretrained="/no/such.pth"))


def test_a_start_on_another_data_set_has_its_answers_and_words(data_folder: Path, tmp_path: Path) -> None:
    """As many answers in another order would fit, and each row would be another's."""
    for name in ("easy_vqa", "vqa2"):
        shutil.copytree(data_folder / "easy_vqa", tmp_path / name)
    sealed(tmp_path / "vqa2", name="vqa2")
    cell = dataclasses.replace(ROW, dataset="vqa2", start=START)
    assert [job.cell.dataset for job in jobs_of(tmp_path, cell)] == ["easy_vqa", "vqa2"]
    answers = json.loads((tmp_path / "vqa2/answers.json").read_text())
    (tmp_path / "vqa2/answers.json").write_text(json.dumps(sorted(answers)))
    sealed(tmp_path / "vqa2")
    with pytest.raises(UserError, match="A cell on vqa2 starts from one on easy_vqa, which has other answers"):
        jobs_of(tmp_path, cell)


def test_a_cell_has_one_start() -> None:
    with pytest.raises(UserError, match="received both"):
        dataclasses.replace(ROW, pretrained="somewhere")


def test_settings_give_pretrained_weights_to_the_root_alone() -> None:
    changed = override(ROW, {"pretrained": "somewhere", "deeper": "neighbour"})
    assert changed.pretrained == ""
    assert changed.start is not None
    assert (changed.start.pretrained, changed.start.deeper) == ("somewhere", "neighbour")


def test_a_study_at_several_seeds_has_every_row_at_each_and_its_starts_once(data_folder: Path) -> None:
    one = study(ROW, only_layers(ROW, ((0,), (0,), (0,))), floors=(FLOOR,))
    pair = Comparison("a change", ROW, dataclasses.replace(ROW, variant="span"))
    several = over_seeds(dataclasses.replace(one, comparisons=(pair,)), 3)
    assert [cell.seed for cell in several.cells] == [0, 1, 2, 0, 1, 2]
    assert [(c.base.seed, c.changed.seed) for c in several.comparisons] == [(0, 0), (1, 1), (2, 2)]
    jobs = plan.plan(several, data_folder)
    assert sum(job.role == "start" for job in jobs) == 1
    trained = {job.id: job.cell.seed for job in jobs if job.cell.keep is None}
    assert all(job.cell.seed == trained[str(job.start)] for job in jobs if job.cell.keep is not None)


def test_an_argument_at_its_default_names_the_cell_that_leaves_it_out(data_folder: Path) -> None:
    left_out = dataclasses.replace(ROW, variant="span")
    spelled_out = dataclasses.replace(left_out, arguments={"limit": 1024, "ramp": 32})
    changed = dataclasses.replace(left_out, arguments={"ramp": 2})
    assert id_of(left_out, data_folder) == id_of(spelled_out, data_folder) != id_of(changed, data_folder)


def test_an_argument_means_the_same_as_a_whole_or_a_decimal_number(data_folder: Path) -> None:
    whole, decimal = (dataclasses.replace(ROW, variant="span", arguments={"penalty": value}) for value in (1, 1.0))
    assert id_of(whole, data_folder) == id_of(decimal, data_folder)


def test_another_start_is_another_cell(data_folder: Path) -> None:
    other = dataclasses.replace(ROW, start=dataclasses.replace(START, seed=1))
    assert id_of(ROW, data_folder) != id_of(other, data_folder)


IDS = """
import json, sys
from pathlib import Path
from suite.plan import load_study, plan
print(json.dumps([job.id for job in plan(load_study("demo", {"steps": "5"}), Path(sys.argv[1]))]))
"""


def test_ids_are_the_same_in_every_process_and_place(data_folder: Path, tmp_path: Path) -> None:
    places = [tmp_path / "one", tmp_path / "two"]
    started = []
    for seed, place in enumerate(places, 1):
        place.mkdir()
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", IDS, str(data_folder)],
                cwd=place,
                env=os.environ | {"PYTHONHASHSEED": str(seed)},
                stdout=subprocess.PIPE,
                text=True,
            )
        )
    here = [job.id for job in plan.plan(load_study("demo", {"steps": "5"}), data_folder)]
    assert [json.loads(process.communicate()[0]) for process in started] == [here, here]


def test_an_edit_of_a_plugin_changes_its_cells_and_no_other(plugin: Callable[..., Path], data_folder: Path) -> None:
    cells = [dataclasses.replace(ROW, variant=name) for name in ("mine", "softmax", "span")]
    registry.load_plugin(plugin(PLUGIN))
    before = [id_of(cell, data_folder) for cell in cells]
    plugin(PLUGIN + "# edited\n")
    after = [id_of(cell, data_folder) for cell in cells]
    assert [one == other for one, other in zip(before, after, strict=True)] == [False, True, True]


def test_the_place_of_a_plugin_does_not_change_its_cells(plugin: Callable[..., Path], data_folder: Path) -> None:
    mine = dataclasses.replace(ROW, variant="mine")
    registry.load_plugin(plugin(PLUGIN, "one/plugin.py"))
    before = id_of(mine, data_folder)
    registry._from_plugins.clear()
    registry.load_plugin(plugin(PLUGIN + "\n", "two/plugin.py"))
    plugin(PLUGIN, "two/plugin.py")
    assert id_of(mine, data_folder) == before


# Jobs


def test_a_start_comes_before_the_cells_that_need_it_and_once(data_folder: Path) -> None:
    other = dataclasses.replace(ROW, variant="span")
    start, row, span = jobs_of(data_folder, ROW, other)
    assert (start.role, start.start) == ("start", None)
    assert [(job.role, job.start, job.cell.variant) for job in (row, span)] == [
        ("row", start.id, "softmax"),
        ("row", start.id, "span"),
    ]


def test_a_start_of_a_start_comes_first(data_folder: Path) -> None:
    jobs = jobs_of(data_folder, dataclasses.replace(ROW, seed=1, start=ROW))
    assert [job.start for job in jobs] == [None, jobs[0].id, jobs[1].id]


@pytest.mark.parametrize("cells", [(START, ROW), (ROW, START)], ids=["before", "after"])
def test_a_row_that_another_row_starts_from_is_a_row(cells: tuple[Cell, ...], data_folder: Path) -> None:
    assert {job.role for job in jobs_of(data_folder, *cells)} == {"row"}


def test_floors_come_last(data_folder: Path) -> None:
    assert [job.role for job in jobs_of(data_folder, ROW, floors=(FLOOR,))] == ["start", "row", "floor"]


def test_a_cell_spells_out_its_variants_arguments(data_folder: Path) -> None:
    cell = dataclasses.replace(ROW, variant="span", arguments={"ramp": 2})
    assert jobs_of(data_folder, cell)[-1].cell.arguments == {
        "limit": 1024, "ramp": 2, "penalty": 5e-6, "renormalise": True, "boxes": "rank",
    }  # fmt: skip


def test_an_unknown_argument_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"no argument of span 'limits'\. Did you mean 'limit'"):
        resolve(dataclasses.replace(ROW, variant="span", arguments={"limits": 3}))


@pytest.mark.parametrize(("argument", "value"), [("ramp", "wide"), ("renormalise", 2), ("limit", None)])
def test_an_argument_of_another_type_is_refused(argument: str, value: object) -> None:
    with pytest.raises(UserError, match=argument):
        resolve(dataclasses.replace(ROW, variant="span", arguments={argument: value}))


def test_a_data_set_that_is_missing_is_prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = []

    def find(kind: str, name: str) -> Callable[..., None]:
        return lambda folder, *_: prepared.append((kind, name, folder))

    monkeypatch.setattr(registry, "find", find)
    with pytest.raises(UserError, match="does not exist"):
        plan.open_data(tmp_path, "easy_vqa")
    assert prepared == [("dataset", "easy_vqa", tmp_path / "easy_vqa")]


# Cells that are evaluated only


KEPT = only_layers(ROW, [range(8), range(5), (0, 1, 3)])


def test_a_cell_that_is_evaluated_only_has_its_own_id_and_comes_after_the_cell_that_is_trained(
    data_folder: Path,
) -> None:
    other = only_layers(ROW, [range(8)] + [range(5)] * 2)
    for cells in ((ROW, KEPT, other), (KEPT, other, ROW)):
        start, row, *kept = jobs_of(data_folder, *cells)
        assert [job.start for job in (start, row, *kept)] == [None, start.id, row.id, row.id]
        assert [job.role for job in (start, row, *kept)] == ["start", "row", "row", "row"]
        assert len({row.id, *(job.id for job in kept)}) == 3


def test_the_model_of_an_evaluation_need_not_be_a_row(data_folder: Path) -> None:
    assert [job.role for job in jobs_of(data_folder, KEPT)] == ["start", "start", "row"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variant": "span"}, "expected variant 'softmax', received 'span'"),
        ({"seed": 1}, "expected seed 0, received 1"),
        ({"layers": (10, 5, 5)}, r"expected layers \(9, 5, 5\), received \(10, 5, 5\)"),
        ({"protocol": Protocol(steps=5)}, "expected protocol Protocol"),
        ({"pictures": "mean"}, "expected pictures 'given', received 'mean'"),
        ({"train": ("start",)}, "expected train"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_an_evaluation_that_is_not_of_its_start_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=rf"{message}.*Make it with suite\.config\.only_layers"):
        resolve(dataclasses.replace(KEPT, **changes))


def test_an_evaluation_may_be_of_another_split(data_folder: Path) -> None:
    other = dataclasses.replace(KEPT, test="train")
    assert len({id_of(KEPT, data_folder), id_of(other, data_folder)}) == 2


def test_an_argument_that_is_spelled_out_is_the_start_s_own() -> None:
    span = dataclasses.replace(ROW, variant="span")
    kept = dataclasses.replace(only_layers(span, KEPT.keep or ()), arguments={"ramp": 32})
    assert resolve(kept).arguments["ramp"] == 32


def test_an_evaluation_is_described_by_how_many_layers_run_and_which_do_not(data_folder: Path) -> None:
    described = [plan.describe(job) for job in jobs_of(data_folder, ROW, KEPT)]
    assert described == ["softmax 9-5-5 (start)", "softmax 9-5-5", "softmax 9-5-5 at 8-5-3 without 8/-/2,4"]


def test_a_named_variant_selects_its_evaluations_with_the_cell_that_is_trained(data_folder: Path) -> None:
    jobs = jobs_of(data_folder, dataclasses.replace(ROW, variant="span"), KEPT)
    assert [job.id for job in selected(jobs, ["softmax"])] == [job.id for job in jobs if job.cell.variant != "span"]


def test_a_variant_that_a_study_lacks_is_trained_where_the_first_row_is_evaluated_only(
    plugin: Callable[..., Path],
) -> None:
    registry.load_plugin(plugin(PLUGIN + KEPT_FIRST))
    assert load_study("kept_first", {}, ["mine"]).cells[1] == dataclasses.replace(START, variant="mine")


KEPT_FIRST = """
from suite.config import Cell, ModelSize, Protocol, Study, only_layers

@register("kept_first", "study")
def study():
    start = Cell("softmax", "easy_vqa", Protocol(steps=4), model=ModelSize(8, 2, 8), train=("start",))
    return Study("kept_first", "?", (only_layers(start, ((0,), (0,), (0,))),))
"""


# Selection


def chosen(data: Path, *variants: str) -> list[tuple[str, str]]:
    span = dataclasses.replace(ROW, variant="span")
    jobs = jobs_of(data, ROW, span, floors=(FLOOR,))
    return [(job.role, job.cell.variant) for job in selected(jobs, variants or None)]


def test_without_names_every_job_is_selected(data_folder: Path) -> None:
    assert chosen(data_folder) == [
        ("start", "softmax"), ("row", "softmax"), ("row", "span"), ("floor", "softmax"),
    ]  # fmt: skip


def test_a_name_selects_its_rows_with_their_start(data_folder: Path) -> None:
    assert chosen(data_folder, "span")[:2] == [("start", "softmax"), ("row", "span")]


def test_the_start_of_a_start_is_selected_too(data_folder: Path) -> None:
    span = dataclasses.replace(ROW, variant="span", start=ROW)
    assert len(selected(jobs_of(data_folder, span), ["span"])) == 3


# Studies


def test_a_variant_that_the_study_lacks_copies_the_reference_but_for_its_method(
    plugin: Callable[..., Path],
) -> None:
    registry.load_plugin(plugin(PLUGIN))
    plain = load_study("demo", {})
    extended = load_study("demo", {}, ["span", "mine"])
    assert extended.cells[:-1] == plain.cells
    assert extended.cells[-1] == dataclasses.replace(plain.cells[0], variant="mine")


def test_settings_reach_every_cell_and_floor() -> None:
    loaded = load_study("demo", {"steps": "9"})
    assert {cell.protocol.steps for cell in (*loaded.cells, *loaded.floors)} == {9}


@pytest.mark.parametrize(
    ("study", "variants", "message"),
    [("dmeo", None, "no study 'dmeo'. Did you mean 'demo'"), ("demo", ["sapn"], "'sapn'. Did you mean 'span'")],
)
def test_unknown_names_are_refused_with_the_nearest(study: str, variants: list[str] | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_study(study, {}, variants)


# Folders


def test_a_run_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/runs cannot be written.*--runs"):
        check_folder(tmp_path / "file" / "runs")


def test_a_run_folder_without_room_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"No space left on device.*Free space"):
        check_folder(tmp_path)
    assert not list(tmp_path.iterdir())


def test_several_launches_may_look_at_a_run_folder_at_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as launches:
        for looked in [launches.submit(check_folder, tmp_path) for _ in range(800)]:
            looked.result()


def test_a_run_folder_that_can_be_written_is_left_empty(tmp_path: Path) -> None:
    check_folder(tmp_path / "new" / "runs")
    assert list((tmp_path / "new" / "runs").iterdir()) == []


def test_a_look_at_a_run_folder_leaves_nothing_where_removing_it_fails_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove, failed = Path.unlink, []

    def fails_once(path: Path, missing_ok: bool = False) -> None:
        if not failed:
            failed.append(path)
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        remove(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", fails_once)
    check_folder(tmp_path)
    assert failed
    assert list(tmp_path.iterdir()) == []


def test_plugins_are_kept_in_the_studys_folder(plugin: Callable[..., Path], tmp_path: Path) -> None:
    [kept] = keep_plugins(StudyFolder(tmp_path / "study"), [plugin(PLUGIN)])
    assert Path(kept).is_relative_to(tmp_path / "study" / "plugins")
    assert Path(kept).read_text() == PLUGIN


def test_two_plugins_of_one_file_name_are_both_kept(plugin: Callable[..., Path], tmp_path: Path) -> None:
    texts = [PLUGIN, PLUGIN.replace("mine", "yours")]
    files = [plugin(text, f"{number}/plugin.py") for number, text in enumerate(texts)]
    kept = keep_plugins(StudyFolder(tmp_path / "study"), files)
    assert [Path(path).read_text() for path in kept] == texts


def test_an_edited_plugin_leaves_the_one_that_a_running_launch_uses(
    plugin: Callable[..., Path], tmp_path: Path
) -> None:
    """Its workers would train the new method under the old one's name."""
    folder = StudyFolder(tmp_path / "study")
    [before] = keep_plugins(folder, [plugin(PLUGIN)])
    keep_plugins(folder, [plugin(PLUGIN + "# edited\n")])
    assert Path(before).read_text() == PLUGIN
