r"""Which sites share a centre, by the evidence of a Gaussian mixture with known scatter.

Site i of group g lies at

.. math:: x_i \sim N(\mu_g, \; v_i + w \lambda), \qquad \mu_g \sim N(0, \; c \lambda)

in `strategies.noise.Coordinates`: :math:`v_i` is the known variance of noise and sampling,
:math:`\lambda` that of one image, w says how far sites of one group may differ and c how far groups
do. With the centres integrated out, the evidence for a group depends on the sums of its sites'
precisions :math:`A = \sum 1 / (v_i + w \lambda)` and weighted positions B alone,

.. math:: \log E = \tfrac12 \sum_d \left( \frac{t B^2}{1 + t A} - \log(1 + t A) \right),
          \quad t = c \lambda

beside what each site adds by itself. So a small noisy site counts for little, a large one for much,
and how many groups there are is weighed along with who is in them (Bayesian hierarchical
clustering, Heller & Ghahramani 2005). c is chosen by the evidence (empirical Bayes).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from strategies.dendrogram import Partition
from strategies.noise import Coordinates

__all__ = ["STRENGTHS", "Fit", "Mixture", "evidence", "fit", "mixture", "placement", "refit"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.intp]

STRENGTHS = (0.0075, 0.015, 0.03, 0.06, 0.12, 0.25, 0.5, 1.0)
"""Squared distances of groups from their middle, as a share of the spread of images: c is one."""
_INSIDE = 0.3  # sites of a group differ by at least so much of what groups differ by
_GROUP = -2.0  # a priori logarithm of the odds that one more group exists
_FEATURES = 64  # the features of an image depend on each other: more count as so many
_ROUNDS = 20  # moves of single sites end long before


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


@dataclass(frozen=True)
class Fit:
    """The groups of the largest evidence.

    Parameters
    ----------
    groups
        Groups of indices.
    sites
        What they were found in.
    strength
        The c they were found with.
    total
        Logarithm of their evidence.
    support
        Belief in this number of groups among those met on the way of merging, between 0 and 1.
    """

    groups: Partition
    sites: Mixture
    strength: float
    total: float
    support: float

    @property
    def label(self) -> IntArray:
        """Number of each site's group, shape ``[k]``."""
        label = np.empty(len(self.sites.precision), dtype=np.intp)
        for number, members in enumerate(self.groups):
            label[members] = number
        return label


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
    r"""Return the logarithm of the evidence that sites share a centre, up to a constant.

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


def fit(
    points: Coordinates, features: int, kin: float, strengths: Sequence[float] = STRENGTHS
) -> Fit:
    """Find the groups with the largest evidence: merge greedily, then move single sites.

    Parameters
    ----------
    points
        The k sites.
    features
        Number of features behind the coordinates.
    kin
        What sites of one group may differ by, see `mixture`.
    strengths
        Values of c to try.

    Returns
    -------
    Fit
        The best over all strengths; of equal ones that of the first.
    """
    fits = [_fit(mixture(points, features, kin, c), c) for c in strengths]
    return max(fits, key=lambda found: found.total)


def refit(
    points: Coordinates, features: int, kin: float, groups: Partition, support: float = 1.0
) -> Fit:
    """Return given groups with the strength that suits them best, see `fit`.

    Parameters
    ----------
    points, features, kin
        As for `fit`.
    groups
        Groups of indices.
    support
        Belief in their number.
    """
    fits = [_scored(mixture(points, features, kin, c), groups, c, support) for c in STRENGTHS]
    return max(fits, key=lambda found: found.total)


def placement(sites: Mixture, label: IntArray, site: int, strength: float) -> FloatArray:
    """Return the gain in log evidence of every group, and of a new one, by taking a site in.

    Parameters
    ----------
    sites
        The k sites.
    label
        Group of each site, shape ``[k]``, numbered from 0; that of the site itself is ignored.
    site
        Index of the site.
    strength
        c.

    Returns
    -------
    numpy.ndarray
        Shape ``[groups + 1]``, the new group last.
    """
    others = np.arange(len(label)) != site
    member = (label[others, None] == np.arange(label.max() + 1)).astype(np.float64)  # [k - 1, G]
    sums = [np.vstack([member.T @ a[others], np.zeros(a.shape[1])]) for a in _terms(sites)]
    return _gains(sites, sums[0], sums[1], site, strength * sites.scale)


def _terms(sites: Mixture) -> tuple[FloatArray, FloatArray]:
    return sites.precision, sites.weighted


def _gains(
    sites: Mixture, precision: FloatArray, weighted: FloatArray, site: int, prior: FloatArray
) -> FloatArray:
    """Gain [G] of each group, given as sums [G, D] without the site; an empty one costs a group."""
    joined = evidence(precision + sites.precision[site], weighted + sites.weighted[site], prior)
    gains = sites.temper * (joined - evidence(precision, weighted, prior))
    return np.where(precision.any(axis=1), gains, gains + _GROUP)


def _fit(sites: Mixture, strength: float) -> Fit:
    prior = strength * sites.scale
    label, path = _merged(sites, prior)
    label = _moved(sites, label, prior)
    groups = [np.flatnonzero(label == g).tolist() for g in range(int(label.max()) + 1)]
    return _scored(sites, sorted(groups), strength, float(softmax(path)[len(path) - len(groups)]))


def _scored(sites: Mixture, groups: Partition, strength: float, support: float) -> Fit:
    sums = [np.stack([a[g].sum(axis=0) for g in groups]) for a in _terms(sites)]  # [G, D] each
    together = float(evidence(sums[0], sums[1], strength * sites.scale).sum())
    # what each site adds by itself depends on how far sites of a group may differ, hence on c
    alone = 0.5 * float((np.log(sites.precision) - sites.weighted**2 / sites.precision).sum())
    total = sites.temper * (together + alone) + _GROUP * len(groups)
    return Fit(groups, sites, strength, total, support)


def _merged(sites: Mixture, prior: FloatArray) -> tuple[IntArray, FloatArray]:
    """Merge by the largest gain until one group is left; labels [k] of the best, totals [k]."""
    k = len(sites.precision)
    precision, weighted = sites.precision.copy(), sites.weighted.copy()  # [k, D] sums of groups
    own = evidence(precision, weighted, prior)  # [k]
    gain = np.full((k, k), -np.inf)

    def row(i: int, alive: IntArray) -> FloatArray:
        joined = evidence(precision[i] + precision[alive], weighted[i] + weighted[alive], prior)
        return np.asarray(joined - own[i] - own[alive])

    for i in range(k - 1):
        gain[i, i + 1 :] = gain[i + 1 :, i] = row(i, np.arange(i + 1, k))
    label, alive = np.arange(k), np.ones(k, dtype=np.bool_)
    totals = [sites.temper * float(own.sum()) + _GROUP * k]
    best = label.copy()
    for _ in range(k - 1):
        i, j = sorted(divmod(int(np.argmax(gain)), k))
        totals.append(totals[-1] + sites.temper * float(gain[i, j]) - _GROUP)
        precision[i] += precision[j]
        weighted[i] += weighted[j]
        own[i] = evidence(precision[i], weighted[i], prior)
        alive[j], label[label == j] = False, i
        gain[j, :] = gain[:, j] = gain[i, :] = gain[:, i] = -np.inf
        rest = np.flatnonzero(alive & (np.arange(k) != i))
        gain[i, rest] = gain[rest, i] = row(i, rest)
        if totals[-1] >= max(totals):
            best = label.copy()
    return np.unique(best, return_inverse=True)[1].astype(np.intp), np.array(totals)


def _moved(sites: Mixture, label: IntArray, prior: FloatArray) -> IntArray:
    """Move one site at a time where it gains most, a new group included, until nobody moves."""
    k = len(label)
    member = (label[:, None] == np.arange(k)).astype(np.float64)  # [k, k] room for new groups
    sums = [member.T @ a for a in _terms(sites)]  # [k, D] each
    size = member.sum(axis=0)
    for _ in range(_ROUNDS):
        before = label.copy()
        for i in range(k):
            for total, a in zip(sums, _terms(sites), strict=True):
                total[label[i]] -= a[i]
            size[label[i]] -= 1
            for total in sums:
                total[size == 0] = 0.0  # nothing, not the rounding of what was there
            open_to = np.concatenate([np.flatnonzero(size), np.flatnonzero(size == 0)[:1]])
            gains = _gains(sites, sums[0][open_to], sums[1][open_to], i, prior)
            here = open_to == label[i]
            stays = gains[here].max() if here.any() else gains[-1]
            if gains.max() > stays + 1e-9:
                label[i] = open_to[int(np.argmax(gains))]
            for total, a in zip(sums, _terms(sites), strict=True):
                total[label[i]] += a[i]
            size[label[i]] += 1
        if np.array_equal(before, label):
            break
    return np.unique(label, return_inverse=True)[1].astype(np.intp)
