"""Tables 1 and 2 of the paper as data: what was published beside what our cells measured.

Cells that differ in nothing but their seeds are one row. Accuracies are in per cent, differences in points,
changes in per cent of the softmax row.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from statistics import fmean
from typing import Any

from reports.by_type import ByType, by_type
from reports.checks import Finding
from reports.claims import Claim
from reports.costs import Cost, Costs
from reports.pairing import Group, Pair, Reader, estimate, mean_difference, pairing, pairs_of
from reports.published import Paper, Published, is_published_size, load_paper
from reports.statistics import Estimate, Verdict, adjust
from reports.verdicts import verdict
from suite.records import CellFolder, RecordError, StudyFolder, depth_text, load_cells

SERVER_SPLITS = ("test-dev", "test-std")
"""VQA 2.0's splits whose answers the test server alone has."""


@dataclass(frozen=True)
class CellRecord:
    """One cell as the tables need it."""

    id: str
    role: str
    state: str
    stale: bool
    configuration: Mapping[str, Any]
    failure: str | None
    result: Mapping[str, Any] | None
    folder: Path
    start: str | None
    """Id of the cell that it starts from."""
    server: Mapping[str, Mapping[str, Any]]
    """What the test server answered (CellFolder.server) for a finished cell."""

    @property
    def keep(self) -> list[list[int]] | None:
        """The layers of each stack with which a trained cell, its start, is evaluated; None where it is trained."""
        return self.configuration.get("keep")

    @property
    def accuracy(self) -> float:
        """Test accuracy in per cent of a finished cell."""
        assert self.result is not None
        split = self.configuration["test"]
        try:
            return float(self.result["accuracy"][split])
        except KeyError:
            known = ", ".join(self.result["accuracy"]) or "none"
            raise RecordError(
                f"{self.folder / 'result.json'} has no accuracy for the test split '{split}', only: {known}. "
                "Delete that cell's folder and run again."
            ) from None

    @property
    def official(self) -> float | None:
        """Official accuracy of the test split in per cent; None where the humans' answers are not known."""
        return ((self.result or {}).get("official") or {}).get(self.configuration["test"])


@dataclass(frozen=True)
class Measured:
    """What the finished cells of one row measured, as means over their seeds."""

    accuracy: float
    """Test accuracy, per cent."""
    accuracies: tuple[float, ...]
    """The same, one per finished cell."""
    macs: float
    """Multiply-adds of what runs, for one question."""
    macs_reference: float
    """Multiply-adds comparable with the paper: every word padded, both halves of the last layer."""
    uncounted_operators: Mapping[str, int]
    parameters: float
    seconds: float
    """Training time."""
    official: float | None
    """Official test accuracy, per cent, of the cells that have it; None where none has."""
    server: Mapping[str, float]
    """The test server's split -> accuracy that it answered, per cent, of the cells that have it."""


@dataclass(frozen=True)
class Row:
    """One table row: a published result, cells of ours, or both."""

    key: str
    """Names the row in file names."""
    label: str
    short: str
    """The label for a legend: arguments that do not tell rows of this study apart are left out, and the layers that
    an evaluation keeps."""
    published: Published | None
    cells: tuple[CellRecord, ...]
    state: str
    """``finished``, or in words why there is no measurement."""
    measured: Measured | None
    difference: float | None
    """Test accuracy minus that of the reference row, points: over the seeds that both have, where any are."""
    macs_change: float | None
    """macs_reference against that of the reference row, per cent."""
    looked: bool | None
    """False where the accuracy is below the study's threshold; None where there is none to compare."""
    notes: tuple[str, ...]
    estimate: Estimate | None = None
    """Of the test accuracy; None where a finished cell has no predictions."""
    paired: Estimate | None = None
    """Of ``difference``: question by question, and seed by seed."""
    verdict: Verdict | None = None
    """Against the published row."""
    costs: tuple[Cost, ...] = ()
    """Of its first measured cell, one per device."""

    @property
    def trained(self) -> bool:
        """Whether its cells were trained, and not evaluated only, with other layers than they were trained with."""
        return all(cell.keep is None for cell in self.cells)

    @property
    def finished(self) -> int:
        """The number of finished cells (seeds)."""
        return sum(cell.state == "finished" for cell in self.cells)

    @property
    def stale(self) -> bool:
        """Whether a number of this row comes from an engine that has changed since."""
        return any(cell.stale for cell in self.cells)


