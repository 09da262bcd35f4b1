r"""Excess divergence: what a source costs a target beyond the target itself.

bKLD's self-distance is not 0, and :math:`-H(p)` dominates whatever compares *across* targets. The
excess :math:`e(S, T) = d(S, T) - d(T, T)` removes both. With weights that do not depend on the
site, its symmetric sum is a squared Euclidean distance between histograms,

.. math:: e(S, T) + e(T, S) = \sum_i w_i \| p_i - q_i \|^2 / \sum_i w_i

so that Ward, k-means and the subtraction of a known variance are exact on it.
"""

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


def sampling_variance(rows: FloatArray, images: FloatArray, draws: FloatArray) -> FloatArray:
    r"""Expected squared distance of each histogram from that of its whole population.

    A histogram of n independent images scatters by :math:`\sum_b \pi (1 - \pi) / n` around the
    population's :math:`\pi`; :math:`(1 - \sum_b p^2) / (n - 1)` estimates it without bias. Drawing
    c times with replacement out of the n images adds the scatter of the draws.

    Parameters
    ----------
    rows
        Histograms, shape ``[k, m, b]``.
    images
        Number of images of each site, shape ``[k]``.
    draws
        Counts per row of each site, shape ``[k]``; the number of images if each counts once.

    Returns
    -------
    numpy.ndarray
        Mean over the features, shape ``[k]``.
    """
    spread = 1.0 - np.einsum("kmb,kmb->km", rows, rows).mean(axis=1) / rows.shape[1]  # [k]
    return np.asarray(spread)
