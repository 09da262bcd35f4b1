"""From values in scanner units to 8 bits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fl_client.images import Pixels
from fl_client.readers.source import Window


def to_eight_bits(values: NDArray[np.generic], window: Window) -> NDArray[np.uint8]:
    """Map the window linearly onto 0 to 255, rounded to the nearest; what lies outside is clipped.

    Parameters
    ----------
    values : ndarray, any shape
        In scanner units; NaN becomes black.
    window : (float, float)
        What becomes 0 and 255. Equal ends make a threshold.

    >>> to_eight_bits(np.array([-2000.0, 40.0, 80.0, 240.0]), (-160, 240)).tolist()
    [0, 128, 153, 255]
    """
    lower, upper = window
    share = (values.astype(np.float64) - lower) / max(upper - lower, 1e-12)
    clipped = np.nan_to_num(np.clip(share, 0, 1), nan=0.0)
    return np.asarray(np.rint(clipped * 255), dtype=np.uint8)


def grey(values: NDArray[np.uint8]) -> Pixels:
    """Repeat grey values [h, w] to RGB, uint8 [h, w, 3]."""
    return np.ascontiguousarray(np.broadcast_to(values[..., None], (*values.shape, 3)))
