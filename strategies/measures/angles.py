"""PACFL: angles between the leading directions of the tasks' features."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.linalg import eigh

from protocol.descriptors import Moments
from strategies.measures.base import FloatArray, Measure, Task, register
from strategies.measures.needs import moments_of, same_spec

DIRECTIONS = 5
"""Directions of each site; Vahidian et al. take three to five."""


def leading_directions(moments: Moments, p: int) -> FloatArray:
    """Return the p leading left singular vectors of a task's matrix of features.

    They are the eigenvectors of its second moments about 0, not about the mean: as in PACFL, where
    the images lie counts as well as how they differ.

    Parameters
    ----------
    moments
        Of m features.
    p
        At most m.

    Returns
    -------
    numpy.ndarray
        Orthonormal columns, shape ``[m, p]``, the first leading.
    """
    m, n = len(moments.mean), moments.images
    second = moments.covariance * ((n - 1) / n) + np.outer(moments.mean, moments.mean)  # [m, m]
    _, vectors = eigh(second, subset_by_index=[m - p, m - 1])
    return np.asarray(vectors[:, ::-1])


def angle_sums(sources: FloatArray, targets: FloatArray) -> FloatArray:
    r"""Return the sum of the principal angles between every pair of subspaces, in degrees.

    The cosines of the angles are the singular values of :math:`U^T V` (Björck & Golub 1973).
    Vahidian et al. (AAAI 2023), in the second of their forms, sum those between k-th vectors
    instead; principal angles do not depend on how a subspace is spanned.

    Parameters
    ----------
    sources, targets
        Orthonormal columns, shapes ``[S, m, p]`` and ``[T, m, p]``.

    Returns
    -------
    numpy.ndarray
        Shape ``[S, T]``, from 0 to 90 p.
    """
    products = np.einsum("smp,tmq->stpq", sources, targets, optimize=True)  # [S, T, p, p]
    cosines = np.linalg.svd(products, compute_uv=False).clip(0.0, 1.0)  # [S, T, p]
    return np.asarray(np.degrees(np.arccos(cosines)).sum(axis=2))


@register
class PrincipalAngles(Measure):
    """Sum of the principal angles between the five leading directions of both tasks."""

    name = "pacfl-angles"
    needs = frozenset({"moments"})
    source = "Vahidian et al., AAAI 2023"
    description = "sum of the principal angles between the leading directions of the features"

    def matrix(self, sources: Sequence[Task], targets: Sequence[Task]) -> FloatArray:
        """Compare every source with every target, see `Measure.matrix`.

        Where a task has fewer images than directions, fewer are compared: of all tasks, so that
        the sums are of as many angles everywhere.
        """
        spec = same_spec(*sources, *targets)
        known = {id(m): m for m in moments_of([*sources, *targets])}
        p = min(DIRECTIONS, spec.width, *(moments.images for moments in known.values()))
        spans = {key: leading_directions(moments, p) for key, moments in known.items()}
        both = [np.stack([spans[id(m)] for m in moments_of(own)]) for own in (sources, targets)]
        return angle_sums(*both)