@dataclass(frozen=True)
class Block:
    title: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Comparison:
    """What one change is worth: pairs of cells that differ in it, one pair per seed."""

    label: str
    """The change."""
    base: tuple[CellRecord, ...]
    """The cells without it."""
    changed: tuple[CellRecord, ...]
    """Those with it, each at the place of its partner."""
    paired: Estimate | None = None
    """Of ``difference``; p is adjusted over the comparisons of the study."""

    @property
    def finished(self) -> list[tuple[float, float]]:
        """Test accuracies (without, with) of the pairs of which both cells are finished, per cent."""
        return [
            (one.accuracy, other.accuracy)
            for one, other in zip(self.base, self.changed, strict=True)
            if one.result is not None and other.result is not None
        ]

    @property
    def difference(self) -> float | None:
        """Accuracy with the change minus without it, points: the mean over the finished pairs."""
        return fmean(changed - base for base, changed in self.finished) if self.finished else None

    @property
    def finished_pairs(self) -> list[Pair]:
        """The pairs (with, without) of which both cells are finished."""
        pairs = zip(self.changed, self.base, strict=True)
        return [pair for pair in pairs if all(cell.result is not None for cell in pair)]


@dataclass(frozen=True)
class Report:
    """All tables of one study."""

    name: str
    dataset: str
    """The data set's title."""
    heading: str
    """On which data and budget our numbers come from."""
    reference: str
    """Which row differences are taken against, as a sentence."""
    paper: Paper
    question_prior: float | None
    """Accuracy of each question text's most frequent training answer, per cent."""
    looked: float | None
    """Accuracy below which a row has not learned to look, per cent."""
    blocks: tuple[Block, ...]
    floors: tuple[Row, ...]
    comparisons: tuple[Comparison, ...]
    comparable: bool
    """Whether data and size of model of all rows are the paper's: the sizes of differences can be compared."""
    measured: bool
    """Whether the tables show what no second run repeats: seconds."""
    by_type: ByType | None
    """Accuracies by type of answer and question, by the row's key; None where no question has a type."""
    claims: tuple[Claim, ...] = ()
    findings: tuple[Finding, ...] = ()
    searches: tuple[str, ...] = ()
    """How the arguments of each variant that was searched were found, a sentence each."""

    @property
    def rows(self) -> list[Row]:
        """The rows of all blocks that have cells of ours."""
        return [row for block in self.blocks for row in block.rows if row.cells]


