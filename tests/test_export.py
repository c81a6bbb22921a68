"""A finished cell as a folder of transformers: loaded strictly there, with the logits of the cell, or refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from small_set import sealed

from suite import checkpoints, registry
from suite.cli import main
from suite.data.store import DataSet, open_dataset
from suite.data.wordpieces import make_tokenizer
from suite.records import StudyFolder
from suite.training import load_trained

STUDY = """
from dataclasses import dataclass, replace

import torch

from suite.attention import Depth, SoftmaxWeights, Variant
from suite.config import Cell, ModelSize, Protocol, Study, only_layers
from suite.registry import register


class DoubledWeights(SoftmaxWeights):
    def attend(self, query, key, value, mask, positions):
        return super().attend(query, key, 2 * value, mask, positions)


@register("doubled")
@dataclass(frozen=True)
class Doubled(Variant):
    def weights(self, site):
        return DoubledWeights()


@register("concatenates")
@dataclass(frozen=True)
class Concatenates(Variant):
    def configure(self, model_config):
        return replace(model_config, pooling="concatenated")


class Halved(Depth):
    def keep(self, generator):
        return range(self.layers)

    def gate(self, index, before, after):
        return (before + after) / 2


@register("halved")
@dataclass(frozen=True)
class Halves(Variant):
    def depth(self, stack, layers):
        return Halved(layers)


class Alternates(Depth):
    batches = 0

    def keep(self, generator):
        self.batches += not torch.jit.is_tracing()  # A count runs it once, and traces the same layers.
        return range(self.layers - self.batches % 2)


@register("alternates")
@dataclass(frozen=True)
class AlternatesLayers(Variant):
    def depth(self, stack, layers):
        return Alternates(layers)


@register("small", "study")
def study():
    softmax = Cell(
        "softmax", "easy_vqa",
        Protocol(steps=60, batch_size=10, evaluations=1, optimizer="adamw", schedule="linear", learning_rate=1e-2),
        layers=(3, 2, 2), model=ModelSize(width=8, heads=2, intermediate=12),
    )
    dropped = {
        pruning: replace(softmax, variant="layerdrop", arguments={"p": 1, "pruning": pruning})
        for pruning in ("every_other", "search_on_valid", "data_driven")
    }
    return Study("small", "?", (
        softmax,
        only_layers(softmax, ((0, 2), (1,), (0,))),
        *dropped.values(),
        only_layers(dropped["every_other"], ((0, 1, 2), (0, 1), (0, 1))),
        *(replace(softmax, variant=name) for name in REFUSED),
    ))


REFUSED = ("span", "topk_softmax", "doubled", "concatenates", "halved", "alternates")
"""


@dataclass
class Runs:
    """A finished study with the options of the command that say where it lies."""

    study: StudyFolder
    data: Path
    plugin: Path

    @property
    def dataset(self) -> DataSet:
        return open_dataset(self.data / "easy_vqa")

    def export(self, cell: str, out: Path) -> int:
        runs = self.study.path.parent
        places = ["--runs", str(runs), "--data", str(self.data), "--plugin", str(self.plugin)]
        return main(["export", "small", cell, "--out", str(out), *places])

    def cell(self, number: int) -> str:
        """Id of a row, counted in the study's order."""
        return [entry["id"] for entry in self.study.study()["cells"] if entry["role"] == "row"][number]

    def of(self, variant: str) -> str:
        return next(entry["id"] for entry in self.study.study()["cells"] if entry["cell"]["variant"] == variant)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, data_folder: Path) -> Iterator[Runs]:
    folder = tmp_path_factory.mktemp("export")
    shutil.copytree(data_folder, folder / "data")
    dataset = open_dataset(folder / "data/easy_vqa")
    text = make_tokenizer(dataset.questions("text")["text"]).to_str()
    (dataset.folder / "tokenizer.json").write_text(text)
    sealed(dataset.folder, tokenizer=hashlib.sha256(text.encode()).hexdigest())
    plugin = folder / "plugin.py"
    plugin.write_text(STUDY)
    places = ["--runs", str(folder / "runs"), "--data", str(folder / "data")]
    assert main(["run", "small", "--no-ray", "--no-report", *places, "--plugin", str(plugin)]) == 0
    yield Runs(StudyFolder(folder / "runs/small"), folder / "data", plugin)
    registry._from_plugins.clear()
    registry._plugin_files.clear()


ROWS = [
    (0, (3, 2, 2)),
    (1, (2, 1, 1)),
    (2, (2, 1, 1)),
    (3, (2, 1, 1)),
    (4, (2, 1, 1)),
    (5, (3, 2, 2)),
]


