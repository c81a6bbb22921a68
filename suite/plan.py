"""From a study to jobs: every cell with its id, after the cell that it starts from. Imports no ray."""

from __future__ import annotations

import dataclasses
import errno
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from suite import provenance, registry
from suite.config import (
    Cell,
    Comparison,
    Placement,
    Role,
    Scalar,
    Study,
    cell_id,
    from_plain,
    over_seeds,
    override,
    to_plain,
)
from suite.data.scoring import question_prior
from suite.data.store import DataSet, open_dataset
from suite.errors import UserError, unknown
from suite.files import check_no_link, insist, read_bytes, temporary_name, write_bytes
from suite.records import StudyFolder, depth_text

if TYPE_CHECKING:
    from suite.attention import Variant


@dataclass(frozen=True)
class Job:
    """A cell with its name and its place in the study."""

    id: str
    cell: Cell
    role: Role
    start: str | None
    """Id of the cell whose weights it fine-tunes."""
    pretrained: str | None = None
    """Identity of the weights from outside that it fine-tunes."""


@dataclass(frozen=True)
class Workplace:
    """What a worker needs beside the cell; plain values, the same on every node."""

    study: str
    """The study's folder, which every node sees."""
    data: str
    """The folder of the prepared data sets."""
    plugins: tuple[str, ...] = ()
    """Files that the worker loads before it looks a variant up."""
    placement: Placement = dataclasses.field(default_factory=Placement)
    launch: str = ""
    """Names the `ablate run` that this is part of."""
    one_machine: bool = False
    """Whether Ray is the launch's own, on the loopback of this machine: nothing of it listens elsewhere."""
    node: str = ""
    """Where the worker is, in Ray's words; the worker's own to say."""
    save_every: float = 600.0
    """Seconds after which a cell writes a checkpoint between two evaluations."""
    hung_after: float = 0.0
    """Seconds without a step after which a worker ends itself; 0: never."""
    patience: float = 600.0
    """Seconds that a cell waits for a run folder that cannot be written."""
    expected: dict[str, Any] | None = None
    """What a worker looks for before it begins (suite.preflight.Expected as plain values); None: it need not."""


def load_study(
    name: str,
    settings: Mapping[str, str],
    variants: Sequence[str] | None = None,
    seeds: int | None = None,
) -> Study:
    """The study ``name`` with ``settings`` on every cell, its rows at ``seeds`` seeds where that is given.

    A registered variant in ``variants`` that the study lacks gets a cell of its own: the study's reference
    with that method, with default arguments. Raises UserError for unknown names and values.
    """
    study = registry.make_study(name)
    reference = study.reference or study.cells[0]
    if reference.keep is not None and reference.start:
        reference = reference.start
    extra = []
    for variant in variants or ():
        registry.find("variant", variant)
        if variant not in {cell.variant for cell in (*study.cells, *(one.cell for one in study.searches))}:
            extra.append(dataclasses.replace(reference, variant=variant, arguments={}))
    study = dataclasses.replace(
        study,
        cells=tuple(override(cell, settings) for cell in (*study.cells, *extra)),
        floors=tuple(override(cell, settings) for cell in study.floors),
        comparisons=tuple(
            Comparison(pair.label, override(pair.base, settings), override(pair.changed, settings))
            for pair in study.comparisons
        ),
        searches=tuple(
            dataclasses.replace(search, cell=override(search.cell, settings)) for search in study.searches
        ),
    )
    return over_seeds(study, seeds) if seeds else study


def open_data(folder: Path, name: str, progress: Callable[[int, int], None] | None = None) -> DataSet:
    """The prepared data set ``name``, prepared first where its folder does not exist.

    ``progress`` is told how many pictures of how many are done.
    """
    prepare = registry.find("dataset", name)
    if not (folder / name).exists():
        prepare(folder / name, progress)
    return open_dataset(folder / name)


def plan(
    study: Study,
    data: Path,
    progress: Callable[[int, int], None] | None = None,
    trials: Sequence[Cell] = (),
) -> list[Job]:
    """Every cell of the study once, and the ``trials`` of its searches (suite.search), each after its start.

    Prepares the data sets that are missing.
    """
    jobs: dict[str, Job] = {}
    # Each once for all cells of the study, of which there may be a thousand.
    dataset_of = cache(lambda name: open_data(data, name, progress))
    source_of = cache(registry.source_digest)
    check_answers = cache(lambda name, splits: dataset_of(name).check_answers(*splits))
    starts: dict[int, str] = {}  # By object, which the study keeps: a row has the same one at each of its seeds.

    def add(cell: Cell, role: Role) -> str:
        cell, start = resolve(cell), None
        if cell.start:
            start = starts.get(id(cell.start)) or add(cell.start, "start")
            starts[id(cell.start)] = start
            if cell.start.dataset != cell.dataset:
                _check_same_rows(dataset_of(cell.dataset), dataset_of(cell.start.dataset))
        check_answers(cell.dataset, (*cell.train, cell.validation, cell.test))
        weights = _weights_of(cell)
        name = _name(cell, source_of(cell.variant), dataset_of(cell.dataset), start, weights)
        # A row that another row starts from is a row, whichever is met first; what another needs is no trial.
        known = jobs[name].role if name in jobs else None
        if known is None or (known == "start" and role == "row") or (known == "trial" and role == "start"):
            jobs[name] = Job(name, cell, role, start, weights)
        return name

    for cell in study.cells:
        add(cell, "row")
    for cell in study.floors:
        add(cell, "floor")
    for cell in trials:
        add(cell, "trial")
    return list(jobs.values())