def build_report(study_folder: Path | str, measured: bool = True) -> Report:
    """The tables of the study at ``study_folder``, whatever is finished of it; with seconds if ``measured``."""
    paper, study, cells = load_paper(), StudyFolder(study_folder).study(), read_cells(study_folder)
    groups = _group(cell for cell in cells if cell.role == "row")
    repeated = _match(paper, groups)
    further = [group for group in groups if group not in repeated.values()]
    trained = [group for group in further if group[0].keep is None]
    evaluated = [group for group in further if group[0].keep is not None]
    reference = _reference(paper, repeated, groups)
    looked = study["floors"]["looked"]
    floors = _group(cell for cell in cells if cell.role == "floor")
    members = repeated | {group[0].id: group for group in (*further, *floors)}
    pairs = {key: pairs_of(group, reference) for key, group in members.items() if group != reference}
    comparisons = _compare(study.get("comparisons", ()), cells)
    comparable = study["dataset"]["name"] == paper.dataset_name and all(
        is_published_size(group[0].configuration["model"]) for group in groups
    )
    reader = Reader()
    # Together, because those on the same questions are resampled together.
    found = estimate(
        {("level", key): reader.level(group) for key, group in members.items()}
        | {("row", key): reader.difference(pairs[key]) for key in pairs}
        | {("change", str(place)): reader.difference(one.finished_pairs) for place, one in enumerate(comparisons)}
    )
    family = [key for key in pairs if members[key][0].role == "row"]
    paired = {key: found["row", key] for key in pairs}
    paired |= dict(zip(family, adjust([paired[key] for key in family]), strict=True))
    changes = adjust([found["change", str(place)] for place in range(len(comparisons))])
    costs = Costs(reference, looked) if measured else None

    def row(key: str, label: str, short: str, published: Published | None, group: Group) -> Row:
        measured, against = _measure(group), _measure(reference)
        server = {split: [line["accuracy"] for line in _answered(group, split).values()] for split in SERVER_SPLITS}
        return Row(
            key=key,
            label=label,
            short=short,
            published=published,
            cells=group,
            state=_state(published, group),
            measured=measured,
            difference=mean_difference(group, reference, pairs.get(key, [])),
            macs_change=100 * (measured.macs_reference / against.macs_reference - 1)
            if measured and against
            else None,
            looked=measured.accuracy >= looked if measured and looked is not None else None,
            notes=(
                *(published.notes if published else ()),
                *_remarks(group, reference),
                *(pairing(group, reference, pairs[key]) if measured and against and key in pairs else []),
                *([_server_note(published, group, measured)] if measured and measured.server else []),
            ),
            estimate=found.get(("level", key)),
            paired=paired.get(key),
            verdict=verdict(published, paper.reference, paired.get(key), server, comparable)
            if published and measured
            else None,
            costs=costs.of(group) if costs else (),
        )

    blocks = [
        Block(
            table.title,
            tuple(
                row(entry.key, entry.label, entry.label, entry, repeated.get(entry.key, ())) for entry in table.rows
            ),
        )
        for table in paper.tables
    ]
    for title, chosen in (("Further variants", trained), ("Trained models at other depths", evaluated)):
        rows = (row(group[0].id, _label(group), _short(group, groups), None, group) for group in chosen)
        if chosen:
            blocks.append(Block(title, tuple(rows)))
    finished = {
        one.key: [cell.folder for cell in one.cells if cell.result is not None]
        for block in blocks
        for one in block.rows
    }
    return Report(
        name=study["name"],
        dataset=study["dataset"]["title"],
        heading=_heading(study, groups, paper),
        reference=_reference_sentence(paper, repeated, reference),
        paper=paper,
        question_prior=study["floors"]["question_prior"],
        looked=looked,
        blocks=tuple(blocks),
        floors=tuple(row(group[0].id, _floor_label(group), _floor_label(group), None, group) for group in floors),
        comparisons=tuple(replace(one, paired=worth) for one, worth in zip(comparisons, changes, strict=True)),
        comparable=comparable,
        measured=measured,
        by_type=by_type(finished),
        searches=tuple(_searched(one, cells) for one in study.get("searches", ())),
    )


def _searched(search: Mapping[str, Any], cells: Sequence[CellRecord]) -> str:
    """``span: searched, 8 trials x 400 steps, random; winner limit = 64, ramp = 8``."""
    trials = [cell for cell in cells if cell.id in search["trials"]]
    counts = {state: sum(cell.state == state for cell in trials) for state in ("stopped", "failed")}
    ended = "".join(f", {count} {state}" for state, count in counts.items() if count)
    stale = ", some by an engine that has changed since" if any(cell.stale for cell in trials) else ""
    winner = search["winner"]
    if winner is None:
        found = "no trial finished" if search["complete"] else "winner not known yet"
    else:
        arguments = ", ".join(f"{name} = {_value(value)}" for name, value in winner["arguments"].items())
        found = f"winner {arguments}, by validation accuracy ({winner['accuracy']:.2f} %)"
    layers = depth_text(search["layers"], None)
    return (
        f"{search['variant']} {layers}: searched, {len(search['trials'])} trials x {search['steps']:,} steps, "
        f"{search['scheduler']['name']}{ended}{stale}; {found}."
    )


