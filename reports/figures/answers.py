"""The best five answers of several rows to one question, beside its picture: the paper's figure 4."""

from __future__ import annotations

import textwrap
import warnings
from typing import TYPE_CHECKING

import numpy as np

from reports.cells import told_of
from reports.examples import Example
from reports.figures.drawing import SMALL, Drawn, handle, named, wrapped
from reports.figures.questions import Answered, Asked, ask
from reports.figures.rows import row_label
from reports.report import Report
from reports.text import plain
from suite.look import COLOURS, COLUMN, DARK, STYLE, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# In inches: the picture's place decides where all else is.
TOP, MARGIN, PICTURE, TALLEST, TITLE, BARS, LABELS, BELOW, WORDS = 0.3, 0.08, 1.45, 1.6, 0.3, 0.62, 1.12, 0.62, 0.16
SIDE = 600
"""Pixels of a picture's longer side: what a column shows."""
RIGHT, WRONG, UNKNOWN = COLOURS[0], "white", "#C8C8C8"


def answers(report: Report, question: str | None = None) -> Drawn | None:
    """The best five answers of the paper's three rows to ``question``, by default to one that tells them apart.

    None where no row has answers. Raises UserError for a question that no row was asked.
    """
    from matplotlib.figure import Figure

    asked = ask(report, question)
    if asked is None:
        return None
    with style():
        picture = _picture_height(asked.example)
        heights = [TITLE + (BARS if one.answers else WORDS) for one in asked.answered]
        height = TOP + picture + sum(heights) + BELOW
        figure = Figure(figsize=(COLUMN, height))
        figure.suptitle(named(f"{report.dataset}: question {asked.question_id}", 60), y=1 - 0.06 / height, va="top")
        if asked.example is not None:
            _draw_picture(figure, asked.example, picture)
        _draw_text(figure, asked, picture)
        for number, one in enumerate(asked.answered):
            below = TOP + picture + sum(heights[: number + 1])
            place = (
                LABELS / COLUMN,
                1 - below / height,
                1 - (LABELS + 0.3) / COLUMN,
                (heights[number] - TITLE) / height,
            )
            _draw_answers(figure.add_axes(place), one, last=number == len(asked.answered) - 1)
        _legend(figure, asked)
        return Drawn("answers", "The best five answers to one question", _caption(report, asked), figure)


def _caption(report: Report, asked: Asked) -> str:
    text = f": “{plain(asked.example.text)}”" if asked.example else ""
    seeds = ", ".join(
        f"{row_label(one.row, 200)} (seed {one.seed})" if one.seed is not None else row_label(one.row, 200)
        for one in asked.answered
    )
    missing = (
        "Its picture and text are not in the records."
        if asked.example is None
        else "Rectangles in the picture are the boxes that the model sees."
        if asked.example.picture
        else "Its picture is not in the records."
    )
    return (
        f"As in the paper's figure 4: the five answers that each model is most confident of, with its confidences "
        f"(from 0 to 1, each answer by itself), to question {plain(asked.question_id)} of {plain(report.dataset)}"
        f"{text}. {missing} Full bars are answers that score, hollow ones score nothing, and of grey ones the "
        f"records do not tell. From top to bottom: {seeds}."
    )


def _picture_height(example: Example | None) -> float:
    """Inches, with room for the text beside it."""
    if example is None:
        return 0.35
    ratio = example.height / example.width if example.width and example.height else 0.75
    return min(max(PICTURE * ratio, 0.9), TALLEST)


def _draw_picture(figure: Figure, example: Example, height: float) -> None:
    """The picture with its boxes; without one the boxes in an empty frame that says so."""
    from matplotlib.patches import Rectangle

    width, total = figure.get_size_inches()
    axes = figure.add_axes((MARGIN / width, 1 - (TOP + height) / total, PICTURE / width, height / total))
    axes.grid(visible=False)
    axes.set_xticks([])
    axes.set_yticks([])
    for side in ("top", "right"):
        axes.spines[side].set_visible(True)
    ratio = example.height / example.width if example.width and example.height else 0.75
    # Boxes are shares of the sides.
    axes.set_aspect(ratio, anchor="NW")
    if example.picture is not None:
        axes.imshow(_pixels(example), extent=(0, 1, 1, 0), aspect=ratio)
    else:
        axes.text(0.5, 0.5, "picture not\nin the records", ha="center", va="center", fontsize=SMALL, color=DARK)
    axes.set_xlim(0, 1)
    axes.set_ylim(1, 0)
    for x0, y0, x1, y1 in example.boxes:
        # White below, so that they are seen on pictures of any colour.
        for colour, thick in (("white", 1.2), (COLOURS[1], 0.6)):
            axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=colour, linewidth=thick))


