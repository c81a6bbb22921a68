"""The paper's claims, each on records that bear it out, that speak against it, and that cannot tell."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean

import pandas as pd
import pytest
from changed import change, change_accuracy, write_lines
from scipy.stats import ttest_1samp

from reports.claim_sites import falls, rises
from reports.claims import claims
from reports.formats.comma_separated import claims_comma_separated
from reports.formats.latex import escape_latex, latex
from reports.formats.markdown import escape_markdown, markdown
from reports.formats.terminal import terminal
from reports.layout import lay_out
from reports.report import Claim
from reports.tables import build_report
from reports.text import plain
from suite.config import ModelSize, Protocol, to_plain
from suite.records import CellFolder, RecordError, write_json

MakeStudy = Callable[..., Path]
STEPS = (0, 100, 200, 300, 400, 500, 600)
SITES = [
    *(("language", "words", "words", index) for index in range(9)),
    *(("vision", "boxes", "boxes", index) for index in range(5)),
    *(
        ("cross", queries, keys, index)
        for index in range(5)
        for queries in ("words", "boxes")
        for keys in ("words", "boxes")
    ),
]
FLAT = ("protocol", "model")
Heads = Callable[[tuple[str, str, str, int], float], list[float]]
"""Of a site, and how far training has gone from 0 to 1, a number per head."""


def held(folder: Path, key: str) -> Claim:
    return next(claim for claim in claims(build_report(folder)) if claim.key == key)


def finish(folder: Path, cell_id: str, accuracy: float = 90.0, macs: int = 1000) -> CellFolder:
    """Makes the cell a finished one, whatever the study's fixture left of it."""
    record = CellFolder(folder / cell_id)
    record.path.mkdir(exist_ok=True)
    for name in ("metrics.jsonl", "sites.jsonl", "failure.json"):
        (record.path / name).unlink(missing_ok=True)
    write_json(record.path / "config.json", {"id": cell_id, "code": {"engine": "engine-of-today"}})
    write_json(
        record.path / "result.json",
        {
            "accuracy": {"validation": accuracy, "test": accuracy},
            "macs": macs,
            "macs_reference": macs,
            "uncounted_operators": {},
            "parameters": 1,
            "steps": 600,
            "seconds": 1.0,
        },
    )
    return record


def write_sites(
    record: CellFolder, column: str, heads: Heads, density: float = 0.5, steps: Sequence[int] = STEPS
) -> None:
    write_lines(
        record.path / "sites.jsonl",
        (
            {"step": step, "site": f"{site[0]}.{site[3]}.{site[1]}-{site[2]}", "stack": site[0]}
            | {"queries": site[1], "keys": site[2], "index": site[3], "density": [density] * 2}
            | {column: heads(site, step / 600)}
            for step in steps
            for site in SITES
        ),
    )


def write_accuracies(record: CellFolder, accuracies: Iterable[float]) -> None:
    """Evaluations with these accuracies, and the result that belongs to them."""
    lines = [{"step": 100 * number, "loss": 1.0, "accuracy": one} for number, one in enumerate(accuracies)]
    write_lines(record.path / "metrics.jsonl", lines)
    change(record.path / "result.json", steps=lines[-1]["step"])
    change_accuracy(record.path / "result.json", validation=lines[-1]["accuracy"])


def write_confidences(record: CellFolder, confidences: Sequence[float]) -> None:
    record.write_predictions(
        pd.DataFrame(
            {
                "question_id": range(len(confidences)),
                "image_id": range(len(confidences)),
                "score": 0.9,
                "answer": "yes",
                "top_confidences": [[one, one / 2] for one in confidences],
            }
        )
    )


