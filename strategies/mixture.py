r"""Which sites share a centre: the evidence of a Gaussian mixture with known scatter.

Site i of group g lies at

.. math:: x_i \sim N(\mu_g, \; v_i + w \lambda), \qquad \mu_g \sim N(m, \; c \lambda)

in `strategies.noise.Coordinates`: :math:`v_i` is the known variance of noise and sampling,
:math:`\lambda` that of one image, w says how far sites of one group may differ and c how far groups
do; of the middle m nothing is known. With centres and middle integrated out, what groups add to the
evidence depends on the sums of their sites' precisions :math:`A = \sum 1 / (v_i + w \lambda)` and
weighted positions B alone: with :math:`t = c \lambda`, :math:`a = A / (1 + t A)` and
:math:`b = B / (1 + t A)`,

.. math:: \log E = \sum_g \tfrac12 \left( \frac{t B_g^2}{1 + t A_g} - \log(1 + t A_g) \right)
          + \tfrac12 \left( \frac{(\sum_g b_g)^2}{\sum_g a_g} - \log \sum_g a_g \right)

summed over the coordinates. A small noisy site counts for little, a large one for much, and how
many groups there are is weighed along with who is in them (Bayesian hierarchical clustering, Heller
& Ghahramani 2005).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from strategies.dendrogram import Partition
from strategies.noise import Coordinates

__all__ = ["GROUP", "Mixture", "evidence", "gains", "mixture", "of_groups", "total_evidence"]

FloatArray = NDArray[np.float64]

GROUP = -2.0
"""A priori logarithm of the odds that one more group exists."""
_INSIDE = 0.3  # sites of a group differ by at least so much of what groups differ by
_FEATURES = 64  # the features of an image depend on each other: more count as so many


@dataclass(frozen=True)
class Mixture:
    """What is known of the sites before groups are sought.

    Parameters
    ----------
    precision
        Shape ``[k, D]``: :math:`1 / (v_i + w \\lambda)`.
    weighted
        Shape ``[k, D]``: values times precision.
    scale
        Shape ``[D]``: variance of a single image.
    temper
        The evidence counts for so much of itself, at most 1.
    """

    precision: FloatArray
    weighted: FloatArray
    scale: FloatArray
    temper: float = 1.0


def mixture(points: Coordinates, features: int, kin: float, strength: float) -> Mixture:
    """Return the sites, which may differ by ``kin`` or a part of the strength inside a group.

    Parameters
    ----------
    points
        The sites.
    features
        Number of features behind the coordinates.
    kin
        Squared distance between a site and its group's centre that is nothing unusual, as a share
        of the spread of images; 0 where sites of one group hold the same kind of data.
    strength
        c.
    """
    precision = 1.0 / (points.variance + (kin + _INSIDE * strength) * points.scale)
    temper = min(1.0, _FEATURES / features)
    return Mixture(precision, points.values * precision, points.scale, temper)


def evidence(precision: FloatArray, weighted: FloatArray, prior: FloatArray) -> FloatArray:
    r"""Return what sites that share a centre add to the evidence if the middle were at 0.

    Parameters
    ----------
    precision, weighted
        Sums A and B over the sites of a group, shape ``[..., D]``.
    prior
        Variance t of the centres, shape ``[D]``.

    Returns
    -------
    numpy.ndarray
        Shape ``[...]``; 0 for a group without sites.
    """
    grown = 1.0 + prior * precision
    return np.asarray(0.5 * (prior * weighted**2 / grown - np.log(grown)).sum(axis=-1))


def of_groups(precision: FloatArray, weighted: FloatArray, prior: FloatArray) -> float:
    """Return what groups, given as sums ``[G, D]``, and their middle add to the evidence."""
    seen = [a.sum(axis=0) for a in _seen(precision, weighted, prior)]
    return float(evidence(precision, weighted, prior).sum() + _middle(seen[0], seen[1]))


def total_evidence(sites: Mixture, groups: Partition, strength: float) -> float:
    """Return the logarithm of the evidence for groups, comparable between strengths too.

    Parameters
    ----------
    sites
        The k sites, prepared for that strength.
    groups
        Groups of indices.
    strength
        c.
    """
    sums = [np.stack([a[g].sum(axis=0) for g in groups]) for a in (sites.precision, sites.weighted)]
    # what each site adds by itself depends on how far sites of a group may differ, hence on c
    alone = 0.5 * float((np.log(sites.precision) - sites.weighted**2 / sites.precision).sum())
    return sites.temper * (
        of_groups(sums[0], sums[1], strength * sites.scale) + alone
    ) + GROUP * len(groups)


def gains(
    sites: Mixture, precision: FloatArray, weighted: FloatArray, site: int, prior: FloatArray
) -> FloatArray:
    """Return what the logarithm of the evidence gains by a site in each group.

    Parameters
    ----------
    sites
        The k sites.
    precision, weighted
        Sums A and B of G groups without the site, shape ``[G, D]``; an empty one costs a group.
    site
        Index of the site.
    prior
        Variance t of the centres, shape ``[D]``.

    Returns
    -------
    numpy.ndarray
        Shape ``[G]``, up to a constant that is the same for all groups.
    """
    joined = precision + sites.precision[site], weighted + sites.weighted[site]
    before, after = _seen(precision, weighted, prior), _seen(*joined, prior)
    middle = _middle(*(a.sum(axis=0) - a + b for a, b in zip(before, after, strict=True)))
    gain = evidence(*joined, prior) - evidence(precision, weighted, prior) + middle
    return np.where(precision.any(axis=1), sites.temper * gain, sites.temper * gain + GROUP)


def _seen(
    precision: FloatArray, weighted: FloatArray, prior: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """What groups [..., D] tell of the middle: less than of their own centres, by the prior."""
    grown = 1.0 + prior * precision
    return precision / grown, weighted / grown


def _middle(precision: FloatArray, weighted: FloatArray) -> FloatArray:
    """Evidence [...] of a middle that centres of such precision and weighted position lie around.

    Nothing is known of it beforehand (a flat prior), or the mean of few sites would seem certain.
    """
    return np.asarray(0.5 * (weighted**2 / precision - np.log(precision)).sum(axis=-1))