def read_cells(study_folder: Path | str) -> list[CellRecord]:
    """Every cell of the study, rows or not, in the study's order."""
    cells = []
    for plain in load_cells(study_folder).to_dict("records"):
        # pandas turns None into NaN in columns of numbers and of texts: results come from the record itself.
        record, finished = CellFolder(plain["folder"]), plain["state"] == "finished"
        failure = record.failure() if plain["state"] == "failed" else None
        cells.append(
            CellRecord(
                id=plain["id"],
                role=plain["role"],
                state=plain["state"],
                stale=bool(plain["stale"]),
                configuration=plain["cell"],
                failure=failure["message"] if failure else None,
                result=record.result() if finished else None,
                folder=record.path,
                start=plain["start"],
                server=record.server() if finished else {},
            )
        )
    return cells


def _group(cells: Iterable[CellRecord]) -> list[Group]:
    """Groups of cells that differ only in their seeds and their starts' seeds, in the study's order."""
    groups: dict[str, list[CellRecord]] = {}
    for cell in cells:
        identity = json.dumps(_without_seeds(cell.configuration), sort_keys=True)
        groups.setdefault(identity, []).append(cell)
    return [tuple(group) for group in groups.values()]


def _without_seeds(configuration: Mapping[str, Any]) -> dict[str, Any]:
    start = configuration["start"]
    kept = {name: value for name, value in configuration.items() if name != "seed"}
    return kept | {"start": _without_seeds(start) if start else None}


def _compare(pairs: Iterable[Mapping[str, str]], cells: Iterable[CellRecord]) -> tuple[Comparison, ...]:
    """The study's pairs of cells by what they compare; those that differ in nothing but seeds are one line."""
    known = {cell.id: cell for cell in cells}
    lines: dict[str, list[tuple[str, CellRecord, CellRecord]]] = {}
    for pair in pairs:
        base, changed = known[pair["base"]], known[pair["changed"]]
        identity = [pair["label"], _without_seeds(base.configuration), _without_seeds(changed.configuration)]
        lines.setdefault(json.dumps(identity, sort_keys=True), []).append((pair["label"], base, changed))
    return tuple(
        Comparison(line[0][0], tuple(base for _, base, _ in line), tuple(changed for *_, changed in line))
        for line in lines.values()
    )


def _match(paper: Paper, groups: Sequence[Group]) -> dict[str, Group]:
    """Published row -> the first trained group that repeats it; a second one would have to share its line."""
    matches: dict[str, Group] = {}
    for group in (group for group in groups if group[0].keep is None):
        one = group[0].configuration
        for table in paper.tables:
            for entry in table.rows:
                if entry.matches(one["variant"], one["arguments"], tuple(one["layers"])):
                    matches.setdefault(entry.key, group)
    return matches


def _reference(paper: Paper, repeated: Mapping[str, Group], groups: Sequence[Group]) -> Group:
    """The softmax row at the paper's layers; where a study is scaled down, its first softmax row."""
    if paper.reference.key in repeated:
        return repeated[paper.reference.key]
    variant = paper.reference.cell["variant"] if paper.reference.cell else None
    trained = (group for group in groups if group[0].keep is None)
    return next((group for group in trained if group[0].configuration["variant"] == variant), ())


def _reference_sentence(paper: Paper, repeated: Mapping[str, Group], reference: Group) -> str:
    if not reference:
        return "The study has no softmax row: our differences and changes cannot be given."
    label = paper.reference.label if paper.reference.key in repeated else _label(reference)
    missing = "" if _measure(reference) else f", which is {_state(None, reference)}: they cannot be given yet"
    return f"Our differences (points) and changes of multiply-adds (%) are against the row {label}{missing}."


