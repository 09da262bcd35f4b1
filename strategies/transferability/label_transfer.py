r"""NCE and LEEP: how well a source model's own labels foretell the target's.

Both need the model's answers on the target's images only. NCE (Tran et al., *Transferability and
Hardness of Supervised Classification Tasks*, ICCV 2019, eq. 5) takes the label z that the model
gives each image,

.. math:: NCE = -H(Y | Z) = \sum_{y,z} p(y, z) \log \frac{p(y, z)}{p(z)}

and LEEP (Nguyen et al., arXiv 2002.12462, eq. 2) its probabilities :math:`\theta(x)_z`:

.. math:: LEEP = \frac{1}{n} \sum_i \log \sum_z p(y_i | z) \, \theta(x_i)_z ,
          \quad p(y, z) = \frac{1}{n} \sum_{i: y_i = y} \theta(x_i)_z

Natural logarithm; 0 is the best that both can be.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import rel_entr

from protocol.errors import DataError
from strategies.transferability.checks import FloatArray, class_indices, finite_rows, one_hot

_SUM = 1e-3
"""How far the probabilities of an image may be from summing to 1: models answer in float32."""


def conditional_entropy(joint: FloatArray) -> float:
    r"""Return :math:`H(Y | Z)` of the joint distribution ``[z, y]`` of two labels, in nats."""
    return -float(rel_entr(joint, joint.sum(axis=1, keepdims=True)).sum()) + 0.0


def nce(source_labels: ArrayLike, target_labels: ArrayLike) -> float:
    """Return the negative conditional entropy of the target's labels given the model's.

    Parameters
    ----------
    source_labels : array of int, shape [n]
        The class of the source that the model gives each image.
    target_labels : array of int, shape [n]
        The target's labels of the same images.

    Raises
    ------
    DataError
        If the arrays do not fit together.

    Examples
    --------
    >>> nce([7, 7, 8, 8], [0, 0, 1, 1])
    0.0
    >>> round(nce([7, 8, 7, 8], [0, 0, 1, 1]), 4)
    -0.6931
    """
    images = np.size(target_labels)
    z = one_hot(class_indices(source_labels, images, "the model's labels"))  # [n, z]
    y = one_hot(class_indices(target_labels, images))  # [n, y]
    return 0.0 - conditional_entropy(z.T @ y / images)


def leep(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Return the log expected empirical prediction of the target's labels.

    Parameters
    ----------
    probabilities : array of numbers, shape [n, source classes]
        The source model's probabilities on the target's images; rows sum to 1.
    labels : array of int, shape [n]
        The target's labels of the same images.

    Raises
    ------
    DataError
        If the arrays do not fit together or rows are no probabilities.

    Examples
    --------
    >>> round(leep([[0.9, 0.1], [0.1, 0.9]], [0, 1]), 4)
    -0.1985
    """
    theta = distributions(probabilities)  # [n, z]
    indices = class_indices(labels, len(theta))  # [n]
    joint = one_hot(indices).T @ theta  # [y, z], n times the probability
    given = joint / np.maximum(joint.sum(axis=0), np.finfo(np.float64).tiny)  # [y, z] = p(y | z)
    return float(np.log(np.sum(given[indices] * theta, axis=1)).mean())


def distributions(probabilities: ArrayLike) -> FloatArray:
    """Return rows of probabilities, ``[n, z]``, that sum to 1 exactly.

    Raises
    ------
    DataError
        If rows are negative or do not sum to 1.
    """
    rows = finite_rows(probabilities, "probabilities")
    sums = rows.sum(axis=1, keepdims=True)  # [n, 1]
    if (rows < 0).any() or (np.abs(sums - 1) > _SUM).any():
        raise DataError("probabilities must not be negative and must sum to 1 in every row")
    return np.asarray(rows / sums, dtype=np.float64)
