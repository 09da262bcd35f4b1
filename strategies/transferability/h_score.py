r"""H-score: how much of what features tell is about the labels.

Bao et al., *An Information-Theoretic Approach to Transferability in Task Transfer Learning*
(ICIP 2019), eq. 5, with features :math:`f` and labels :math:`y`:

.. math:: H(f) = tr( cov(f)^{+} \, cov(E[f | y]) )

It is high where classes lie far apart and features are not redundant. With no more images than
features it is C - 1 for any features, because each class has a direction of its own; the form with
shrinkage (Ibrahim et al., *Newer is not always better*, arXiv 2110.06893, eq. 3) still tells:

.. math:: H_\alpha(f) = tr( cov_\alpha(f)^{-1} \, (1 - \alpha) \, cov(E[f | y]) )

where :math:`cov_\alpha = (1 - \alpha) cov + \alpha \sigma I` is Ledoit and Wolf's estimator.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import cho_factor, cho_solve, svd

from strategies.transferability.checks import (
    FloatArray,
    IntArray,
    class_indices,
    finite_rows,
    one_hot,
)


def h_score(features: ArrayLike, labels: ArrayLike) -> float:
    """Return the H-score of features: between 0 and the number of classes less one.

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
    >>> h_score([[0.0], [0.0], [1.0], [1.0]], [0, 0, 1, 1])
    1.0
    >>> h_score([[0.0], [1.0], [0.0], [1.0]], [0, 0, 1, 1])
    0.0
    """
    rows = finite_rows(features, "features")
    centred = rows - rows.mean(axis=0)  # [n, h]
    u, s, _ = svd(centred, full_matrices=False)  # [n, r], [r]
    # with F = U S V', and P the averaging within classes, pinv(F'F) F'PF has the trace of U'PU
    scale = np.abs(rows).max() * np.sqrt(rows.size)
    kept = u[:, s > max(rows.shape) * np.finfo(np.float64).eps * scale]  # [n, rank]
    means, shares = _class_means(kept, class_indices(labels, len(rows)))
    return float(len(rows) * shares @ np.sum(means**2, axis=1))


def h_score_shrunk(features: ArrayLike, labels: ArrayLike) -> float:
    """Return the H-score with Ledoit and Wolf's covariance, see the module; parameters as there.

    Features that do not vary score 0.
    """
    from sklearn.covariance import ledoit_wolf

    rows = finite_rows(features, "features")
    indices = class_indices(labels, len(rows))
    centred = rows - rows.mean(axis=0)  # [n, h]
    if not np.any(centred):
        return 0.0
    covariance, shrinkage = ledoit_wolf(centred, assume_centered=True)  # [h, h]
    if shrinkage == 1.0:
        return 0.0
    means, shares = _class_means(centred, indices)  # [c, h], [c]
    solved = cho_solve(cho_factor(covariance), means.T)  # [h, c]
    return float((1 - shrinkage) * shares @ np.einsum("ch,hc->c", means, solved))


def _class_means(centred: FloatArray, labels: IntArray) -> tuple[FloatArray, FloatArray]:
    """Return the mean of each class, ``[c, h]``, and the share of images it has, ``[c]``."""
    belongs = one_hot(labels)  # [n, c]
    counts = belongs.sum(axis=0)  # [c]
    return belongs.T @ centred / counts[:, None], counts / len(labels)
