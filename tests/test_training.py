"""``run_cell`` on a data set of seconds: what a cell records, how it resumes, fails and starts from another."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_grid import lasting

from suite import checkpoints, pruning, registry, training
from suite.config import Cell, ModelSize, Protocol, only_layers
from suite.data.generate import write_pretrained
from suite.data.store import DataSet, open_dataset
from suite.errors import UserError
from suite.models.pretrained import identity
from suite.plan import Job, Workplace, keep_plugins
from suite.pruning import kept_layers
from suite.pulse import Progress
from suite.records import CellFolder, StudyFolder, read_lines
from suite.running import run_cell
from suite.training import Batches, build_model, build_variant, load_start, load_trained

# Evaluations after steps 2, 4, 6 and 8; batches of 7 cross the ends of epochs of 40; dropout draws at random.
CELL = Cell(
    variant="layerdrop",
    arguments={"p": 1},
    dataset="easy_vqa",
    protocol=Protocol(steps=8, batch_size=7, evaluations=4, learning_rate=1e-2),
    model=ModelSize(width=8, heads=2, intermediate=8),
    layers=(2, 2, 2),
)
ADAMW = dataclasses.replace(CELL.protocol, optimizer="adamw", schedule="linear")
SOFTMAX = dataclasses.replace(CELL, variant="softmax", arguments={}, protocol=ADAMW)


class Bench:
    """A study's folder in which cells run."""

    def __init__(self, study: Path, data: Path) -> None:
        self.folder = StudyFolder(study)
        self.data = data
        self.dataset: DataSet = open_dataset(data / "easy_vqa")

    def run(
        self,
        cell: Cell,
        name: str = "cell",
        start: str | None = None,
        report: Callable[[Progress], None] = lambda progress: None,
        plugins: tuple[str, ...] = (),
        pretrained: str | None = None,
    ) -> bool:
        kept = keep_plugins(self.folder, list(map(Path, plugins)))
        workplace = Workplace(str(self.folder.path), str(self.data), kept)
        return run_cell(Job(name, cell, "row", start, pretrained), workplace, report)

    def finished(self, cell: Cell, name: str = "cell", **options: Any) -> CellFolder:
        record = self.folder.cell(name)
        assert self.run(cell, name, **options), record.log.read_text()
        return record

    def failure(self, cell: Cell, name: str = "cell", **options: Any) -> dict[str, Any]:
        assert not self.run(cell, name, **options)
        failure = self.folder.cell(name).failure()
        assert failure is not None
        return failure


@pytest.fixture
def bench(tmp_path: Path, data_folder: Path) -> Bench:
    return Bench(tmp_path / "study", data_folder)


# The order of the questions


