"""How every figure looks: sizes, colours and matplotlib's settings."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Figures are written, and need no backend. A notebook's, which the commands of its cells inherit, may not be there
# to load: then matplotlib is not even imported. In the notebook itself it stays.
if "ipykernel" not in sys.modules:
    os.environ.pop("MPLBACKEND", None)

COLUMN = 3.35
"""Width of a column of a two-column page, inches."""

# Okabe and Ito's, told apart with the common kinds of colour blindness; their yellow is too pale for lines.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
BLACK, DARK, PALE = "#000000", "#555555", "#A0A0A0"

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 7.0,
    "axes.titlesize": 7.0,
    "figure.titlesize": 7.5,
    "figure.dpi": 300,
    "axes.labelsize": 7.0,
    "legend.fontsize": 6.2,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.1,
    # Text from data may hold dollar signs: it is never mathematics.
    "text.parse_math": False,
    "pdf.fonttype": 42,
    # Identifiers in SVG are hashed with this; without it they are random.
    "svg.hashsalt": "reports",
    "svg.fonttype": "path",
}


@contextmanager
def style() -> Iterator[None]:
    """matplotlib's own defaults with STYLE on top: a user's matplotlibrc must not change a figure."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes; the tables have it in full.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield
