"""Made-up histograms: each feature has a peak of its own."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def peaks(
    rng: np.random.Generator, m: int, b: int, images: int, narrowest: float = 2.0
) -> NDArray[np.intp]:
    """Count normally distributed values of each feature; those beyond the edges lie outermost.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    m, b, images : int
        Number of features, bins and images.
    narrowest : float
        Least standard deviation of a feature, in bins; the largest is a third of all bins.

    Returns
    -------
    ndarray of int, shape [m, b]
        Rows add up to `images`.
    """
    centre, width = rng.uniform(0, b, m), rng.uniform(narrowest, b / 3, m)  # [m]
    bins = np.clip(rng.normal(centre, width, (images, m)), 0, b - 1).astype(np.intp)  # [n, m]
    return np.bincount((bins + np.arange(m) * b).ravel(), minlength=m * b).reshape(m, b)