def _pixels(example: Example) -> np.ndarray:
    from PIL import Image

    assert example.picture is not None
    # A picture of a size that no screen has is not unpacked: PIL warns of it.
    with told_of(example.picture), warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(example.picture) as image:
            small = image.convert("RGB")
    small.thumbnail((SIDE, SIDE))
    return np.asarray(small)


def _draw_text(figure: Figure, asked: Asked, height: float) -> None:
    """The question and the answers that score, beside the picture."""
    width, total = figure.get_size_inches()
    top = 1 - (TOP + 0.02) / total
    if asked.example is None:
        text = "Its picture and text are not in the records: only the answers are."
        figure.text(
            MARGIN / width, top, textwrap.fill(text, 64), va="top", fontsize=6.5, color=DARK, style="italic"
        )
        return
    left = (MARGIN + PICTURE + 0.12) / width
    question = wrapped(asked.example.text, 27, 6)
    figure.text(left, top, question, va="top", fontsize=STYLE["axes.labelsize"], weight="bold")
    best = sorted(asked.example.answers.items(), key=lambda one: (-one[1], one[0]))
    scoring = ", ".join(f"{answer} ({score:g})" for answer, score in best) or "none known"
    figure.text(
        left, 1 - (TOP + height) / total, wrapped(f"answers that score: {scoring}", 32, 4),
        va="bottom", fontsize=SMALL, color=DARK,
    )  # fmt: skip


def _draw_answers(axes: Axes, one: Answered, last: bool) -> None:
    """Bars of one row's confidences."""
    # Below, a row without answers says why.
    name = row_label(one.row, 48) if one.answers else wrapped(one.row.short, 48)
    axes.set_title(name.replace("\n", " "), loc="left", x=0, pad=3)
    axes.set_xlim(0, 1)
    axes.set_ylim(4.6, -0.6)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(labelbottom=last)
    if last:
        axes.set_xlabel("confidence")
    if not one.answers:
        axes.set_yticks([])
        axes.grid(visible=False)
        axes.spines["left"].set_visible(False)
        axes.spines["bottom"].set_visible(last)
        axes.tick_params(length=3 if last else 0)
        state = one.row.state if one.row.state != "finished" else "has no answer to this question in the records"
        axes.text(0, 2, state, va="center", style="italic", color=DARK)
        return
    for place, (confidence, score) in enumerate(zip(one.confidences, one.scores, strict=True)):
        inside = UNKNOWN if score is None else RIGHT if score > 0 else WRONG
        axes.barh(
            place, confidence, height=0.66, facecolor=inside, edgecolor=RIGHT if score else DARK, linewidth=0.6
        )
        axes.annotate(
            f"{confidence:.2f}", (confidence, place), (2, 0), textcoords="offset points",
            va="center", fontsize=SMALL, annotation_clip=False,
        )  # fmt: skip
    axes.set_yticks(range(len(one.answers)), [wrapped(answer, 18, 1) for answer in one.answers], fontsize=SMALL)


def _legend(figure: Figure, asked: Asked) -> None:
    scores = {score if score is None else score > 0 for one in asked.answered for score in one.scores}
    known = (
        (True, RIGHT, RIGHT, "scores"),
        (False, DARK, WRONG, "scores nothing"),
        (None, DARK, UNKNOWN, "not known"),
    )
    handles = [
        handle(edge, text, "s", "", markerfacecolor=inside, markersize=5)
        for score, edge, inside, text in known
        if score in scores
    ]
    if handles:
        figure.legend(handles=handles, loc="lower center", ncols=3, frameon=False, borderpad=0.1)