@pytest.mark.parametrize(
    ("layerdrop", "cost", "verdict", "said"),
    [
        # Softmax is at 89 (90 less one point) between steps 100 and 200.
        ([50, 60, 70, 80, 85, 88, 89.5], 1, "cannot tell", "2.50 to 6.00 times"),
        ([50, 60, 70, 80, 85, 89, 89.5], 1, "cannot tell", "2.00 to 5.00 times"),
        ([50, 60, 70, 80, 85, 89, 89.5], 1.25, "cannot tell", "2.50 to 6.25 times"),
        ([50, 60, 95, 95, 95, 95, 95], 1, "does not hold", "0.50 to 2.00 times"),
        ([50, 60, 70, 80, 85, 85, 85], 1, "cannot tell", "not within 600: at least 3.00 times"),
        ([50, 60, 70, 80, 85, 85, 85], 2, "does not hold", "not within 600: at least 6.00 times"),
    ],
)
def test_compute_to_converge_is_a_range_between_evaluations(
    study_folder: Path, layerdrop: list[float], cost: float, verdict: str, said: str
) -> None:
    write_accuracies(finish(study_folder, "softmax-s0"), [50, 70, 89.25, 89.5, 90, 90, 90])
    write_accuracies(finish(study_folder, "layerdrop-s0", macs=int(1000 * cost)), layerdrop)
    claim = held(study_folder, "layerdrop-compute")
    assert claim.verdict == verdict
    assert said in claim.evidence
    assert claim.cells == ("softmax-s0", "layerdrop-s0")


def test_compute_to_converge_holds_where_evaluations_are_close_enough(study_folder: Path) -> None:
    write_accuracies(finish(study_folder, "softmax-s0"), [50] * 10 + [90] * 50)
    for name in ("layerdrop-s0", "layerdrop-deep-s0"):
        write_accuracies(finish(study_folder, name), [50] * 35 + [90] * 25)
    claim = held(study_folder, "layerdrop-compute")
    assert claim.verdict == "holds"
    assert claim.evidence.count("3.40 to 3.89 times") == 2
    write_accuracies(CellFolder(study_folder / "layerdrop-s0"), [50] * 11 + [90] * 49)
    assert held(study_folder, "layerdrop-compute").verdict == "cannot tell"


def test_a_softmax_that_begins_converged_tells_nothing(study_folder: Path) -> None:
    write_accuracies(finish(study_folder, "softmax-s0"), [89.5, 90, 90])
    claim = held(study_folder, "layerdrop-compute")
    assert (claim.verdict, "from the first evaluation on" in claim.evidence) == ("cannot tell", True)


@pytest.mark.parametrize(
    ("language", "vision", "verdict"),
    [
        (lambda index, share: 100 - 40 * share, lambda index, share: 300 - 90 * share, "holds"),
        # A wobble within 2 % of the first span is noise.
        (lambda index, share: 100 - 40 * share + (share == 1), lambda index, share: 300 - 90 * share, "holds"),
        (lambda index, share: 100 + 40 * share, lambda index, share: 300 - 90 * share, "does not hold"),
        (lambda index, share: 100 - 40 * share, lambda index, share: 300 - 90 * (share == 0.5), "does not hold"),
        (
            lambda index, share: 100 - 40 * share * (index > 2),
            lambda index, share: 300 - 90 * share,
            "cannot tell",
        ),
    ],
)
def test_spans_of_single_modalities(study_folder: Path, language: Callable, vision: Callable, verdict: str) -> None:
    def heads(site: tuple[str, str, str, int], share: float) -> list[float]:
        mean = {"language": language, "vision": vision}.get(site[0], lambda index, share: 500 * share)(
            site[3], share
        )
        return [mean - 20, mean + 20]

    write_sites(CellFolder(study_folder / "span-s0"), "span", heads)
    claim = held(study_folder, "single-spans-fall")
    assert claim.verdict == verdict
    assert claim.cells == ("span-s0",)


def test_a_layer_falls_within_noise_only() -> None:
    assert falls([100, 90, 91.9, 80])
    assert not falls([100, 90, 92.1, 80])
    assert not falls([100, 99, 98.5])
    assert falls([100, 99, 97.9])
    assert not falls([0.6, 0.3, 0.2])
    assert rises([100, 80, 102.1])
    assert not rises([100, 150, 101.9])


@pytest.mark.parametrize(
    ("middle", "verdict"),
    [(lambda share: 100 + 9 * share, "holds"), (lambda share: 100 + share, "does not hold")],
)
def test_middle_cross_layers(study_folder: Path, middle: Callable[[float], float], verdict: str) -> None:
    def heads(site: tuple[str, str, str, int], share: float) -> list[float]:
        between = site[0] == "cross" and site[1] != site[2] and 0 < site[3] < 4
        return [middle(share) if between else 100 - 50 * share] * 2

    write_sites(CellFolder(study_folder / "span-s0"), "span", heads)
    claim = held(study_folder, "middle-cross-spans-rise")
    assert claim.verdict == verdict
    assert "of 3 layers rise" in claim.evidence


