"""Can images have features like these? Looks at fingerprints whose limits real tasks have set.

The bins of a spec span what public images gave, so real tasks fill them neither evenly nor at one
place. Measured on 15 families of real images, with 1,280 features x 100 bins and 8 x 5 projected
ones: see the limits in `strategies.suspicion`.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from protocol.fingerprint import Fingerprint
from strategies.excess import Overlap, feature_blocks, overlap

__all__ = ["counted_below", "far_from_all", "smooth", "spread_of"]

FloatArray = NDArray[np.float64]


def smooth(fingerprint: Fingerprint) -> float:
    """Return how rough a plain histogram is, as a share of what counting n images causes.

    Second differences of neighbouring counts scatter at least as Poisson counts do. The outermost
    bins hold all that lies beyond and are left out.

    Parameters
    ----------
    fingerprint
        Counts ``[m, b]`` without noise.

    Returns
    -------
    float
        About 1 or above where images were counted; 1 too where there are fewer than ten bins.
    """
    inner = fingerprint.counts[:, 1:-1].astype(np.float64)  # [m, b - 2]
    if inner.shape[1] < 8:
        return 1.0
    left, middle, right = inner[:, :-2], inner[:, 1:-1], inner[:, 2:]
    expected = float((left + 4.0 * middle + right).sum())
    return float(((left - 2.0 * middle + right) ** 2).sum()) / expected if expected > 0 else 1.0


def spread_of(fingerprint: Fingerprint) -> tuple[float, float]:
    r"""Return the mean of :math:`2 F (1 - F)` over features and edges, and its standard error.

    F is the share of images below an edge: 0 where all images are alike, :math:`(b + 1) / 3b` where
    every bin holds as many. The bias that noise causes is subtracted; the error is that of the
    noise, by the delta method.

    Parameters
    ----------
    fingerprint
        Counts ``[m, b]``, with or without noise.
    """
    below, noise = _below(fingerprint)  # [m, b - 1], [b - 1]
    value = float((2.0 * below * (1.0 - below)).mean() + 2.0 * noise.mean())
    # d/dF, summed over the edges above each bin whose noise they share
    slope = (2.0 - 4.0 * below)[:, ::-1].cumsum(axis=1) / below.size  # [m, b - 1]
    step = fingerprint.sigma / _views(fingerprint)
    # the square of noise scatters too, about as much as it is
    error = step * float(np.sqrt((slope**2).sum())) + 2.0 * noise.mean() / np.sqrt(len(below))
    return value, float(error)


def far_from_all(
    fingerprints: Sequence[Fingerprint], found: Overlap | None = None
) -> dict[str, tuple[float, float]]:
    r"""Return each site's distance to the nearest other one, and its standard error.

    :math:`\overline{2 (F - G)^2}` less the variance of the noise, over twice the median spread of
    the pool: no single site can move the median much.

    Parameters
    ----------
    fingerprints
        Of one spec; a pool of fewer than three has no "others" to be far from.
    found
        Of their `counted_below`, where that is at hand.
    """
    if len(fingerprints) < 3:
        return {}
    m = len(fingerprints[0].counts)
    found = found or overlap(counted_below(fingerprints))
    noise = np.array([float(_noise(f).mean()) for f in fingerprints])  # [k]
    apart = found.squared - 2.0 * (noise[:, None] + noise[None, :])  # [k, k]
    np.fill_diagonal(apart, np.inf)
    # 2 F (1 - F) falls by twice the variance of the noise
    scale = 2.0 * max(float(np.median(found.spread + 2.0 * noise)), 1e-9)
    nearest = apart.argmin(axis=1)  # [k]
    result = {}
    for i, j in enumerate(nearest):
        doubt = 2.0 * (noise[i] + noise[j]) / np.sqrt(m)
        doubt += 2.0 * np.sqrt(2.0 * (noise[i] + noise[j]) * max(apart[i, j], 0.0) / m)
        result[fingerprints[i].site] = (float(apart[i, j]) / scale, float(doubt) / scale)
    return result


def counted_below(fingerprints: Sequence[Fingerprint]) -> Iterator[FloatArray]:
    """Yield the shares of k fingerprints below every inner edge, in blocks ``[k, e]``."""
    k, (m, bins) = len(fingerprints), fingerprints[0].counts.shape
    views = np.array([_views(f) for f in fingerprints])  # [k]
    for part in feature_blocks(k, m, bins):
        counts = np.stack([f.counts[part] for f in fingerprints]).astype(np.float64)  # [k, part, b]
        yield counts.cumsum(axis=2)[:, :, :-1].reshape(k, -1) / views[:, None]


def _below(fingerprint: Fingerprint) -> tuple[FloatArray, FloatArray]:
    """Return the shares below every inner edge ``[m, b - 1]`` and their noise variance ``[b - 1]``.

    Normalised by the number that was counted, not by noised row sums.
    """
    views = _views(fingerprint)
    below = fingerprint.counts.cumsum(axis=1, dtype=np.float64)[:, :-1] / views
    return below, _noise(fingerprint)


def _noise(fingerprint: Fingerprint) -> FloatArray:
    """Return the variance of the noise in the share below every inner edge, ``[b - 1]``."""
    edges = np.arange(1, fingerprint.counts.shape[1], dtype=np.float64)
    return np.asarray(edges * (fingerprint.sigma / _views(fingerprint)) ** 2)


def _views(fingerprint: Fingerprint) -> float:
    """Return how many views a row holds: n images, or the draws of a plain release."""
    if fingerprint.sigma > 0:
        return float(max(fingerprint.n_images, 1))
    return float(max(fingerprint.counts.sum(dtype=np.float64) / len(fingerprint.counts), 1.0))
