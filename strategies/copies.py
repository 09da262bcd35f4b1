r"""Did two sites release the same noise, or count the same images?

Two releases with independent noise differ at least by the noise of either: whatever the images are
and the other one's noise, :math:`\sum (c_1 - r c_2)^2 / \sigma_1^2` lies above a chi-square of
:math:`m b` in distribution. Only the smaller of the two is believed, so that nobody is accused
because another one declares more noise than it drew.

Two plain sites with different images of one population differ by what sampling causes, a weighted
sum of chi-squares with as many weights as images vary in independent ways.
"""

import numpy as np
from scipy.stats import chi2

from protocol.fingerprint import Fingerprint
from strategies.excess import sampling_variance

__all__ = ["shared_noise", "shared_sample"]

_WAYS = 20
"""Independent ways in which images of one task vary: 28 or more on 15 real families for 1,280
features, 3.8 or more for 8 projected ones, of which a third is assumed."""


def shared_noise(first: Fingerprint, second: Fingerprint) -> float:
    """Return the chance that independent noise leaves two releases so alike.

    Parameters
    ----------
    first, second
        Counts ``[m, b]`` with noise. A copy scaled to another number of images is looked for too.

    Returns
    -------
    float
        For both looks together (Bonferroni).
    """
    a, b = first.counts.astype(np.float64), second.counts.astype(np.float64)
    lowest = 1.0
    for ratio in {1.0, first.n_images / second.n_images}:
        variance = min(first.sigma, ratio * second.sigma) ** 2
        lowest = min(lowest, float(chi2.cdf(((a - ratio * b) ** 2).sum() / variance, a.size)))
    return min(1.0, 2.0 * lowest)


def shared_sample(first: Fingerprint, second: Fingerprint, draws: int | None = None) -> float:
    """Return the chance that different images of one population give histograms so alike.

    Parameters
    ----------
    first, second
        Counts ``[m, b]`` without noise.
    draws
        Number of draws with replacement behind every row, None where each image counts once.

    Returns
    -------
    float
        Not exact: it takes images to vary in at least min(20, m / 3) independent ways.
    """
    rows = np.stack([first.rows, second.rows])  # [2, m, b]
    images = [first.n_images, second.n_images]
    below = rows.cumsum(axis=2)[:, :, :-1]  # [2, m, b - 1]
    apart = float(2.0 * ((below[0] - below[1]) ** 2).mean())
    two_bins = np.stack([below, 1.0 - below], axis=3).reshape(2, -1, 2)  # [2, m * (b - 1), 2]
    expected = float(sampling_variance(two_bins, images, draws).sum())
    if expected <= 0:
        return 1.0  # one image over and over, at both: not for this test to say
    ways = min(_WAYS, max(1.0, rows.shape[1] / 3))
    return float(chi2.cdf(ways * apart / expected, ways))