@pytest.mark.parametrize("key", ["single-spans-fall", "middle-cross-spans-rise"])
def test_two_evaluations_are_no_course(study_folder: Path, key: str) -> None:
    write_sites(CellFolder(study_folder / "span-s0"), "span", lambda site, share: [9 * share] * 2, steps=(0, 600))
    assert held(study_folder, key).verdict == "cannot tell"


@pytest.mark.parametrize(
    ("alpha", "verdict"),
    [
        # All begin above 1.5: how training ends is what counts.
        (lambda share: 1.6 - 0.3 * share, "holds"),
        (lambda share: 1.4 + 0.3 * share, "does not hold"),
        (lambda share: 1.6 - 0.15 * share, "cannot tell"),
    ],
)
def test_visual_alphas(study_folder: Path, alpha: Callable[[float], float], verdict: str) -> None:
    def heads(site: tuple[str, str, str, int], share: float) -> list[float]:
        return [alpha(share)] * 2 if site[1:3] == ("boxes", "boxes") else [1.9, 1.9]

    write_sites(finish(study_folder, "entmax-s0"), "alpha", heads)
    claim = held(study_folder, "visual-alphas-low")
    assert claim.verdict == verdict
    assert "of 20 heads" in claim.evidence


@pytest.mark.parametrize(
    ("sparse", "verdict"),
    [
        (lambda share: 1.8 - 0.1 * share, "holds"),
        (lambda share: 1.8 + 0.1 * share, "does not hold"),
        (lambda share: 1.8 - 0.004 * share, "does not hold"),
    ],
)
def test_sparse_heads(study_folder: Path, sparse: Callable[[float], float], verdict: str) -> None:
    def heads(site: tuple[str, str, str, int], share: float) -> list[float]:
        # The second head began dense, and words alone are not asked about: both go the other way.
        return [1.9 + 0.05 * share] * 2 if site[1:3] == ("words", "words") else [sparse(share), 1.4 + 0.1 * share]

    write_sites(finish(study_folder, "entmax-s0"), "alpha", heads)
    claim = held(study_folder, "sparse-heads-denser")
    assert claim.verdict == verdict
    # The five vision layers, the five cross blocks and the five visual layers after them, one head each.
    assert "of 15 heads" in claim.evidence


def test_a_head_whose_alpha_stays_grows_denser_with_its_density(study_folder: Path) -> None:
    record = finish(study_folder, "entmax-s0")
    # Words alone, which are not asked about, show that the training went on long enough.
    write_sites(record, "alpha", lambda site, share: [1.8 + 0.1 * share * (site[1:3] == ("words", "words"))] * 2)
    lines = [json.loads(line) for line in (record.path / "sites.jsonl").read_text().splitlines()]
    write_lines(
        record.path / "sites.jsonl", (line | {"density": [0.5 + line["step"] / 2000] * 2} for line in lines)
    )
    assert held(study_folder, "sparse-heads-denser").verdict == "holds"


@pytest.mark.parametrize(("entmax", "verdict"), [(0.9, "holds"), (0.805, "cannot tell"), (0.7, "does not hold")])
def test_confidences(study_folder: Path, entmax: float, verdict: str) -> None:
    for name, confidence in (("entmax-s0", entmax), ("span-s0", 0.8), ("layerdrop-deep-s0", 0.6)):
        write_confidences(finish(study_folder, name), [confidence - 0.1, confidence + 0.1])
    claim = held(study_folder, "entmax-confident")
    assert claim.verdict == verdict
    assert f"entmax {100 * entmax:.2f} %, span 80.00 %, LayerDrop 60.00 %" in claim.evidence


def write_scores(record: CellFolder, scores: Sequence[float]) -> None:
    """One question per image; the result's accuracies are their mean."""
    accuracy = 100 * fmean(scores)
    change_accuracy(record.path / "result.json", validation=accuracy, test=accuracy)
    (record.path / "metrics.jsonl").unlink(missing_ok=True)
    table = {"question_id": range(len(scores)), "image_id": range(len(scores)), "answer": "yes", "score": scores}
    record.write_predictions(pd.DataFrame(table).assign(top_confidences=[[0.5]] * len(scores)))


