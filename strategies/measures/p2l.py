"""P2L: divergence of the mean features, with and without the size of the source."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax, xlogy
from scipy.stats import zscore

from protocol.spec import Spec
from strategies.measures.base import FloatArray, Measure, Task, feature_means, register
from strategies.measures.needs import both_rows

PAPER = "Bhattacharjee et al., CVPRW 2020"
SIMILARITY = 1.5
"""Weight of the divergence against the size, as Godau et al. (arXiv 2412.08763) instantiate it."""


def divergences(sources: FloatArray, targets: FloatArray) -> FloatArray:
    """Return ``KL(target || source)`` of every pair of distributions over the features.

    Parameters
    ----------
    sources, targets
        Positive, shapes ``[S, m]`` and ``[T, m]``, rows summing to 1.

    Returns
    -------
    numpy.ndarray
        Shape ``[S, T]``, natural logarithm.
    """
    own = xlogy(targets, targets).sum(axis=1)  # [T]
    return np.asarray(np.maximum(own[None, :] - np.log(sources) @ targets.T, 0.0))


def feature_shares(means: FloatArray, spec: Spec) -> FloatArray:
    """Return mean features as distributions over the features.

    Means of features that cannot be negative are divided by their sum; those of others, such as
    projected ones, have none to be divided by and go through a softmax. The spec's edges decide, so
    that it is the same for every site.

    Parameters
    ----------
    means
        Shape ``[k, m]``.
    spec
        Supplies the edges.

    Returns
    -------
    numpy.ndarray
        Shape ``[k, m]``, positive, rows summing to 1.
    """
    if (spec.lower_array >= 0).all():
        return np.asarray(means / means.sum(axis=1, keepdims=True))
    return np.asarray(softmax(means, axis=1))


def with_size(distances: FloatArray, images: Sequence[int], pairs: NDArray[np.bool_]) -> FloatArray:
    r"""Prefer large sources: :math:`1.5 \, z(d) - z(\ln n)`.

    Distances are standardised over all pairs of different tasks and sizes over the sources. So the
    values depend on who else is there; what they say is which of these sources to take.

    Parameters
    ----------
    distances
        Shape ``[S, T]``.
    images
        Number of images of each source, length S.
    pairs
        Which pairs are of different tasks, shape ``[S, T]``.

    Returns
    -------
    numpy.ndarray
        Shape ``[S, T]``, lower is closer, about 0.
    """
    among = distances[pairs]
    middle, spread = (among.mean(), among.std()) if among.size else (0.0, 0.0)
    standard = (distances - middle) / (spread if spread > 0 else 1.0)  # [S, T]
    sizes = np.log(np.maximum(images, 1))  # [S]
    bonus = zscore(sizes) if np.ptp(sizes) > 0 else np.zeros(len(sizes))  # [S]
    return np.asarray(SIMILARITY * standard - bonus[:, None])


@register
class PredictToLearn(Measure):
    """KL divergence of a target's mean features from the source's, both as distributions."""

    name = "p2l"
    source = PAPER
    description = "KL divergence of mean features, without the size of the source"

    def matrix(self, sources: Sequence[Task], targets: Sequence[Task]) -> FloatArray:
        """Compare every source with every target, see `Measure.matrix`."""
        own, others, spec = both_rows(sources, targets)
        shares = [feature_shares(feature_means(rows, spec), spec) for rows in (own, others)]
        return divergences(*shares)  # of [S, m] and [T, m]


@register
class PredictToLearnWithSize(PredictToLearn):
    """P2L with its size term: of two sources equally near the larger one is preferred."""

    name = "p2l-with-size"
    description = "KL divergence of mean features, and the logarithm of the source's size"

    def matrix(self, sources: Sequence[Task], targets: Sequence[Task]) -> FloatArray:
        """Compare every source with every target, see `Measure.matrix`."""
        pairs = np.array([[s.name != t.name for t in targets] for s in sources])  # [S, T]
        return with_size(super().matrix(sources, targets), [s.images for s in sources], pairs)
