"""Generated files in the forms that data sets come in, for tests and benches where the real ones are not.

Contents are random and depend on the seed alone: form and size are what is real.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

import numpy as np

OBJECTS, ATTRIBUTES = 1601, 401  # classes of the detector, background included


def write_obj36(path: Path, ids: Sequence[str], seed: int, boxes: int = 36, features: int = 2048) -> None:
    """Region features of images `ids` as LXMERT distributes them: ten columns, tabs, no header, CRLF.

    Features are at least 0 and half of them are 0, about as in the real file; boxes are in pixels, within
    the image, not sorted.
    """
    rng = np.random.default_rng(seed)
    with path.open("wb") as stream:
        for image_id in ids:
            width, height = (int(side) for side in rng.integers(200, 641, 2))
            corners = np.sort(rng.uniform(size=(boxes, 2, 2)), axis=1).reshape(boxes, 4)
            arrays = [
                rng.integers(0, OBJECTS, boxes),
                rng.random(boxes, dtype=np.float32),
                rng.integers(0, ATTRIBUTES, boxes),
                rng.random(boxes, dtype=np.float32),
                (corners * (width, height, width, height)).astype(np.float32),
                np.maximum(rng.standard_normal((boxes, features), dtype=np.float32), 0),
            ]
            text = [base64.b64encode(array) for array in arrays]
            numbers = [str(number).encode() for number in (height, width, boxes)]
            line = [image_id.encode(), *numbers[:2], *text[:4], numbers[2], *text[4:]]
            stream.write(b"\t".join(line) + b"\r\n")