@pytest.mark.parametrize(("gain", "verdict"), [(0.02, "holds"), (0.001, "cannot tell"), (-0.02, "does not hold")])
def test_differences_go_by_their_paired_interval(study_folder: Path, gain: float, verdict: str) -> None:
    noise = random.Random(0)
    # Questions differ far more than the two cells do on any of them: only paired is the difference seen.
    both = [noise.choice((0.6, 0.9)) for _ in range(400)]
    span = [score + gain + noise.gauss(0, 0.03) for score in both]
    write_scores(CellFolder(study_folder / "span_entmax-s0"), both)
    write_scores(CellFolder(study_folder / "span-s0"), span)
    claim = held(study_folder, "span-needs-dense")
    assert (claim.verdict, claim.cells) == (verdict, ("span-s0", "span_entmax-s0"))
    # Every image has one question: the bootstrap of images is the t interval of the differences.
    differences = [100 * (one - other) for one, other in zip(span, both, strict=True)]
    interval = ttest_1samp(differences, 0).confidence_interval(0.95)
    told = [float(number) for number in re.findall(r"[+-]\d+\.\d+", claim.evidence)]
    assert told == pytest.approx([fmean(differences), interval.low, interval.high], abs=0.015)
    assert claim.evidence.endswith("With one seed nothing is said of another run.")


def test_the_shallower_layerdrop_is_held_against_the_deeper(study_folder: Path) -> None:
    for name, score in (("layerdrop-s0", 0.9), ("layerdrop-deep-s0", 0.75)):
        noise = random.Random(name)
        write_scores(finish(study_folder, name), [score + noise.gauss(0, 0.05) for _ in range(50)])
    claim = held(study_folder, "shallow-layerdrop-better")
    assert (claim.verdict, claim.cells) == ("holds", ("layerdrop-s0", "layerdrop-deep-s0"))
    assert claim.said == "holds (1 seed)"


def test_without_an_interval_a_difference_is_not_judged(study_folder: Path) -> None:
    claim = held(study_folder, "span-needs-dense")
    assert (claim.verdict, "91.25 % against 71.50 %" in claim.evidence) == ("cannot tell", True)


@pytest.mark.parametrize(
    ("key", "cell", "macs", "width", "verdict"),
    [
        ("layerdrop-flops", "layerdrop-s0", 8239, 768, "holds"),
        # Near the stated change by accident.
        ("layerdrop-flops", "layerdrop-s0", 8239, 64, "cannot tell"),
        ("layerdrop-flops", "layerdrop-s0", 8239, 512, "cannot tell"),
        ("layerdrop-flops", "layerdrop-s0", 8600, 768, "does not hold"),
        ("layerdrop-flops", "layerdrop-s0", 8600, 64, "cannot tell"),
        ("layerdrop-same-flops", "layerdrop-deep-s0", 10_000, 64, "holds"),
        ("layerdrop-same-flops", "layerdrop-deep-s0", 10_051, 64, "does not hold"),
    ],
)
def test_multiply_adds(make_study: MakeStudy, key: str, cell: str, macs: int, width: int, verdict: str) -> None:
    folder = make_study(names=["softmax-s0", cell])
    path = folder / "study.json"
    text = path.read_text().replace('"width": 64', f'"width": {width}')
    path.write_text(text.replace('"intermediate": 256', f'"intermediate": {4 * width}'))
    for name, number in (("softmax-s0", 10_000), (cell, macs)):
        write_accuracies(finish(folder, name, macs=number), [50, 90])
    claim = held(folder, key)
    assert (claim.verdict, f"{macs / 100 - 100:+.2f} %" in claim.evidence) == (verdict, True)
    assert claim.said == claim.verdict


def test_seeds_that_disagree_do_not_tell(make_study: MakeStudy) -> None:
    folder = make_study()
    study = json.loads((folder / "study.json").read_text())
    span = next(entry for entry in study["cells"] if entry["id"] == "span-s0")
    study["cells"].append(span | {"id": "span-s1", "cell": span["cell"] | {"seed": 1}})
    (folder / "study.json").write_text(json.dumps(study))
    for name, way in (("span-s0", -1), ("span-s1", 1)):
        write_sites(finish(folder, name), "span", lambda site, share, way=way: [200 + 100 * way * share] * 2)
    for key in ("single-spans-fall", "middle-cross-spans-rise"):
        claim = held(folder, key)
        assert (claim.verdict, claim.cells) == ("cannot tell", ("span-s0", "span-s1"))
        assert "seed 0: " in claim.evidence
        assert "seed 1: " in claim.evidence


