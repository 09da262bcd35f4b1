r"""OTCE without images: transport between classes whose means and variances were released.

Each class is taken for a Gaussian with a diagonal covariance. The squared 2-Wasserstein distance
of two such is (Dowson and Landau 1982)

.. math:: W_2^2 = \|\mu_s - \mu_t\|^2 + \sum_i (\sigma_{si} - \sigma_{ti})^2

and mass, a class's share of the images, moves between classes at that cost. Between balanced
classes an exact plan is a permutation, which says nothing of how sure it is; the entropic one
spreads where several classes are about as near.

How well it stands in for OTCE on images was measured on the 17 sites of the demonstration (17
targets, mean rank correlation over sources): 0.91 with the entropic plan that `otce` takes by
default, but 0.47 with the exact plan, with which that default itself agrees at 0.63 only.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import cdist

from protocol.descriptors import ClassMoments
from protocol.errors import DataError
from strategies.transferability.checks import FloatArray, finite_rows
from strategies.transferability.label_transfer import conditional_entropy
from strategies.transferability.otce import Otce
from strategies.transferability.transport import coupling

ENTROPY = 0.2
"""Entropic term as a share of the mean cost."""


def otce_classes(source: ClassMoments, target: ClassMoments, *, entropy: float = ENTROPY) -> Otce:
    """Return domain and task difference of two tasks by their class-conditional moments.

    Parameters
    ----------
    source, target : ClassMoments
        Of features of one network; classes without images are left out.
    entropy : float
        Of the plan, as a share of the mean cost; 0 for the exact plan.

    Returns
    -------
    Otce
        Its coupling is ``[source classes, target classes]``, zero for classes without images.

    Raises
    ------
    DataError
        If moments are not finite, negative, of differing widths or of no image at all.
    """
    (ps, ms, ss), (pt, mt, st) = _parts(source, "source"), _parts(target, "target")
    if ms.shape[1] != mt.shape[1]:
        raise DataError(
            f"class moments are {ms.shape[1]} wide at the source and {mt.shape[1]} at the target: "
            "take those of one spec"
        )
    costs = squared_wasserstein(ms, ss, mt, st)  # [cs, ct]
    here, there = ps > 0, pt > 0
    plan = np.zeros_like(costs)  # [cs, ct]
    held = np.ix_(here, there)
    plan[held] = coupling(ps[here], pt[there], costs[held], entropy)
    return Otce(float(np.sum(plan * costs)), conditional_entropy(plan[held]), plan)


def squared_wasserstein(
    source_means: FloatArray,
    source_deviations: FloatArray,
    target_means: FloatArray,
    target_deviations: FloatArray,
) -> FloatArray:
    """Return the squared 2-Wasserstein distance of Gaussians with diagonal covariances.

    Parameters
    ----------
    source_means, source_deviations : ndarray, shape [a, m]
        Means and standard deviations.
    target_means, target_deviations : ndarray, shape [b, m]
        The same of the others.

    Returns
    -------
    ndarray, shape [a, b]
    """
    left = np.hstack([source_means, source_deviations])  # [a, 2m]
    right = np.hstack([target_means, target_deviations])  # [b, 2m]
    return np.asarray(cdist(left, right, "sqeuclidean"))


def _parts(moments: ClassMoments, side: str) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return shares ``[c]``, means and standard deviations ``[c, m]`` of a task's classes."""
    counts = np.asarray(moments.counts)
    means = finite_rows(moments.means, f"class means of the {side}")
    variances = finite_rows(moments.variances, f"class variances of the {side}")
    if means.shape != variances.shape or counts.shape != means.shape[:1]:
        raise DataError(f"class moments of the {side} do not fit together: release them again")
    if (variances < 0).any() or (counts < 0).any() or not counts.sum():
        raise DataError(f"class moments of the {side} are negative or of no image")
    return counts / counts.sum(), means, np.sqrt(variances)
