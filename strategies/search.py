"""The groups of sites with the largest evidence: merged greedily, then moved one by one."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from strategies.dendrogram import Partition
from strategies.mixture import GROUP, Mixture, evidence, gains, mixture, of_groups, total_evidence
from strategies.noise import Coordinates

__all__ = ["STRENGTHS", "Fit", "fit", "placement", "refit"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.intp]

STRENGTHS = (0.0075, 0.015, 0.03, 0.06, 0.12, 0.25, 0.5, 1.0)
"""How far groups may lie from their middle, as a share of the spread of images: c is one."""
_ROUNDS = 20  # moves of single sites end long before
_LEAST = 1e-9  # a gain below is rounding


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
    terms = np.stack([sites.precision, sites.weighted])  # [2, k, D]
    sums = member.T @ terms[:, others]  # [2, G, D]
    sums = np.concatenate([sums, np.zeros_like(sums[:, :1])], axis=1)  # [2, G + 1, D]
    return gains(sites, sums[0], sums[1], site, strength * sites.scale)


def _fit(sites: Mixture, strength: float) -> Fit:
    prior = strength * sites.scale
    label, path = _merged(sites, prior)
    label = _moved(sites, label, prior)
    groups = [np.flatnonzero(label == g).tolist() for g in range(int(label.max()) + 1)]
    return _scored(sites, sorted(groups), strength, float(softmax(path)[len(path) - len(groups)]))


def _scored(sites: Mixture, groups: Partition, strength: float, support: float) -> Fit:
    return Fit(groups, sites, strength, total_evidence(sites, groups, strength), support)


def _merged(sites: Mixture, prior: FloatArray) -> tuple[IntArray, FloatArray]:
    """Merge by the largest gain until one group is left; labels [k] of the best, totals [k]."""
    k = len(sites.precision)
    precision, weighted = sites.precision.copy(), sites.weighted.copy()  # [k, D] sums of groups
    own = evidence(precision, weighted, prior)  # [k]
    gain = np.full((k, k), -np.inf)

    def row(i: int, others: IntArray) -> FloatArray:
        """Gains of joining group i with others; what the middle gains by it hardly differs."""
        joined = precision[i] + precision[others], weighted[i] + weighted[others]
        return np.asarray(evidence(*joined, prior) - own[i] - own[others])

    for i in range(k - 1):
        gain[i, i + 1 :] = gain[i + 1 :, i] = row(i, np.arange(i + 1, k))
    label, alive = np.arange(k), np.ones(k, dtype=np.bool_)
    totals, best = [-np.inf], label
    for left in range(k, 0, -1):
        total = of_groups(precision[alive], weighted[alive], prior)
        totals.append(sites.temper * total + GROUP * left)
        if totals[-1] >= max(totals):
            best = label.copy()
        if left == 1:
            break
        i, j = sorted(divmod(int(np.argmax(gain)), k))
        precision[i] += precision[j]
        weighted[i] += weighted[j]
        own[i] = evidence(precision[i], weighted[i], prior)
        alive[j], label[label == j] = False, i
        gain[j, :] = gain[:, j] = gain[i, :] = gain[:, i] = -np.inf
        rest = np.flatnonzero(alive & (np.arange(k) != i))
        gain[i, rest] = gain[rest, i] = row(i, rest)
    return np.unique(best, return_inverse=True)[1].astype(np.intp), np.array(totals[1:])


def _moved(sites: Mixture, label: IntArray, prior: FloatArray) -> IntArray:
    """Move one site at a time where it gains most, a new group included, until nobody moves."""
    k = len(label)
    terms = np.stack([sites.precision, sites.weighted])  # [2, k, D]
    member = (label[:, None] == np.arange(k)).astype(np.float64)  # [k, k] room for new groups
    sums, size = member.T @ terms, member.sum(axis=0)  # [2, k, D], [k]
    for _ in range(_ROUNDS):
        before = label.copy()
        for i in range(k):
            home = label[i]
            sums[:, home] -= terms[:, i]
            size[home] -= 1
            if size[home] == 0:
                sums[:, home] = 0.0  # nothing, not the rounding of what was there
            open_to = np.concatenate([np.flatnonzero(size), np.flatnonzero(size == 0)[:1]])
            gain = gains(sites, sums[0, open_to], sums[1, open_to], i, prior)
            stays = gain[-1] if size[home] == 0 else gain[open_to == home][0]  # last: a new group
            if gain.max() > stays + _LEAST:
                label[i] = open_to[int(np.argmax(gain))]
            sums[:, label[i]] += terms[:, i]
            size[label[i]] += 1
        if np.array_equal(before, label):
            break
    return np.unique(label, return_inverse=True)[1].astype(np.intp)
