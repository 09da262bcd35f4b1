r"""Mean and covariance of features, of all images or within each class.

With :math:`x_k` the features of n images, the unbiased estimates are

.. math:: \mu = \frac{1}{n} \sum_k x_k, \qquad
          C = \frac{1}{n - 1} \sum_k (x_k - \mu)(x_k - \mu)^\top,

computed in float64 about the mean, never as a difference of large sums.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from protocol.descriptors import ClassMoments, Moments
from protocol.errors import DataError


def moments(features: NDArray[np.floating]) -> Moments:
    """Return mean and covariance of features.

    Parameters
    ----------
    features : ndarray of float, shape [n, m]
        One row an image.

    Raises
    ------
    DataError
        If there are fewer than two images.
    """
    if len(features) < 2:
        raise DataError(f"{len(features)} images have no covariance: at least two are needed")
    mean = features.mean(axis=0, dtype=np.float64)  # [m]
    centred = features.astype(np.float64) - mean  # [n, m]
    return Moments(mean, centred.T @ centred / (len(features) - 1), len(features))


def class_moments(
    features: NDArray[np.floating], labels: NDArray[np.integer], classes: int
) -> ClassMoments:
    """Return mean and variance of each feature within each class.

    Parameters
    ----------
    features : ndarray of float, shape [n, m]
        One row an image.
    labels : ndarray of int, shape [n]
        Class of each image, from 0.
    classes : int
        Number of classes c.
    """
    values = features.astype(np.float64)  # [n, m]
    counts = np.bincount(labels, minlength=classes)  # [c]
    means, variances = np.zeros((2, classes, values.shape[1]))  # [c, m] each
    for number in range(classes):
        held = values[labels == number]
        if len(held):
            means[number] = held.mean(axis=0)
        if len(held) > 1:
            variances[number] = held.var(axis=0, ddof=1)
    return ClassMoments(counts.astype(np.int64), means, variances)