def _check_same_rows(dataset: DataSet, start: DataSet) -> None:
    """Raises UserError where the rows of the start's weights are of other answers or words than the cell's are.

    As many are not the same.
    """
    if dataset.answers != start.answers or dataset.information["tokenizer"] != start.information["tokenizer"]:
        raise UserError(
            f"A cell on {dataset.name} starts from one on {start.name}, which has other answers or word pieces, or "
            "in another order: the rows of its weights mean something else. Prepare both with the same ones."
        )


def _name(cell: Cell, source: str, dataset: DataSet, start: str | None, weights: str | None) -> str:
    varied = dataclasses.replace(cell, arguments=varied_arguments(cell), pretrained=weights or "")
    return cell_id(varied, source, dataset.digest, start)


def _weights_of(cell: Cell) -> str | None:
    if not cell.pretrained:
        return None
    from suite.models.pretrained import identity

    return identity(cell.pretrained)


def trained_cell(study: StudyFolder, cell_id: str, data: Path) -> tuple[Cell, DataSet]:
    """A finished cell of ``study``, and its data set: for what is made of its model afterwards.

    Raises UserError where the study has no such cell, it is not finished, or its method or data set has changed
    since, so that its weights would mean something else.
    """
    record = study.cell(cell_id)
    known = [entry["id"] for entry in study.study()["cells"]]
    record.check_links()
    if record.state == "missing" and cell_id not in known:
        raise unknown("cell", cell_id, known)
    if record.state != "finished":
        raise UserError(f"The cell {cell_id} is {record.state}. Run it first: ablate run {study.path.name}.")
    config = record.config()
    cell = resolve(from_plain(Cell, config["cell"]))
    dataset = open_data(data, cell.dataset)
    source = registry.source_digest(cell.variant)
    if _name(cell, source, dataset, config["start"], config.get("pretrained")) != cell_id:
        raise UserError(
            f"The method or the data set of {cell_id} has changed since it was trained. Go back to those that it "
            "was trained with, or run the study again and take the new cell."
        )
    return cell, dataset


def resolve(cell: Cell) -> Cell:
    """The cell with every argument of its variant spelled out, and weights from outside by their full path.

    Raises UserError for an argument that the variant does not take, layers that it cannot have, or a cell that is
    evaluated only and is not what its start is.
    """
    variant = registry.find("variant", cell.variant)
    fields = {field.name for field in dataclasses.fields(variant)}
    for name in cell.arguments:
        if name not in fields:
            raise unknown(f"argument of {cell.variant}", name, fields)
    chosen: Variant = from_plain(variant, cell.arguments)
    for stack, layers in zip(("language", "vision", "cross"), cell.layers, strict=True):
        chosen.depth(stack, layers)
    cell = dataclasses.replace(cell, arguments=dataclasses.asdict(chosen))
    if cell.pretrained and (path := Path(cell.pretrained).expanduser()).exists():
        cell = dataclasses.replace(cell, pretrained=str(path.resolve()))  # A worker stands elsewhere.
    if cell.keep is not None and cell.start:
        _check_evaluated_only(cell, resolve(cell.start))
    return cell


def _check_evaluated_only(cell: Cell, trained: Cell) -> None:
    for name in (field.name for field in dataclasses.fields(Cell)):
        given, expected = getattr(cell, name), getattr(trained, name)
        if name not in ("keep", "start", "validation", "test") and given != expected:
            raise UserError(
                f"A cell with keep trains nothing, so all that makes its model is its start's: expected {name} "
                f"{expected!r}, received {given!r}. Make it with suite.config.only_layers."
            )


def varied_arguments(cell: Cell) -> dict[str, Scalar]:
    """The arguments of a resolved cell that differ from its variant's defaults."""
    defaults = dataclasses.asdict(registry.find("variant", cell.variant)())
    return {name: value for name, value in cell.arguments.items() if value != defaults[name]}