@pytest.mark.parametrize(
    ("number", "layers"),
    ROWS,
    ids=["softmax", "kept", "every_other", "search_on_valid", "data_driven", "layerdrop with all layers"],
)
def test_transformers_loads_it_strictly_and_gives_the_cells_logits(
    runs: Runs, tmp_path: Path, number: int, layers: tuple[int, int, int]
) -> None:
    cell = runs.cell(number)
    assert runs.export(cell, tmp_path / "model") == 0
    theirs, loading = transformers.LxmertForQuestionAnswering.from_pretrained(  # type: ignore[misc]
        tmp_path / "model", output_loading_info=True
    )
    assert not any(loading.values()), loading
    assert (theirs.config.l_layers, theirs.config.r_layers, theirs.config.x_layers) == layers

    dataset = runs.dataset
    batch = dataset.batch(dataset.rows("test"))
    words, regions, boxes, mask = (
        torch.from_numpy(array) for array in (batch.words, batch.regions, batch.boxes, batch.word_mask)
    )
    with torch.no_grad():
        logits = theirs.eval()(words, regions, boxes, attention_mask=mask).question_answering_score
        ours = load_trained(runs.study, cell, dataset)(words, regions, boxes, mask)
    torch.testing.assert_close(logits, ours, rtol=0, atol=1e-5)
    recorded = runs.study.cell(cell).predictions()
    top = logits.sigmoid().topk(4)
    np.testing.assert_allclose(np.stack(recorded["top_confidences"].tolist()), top.values, atol=1e-5)
    assert recorded["answer"].tolist() == [theirs.config.id2label[index] for index in top.indices[:, 0].tolist()]
    assert logits.std(0).max() > 1e-2, "logits that do not depend on the question would agree whatever it computes"


def test_the_folder_names_the_answers_and_reads_questions_as_the_data_set_does(runs: Runs, tmp_path: Path) -> None:
    assert runs.export(runs.cell(0), tmp_path / "deep" / "model") == 0
    folder = tmp_path / "deep" / "model"
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LxmertForQuestionAnswering"]
    assert config["id2label"] == {"0": "yes", "1": "no", "2": "red", "3": "blue"}
    assert config["label2id"] == {"yes": 0, "no": 1, "red": 2, "blue": 3}
    assert (folder / "tokenizer.json").read_bytes() == (runs.dataset.folder / "tokenizer.json").read_bytes()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    text = "Question 3?"
    own = make_tokenizer(runs.dataset.questions("text")["text"]).encode(text)
    assert tokenizer(text)["input_ids"] == own.ids
    assert (tokenizer.pad_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id) == (0, 2, 3)


def test_the_command_prints_the_folder_and_says_how_close_it_is(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert runs.export(runs.cell(1), tmp_path / "model") == 0
    said = capsys.readouterr()
    assert said.out == f"{tmp_path / 'model'}\n"
    assert "LXMERT of 2-1-1 layers: on 24 validation questions" in said.err


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ("span", "has Span"),
        ("topk_softmax", "has TopK"),
        ("doubled", "has DoubledWeights"),
        ("concatenates", "has concatenated pooling"),
        ("halved", "does not compute what halved"),
        ("alternates", "does not compute what alternates"),
    ],
)
def test_what_transformers_cannot_compute_is_refused(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str], variant: str, message: str
) -> None:
    cell = runs.of(variant)
    assert runs.export(cell, tmp_path / "model") == 2
    said = capsys.readouterr().err
    assert message in said
    assert cell in said
    assert "suite.training.load_trained" in said
    assert list(tmp_path.iterdir()) == []


def test_a_cell_whose_method_has_changed_since_is_refused(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its weights would be those of one method, and its layers those of another."""
    cell, text = runs.of("halved"), runs.plugin.read_text()
    try:
        runs.plugin.write_text(text.replace("(before + after) / 2", "after"))
        registry._from_plugins.clear()
        assert runs.export(cell, tmp_path / "model") == 2
    finally:
        runs.plugin.write_text(text)
        registry._from_plugins.clear()
        registry._plugin_files.clear()
    assert f"{cell} has changed since it was trained" in capsys.readouterr().err


def test_what_is_not_there_is_said_with_what_to_do(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cell = runs.cell(0)
    (tmp_path / "model").mkdir()
    assert runs.export(cell, tmp_path / "model") == 2
    assert "may hold another model. Give --out a new name" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert runs.export(cell, tmp_path / "file/model") == 2
    assert "file/model cannot be written: " in capsys.readouterr().err
    assert runs.export(cell, tmp_path / ("n" * 300)) == 2
    assert "cannot be written: File name too long" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "model"]
    assert runs.export(cell[:-1], tmp_path / "other") == 2
    assert f"There is no cell '{cell[:-1]}'. Did you mean '{cell}'?" in capsys.readouterr().err


def test_the_folder_may_be_in_one_that_is_not_there_or_where_a_link_leads(runs: Runs, tmp_path: Path) -> None:
    assert runs.export(runs.cell(0), tmp_path / "new/model") == 0
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["model"]
    (tmp_path / "link").symlink_to(tmp_path / "other")
    assert runs.export(runs.cell(0), tmp_path / "link") == 0
    assert (tmp_path / "other/model.safetensors").is_file()
    assert (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("lost", [0, 1])
def test_a_cell_without_a_result_is_refused(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str], lost: int
) -> None:
    """The evaluation's own, and that of the cell whose weights it evaluates."""
    shutil.copytree(runs.study.path, tmp_path / "runs/small")
    here = Runs(StudyFolder(tmp_path / "runs/small"), runs.data, runs.plugin)
    (here.study.cell(here.cell(lost)).path / "result.json").unlink()
    assert here.export(here.cell(1), tmp_path / "model") == 2
    assert f"The cell {here.cell(lost)} is started. Run it first" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_named(runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(runs.study.path, tmp_path / "runs/small")
    here = Runs(StudyFolder(tmp_path / "runs/small"), runs.data, runs.plugin)
    folder = here.study.cell(here.cell(0)).checkpoints
    (folder / f"step-{checkpoints.steps(folder)[-1]:08d}/model.safetensors").write_bytes(b"?")
    assert here.export(here.cell(0), tmp_path / "model") == 2
    assert "is not the model that the cell ended with (model.safetensors is not what" in capsys.readouterr().err
