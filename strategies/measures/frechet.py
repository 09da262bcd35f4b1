"""FID: the Fréchet distance of Gaussians with the tasks' means and covariances."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.spatial.distance import cdist

from strategies.measures.base import FloatArray, Measure, Task, register
from strategies.measures.needs import moments_of, same_spec


def factor(covariance: FloatArray) -> FloatArray:
    """Return L of as few columns as can be, with ``L @ L.T`` the covariance.

    Parameters
    ----------
    covariance
        Symmetric, shape ``[m, m]``. Negative eigenvalues, as noise leaves, are taken as 0.

    Returns
    -------
    numpy.ndarray
        Shape ``[m, r]``: n images span no more than n - 1 directions, however many features.
    """
    values, vectors = np.linalg.eigh(covariance)  # [m], [m, m]
    kept = values > values[-1] * len(values) * np.finfo(np.float64).eps
    return np.asarray(vectors[:, kept] * np.sqrt(values[kept]))


def frechet(
    source_means: FloatArray,
    source_factors: Sequence[FloatArray],
    target_means: FloatArray,
    target_factors: Sequence[FloatArray],
) -> FloatArray:
    r"""Return the squared Fréchet distance of every pair of Gaussians.

    Heusel et al. (NeurIPS 2017), after Dowson & Landau (1982):

    .. math:: d = \|\mu - \nu\|^2 + tr \Sigma + tr \Gamma - 2 \, tr (\Sigma \Gamma)^{1/2}

    With :math:`\Sigma = A A^T` and :math:`\Gamma = B B^T` the last trace is the sum of the singular
    values of :math:`A^T B`, which is small where images are few, and needs no matrix root.

    Parameters
    ----------
    source_means, target_means
        Shapes ``[S, m]`` and ``[T, m]``.
    source_factors, target_factors
        Shape ``[m, r]`` each, see `factor`.

    Returns
    -------
    numpy.ndarray
        Shape ``[S, T]``, in squared feature units.
    """
    apart = cdist(source_means, target_means, metric="sqeuclidean")  # [S, T]
    spreads = [np.array([np.sum(f**2) for f in own]) for own in (source_factors, target_factors)]
    known: dict[tuple[int, int], float] = {}  # it is symmetric

    def overlap(a: FloatArray, b: FloatArray) -> float:
        key = (min(id(a), id(b)), max(id(a), id(b)))
        if key not in known:
            known[key] = float(np.linalg.norm(a.T @ b, "nuc"))
        return known[key]

    common = np.array([[overlap(a, b) for b in target_factors] for a in source_factors])  # [S, T]
    both = spreads[0][:, None] + spreads[1][None, :]  # [S, T]
    return np.asarray(np.maximum(apart + both - 2.0 * common, 0.0))


@register
class FrechetInception(Measure):
    """Fréchet distance of the backbone's features."""

    name = "fid"
    needs = frozenset({"moments"})
    source = "Heusel et al., NeurIPS 2017"
    description = "Fréchet distance of Gaussians with the features' means and covariances"

    def matrix(self, sources: Sequence[Task], targets: Sequence[Task]) -> FloatArray:
        """Compare every source with every target, see `Measure.matrix`."""
        same_spec(*sources, *targets)
        known: dict[int, FloatArray] = {}  # a task that is source and target is factored once
        for moments in moments_of([*sources, *targets]):
            if id(moments) not in known:
                known[id(moments)] = factor(moments.covariance)
        own, others = moments_of(sources), moments_of(targets)
        return frechet(
            np.stack([moments.mean for moments in own]),
            [known[id(moments)] for moments in own],
            np.stack([moments.mean for moments in others]),
            [known[id(moments)] for moments in others],
        )
