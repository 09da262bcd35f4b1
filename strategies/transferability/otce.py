r"""OTCE: how differently two labelled clouds of features lie, and how well labels carry over.

Tan, Li and Huang, *OTCE: A Transferability Metric for Cross-Domain Cross-Task Representations*
(CVPR 2021). Source images are matched with target images by optimal transport at squared Euclidean
cost; the plan :math:`\pi` then says which labels meet (eqs. 4 to 7):

.. math:: W_D = \sum_{ij} \pi_{ij} \|x^s_i - x^t_j\|^2, \quad
          p(y_s, y_t) = \sum_{i: y_i = y_s, \, j: y_j = y_t} \pi_{ij}, \quad
          W_T = H(Y_t | Y_s)

The score of the paper is a linear combination of the two, fitted to transfers that were measured;
without any, the paper takes the task difference :math:`W_T` alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial.distance import cdist

from protocol.errors import DataError
from strategies.transferability.checks import (
    FloatArray,
    class_indices,
    finite_rows,
    one_hot,
)
from strategies.transferability.label_transfer import conditional_entropy
from strategies.transferability.transport import coupling

ENTROPY = 0.1
"""Entropic term as a share of the mean cost: far from exact, but soon found, and steady."""


@dataclass(frozen=True, eq=False)
class Otce:
    """What separates a source from a target.

    Attributes
    ----------
    domain_difference : float
        Cost of the plan, in squared units of the features.
    task_difference : float
        Conditional entropy of the target's labels given the source's, in nats; 0 where each source
        class is one target class.
    coupling : ndarray
        The plan: ``[n, k]`` between images, or ``[source classes, target classes]``; sums to 1.
    """

    domain_difference: float
    task_difference: float
    coupling: FloatArray


def otce(
    source_features: ArrayLike,
    source_labels: ArrayLike,
    target_features: ArrayLike,
    target_labels: ArrayLike,
    *,
    entropy: float = ENTROPY,
) -> Otce:
    """Return domain and task difference of two labelled clouds.

    Parameters
    ----------
    source_features, target_features : array of numbers, shapes [n, m] and [k, m]
        Of one network.
    source_labels, target_labels : array of int, shapes [n] and [k]
        Each side's own.
    entropy : float
        Of the plan, as a share of the mean cost; 0 for the exact plan.

    Raises
    ------
    DataError
        If the arrays do not fit together or hold what is not finite.

    Examples
    --------
    >>> found = otce([[0.0], [1.0]], [0, 1], [[0.1], [1.1]], [1, 0], entropy=0)
    >>> round(found.domain_difference, 4), found.task_difference
    (0.01, 0.0)
    """
    xs = finite_rows(source_features, "the source's features")
    xt = finite_rows(target_features, "the target's features")
    if xs.shape[1] != xt.shape[1]:
        raise DataError(
            f"features are {xs.shape[1]} wide at the source and {xt.shape[1]} at the target: "
            "take those of one network"
        )
    ys = class_indices(source_labels, len(xs), "the source's labels")
    yt = class_indices(target_labels, len(xt), "the target's labels")
    costs = cdist(xs, xt, "sqeuclidean")  # [n, k]
    plan = coupling(np.full(len(xs), 1 / len(xs)), np.full(len(xt), 1 / len(xt)), costs, entropy)
    joint = one_hot(ys).T @ plan @ one_hot(yt)  # [source classes, target classes]
    return Otce(float(np.sum(plan * costs)), conditional_entropy(joint), plan)
