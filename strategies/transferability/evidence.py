r"""LogME: the evidence that features give for the labels, under a Bayesian linear model.

You et al., *LogME: Practical Assessment of Pre-trained Models for Transfer Learning* (ICML 2021,
eq. 2 and algorithm 1). For each class, its indicator :math:`y` is regressed on the features with
weights :math:`w \sim N(0, \alpha^{-1} I)` and noise of precision :math:`\beta`; the score is the
mean over classes of the largest log evidence over :math:`\alpha, \beta`, per image:

.. math:: \log p(y | F) = \tfrac{n}{2} \log \tfrac{\beta}{2 \pi} + \tfrac{h}{2} \log \alpha
          - \tfrac{1}{2} \log |A| - \tfrac{\beta}{2} \|F m - y\|^2 - \tfrac{\alpha}{2} \|m\|^2

with :math:`A = \alpha I + \beta F'F` and :math:`m = \beta A^{-1} F'y`. In the singular basis of F
all of it is elementwise, so that an iteration costs nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import svd

from strategies.transferability.checks import FloatArray, class_indices, finite_rows, one_hot

_STEPS = 1000
_TOLERANCE = 1e-10
"""Of the ratio alpha / beta; far from it the evidence is flat already."""
_FLOOR = 1e-12
"""Least squared residual and weight a unit: what fits exactly would have infinite evidence."""


def logme(features: ArrayLike, labels: ArrayLike) -> float:
    """Return the largest log evidence per image, averaged over the classes; higher is better.

    Parameters
    ----------
    features : array of numbers, shape [n, h]
        A source model's features of the target's images.
    labels : array of int, shape [n]
        The target's labels.

    Raises
    ------
    DataError
        If the arrays do not fit together or hold what is not finite.

    Examples
    --------
    >>> useful, useless = [[0.0], [0.1], [1.0], [0.9]], [[1.0], [0.0], [0.0], [1.0]]
    >>> logme(useful, [0, 0, 1, 1]) > logme(useless, [0, 0, 1, 1])
    True
    """
    rows = finite_rows(features, "features")
    targets = one_hot(class_indices(labels, len(rows)))  # [n, k]
    u, s, _ = svd(rows, full_matrices=False)  # [n, r], [r]
    projected = (u.T @ targets) ** 2  # [r, k]
    outside = np.maximum(np.sum(targets**2, axis=0) - projected.sum(axis=0), 0.0)  # [k]
    alpha, beta = _best_precisions(s**2, projected, outside, len(rows))
    evidence = _log_evidence(s**2, projected, outside, len(rows), alpha, beta)  # [k]
    return float(evidence.mean() / len(rows))


def _best_precisions(
    sigma: FloatArray, projected: FloatArray, outside: FloatArray, images: int
) -> tuple[FloatArray, FloatArray]:
    """Return alpha and beta of each class, ``[k]``, by MacKay's fixed-point iteration.

    Parameters
    ----------
    sigma : ndarray, shape [r]
        Squared singular values of the features.
    projected : ndarray, shape [r, k]
        Squared coordinates of each class's indicator in the singular basis.
    outside : ndarray, shape [k]
        Squared length of what no feature can fit.
    images : int
        Their number n.
    """
    ratio = np.ones(projected.shape[1])  # [k] = alpha / beta
    for _ in range(_STEPS):
        gamma, weights, residual = _fit(sigma, projected, outside, ratio)
        alpha = np.maximum(gamma, _FLOOR) / np.maximum(weights, _FLOOR)  # [k]
        beta = np.maximum(images - gamma, _FLOOR) / np.maximum(residual, _FLOOR * images)  # [k]
        moved = np.abs(alpha / beta - ratio) > _TOLERANCE * ratio
        ratio = alpha / beta
        if not moved.any():
            break
    return alpha, beta


def _fit(
    sigma: FloatArray, projected: FloatArray, outside: FloatArray, ratio: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return effective number of weights, squared length of the weights, squared residual: [k]."""
    damped = sigma[:, None] + ratio  # [r, k]
    gamma = np.sum(sigma[:, None] / damped, axis=0)
    weights = np.sum(sigma[:, None] * projected / damped**2, axis=0)
    residual = np.sum((ratio / damped) ** 2 * projected, axis=0) + outside
    return gamma, weights, residual


def _log_evidence(
    sigma: FloatArray,
    projected: FloatArray,
    outside: FloatArray,
    images: int,
    alpha: FloatArray,
    beta: FloatArray,
) -> FloatArray:
    """Return the log evidence of each class, ``[k]``; features beyond the rank cancel out."""
    _, weights, residual = _fit(sigma, projected, outside, alpha / beta)
    log_det = np.sum(np.log1p(sigma[:, None] * beta / alpha), axis=0)  # of A / alpha
    constant = images / 2 * np.log(beta / (2 * np.pi))
    return np.asarray(constant - log_det / 2 - beta / 2 * residual - alpha / 2 * weights)
