"""Pictures of one study: the paper's four figures, and those that it lacks.

``draw_all`` makes matplotlib figures of column width, ``write_figures`` files of them that depend on the records
alone. matplotlib is imported where it is used, so that tables build without it.
"""

from reports.figures.accuracy import test_accuracy
from reports.figures.curves import curves
from reports.figures.depth import over_depth
from reports.figures.draw import Options, draw_all
from reports.figures.drawing import Drawn
from reports.figures.write import write_figures

__all__ = ["Drawn", "Options", "curves", "draw_all", "over_depth", "test_accuracy", "write_figures"]
