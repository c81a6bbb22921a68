"""Tables 1 and 2 of the paper as data: what was published beside what our cells measured.

Cells that differ in nothing but their seeds are one row.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from reports.by_type import by_type
from reports.cells import CellRecord, Group, Records, read_records
from reports.costs import Costs
from reports.labels import floor_label, full_label, short_label
from reports.notes import answered, heading, remarks, searched, server_note
from reports.pairing import Reader, estimate, mean_difference, pairing, pairs_of
from reports.published import SERVER_SPLITS, Paper, Published, is_published_size, load_paper
from reports.report import Block, Comparison, Measured, Report, Row
from reports.statistics import adjust
from reports.verdicts import verdict


def build_report(study_folder: Path | str, measured: bool = True) -> Report:
    """The tables of the study at ``study_folder``, whatever is finished of it; with seconds if ``measured``."""
    return report_of(read_records(study_folder), measured)


def report_of(records: Records, measured: bool = True) -> Report:
    """As ``build_report``, of a study that was read already."""
    paper, study, cells = load_paper(), records.study, records.cells
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
        server = {split: [line["accuracy"] for line in answered(group, split).values()] for split in SERVER_SPLITS}
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
                *remarks(group, reference),
                *(pairing(group, reference, pairs[key]) if measured and against and key in pairs else []),
                *([server_note(published, group, measured)] if measured and measured.server else []),
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
        rows = (row(group[0].id, full_label(group), short_label(group, groups), None, group) for group in chosen)
        if chosen:
            blocks.append(Block(title, tuple(rows)))
    finished = {
        one.key: [cell.record for cell in one.cells if cell.result is not None]
        for block in blocks
        for one in block.rows
    }
    return Report(
        name=study["name"],
        question=study["question"],
        cells=cells,
        dataset=study["dataset"]["title"],
        heading=heading(study, groups, paper),
        reference=_reference_sentence(paper, repeated, reference),
        paper=paper,
        question_prior=study["floors"]["question_prior"],
        looked=looked,
        blocks=tuple(blocks),
        floors=tuple(row(group[0].id, floor_label(group), floor_label(group), None, group) for group in floors),
        comparisons=tuple(replace(one, paired=worth) for one, worth in zip(comparisons, changes, strict=True)),
        comparable=comparable,
        measured=measured,
        by_type=by_type(finished),
        searches=tuple(searched(one, cells) for one in study.get("searches", ())),
    )


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
    label = paper.reference.label if paper.reference.key in repeated else full_label(reference)
    missing = "" if _measure(reference) else f", which is {_state(None, reference)}: they cannot be given yet"
    return f"Our differences (points) and changes of multiply-adds (%) are against the row {label}{missing}."


def _measure(group: Group) -> Measured | None:
    finished = [cell for cell in group if cell.result is not None]
    if not finished:
        return None
    results = [cell.result for cell in finished if cell.result is not None]
    accuracies = tuple(cell.accuracy for cell in finished)
    official = [cell.official for cell in finished if cell.official is not None]
    server = {split: [line["accuracy"] for line in answered(group, split).values()] for split in SERVER_SPLITS}
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


def _state(published: Published | None, group: Group) -> str:
    if not group:
        return "not in study" if published is None or published.cell else "not run"
    states = [cell.state for cell in group]
    return "finished" if "finished" in states else ", ".join(dict.fromkeys(states))
