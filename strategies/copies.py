r"""Did two sites release the same noise, or count the same images?

Two releases with independent noise differ at least by the noise of either: whatever the images are
and the other one's noise, :math:`\sum (c_1 - r c_2)^2 / \sigma_1^2` lies above a chi-square of
:math:`m b` in distribution. Only the smaller of the two is believed, so that nobody is accused
because another one declares more noise than it drew.

Two plain sites with different images of one population differ by what sampling causes, a weighted
sum of chi-squares with as many weights as images vary in independent ways.

All pairs are compared at once: squared distances are products of matrices.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtr

from protocol.fingerprint import Fingerprint
from strategies.excess import Overlap, overlap, per_sample, population_spread
from strategies.plausible import counted_below

__all__ = ["shared_noise", "shared_sample"]

FloatArray = NDArray[np.float64]

_WAYS = 20
"""Independent ways in which images of one task vary: 28 or more on 15 real families for 1,280
features, 3.8 or more for 8 projected ones, of which a third is assumed."""


def shared_noise(fingerprints: Sequence[Fingerprint]) -> FloatArray:
    """Return for every pair the chance that independent noise leaves two releases so alike.

    Parameters
    ----------
    fingerprints
        k releases of counts ``[m, b]`` with noise. Copies scaled to another number of images are
        looked for too.

    Returns
    -------
    numpy.ndarray
        Shape ``[k, k]``, symmetric; for both looks together (Bonferroni), 1 on the diagonal.
    """
    counts = np.stack([f.counts.ravel() for f in fingerprints]).astype(np.float64)  # [k, m * b]
    sigma = np.array([f.sigma for f in fingerprints])  # [k]
    images = np.array([f.n_images for f in fingerprints], dtype=np.float64)  # [k]
    products = counts @ counts.T  # [k, k] whole numbers, exact below 2^53
    squares = np.diag(products)
    lowest = np.ones_like(products)
    for ratio in (np.ones_like(products), images[:, None] / images[None, :]):
        apart = squares[:, None] - 2.0 * ratio * products + ratio**2 * squares[None, :]
        variance = np.minimum(sigma[:, None], ratio * sigma[None, :]) ** 2
        lowest = np.minimum(lowest, chdtr(counts.shape[1], np.maximum(apart, 0.0) / variance))
    return _of_pairs(np.minimum(1.0, 2.0 * lowest))


def shared_sample(
    fingerprints: Sequence[Fingerprint], draws: int | None = None, found: Overlap | None = None
) -> FloatArray:
    """Return for every pair the chance that images of one population give histograms so alike.

    Parameters
    ----------
    fingerprints
        k releases of counts ``[m, b]`` without noise.
    draws
        Number of draws with replacement behind every row, None where each image counts once.
    found
        Of their `strategies.plausible.counted_below`, where that is at hand.

    Returns
    -------
    numpy.ndarray
        Shape ``[k, k]``, symmetric, 1 on the diagonal. Not exact: it takes images to vary in at
        least min(20, m / 3) independent ways.
    """
    found = found or overlap(counted_below(fingerprints))
    images = [f.n_images for f in fingerprints]
    scatter = population_spread(found.spread, images, draws) * per_sample(images, draws)  # [k]
    expected = scatter[:, None] + scatter[None, :]  # [k, k]
    ways = min(_WAYS, max(1.0, fingerprints[0].counts.shape[0] / 3))
    # 0: one image over and over, at both, which is not for this test to say
    times = np.divide(
        found.squared, expected, out=np.full_like(expected, np.inf), where=expected > 0
    )
    return _of_pairs(chdtr(ways, ways * times))


def _of_pairs(chances: FloatArray) -> FloatArray:
    np.fill_diagonal(chances, 1.0)  # a release is no copy of itself
    return chances