def override(folder: Path, cell_id: str, settings: Mapping[str, object]) -> None:
    """Overrides fields of a cell of the study."""
    study = json.loads((folder / "study.json").read_text())
    entry = next(one for one in study["cells"] if one["id"] == cell_id)
    entry["cell"] |= settings
    (folder / "study.json").write_text(json.dumps(study))


@pytest.mark.parametrize("wide", [False, True])
def test_what_never_moves_tells_nothing(study_folder: Path, wide: bool) -> None:
    """All begin as the paper claims that they end, or as it does not, and stay there."""
    write_sites(finish(study_folder, "span-s0"), "span", lambda site, share: [300 - share] * 2)
    write_sites(finish(study_folder, "entmax-s0"), "alpha", lambda site, share: [1.9 if wide else 1.2, 1.6])
    for key in ("single-spans-fall", "middle-cross-spans-rise", "visual-alphas-low", "sparse-heads-denser"):
        claim = held(study_folder, key)
        assert (claim.verdict, "too short to tell" in claim.evidence) == ("cannot tell", True), key


def test_what_is_not_a_number_is_named_with_its_line(study_folder: Path) -> None:
    write_sites(finish(study_folder, "span-s0"), "span", lambda site, share: [math.nan] * 2)
    with pytest.raises(RecordError, match=r"span-s0/sites\.jsonl:1 is damaged: .*NaN is no number"):
        held(study_folder, "single-spans-fall")


def test_what_is_no_list_of_numbers_per_head_is_named_with_its_line(study_folder: Path) -> None:
    record = finish(study_folder, "span-s0")
    for wrong in ("much", [1, "2"], {"head": 1}):
        write_sites(record, "span", lambda site, share, wrong=wrong: wrong)
        with pytest.raises(
            RecordError, match=r"span-s0/sites\.jsonl:1 is damaged: its span is expected to be a list"
        ):
            held(study_folder, "single-spans-fall")


def twenty(record: CellFolder, score: float) -> CellFolder:
    write_scores(record, [score + 0.01 * (number % 3) for number in range(20)])
    return record


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"test": "validation"}, "test validation (there test)"),
        ({"dataset": "another"}, "dataset another (there easy-vqa)"),
        ({"pictures": "mean"}, "pictures mean (there given)"),
        ({"protocol": Protocol(steps=700, batch_size=32)}, "protocol.steps 700 (there 600)"),
        ({"model": ModelSize(width=128, heads=4, intermediate=256)}, "model.width 128 (there 64)"),
    ],
)
def test_cells_that_differ_in_more_are_not_compared(
    study_folder: Path, settings: dict[str, object], said: str
) -> None:
    for name, score in (("span-s0", 0.95), ("span_entmax-s0", 0.75), ("layerdrop-deep-s0", 0.8)):
        twenty(finish(study_folder, name), score)
    twenty(finish(study_folder, "entmax-s0"), 0.9)
    assert held(study_folder, "span-needs-dense").said == "holds (1 seed)"
    for cell in ("span_entmax-s0", "layerdrop-deep-s0"):
        override(
            study_folder, cell, {name: to_plain(one) if name in FLAT else one for name, one in settings.items()}
        )
    for key in ("span-needs-dense", "entmax-confident", "shallow-layerdrop-better"):
        claim = held(study_folder, key)
        assert (claim.verdict, said in claim.evidence) == ("cannot tell", True), key


def test_a_model_of_another_size_costs_nothing_comparable(make_study: MakeStudy) -> None:
    folder = make_study(names=["softmax-s0", "layerdrop-deep-s0"])
    for name in ("softmax-s0", "layerdrop-deep-s0"):
        finish(folder, name)
    assert held(folder, "layerdrop-same-flops").verdict == "holds"
    override(folder, "layerdrop-deep-s0", {"protocol": to_plain(Protocol(steps=7, batch_size=8))})
    assert held(folder, "layerdrop-same-flops").verdict == "holds"
    override(folder, "layerdrop-deep-s0", {"model": to_plain(ModelSize(width=60, heads=4, intermediate=256))})
    assert held(folder, "layerdrop-same-flops").verdict == "cannot tell"