@given(st.integers(1, 30), st.integers(1, 50), st.integers(0, 5))
def test_every_epoch_has_every_question_exactly_once(size: int, count: int, seed: int) -> None:
    questions = np.arange(count) * 3 + 1
    steps = -(-2 * count // size)
    rows = np.concatenate([Batches(questions, size, seed)[step] for step in range(steps)])
    for epoch in (0, 1):
        assert sorted(rows[epoch * count : (epoch + 1) * count]) == questions.tolist()


def test_a_batch_depends_on_the_seed_and_the_step_alone() -> None:
    questions = np.arange(50)
    forward = [Batches(questions, 8, 0)[step].tolist() for step in range(20)]
    backward = [Batches(questions, 8, 0)[step].tolist() for step in reversed(range(20))]
    assert forward == backward[::-1]
    assert Batches(questions, 8, 1)[3].tolist() != forward[3]


def test_epochs_have_different_orders() -> None:
    questions = np.arange(50)
    batches = Batches(questions, 50, 0)
    assert batches[0].tolist() != batches[1].tolist()


@given(st.integers(1, 9), st.lists(st.integers(0, 6), min_size=1, max_size=40), st.integers(0, 5))
def test_a_pictures_questions_stay_together(size: int, pictures: list[int], seed: int) -> None:
    rows = 100 + np.arange(len(pictures))
    batches = Batches(rows, size, seed, np.array(pictures))
    count = len(rows)
    taken = np.concatenate([batches[step] for step in range(-(-2 * count // size))])
    for epoch in (taken[:count], taken[count : 2 * count]):
        assert sorted(epoch) == rows.tolist()
        seen = [pictures[row - 100] for row in epoch]
        changes = sum(one != other for one, other in itertools.pairwise(seen))
        assert changes == len(set(pictures)) - 1


# What a finished cell leaves


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, data_folder: Path) -> tuple[Bench, CellFolder]:
    bench = Bench(tmp_path_factory.mktemp("finished"), data_folder)
    longer = dataclasses.replace(ADAMW, steps=60, batch_size=20, evaluations=3)
    return bench, bench.finished(dataclasses.replace(SOFTMAX, protocol=longer))


def test_a_cell_is_evaluated_before_training_and_at_the_steps_of_its_protocol(
    finished: tuple[Bench, CellFolder],
) -> None:
    assert finished[1].metrics()["step"].tolist() == [0, 20, 40, 60]


def test_a_cell_learns_what_the_pictures_show(finished: tuple[Bench, CellFolder]) -> None:
    """Four answers: chance is 25 %, and 24 questions of chance have a standard deviation of 9."""
    result = finished[1].result() or {}
    assert result["accuracy"]["test"] > 45
    losses = finished[1].metrics()["train_loss"]
    assert losses.iloc[-1] < 0.9 * losses.iloc[1]


def test_the_result_has_the_accuracy_of_the_predictions(finished: tuple[Bench, CellFolder]) -> None:
    result = finished[1].result() or {}
    assert result["accuracy"]["test"] == pytest.approx(100 * finished[1].predictions()["score"].mean())
    assert result["accuracy"]["validation"] == finished[1].metrics()["accuracy"].iloc[-1]


def test_predictions_are_those_of_the_test_split_scored_by_their_labels(
    finished: tuple[Bench, CellFolder],
) -> None:
    bench, record = finished
    questions = bench.dataset.questions()
    expected = questions[questions["split"] == "test"]
    table = record.predictions()
    assert table["question_id"].tolist() == expected["question_id"].tolist()
    assert table["image_id"].tolist() == [f"picture {image}" for image in expected["image"]]
    truth = [bench.dataset.answers[labels[0]] for labels in expected["labels"]]
    assert table["score"].tolist() == [float(a == b) for a, b in zip(table["answer"], truth, strict=True)]


def test_top_answers_are_in_the_order_of_their_confidence(finished: tuple[Bench, CellFolder]) -> None:
    table = finished[1].predictions()
    assert all(answers[0] == answer for answers, answer in zip(table["top_answers"], table["answer"], strict=True))
    assert all((np.diff(confidences) <= 0).all() for confidences in table["top_confidences"])
    assert all(((c > 0) & (c < 1)).all() for c in table["top_confidences"])


def test_the_final_model_gives_the_recorded_answers(finished: tuple[Bench, CellFolder]) -> None:
    bench, record = finished
    model = build_model(SOFTMAX, bench.dataset)
    model.load_state_dict(checkpoints.load_model(record.checkpoints), strict=True)
    batch = bench.dataset.batch(bench.dataset.rows("test"))
    with torch.no_grad():
        logits = model.eval()(
            *(torch.from_numpy(getattr(batch, name)) for name in ("words", "regions", "boxes", "word_mask"))
        )
    answers = [bench.dataset.answers[index] for index in logits.argmax(1)]
    assert record.predictions()["answer"].tolist() == answers


def test_every_site_and_direction_has_a_line_per_evaluation(finished: tuple[Bench, CellFolder]) -> None:
    sites = finished[1].sites()
    # Two layers a stack; a cross layer has four directions.
    assert sites.groupby("step")["site"].nunique().tolist() == [12] * 4
    assert all(len(density) == 2 for density in sites["density"])


def test_softmax_attends_to_every_key(finished: tuple[Bench, CellFolder]) -> None:
    assert {d for density in finished[1].sites()["density"] for d in density} == {1.0}


def test_the_configuration_names_cell_code_packages_and_hardware(finished: tuple[Bench, CellFolder]) -> None:
    config = finished[1].config()
    assert config["cell"]["variant"] == "softmax"
    assert {"commit", "changes", "engine"} <= set(config["code"])
    assert config["packages"]["torch"] == torch.__version__
    assert config["hardware"]["cores"] >= 1


def test_a_finished_cell_is_not_run_again(finished: tuple[Bench, CellFolder]) -> None:
    bench, record = finished
    before = {path: path.stat().st_mtime_ns for path in record.path.rglob("*")}
    assert bench.run(SOFTMAX, report=lambda progress: pytest.fail("it trained"))
    assert {path: path.stat().st_mtime_ns for path in record.path.rglob("*")} == before


def test_a_cell_records_the_compiled_code_that_it_ran_itself(bench: Bench) -> None:
    """Not what another cell of the process, here the one before, had asked for."""
    protocol = dataclasses.replace(ADAMW, steps=1, evaluations=1)
    short = dataclasses.replace(SOFTMAX, protocol=protocol, layers=(1, 1, 1))
    entmax = dataclasses.replace(short, variant="entmax")
    again = dataclasses.replace(entmax, seed=1)
    cells = {"entmax": entmax, "softmax": short, "again": again}
    ran = {name: (bench.finished(cell, name).result() or {})["native"] for name, cell in cells.items()}
    assert ran["softmax"] == {}
    assert list(ran["entmax"]) == ["entmax.c"]
    assert ran["entmax"]["entmax.c"].split()[0] in ("C", "torch:")
    assert ran["again"] == ran["entmax"]


def test_what_ran_on_some_workers_and_not_on_others_is_recorded() -> None:
    here, there = {"entmax.c": "C 1"}, {"entmax.c": "torch: there is no compiler `cc`"}
    assert training._together([here, here]) == here
    assert training._together([here, there]) == {"entmax.c": "C 1; torch: there is no compiler `cc`"}


def test_progress_is_reported_at_every_evaluation(bench: Bench) -> None:
    seen: list[Progress] = []
    bench.finished(SOFTMAX, report=seen.append)
    assert [(progress.step, progress.steps) for progress in seen] == [(2, 8), (4, 8), (6, 8), (8, 8)]
    assert all(0 <= p.accuracy <= 100 and p.questions_per_second > 0 for p in seen)


@pytest.mark.parametrize("variant", ["softmax", "span_entmax"])
def test_a_cell_trains_in_bfloat16(bench: Bench, variant: str) -> None:
    protocol = dataclasses.replace(ADAMW, precision="bfloat16", steps=3)
    cell = dataclasses.replace(SOFTMAX, variant=variant, protocol=protocol, layers=(1, 1, 1))
    record = bench.finished(cell)
    weights = checkpoints.load_model(record.checkpoints).values()
    assert {weight.dtype for weight in weights} == {torch.float32}
    assert all(weight.isfinite().all() for weight in weights)


def test_a_blind_cell_answers_equal_questions_alike(bench: Bench) -> None:
    dataset = bench.dataset
    record = bench.finished(dataclasses.replace(SOFTMAX, pictures="mean", test="train"))
    words = [tuple(dataset.words[row]) for row in dataset.rows("train")]
    top = record.predictions()["top_confidences"]
    seen: dict[tuple, np.ndarray] = {}
    for key, confidences in zip(words, top, strict=True):
        # Batched with questions of other lengths, the sums are in another order.
        np.testing.assert_allclose(confidences, seen.setdefault(key, confidences), rtol=1e-5)


# Resuming


def without_times(record: CellFolder) -> dict[str, Any]:
    """Everything that a finished cell says, but for how long it took and how often it was started."""
    return {
        "result": lasting(record.result() or {}),
        "metrics": [lasting(line) for line in read_lines(record.path / "metrics.jsonl")],
        "sites": (record.path / "sites.jsonl").read_text(),
        "predictions": (record.path / "predictions.parquet").read_bytes(),
        "model": {
            path.relative_to(record.checkpoints).as_posix(): path.read_bytes()
            for path in sorted(record.checkpoints.rglob("*.safetensors"))
        },
    }


RESUMED = {
    "layerdrop, lookahead around lamb": CELL,
    "layerdrop, search on valid": dataclasses.replace(CELL, arguments={"p": 1, "pruning": "search_on_valid"}),
    "layerdrop, data driven": dataclasses.replace(CELL, arguments={"p": 1, "pruning": "data_driven"}),
    "span, adamw": dataclasses.replace(CELL, variant="span", arguments={}, protocol=ADAMW, layers=(1, 1, 1)),
}


@pytest.fixture(scope="module", params=RESUMED.values(), ids=RESUMED.keys())
def whole(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, data_folder: Path
) -> tuple[Cell, dict[str, Any]]:
    """A cell, and what it records where nothing stops it."""
    bench = Bench(tmp_path_factory.mktemp("whole"), data_folder)
    return request.param, without_times(bench.finished(request.param))


def kill_at(step: int) -> Callable[[Progress], None]:
    """A report that ends the process after the evaluation of ``step``."""

    def report(progress: Progress) -> None:
        if progress.step == step:
            raise KeyboardInterrupt

    return report


@pytest.mark.parametrize("step", [4, 8])
def test_a_cell_that_was_killed_continues_to_the_same_bits(
    bench: Bench, whole: tuple[Cell, dict[str, Any]], step: int
) -> None:
    cell, expected = whole
    with pytest.raises(KeyboardInterrupt):
        bench.run(cell, report=kill_at(step))
    assert bench.folder.cell("cell").state == "started"
    assert without_times(bench.finished(cell)) == expected


@pytest.mark.parametrize(("step", "left"), [(6, 1), (2, 0)], ids=["back to the one before", "from the start"])
def test_a_cell_whose_newest_checkpoint_is_lost_continues_to_the_same_bits(
    bench: Bench, whole: tuple[Cell, dict[str, Any]], step: int, left: int
) -> None:
    cell, expected = whole
    with pytest.raises(KeyboardInterrupt):
        bench.run(cell, report=kill_at(step))
    record = bench.folder.cell("cell")
    newest = record.checkpoints / f"step-{step:08d}"
    for path in newest.iterdir():
        path.unlink()
    newest.rmdir()
    assert len(checkpoints.steps(record.checkpoints)) == left
    assert without_times(bench.finished(cell)) == expected


def test_a_cell_that_was_killed_before_its_checkpoint_continues_to_the_same_bits(
    bench: Bench, whole: tuple[Cell, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its records are ahead of its checkpoint, the last line half written."""
    cell, expected = whole
    save = checkpoints.save

    def killed(folder: Path, step: int, *rest: Any) -> None:
        if step == 4:
            raise KeyboardInterrupt
        save(folder, step, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(checkpoints, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            bench.run(cell)
    record = bench.folder.cell("cell")
    with (record.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "acc')
    assert without_times(bench.finished(cell)) == expected


def test_a_cell_that_was_killed_before_its_result_is_finished_to_the_same_bits(
    bench: Bench, whole: tuple[Cell, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its final checkpoint has no optimiser to continue with, and needs none."""
    cell, expected = whole

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(CellFolder, "write_result", killed)
        with pytest.raises(KeyboardInterrupt):
            bench.run(cell)
    assert without_times(bench.finished(cell)) == expected


def test_each_part_of_a_run_is_a_segment_with_its_place(bench: Bench) -> None:
    with pytest.raises(KeyboardInterrupt):
        bench.run(CELL, report=kill_at(4))
    segments = read_lines(bench.finished(CELL).path / "segments.jsonl")
    assert [segment["step"] for segment in segments] == [0, 4]
    assert {"device", "threads", "gpus", "host", "processor"} <= set(segments[0])


def test_training_time_adds_up_over_the_parts_of_a_run(bench: Bench) -> None:
    with pytest.raises(KeyboardInterrupt):
        bench.run(CELL, report=kill_at(4))
    assert bench.finished(CELL).metrics()["seconds"].is_monotonic_increasing


# Failing


RAISES = """
from dataclasses import dataclass
from suite.attention import SoftmaxWeights, Variant
from suite.registry import register

class Raises(SoftmaxWeights):
    steps = 0

    def project(self):
        self.steps += 1
        print("step", self.steps)
        if self.steps == 5:
            raise RuntimeError("the fifth step")  # here

@register("raises")
@dataclass(frozen=True)
class RaisesAtTheFifthStep(Variant):
    def weights(self, site):
        return Raises()
"""


def test_an_error_in_the_code_is_recorded_with_its_message_and_line(
    bench: Bench, plugin: Callable[..., Path]
) -> None:
    path = plugin(RAISES)
    failure = bench.failure(dataclasses.replace(SOFTMAX, variant="raises"), plugins=(str(path),))
    line = 1 + RAISES[: RAISES.index("# here")].count("\n")
    assert failure == {
        "kind": "code",
        "message": "RuntimeError: the fifth step",
        "where": f"{keep_plugins(bench.folder, [path])[0]}:{line}",
        "log": str(bench.folder.cell("cell").log),
    }


def test_the_log_has_the_traceback_and_what_the_cell_printed(
    bench: Bench, plugin: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    bench.failure(dataclasses.replace(SOFTMAX, variant="raises"), plugins=(str(plugin(RAISES)),))
    log = bench.folder.cell("cell").log.read_text()
    assert "step 5\n" in log
    assert "Traceback" in log
    assert capfd.readouterr() == ("", "")


def test_a_cell_that_failed_keeps_what_it_had_and_continues(bench: Bench, plugin: Callable[..., Path]) -> None:
    cell, path = dataclasses.replace(SOFTMAX, variant="raises"), plugin(RAISES)
    bench.failure(cell, plugins=(str(path),))
    record = bench.folder.cell("cell")
    assert record.metrics()["step"].tolist() == [0, 2, 4]
    # It continues from step 4, and a new process counts from 1.
    assert bench.run(cell, plugins=(str(path),))
    assert (record.state, record.failure()) == ("finished", None)


@pytest.mark.parametrize("steps", [1, 2], ids=["in its last step", "before its last step"])
def test_a_loss_that_is_not_finite_is_its_own_kind_of_failure(bench: Bench, steps: int) -> None:
    """A rate that overflows float32: the first step loses the weights, a second one meets them."""
    protocol = dataclasses.replace(
        ADAMW, steps=steps, evaluations=1, learning_rate=3e38, warmup=0.0, weight_decay=10.0
    )  # fmt: skip
    failure = bench.failure(dataclasses.replace(SOFTMAX, protocol=protocol))
    assert failure["kind"] == "not finite"
    assert "Lower the learning rate" in failure["message"]


def test_a_missing_data_set_is_a_failure_of_the_configuration(bench: Bench) -> None:
    failure = bench.failure(dataclasses.replace(SOFTMAX, dataset="absent"))
    assert failure["kind"] == "data or configuration"
    assert "absent" in failure["message"]


def test_what_ends_the_process_is_no_failure_of_the_cell(bench: Bench) -> None:
    with pytest.raises(KeyboardInterrupt):
        bench.run(SOFTMAX, report=kill_at(2))
    assert bench.folder.cell("cell").failure() is None


# Starts


ONE_STEP = dataclasses.replace(ADAMW, steps=1, evaluations=1)


def one_step(variant: str = "softmax", **changes: Any) -> Cell:
    return dataclasses.replace(SOFTMAX, variant=variant, protocol=ONE_STEP, **changes)


def loaded(bench: Bench, cell: Cell, start: Cell) -> tuple[dict[str, Any], dict, dict]:
    """What ``load_start`` says, the model's tensors afterwards, and those of the start."""
    bench.finished(start, "start")
    model = build_model(cell, bench.dataset)
    said = load_start(model, build_variant(cell), bench.folder.cell("start"))
    return said, model.state_dict(), checkpoints.load_model(bench.folder.cell("start").checkpoints)


def test_a_deeper_cell_takes_all_of_its_start_and_only_the_deeper_layers_are_new(bench: Bench) -> None:
    deep = one_step("layerdrop", arguments={"p": 0}, layers=(10, 6, 6))
    said, own, weights = loaded(bench, deep, one_step(layers=(9, 5, 5)))
    deeper = ("encoder.layer.9.", "encoder.r_layers.5.", "encoder.x_layers.5.")
    assert said["new"] == [name for name in own if name.removeprefix("lxmert.").startswith(deeper)]
    assert (said["loaded"], said["left_over"]) == (len(weights), [])
    assert all(torch.equal(own[name], weight) for name, weight in weights.items())


def test_a_shallower_cell_leaves_the_deeper_layers_over(bench: Bench) -> None:
    said, own, weights = loaded(bench, one_step(layers=(1, 2, 1)), one_step())
    assert said["new"] == []
    assert said["left_over"] == sorted(set(weights) - set(own))
    assert all(".layer.1." in name or ".x_layers.1." in name for name in said["left_over"])


def test_a_variants_own_parameters_are_new(bench: Bench) -> None:
    said, own, _ = loaded(bench, one_step("span_entmax"), one_step())
    assert said["new"] == [name for name in own if name.endswith((".share", ".inner.a"))]


def test_a_start_of_the_same_variant_gives_its_parameters_too(bench: Bench) -> None:
    said, own, weights = loaded(bench, one_step("span"), one_step("span"))
    assert said["new"] == []
    assert all(torch.equal(own[name], weight) for name, weight in weights.items())


def test_a_cell_trains_from_the_weights_of_its_start(bench: Bench) -> None:
    """Its first evaluation is the start's last."""
    start = bench.finished(SOFTMAX, "start")
    record = bench.finished(one_step(start=SOFTMAX), "row", start="start")
    for name in ("accuracy", "loss"):
        assert record.metrics()[name].iloc[0] == start.metrics()[name].iloc[-1]


def test_what_was_loaded_from_the_start_is_recorded(bench: Bench) -> None:
    bench.finished(one_step(), "start")
    record = bench.finished(one_step("span", arguments={}), "row", start="start")
    [segment] = read_lines(record.path / "segments.jsonl")
    assert segment["start"]["id"] == "start"
    assert all(name.endswith(".share") for name in segment["start"]["new"])


def test_a_start_of_another_size_is_refused_with_its_first_tensor(bench: Bench) -> None:
    wider = dataclasses.replace(CELL.model, width=16)
    with pytest.raises(UserError, match=r"another shape there, lxmert\.embeddings.*same model and data set"):
        loaded(bench, one_step(model=wider), one_step())


def test_a_cell_whose_start_does_not_fit_fails_for_its_configuration(bench: Bench) -> None:
    bench.finished(one_step(), "start")
    wider = dataclasses.replace(CELL.model, width=16)
    assert bench.failure(one_step(model=wider), "row", start="start")["kind"] == "data or configuration"


def test_a_start_that_is_not_finished_is_refused(bench: Bench) -> None:
    model = build_model(one_step(), bench.dataset)
    with pytest.raises(UserError, match=r"The start absent is missing\. Run it first"):
        load_start(model, build_variant(one_step()), bench.folder.cell("absent"))


OWN_POOLER = """
from dataclasses import dataclass
from suite.attention import Variant
from suite.registry import register

@register("own_pooler")
@dataclass(frozen=True)
class OwnPooler(Variant):
    def inherits(self, tensor):
        return not tensor.startswith("lxmert.pooler.")
"""
POOLER = ["lxmert.pooler.dense.weight", "lxmert.pooler.dense.bias"]


@pytest.fixture
def own_pooler(bench: Bench, plugin: Callable[..., Path]) -> tuple[Cell, str]:
    """A cell whose variant does not take its start's pooler, and the plug-in file of that variant."""
    path = plugin(OWN_POOLER)
    registry.load_plugin(path)
    return one_step("own_pooler"), str(path)


def test_what_a_variant_does_not_inherit_stays_random_and_all_else_is_loaded(
    bench: Bench, own_pooler: tuple[Cell, str]
) -> None:
    said, own, weights = loaded(bench, own_pooler[0], one_step())
    assert said["new"] == POOLER
    assert said["left_over"] == sorted(POOLER)
    assert said["loaded"] == len(weights) - len(POOLER)
    assert [name for name, weight in weights.items() if not torch.equal(own[name], weight)] == sorted(POOLER)
    torch.manual_seed(1)
    before = build_model(own_pooler[0], bench.dataset)
    random = {name: before.state_dict()[name].clone() for name in POOLER}
    load_start(before, build_variant(own_pooler[0]), bench.folder.cell("start"))
    assert all(torch.equal(before.state_dict()[name], random[name]) for name in POOLER)


def test_a_cell_records_what_it_did_not_inherit(bench: Bench, own_pooler: tuple[Cell, str]) -> None:
    cell, path = own_pooler
    bench.finished(one_step(), "start")
    record = bench.finished(cell, "row", start="start", plugins=(path,))
    [segment] = read_lines(record.path / "segments.jsonl")
    assert segment["start"]["new"] == POOLER
    assert segment["start"]["left_over"] == sorted(POOLER)


def test_what_is_not_inherited_may_have_another_shape_and_nothing_else(
    bench: Bench, own_pooler: tuple[Cell, str]
) -> None:
    wider = dataclasses.replace(own_pooler[0], model=dataclasses.replace(CELL.model, intermediate=16))
    with pytest.raises(UserError, match=r"another shape there, lxmert\.encoder\.layer\.0\.intermediate"):
        loaded(bench, wider, one_step())
    model = build_model(own_pooler[0], bench.dataset)
    model.lxmert.pooler = torch.nn.Module()
    model.lxmert.pooler.dense = torch.nn.Linear(5, 5)
    assert load_start(model, build_variant(own_pooler[0]), bench.folder.cell("start"))["new"] == POOLER


# Layers chosen on validation


SEARCH = dataclasses.replace(CELL, arguments={"p": 1, "pruning": "search_on_valid"})


def test_search_on_valid_ends_with_the_layers_that_validate_best(bench: Bench) -> None:
    """Each combination, evaluated alone, says so."""
    cell = dataclasses.replace(SEARCH, protocol=dataclasses.replace(ADAMW, steps=60, batch_size=20))
    record = bench.finished(cell)
    combinations = list(itertools.product(((0,), (1,)), repeat=3))
    accuracies = [
        bench.finished(only_layers(cell, keep), f"kept {number}", start="cell").metrics()["accuracy"].item()
        for number, keep in enumerate(combinations)
    ]
    result = record.result() or {}
    assert len(set(accuracies)) > 1
    assert result["accuracy"]["validation"] == record.metrics()["accuracy"].iloc[-1] == max(accuracies)
    chosen = tuple(map(tuple, result["kept"].values()))
    assert accuracies[combinations.index(chosen)] == max(accuracies)
    assert record.log.read_text().count("tried the layers") == len(combinations)


def test_a_cell_that_was_killed_while_it_chose_continues_to_the_same_bits(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = without_times(bench.finished(SEARCH, "whole"))
    tried = itertools.count()

    def killed(model: Any) -> dict[str, list[int]]:
        if next(tried) == 3:
            raise KeyboardInterrupt
        return kept_layers(model)

    with monkeypatch.context() as patched:
        patched.setattr(pruning, "kept_layers", killed)
        with pytest.raises(KeyboardInterrupt):
            bench.run(SEARCH)
    assert without_times(bench.finished(SEARCH)) == expected


# Evaluation only


KEEP = ((1,), (0, 1), (0,))


@pytest.mark.parametrize("variant", ["softmax", "span"])
def test_fewer_layers_of_a_finished_cell_answer_as_the_smaller_model_does(bench: Bench, variant: str) -> None:
    trained = dataclasses.replace(SOFTMAX, variant=variant)
    start = bench.finished(trained, "start")
    record = bench.finished(only_layers(trained, KEEP), "kept", start="start")
    smaller = build_model(dataclasses.replace(trained, layers=(1, 2, 1)), bench.dataset)
    weights = checkpoints.load_model(start.checkpoints)
    kept = dict(zip(pruning.MODULES, KEEP, strict=True))
    smaller.load_state_dict(pruning.renumbered(weights, kept), strict=True)

    batch = bench.dataset.batch(bench.dataset.rows("test"))
    with torch.no_grad():
        logits = smaller.eval()(
            *(torch.from_numpy(getattr(batch, name)) for name in ("words", "regions", "boxes", "word_mask"))
        )
    top, table = logits.sigmoid().topk(4), record.predictions()
    np.testing.assert_allclose(np.stack(table["top_confidences"].tolist()), top.values, rtol=1e-5)
    assert table["answer"].tolist() == [bench.dataset.answers[index] for index in top.indices[:, 0]]
    result, whole = record.result() or {}, start.result() or {}
    assert result["accuracy"]["test"] == pytest.approx(100 * table["score"].mean())
    assert result["parameters"] == sum(weight.numel() for weight in smaller.parameters()) < whole["parameters"]
    assert result["macs"] < whole["macs"]
    assert result["kept"] == {stack: list(layers) for stack, layers in kept.items()}


def test_all_layers_of_a_finished_cell_give_its_own_result(bench: Bench) -> None:
    start = without_times(bench.finished(SOFTMAX, "start"))
    kept = without_times(bench.finished(only_layers(SOFTMAX, [(0, 1)] * 3), "kept", start="start"))
    assert kept["predictions"] == start["predictions"]
    assert kept["result"] == start["result"] | {"steps": 0}
    names = ("loss", "accuracy", "penalty")
    assert [kept["metrics"][0][name] for name in names] == [start["metrics"][-1][name] for name in names]


def test_a_cell_that_is_evaluated_only_trains_nothing_and_keeps_no_weights(bench: Bench) -> None:
    start = bench.finished(SOFTMAX, "start")
    before = {path: path.read_bytes() for path in start.path.rglob("*") if path.is_file()}
    record = bench.finished(
        only_layers(SOFTMAX, KEEP), "kept", start="start", report=lambda progress: pytest.fail("it trained")
    )
    assert record.metrics()["step"].tolist() == [0]
    ran = record.sites().groupby("stack")["index"].agg(lambda layers: tuple(sorted(set(layers))))
    assert (ran["language"], ran["vision"], ran["cross"]) == KEEP
    assert not record.checkpoints.exists()
    assert {path: path.read_bytes() for path in start.path.rglob("*") if path.is_file()} == before


def test_an_evaluation_that_was_killed_is_done_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.finished(SOFTMAX, "start")
    cell = only_layers(SOFTMAX, KEEP)
    expected = without_times(bench.finished(cell, "whole", start="start"))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(CellFolder, "write_result", killed)
        with pytest.raises(KeyboardInterrupt):
            bench.run(cell, start="start")
    assert without_times(bench.finished(cell, start="start")) == expected


def test_another_split_of_a_finished_cell_may_be_evaluated(bench: Bench) -> None:
    bench.finished(SOFTMAX, "start")
    cell = dataclasses.replace(only_layers(SOFTMAX, KEEP), test="train")
    assert len(bench.finished(cell, "kept", start="start").predictions()) == 40


@pytest.mark.parametrize(
    ("how", "state"), [("never run", "missing"), ("killed", "started"), ("removed", "missing")]
)
def test_a_start_without_a_result_has_nothing_to_evaluate_until_it_is_run(
    bench: Bench, how: str, state: str
) -> None:
    if how == "killed":
        with pytest.raises(KeyboardInterrupt):
            bench.run(SOFTMAX, "start", report=kill_at(4))
    if how == "removed":
        shutil.rmtree(bench.finished(SOFTMAX, "start").path)
    failure = bench.failure(only_layers(SOFTMAX, KEEP), "kept", start="start")
    assert failure["kind"] == "data or configuration"
    assert f"The cell start is {state}. Run it first." in failure["message"]
    bench.finished(SOFTMAX, "start")
    bench.finished(only_layers(SOFTMAX, KEEP), "kept", start="start")


def test_the_model_of_a_finished_cell_is_loaded_with_the_layers_that_it_keeps(bench: Bench) -> None:
    bench.finished(CELL, "start")
    bench.finished(only_layers(CELL, KEEP), "kept", start="start")
    for name, kept in (("start", ((0,), (0,), (0,))), ("kept", KEEP)):
        model = load_trained(bench.folder, name, bench.dataset)
        assert tuple(map(tuple, pruning.kept_layers(model).values())) == kept


def test_weights_that_no_longer_fit_their_method_are_refused(bench: Bench) -> None:
    record = bench.finished(one_step("span"), "start")
    config = record.config()
    record.write_config(config | {"cell": config["cell"] | {"variant": "softmax", "arguments": {}}})
    with pytest.raises(UserError, match=r"weights of start do not fit the model [\s\S]* train it again"):
        load_trained(bench.folder, "start", bench.dataset)


# Starting from weights from outside


@pytest.fixture
def weights(bench: Bench, tmp_path: Path) -> Path:
    """A checkpoint with LXMERT's names, of one layer less in each stack, that knows two of the four answers."""
    write_pretrained(
        tmp_path, seed=9, vocabulary=16, features=5, layers=(1, 1, 1), **dataclasses.asdict(CELL.model)
    )  # fmt: skip
    return tmp_path / "model_LXRT.pth"


def test_a_cell_starts_from_a_checkpoint_and_records_what_it_took(bench: Bench, weights: Path) -> None:
    cell = dataclasses.replace(SOFTMAX, pretrained=str(weights), protocol=dataclasses.replace(ADAMW, steps=1))
    record = bench.finished(cell, pretrained=identity(str(weights)))
    (segment,) = read_lines(record.path / "segments.jsonl")
    start = segment["start"]
    assert (start["kind"], start["answers"], start["answers_found"]) == ("pre-training by LXMERT", "by text", 4)
    assert {name.split(".")[3] for name in start["new"]} == {"1"}  # The second layer of each stack.
    assert start["loaded"] + len(start["new"]) == len(build_model(SOFTMAX, bench.dataset).state_dict())
    assert "pre-training by LXMERT" in record.log.read_text()


def test_a_checkpoint_is_where_training_starts(bench: Bench, weights: Path) -> None:
    """With a rate of 0 the model that is saved is the one that was loaded."""
    still = dataclasses.replace(ADAMW, steps=1, learning_rate=1e-30, weight_decay=0.0)
    cell = dataclasses.replace(SOFTMAX, pretrained=str(weights), deeper="neighbour", protocol=still)
    record = bench.finished(cell, pretrained=identity(str(weights)))
    saved = checkpoints.load_model(record.checkpoints)
    theirs = torch.load(weights, weights_only=True)
    name = "encoder.r_layers.{}.output.dense.weight"
    for layer in (0, 1):
        assert torch.equal(saved[f"lxmert.{name.format(layer)}"], theirs[f"module.bert.{name.format(0)}"])


def test_other_weights_than_those_of_the_plan_are_refused(bench: Bench, weights: Path) -> None:
    cell = dataclasses.replace(SOFTMAX, pretrained=str(weights))
    failure = bench.failure(cell, pretrained="0" * 64)
    assert failure["kind"] == "data or configuration"
    assert "has other weights here" in failure["message"]


# The official accuracy


def test_the_official_accuracy_is_beside_the_soft_one(finished: tuple[Bench, CellFolder]) -> None:
    """All ten humans said "yes" to every question, whatever its label is."""
    result, table = finished[1].result() or {}, finished[1].predictions()
    assert table["official"].tolist() == [float(answer == "yes") for answer in table["answer"]]
    assert result["official"] == {"test": round(100 * table["official"].mean(), 2)}
    assert set(table["answer_type"]) == {"other"}


# One step


@pytest.mark.parametrize("cell", [SOFTMAX, CELL], ids=["softmax", "layerdrop"])
def test_a_batch_in_parts_has_the_gradient_of_the_whole(bench: Bench, cell: Cell) -> None:
    """Layers are drawn once for all parts. Dropout draws for each part, so it is off."""
    still = dataclasses.replace(cell.model, hidden_dropout=0.0, attention_dropout=0.0)
    cell, rows = dataclasses.replace(cell, model=still), bench.dataset.rows("train")[:7]

    def gradients(parts: int) -> tuple[float, list[torch.Tensor | None]]:
        torch.manual_seed(0)
        model = build_model(cell, bench.dataset).train()
        optimiser = torch.optim.SGD(model.parameters(), lr=0.0)
        split = np.array_split(rows, parts)
        loss = training.train_step(model, optimiser, bench.dataset, split, cell, 3, torch.device("cpu"))
        return loss.item(), [weight.grad for weight in model.parameters()]

    (loss, whole), (same, summed) = gradients(1), gradients(3)
    assert same == pytest.approx(loss, rel=1e-6)
    for one, other in zip(whole, summed, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-7)


def test_the_layers_of_a_step_depend_on_the_seed_and_the_step_alone(bench: Bench) -> None:
    """Whatever was drawn before: a cell that resumes has drawn other numbers."""
    rows = bench.dataset.rows("train")[:7]

    def loss(step: int, draws: int) -> float:
        torch.manual_seed(0)
        model = build_model(CELL, bench.dataset).train()
        torch.rand(draws)
        optimiser = torch.optim.SGD(model.parameters())
        return training.train_step(model, optimiser, bench.dataset, [rows], CELL, step, torch.device("cpu")).item()

    assert loss(3, draws=0) == loss(3, draws=5)
    assert len({loss(step, draws=0) for step in range(5)}) == 5


def test_the_loss_is_the_mean_cross_entropy_times_the_number_of_answers() -> None:
    logits = torch.tensor([[0.0, 2.0], [-1.0, 0.5]], dtype=torch.float64)
    targets = torch.tensor([[0.3, 1.0], [0.0, 0.6]], dtype=torch.float64)
    p = 1 / (1 + np.exp(-logits.numpy()))
    t = targets.numpy()
    expected = -(t * np.log(p) + (1 - t) * np.log(1 - p)).mean() * 2
    assert training.answer_loss(logits, targets).item() == pytest.approx(expected, rel=1e-12)


def test_penalties_of_all_sites_are_added(bench: Bench) -> None:
    model = build_model(dataclasses.replace(SOFTMAX, variant="span"), bench.dataset)
    expected = sum(5e-6 * 1024 * weights.share.mean().item() for _, weights in model.sites())
    with torch.no_grad():
        assert float(training.penalty(model)) == pytest.approx(expected, rel=1e-5)


def test_learned_parameters_stay_in_their_range_during_training(bench: Bench) -> None:
    protocol = dataclasses.replace(ADAMW, learning_rate=5.0, clip=1e6)
    record = bench.finished(dataclasses.replace(SOFTMAX, variant="span", protocol=protocol))
    spans = pd.DataFrame(record.sites()["span"].tolist()).to_numpy()
    assert spans.min() >= 0
    assert spans.max() <= 1024