def selected(jobs: Sequence[Job], variants: Sequence[str] | None) -> list[Job]:
    """The rows and trials of the named variants and the starts that they need; every job where no name is given."""
    if not variants:
        return list(jobs)
    wanted = {job.id for job in jobs if job.role in ("row", "trial") and job.cell.variant in variants}
    for job in reversed(jobs):  # A start stands before what needs it, a start's own start too.
        if job.id in wanted and job.start:
            wanted.add(job.start)
    return [job for job in jobs if job.id in wanted]


def write_study(
    folder: StudyFolder,
    study: Study,
    jobs: Sequence[Job],
    data: Path,
    searches: Sequence[Mapping[str, Any]] = (),
) -> None:
    """``study.json``: what the report is about, also where cells are missing.

    ``searches`` are as ``suite.search.to_study_json`` has them.
    Raises UserError where a comparison is of a cell that the study does not have.
    """
    dataset = open_data(data, study.cells[0].dataset)
    first = study.cells[0]
    training = [split for split in dataset.information["splits"] if split != first.test]
    folder.write_study(
        {
            "name": study.name,
            "question": study.question,
            "engine": provenance.engine_digest(),
            "dataset": {key: dataset.information[key] for key in ("name", "title", "splits", "answers")},
            "floors": {
                "question_prior": question_prior(dataset, tuple(training), first.test),
                "looked": study.looked,
            },
            "cells": [
                {"id": job.id, "role": job.role, "start": job.start, "cell": to_plain(job.cell)} for job in jobs
            ],
            "comparisons": [
                {
                    "label": pair.label,
                    "base": _id_of(pair.base, jobs, pair),
                    "changed": _id_of(pair.changed, jobs, pair),
                }
                for pair in study.comparisons
            ],
            "searches": list(searches),
        }
    )


def _id_of(cell: Cell, jobs: Sequence[Job], pair: Comparison) -> str:
    resolved = resolve(cell)
    for job in jobs:
        if job.cell == resolved and job.role == "row":
            return job.id
    raise UserError(
        f"The comparison '{pair.label}' expects cells of its study; received {cell.variant} with "
        f"{dict(cell.arguments)}, which is none. List it among the study's cells."
    )


def describe(job: Job) -> str:
    """A cell in a few words, arguments at their defaults left out: ``layerdrop p=0 10-6-6``.

    One that is evaluated only names the layers that it leaves out: ``layerdrop 10-6-6 at 9-5-5 without 9/5/5``.
    """
    arguments = " ".join(f"{name}={value}" for name, value in varied_arguments(job.cell).items())
    layers = depth_text(job.cell.layers, job.cell.keep)
    role = {"row": "", "start": "(start)", "floor": "(floor: mean pictures)", "trial": "(trial)"}[job.role]
    return " ".join(filter(None, (job.cell.variant, arguments, layers, role)))


def keep_plugins(folder: StudyFolder, plugins: Sequence[Path]) -> tuple[str, ...]:
    """Copies plug-in files into the study's folder, where every node finds them and readers do later.

    What lies there already is held against the user's own files, and written again where it differs.
    """
    kept = []
    for plugin in plugins:
        # By content: an edited file must not change what the workers of a running launch load.
        content = {path.name: path.read_bytes() for path in registry.source_files(plugin)}
        target = folder.path / "plugins" / registry.plugin_digest(content)
        for name in ("", *content):
            check_no_link(folder.path, target / name)
        target.mkdir(parents=True, exist_ok=True)
        for name, source in content.items():
            if not (target / name).exists() or read_bytes(target / name) != source:
                write_bytes(target / name, source, settled=True)
        kept.append(str((target / plugin.name).resolve()))
    return tuple(kept)


def check_folder(path: Path) -> None:
    """Raises UserError where the run folder cannot hold records."""
    try:
        os.fsencode(path.resolve()).decode()
    except UnicodeDecodeError:
        raise UserError(
            f"The run folder {str(path)!r} has a name that is not UTF-8, which not every file of a record can be "
            "written under. Rename it, or give --runs another; where the name is right, set PYTHONUTF8=1."
        ) from None
    StudyFolder(path).check_links()
    try:
        probe(path)
    except OSError as error:
        advice = "Free space there" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "Mend that"
        raise UserError(
            f"The run folder {path} cannot be written: {error.strerror}. {advice}, or give --runs another."
        ) from None


def probe(folder: Path) -> None:
    """Raises OSError where a file in ``folder``, which is made, cannot be written."""
    folder.mkdir(parents=True, exist_ok=True)
    name = folder / temporary_name("probe")
    try:
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(file, "wb", buffering=0) as opened:
            # More than the metadata of a file: a full disk may still have room for that.
            left = memoryview(bytes(1 << 16))
            while left:
                left = left[opened.write(left) :]
            os.fsync(file)
    finally:
        insist(name.unlink)