def test_longer_training_is_what_compute_is_about_and_another_optimiser_is_not(study_folder: Path) -> None:
    write_accuracies(finish(study_folder, "softmax-s0"), [50] * 10 + [90] * 50)
    write_accuracies(finish(study_folder, "layerdrop-s0"), [50] * 35 + [90] * 25)
    override(study_folder, "layerdrop-s0", {"protocol": to_plain(Protocol(steps=6000, batch_size=32))})
    assert held(study_folder, "layerdrop-compute").said == "holds (1 seed)"
    other = to_plain(Protocol(steps=6000, batch_size=32, learning_rate=0.1))
    override(study_folder, "layerdrop-s0", {"protocol": other})
    assert held(study_folder, "layerdrop-compute").verdict == "cannot tell"


def test_cells_that_know_the_question_alone_are_not_judged(study_folder: Path) -> None:
    for name, score in (("span-s0", 0.8), ("span_entmax-s0", 0.6)):
        twenty(finish(study_folder, name), score)
    claim = held(study_folder, "span-needs-dense")
    assert (claim.verdict, claim.said) == ("cannot tell", "cannot tell")
    assert claim.evidence.endswith("Not judged: below the 67.00 % of knowing the question alone: span_entmax-s0.")


def test_a_verdict_from_an_older_engine_says_so(study_folder: Path) -> None:
    for name, scores in (("layerdrop-s0", [0.9, 0.91]), ("layerdrop-deep-s0", [0.8, 0.79])):
        write_scores(finish(study_folder, name), scores * 10)
    path = study_folder / "layerdrop-s0" / "config.json"
    path.write_text(path.read_text().replace("engine-of-today", "older"))
    claim = held(study_folder, "shallow-layerdrop-better")
    assert claim.said == "holds (1 seed, stale)"
    assert claim.evidence.endswith("Stale, the engine has changed since: layerdrop-s0.")


def test_seeds_are_counted_and_not_rows(study_folder: Path) -> None:
    study = json.loads((study_folder / "study.json").read_text())
    span = next(entry for entry in study["cells"] if entry["id"] == "span-s0")
    study["cells"].append(span | {"id": "span-s1", "cell": span["cell"] | {"seed": 1}})
    (study_folder / "study.json").write_text(json.dumps(study))
    for name in ("span-s0", "span-s1"):
        write_sites(finish(study_folder, name), "span", lambda site, share: [200 - 100 * share] * 2)
    claim = held(study_folder, "single-spans-fall")
    assert (claim.said, claim.seeds) == ("holds", 2)


def test_rows_without_a_finished_seed_are_the_reason(make_study: MakeStudy) -> None:
    for claim in claims(build_report(make_study(run=False))):
        assert (claim.verdict, claim.cells) == ("cannot tell", ())
        assert "is missing" in claim.evidence


def test_a_study_of_other_rows_has_no_claims(make_study: MakeStudy) -> None:
    assert claims(build_report(make_study(names=["window-s0", "softmax-small-s0"]))) == ()


def test_the_tables_show_verdicts_with_rule_and_numbers(study_folder: Path) -> None:
    report = build_report(study_folder)
    report = dataclasses.replace(report, claims=claims(report))
    table = lay_out(report).tables[-1]
    assert [row[2] for row in table.rows] == [claim.said for claim in report.claims]
    for render, escape in ((terminal, str), (markdown, escape_markdown), (latex, escape_latex)):
        text = " ".join((render(report, 200) if render is terminal else render(report)).split())
        for claim, note in zip(report.claims, table.notes, strict=True):
            assert escape(claim.text) in text
            assert escape(note.text) in text
            assert note.text == f"{claim.rule} Found: {claim.evidence}"


def test_csv_reads_back_into_the_claims(study_folder: Path) -> None:
    report = dataclasses.replace(build_report(study_folder), claims=claims(build_report(study_folder)))
    text = claims_comma_separated(report)
    assert text is not None
    table = pd.read_csv(io.StringIO(text), keep_default_na=False)
    assert table["key"].tolist() == [claim.key for claim in report.claims]
    for name in ("text", "source", "rule", "verdict", "evidence"):
        assert table[name].tolist() == [plain(getattr(claim, name)) for claim in report.claims]
    assert [cells.split() for cells in table["cells"]] == [list(claim.cells) for claim in report.claims]
    assert claims_comma_separated(build_report(study_folder)) is None
