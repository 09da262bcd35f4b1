r"""Does a private release hold the noise that it declares?

What the images are is unknown, so only what holds for all images can be tested. Every row of the
true counts adds up to n, hence :math:`(S_i - n) / (\sigma \sqrt b)` is standard normal (discrete
Gaussian noise with :math:`\sigma \ge 1` is, for sums, as good as the continuous one). And whatever
the true counts are, they only *add* to the sum of squares of the noise, so that its lower tail is
at most that of a chi-square (a noncentral one lies above the central one). And no true count lies
below 0, so what lies below it is at most what noise alone leaves there.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom, chi2, norm

from protocol.fingerprint import Fingerprint

__all__ = ["impossible_counts", "too_little_noise", "too_much_noise"]

FloatArray = NDArray[np.float64]


def too_little_noise(fingerprint: Fingerprint) -> float:
    """Return the chance of noise as weak as this, or weaker, under the declared standard deviation.

    Two looks: the row sums alone, and together with the differences between neighbouring bins of
    high order, where histograms of images hold little.

    Parameters
    ----------
    fingerprint
        Of a private release: counts ``[m, b]`` with noise of ``sigma`` counts.

    Returns
    -------
    float
        For both looks together (Bonferroni).
    """
    m, bins = fingerprint.counts.shape
    sums = _sum_of_squares(fingerprint)
    waves = fingerprint.counts @ _high_orders(bins) / fingerprint.sigma  # [m, h]
    total = sums + float((waves**2).sum())
    alone, together = chi2.cdf(sums, m), chi2.cdf(total, m + waves.size)
    return min(1.0, 2.0 * float(min(alone, together)))


def too_much_noise(fingerprint: Fingerprint) -> float:
    """Return the chance of row sums as far from n as these, or farther.

    Parameters
    ----------
    fingerprint
        Of a private release: counts ``[m, b]`` with noise of ``sigma`` counts.
    """
    return float(chi2.sf(_sum_of_squares(fingerprint), len(fingerprint.counts)))


def impossible_counts(fingerprint: Fingerprint, draws: int | None = None) -> float:
    """Return the chance of counts so far below 0 or above n.

    Two looks: the farthest count alone, and all that lie below 0 together. Many counts a little
    below 0 pass the first, and could be used to move a site farther than its images allow.

    Parameters
    ----------
    fingerprint
        Counts ``[m, b]``. Without noise a count outside 0 to n, or a row that does not add up to
        n, has no chance at all.
    draws
        Number of draws with replacement behind every row, None where each image counts once.

    Returns
    -------
    float
        For both looks together (Bonferroni).
    """
    counts, total = fingerprint.counts.astype(np.float64), draws or fingerprint.n_images
    beyond = float(max(-counts.min(), counts.max() - total))
    if fingerprint.sigma == 0:
        return 0.0 if beyond > 0 or bool((counts.sum(axis=1) != total).any()) else 1.0
    alone = counts.size * float(norm.sf(beyond / fingerprint.sigma))
    return min(1.0, 2.0 * min(alone, _negative(counts / fingerprint.sigma)))


def _negative(noises: FloatArray) -> float:
    """Return the chance of so much below 0 if every true count were 0, the worst that is honest.

    Each of N counts lies below 0 with chance 1/2, and the sum of squares of the J that do is a
    chi-square of J: a mixture with the weights of a binomial distribution.
    """
    below = float((np.minimum(noises, 0.0) ** 2).sum())
    freedom = np.arange(1, noises.size + 1)
    # none below 0 is left out: then the sum is 0
    tail = float((binom.pmf(freedom, noises.size, 0.5) * chi2.sf(below, freedom)).sum())
    return tail if below > 0 else 1.0


def _sum_of_squares(fingerprint: Fingerprint) -> float:
    """Squared deviations of the row sums from n, in units of their variance: chi-square of m."""
    bins = fingerprint.counts.shape[1]
    off = fingerprint.counts.sum(axis=1, dtype=np.float64) - fingerprint.n_images  # [m]
    return float((off**2).sum() / (bins * fingerprint.sigma**2))


def _high_orders(bins: int) -> FloatArray:
    """Orthonormal polynomials over the bins, the upper half of the orders, ``[b, h]``."""
    grid = np.linspace(-1.0, 1.0, bins)
    first = np.polynomial.legendre.legvander(grid, (bins - 1) // 2)  # [b, low orders]
    basis = np.linalg.qr(first, mode="complete")[0]  # [b, b]
    return np.asarray(basis[:, first.shape[1] :], dtype=np.float64)
