r"""Excess divergence: what a source costs a target beyond the target itself.

bKLD's self-distance is not 0, and :math:`-H(p)` dominates whatever compares *across* targets. The
excess :math:`e(S, T) = d(S, T) - d(T, T)` removes both. With weights that do not depend on the
site, its symmetric sum is a squared Euclidean distance between histograms,

.. math:: e(S, T) + e(T, S) = \sum_i w_i \| p_i - q_i \|^2 / \sum_i w_i

so that Ward, k-means and the subtraction of a known variance are exact on it.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from protocol.errors import BadShape

__all__ = ["debiased", "excess", "sampling_variance", "symmetrised"]

FloatArray = NDArray[np.float64]


def excess(distances: FloatArray) -> FloatArray:
    """Subtract every target's distance from itself.

    Parameters
    ----------
    distances
        Divergences, shape ``[k, k]``: row = source, column = target.

    Returns
    -------
    numpy.ndarray
        Shape ``[k, k]``, 0 on the diagonal.

    Raises
    ------
    BadShape
        If the matrix is not square.
    """
    if distances.ndim != 2 or distances.shape[0] != distances.shape[1]:
        raise BadShape(f"the excess needs a square matrix of distances, got {distances.shape}")
    return np.asarray(distances - np.diag(distances)[None, :])


def symmetrised(distances: FloatArray) -> FloatArray:
    """Return ``e + e.T``, the squared Euclidean distances between histograms, shape ``[k, k]``.

    Parameters
    ----------
    distances
        Divergences, shape ``[k, k]``: row = source, column = target.

    Returns
    -------
    numpy.ndarray
        Symmetric, non-negative, 0 on the diagonal.
    """
    e = excess(distances)
    return np.maximum(e + e.T, 0.0)  # rounding may leave -1e-17


def sampling_variance(
    rows: FloatArray, images: Sequence[int], draws: int | None = None
) -> FloatArray:
    r"""Expected squared distance of each histogram from that of its whole population.

    A histogram p of n independent images scatters by :math:`V / n` around the population's
    :math:`\pi`, with :math:`V = 1 - \sum_b \pi^2`. Since p is concentrated a little more than
    :math:`\pi`, :math:`(1 - \sum_b p^2) / (n - 1)` estimates the scatter without bias. Drawing c
    times with replacement out of the n images adds :math:`(1 - 1/n) V / c`.

    Parameters
    ----------
    rows
        Histograms, shape ``[k, m, b]``.
    images
        Number of images of each site, length k.
    draws
        Number of draws with replacement, or None where each image counts once.

    Returns
    -------
    numpy.ndarray
        Mean over the features, shape ``[k]``.
    """
    features = rows.shape[1]
    concentration = np.einsum("kmb,kmb->k", rows, rows) / features  # [k] mean of sum_b p^2
    n = 1.0 / np.maximum(np.asarray(images, dtype=np.float64), 2.0)  # 1/n; one image tells nothing
    c = 1.0 / max(draws, 2) if draws is not None else 0.0  # 1/c
    return np.asarray((1.0 - concentration) * (n + (1.0 - n) * c) / ((1.0 - n) * (1.0 - c)))


def debiased(squared: FloatArray, variance: FloatArray) -> FloatArray:
    """Subtract the known scatter of both ends from squared distances.

    Without it two small sites of one task look as far apart as two large ones of different tasks.

    Parameters
    ----------
    squared
        Squared distances between histograms, shape ``[k, k]``.
    variance
        Scatter of each histogram, shape ``[k]``, see `sampling_variance`.

    Returns
    -------
    numpy.ndarray
        Shape ``[k, k]``, 0 on the diagonal. Unbiased, so sites of one task scatter around 0 and
        some values are negative.
    """
    out = squared - variance[:, None] - variance[None, :]
    np.fill_diagonal(out, 0.0)
    return np.asarray(out)