def _measure(group: Group) -> Measured | None:
    finished = [cell for cell in group if cell.result is not None]
    if not finished:
        return None
    results = [cell.result for cell in finished if cell.result is not None]
    accuracies = tuple(cell.accuracy for cell in finished)
    official = [cell.official for cell in finished if cell.official is not None]
    server = {split: [line["accuracy"] for line in _answered(group, split).values()] for split in SERVER_SPLITS}
    return Measured(
        accuracy=fmean(accuracies),
        accuracies=accuracies,
        macs=fmean(result["macs"] for result in results),
        macs_reference=fmean(result["macs_reference"] for result in results),
        uncounted_operators=results[0]["uncounted_operators"],
        parameters=fmean(result["parameters"] for result in results),
        seconds=fmean(result["seconds"] for result in results),
        official=fmean(official) if official else None,
        server={split: fmean(numbers) for split, numbers in server.items() if numbers},
    )


def _answered(group: Group, split: str) -> dict[str, Mapping[str, Any]]:
    """Cell id -> what the test server answered for it on ``split``."""
    return {cell.id: cell.server[split] for cell in group if split in cell.server}


def _state(published: Published | None, group: Group) -> str:
    if not group:
        return "not in study" if published is None or published.cell else "not run"
    states = [cell.state for cell in group]
    return "finished" if "finished" in states else ", ".join(dict.fromkeys(states))


def _remarks(group: Group, reference: Group) -> list[str]:
    """What a reader must know about our side of a row."""
    remarks = []
    for state in ("failed", "stopped", "started", "missing"):
        ids = [cell.id for cell in group if cell.state == state]
        if ids and len(ids) < len(group):
            remarks.append(f"{len(ids)} of {len(group)} seeds {state}: {', '.join(ids)}.")
    remarks += [f"{cell.id} failed: {cell.failure}" for cell in group if cell.failure is not None]
    stale = [cell.id for cell in group if cell.stale]
    if stale:
        remarks.append(f"Stale, the engine has changed since: {', '.join(stale)}.")
    if group and group[0].keep is not None:
        remarks.append("Evaluated only: one trained model without the layers named, counted from 0.")
    finished = [cell.official for cell in group if cell.result is not None]
    if None in finished and any(official is not None for official in finished):
        known = sum(official is not None for official in finished)
        remarks.append(f"Official accuracy of {known} of {len(finished)} seeds.")
    changed = deviations(group, reference) if group else []
    if changed:
        remarks.append(f"Differs from the softmax row in more than its method: {'; '.join(changed)}.")
    return remarks


def _server_note(published: Published | None, group: Group, measured: Measured) -> str:
    """Where the test server's numbers of a row come from, and how far they are from the published ones."""
    said = []
    for split in measured.server:
        cells = [
            f"{line['accuracy']:.2f} for {name} (added {line['added'][:10]}, {_submission(line['submission'])})"
            for name, line in _answered(group, split).items()
        ]
        said.append(f"{split} {', '.join(cells)}")
    note = f"The test server's own, not computed here: {'; '.join(said)}."
    theirs = published.accuracies if published else {}
    differences = [
        f"{split} {ours - theirs[split]:+.2f}" for split, ours in measured.server.items() if split in theirs
    ]
    return note + (f" Minus the published, points: {', '.join(differences)}." if differences else "")


def _submission(sha256: str | None) -> str:
    return f"submission {sha256[:12]}" if sha256 else "submission not known"


def deviations(group: Group, reference: Group) -> list[str]:
    """Settings other than method, layers and seed that are not the reference row's: no longer an ablation."""
    if not reference or group == reference:
        return []
    ours, theirs = (_settings(_training(each[0])) for each in (group, reference))
    return [
        f"{name} {_value(ours.get(name))} (there {_value(theirs.get(name))})"
        for name in sorted({*ours, *theirs})
        if ours.get(name) != theirs.get(name)
    ]


def _training(cell: CellRecord) -> Mapping[str, Any]:
    """How the model of a cell was trained; of one that is evaluated only, how its start was."""
    if cell.keep is None:
        return cell.configuration
    return {**cell.configuration, "keep": None, "start": cell.configuration["start"]["start"]}


def _settings(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """A cell's configuration flat, without what labels state. A start with its own method is told apart."""
    flat: dict[str, Any] = {}
    for name, value in configuration.items():
        if name in ("variant", "arguments", "layers", "seed", "start", "pretrained"):
            continue
        if isinstance(value, Mapping):
            flat |= {f"{name}.{inner}": one for inner, one in value.items()}
        else:
            flat[name] = value
    start = configuration["start"]
    if start is None:
        return flat | {"start": configuration.get("pretrained") or "none"}
    own = all(start[name] == configuration[name] for name in ("variant", "arguments", "layers"))
    # Starting from a model of one's own method and layers, or from the plain one, is stated by the study.
    flat["start"] = "trained" if own or start["variant"] == "softmax" else start["variant"]
    return flat | {f"start.{name}": value for name, value in _settings(start).items()}


def _label(group: Group) -> str:
    one = group[0].configuration
    return _described(one, list(one["arguments"]), depth_text(one["layers"], group[0].keep))


def _floor_label(group: Group) -> str:
    blind = group[0].configuration["pictures"] == "mean"
    return f"blind (mean picture) {_label(group)}" if blind else _label(group)


def _short(group: Group, groups: Sequence[Group]) -> str:
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
    arguments = [f"{name} = {_value(configuration['arguments'][name])}" for name in names]
    return ", ".join([configuration["variant"], *arguments, layers])


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)


def _heading(study: Mapping[str, Any], groups: Sequence[Group], paper: Paper) -> str:
    """One plain line: data, model size, budget, seeds, and what must not be compared."""
    dataset, cells = study["dataset"], [_training(cell) for group in groups for cell in group]
    local = _either(cell["test"] for cell in cells)
    tests = _either(f"{dataset['splits'][cell['test']]['questions']:,}" for cell in cells)
    widths = _either(cell["model"]["width"] for cell in cells)
    heads = _either(cell["model"]["heads"] for cell in cells)
    starts = _either(_starting_weights(cell) for cell in cells)
    budgets = _either(_budget(cell) for cell in cells)
    seeds = ", ".join(map(str, sorted({cell["seed"] for cell in cells})))
    published, split = f"The published numbers are on {paper.dataset}: compare differences, never levels.", ""
    if dataset["name"] == paper.dataset_name:
        published = (
            f"Our accuracies on {local or 'a local split'} are not the server's on {' and '.join(SERVER_SPLITS)}, "
            "where the published numbers are: compare with these what the server answered, on the same split, and "
            "nothing else."
        )
        split = f", split {local}"
    if not cells:
        return f"The study has no rows on {dataset['title']}. {published}"
    return (
        f"Measured here on {dataset['title']}{split} ({tests} test questions): LXMERT of width {widths}, "
        f"{heads} heads, starting weights {starts}, fine-tuned for {budgets}, "
        f"seed{'s' if ',' in seeds else ''} {seeds}. {published}"
    )


def _starting_weights(configuration: Mapping[str, Any]) -> str:
    """What a cell fine-tunes: of weights from outside the last part of their path or hub id."""
    start, pretrained = configuration["start"], configuration.get("pretrained")
    if start:
        before = f" from {PurePath(start['pretrained']).name}" if start.get("pretrained") else ""
        return f"trained for {_budget(start)}{before}"
    return PurePath(pretrained).name if pretrained else "random"


def _budget(configuration: Mapping[str, Any]) -> str:
    return f"{configuration['protocol']['steps']:,} steps x batch {configuration['protocol']['batch_size']}"


def _either(values: Iterable[Any]) -> str:
    return " or ".join(dict.fromkeys(map(str, values)))
