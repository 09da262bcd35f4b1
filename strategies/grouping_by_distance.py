"""Co-training groups out of any measure's distances.

`strategies.grouping` knows what histograms of one population scatter by, and so where a task ends.
Distances of other measures come without a scale: here only their shape decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import linkage as linked
from scipy.spatial.distance import squareform

from protocol.errors import BadShape
from strategies.dendrogram import Partition, merge_undersized, partition, split_oversized
from strategies.excess import symmetrised
from strategies.explain import Explanation, explain
from strategies.grouping import Grouping, GroupingOptions, named_groups
from strategies.partners import Partner, partners
from strategies.stability import together

__all__ = ["Found", "find_groups", "group_by_distance", "there_and_back"]

FloatArray = NDArray[np.float64]

STRUCTURE, FURTHER = 0.25, 0.5
"""Least mean silhouette to cut all sites, and to cut a group (Kaufman & Rousseeuw 1990)."""


@dataclass(frozen=True)
class Found:
    """Groups of indices, the dendrogram ``[k - 1, 4]``, where it was cut, and how clear that is."""

    groups: Partition
    linkage: FloatArray
    cut: float
    silhouette: float


def group_by_distance(
    distances: FloatArray,
    names: Sequence[str],
    measure: str,
    options: GroupingOptions | None = None,
    *,
    apart: float | None = None,
) -> Grouping:
    """Group sites by the distances of a measure.

    Distances are taken both ways, see `there_and_back`, and groups are found as `find_groups` says.
    A site that nobody can be compared with stays alone.

    Parameters
    ----------
    distances
        Shape ``[k, k]``: row = source, column = target, lower is closer, NaN is not known.
    names
        Of the k sites.
    measure
        Name of the measure, for the explanations.
    options
        Sizes of groups, number of partners, and parts that are left out for the stability.
    apart
        Distance from which on two sites have nothing in common, None where there is no such.

    Returns
    -------
    Grouping
        Distances in it are there and back, as shares of their mean; margins are measured in them.
        A site's stability is the mean overlap (Jaccard index) of its group with its groups when
        some of the others are left out.

    Raises
    ------
    BadShape
        If the matrix is not square or does not fit the names.
    """
    options = options or GroupingOptions()
    if distances.shape != (len(names), len(names)):
        raise BadShape(f"distances have shape {distances.shape}, but there are {len(names)} sites")
    ranked = _known_partners(distances, names, options.partners)
    known = _compared(distances)
    inside = [names[i] for i in known]
    between = there_and_back(distances[np.ix_(known, known)])  # [k', k']
    found = find_groups(between, options, None if apart is None else 2.0 * apart)
    unit = _mean_pair(between)
    sites = explain(
        between / unit,
        found.groups,
        inside,
        found.cut / unit,
        _stability(between, found.groups, options, apart),
        ranked,
    )
    said = f"By measure {measure}; 1 is the mean distance of two sites."
    told = {name: replace(why, reason=f"{why.reason} {said}") for name, why in sites.items()}
    others = [i for i in range(len(names)) if i not in known]
    for i in others:
        told[names[i]] = _unknown(measure)
    groups = [[known[i] for i in members] for members in found.groups] + [[i] for i in others]
    scaled = np.full_like(distances, np.nan)
    scaled[np.ix_(known, known)] = between / unit
    return Grouping(
        groups=named_groups(groups, names),
        sites=dict(sorted(told.items())),
        order=list(names),
        distances=scaled,
        linkage=found.linkage,
        cut=found.cut / unit,
        support=found.silhouette,
    )


def there_and_back(distances: FloatArray) -> FloatArray:
    r"""Return how much worse than itself each of two sites finds the other, both ways together.

    .. math:: D(S, T) = d(S, T) - d(T, T) + d(T, S) - d(S, S)

    What belongs to a target alone (how hard it is) and to a source alone (its size) drops out; of a
    metric it is twice the distance. Where a site is not compared with itself its nearest site
    stands in. What is not known counts as the farthest that is.

    Parameters
    ----------
    distances
        Shape ``[k, k]``, with NaN where nothing is known.

    Returns
    -------
    numpy.ndarray
        Shape ``[k, k]``, symmetric, non-negative, 0 on the diagonal.
    """
    filled = np.array(distances, dtype=np.float64)
    unknown = np.isnan(filled)
    best = np.min(filled, axis=0, where=~unknown, initial=np.inf)  # [k] nearest source
    own = np.where(np.diag(unknown), np.where(np.isinf(best), 0.0, best), np.diag(filled))  # [k]
    np.fill_diagonal(filled, own)
    unknown = np.isnan(filled)
    if unknown.any():
        excess = filled - own[None, :]
        farthest = float(np.max(excess, where=~unknown, initial=0.0)) or 1.0
        filled = np.where(unknown, own[None, :] + farthest, filled)
    return symmetrised(filled)


def find_groups(between: FloatArray, options: GroupingOptions, apart: float | None = None) -> Found:
    """Cluster by average linkage, and cut where the mean silhouette is largest, again and again.

    The rule: of all cuts into 2 to k - 1 groups the one with the largest mean silhouette
    (Rousseeuw 1987) is taken if that is at least 0.25. Each piece is then looked into by itself,
    and cut where the largest is at least 0.5, until no piece is: one silhouette sees the widest
    gaps only. The two thresholds are those of some and of reasonable structure.

    Distances without a scale cannot tell sites that are all alike from sites that are all
    different. So without structure all are one group, as any two sites are: the guard that follows
    training undoes a group that does not help, and nothing undoes one that was never tried. But
    groups that have nothing in common (`apart`) are never joined, and all are alone if all are so.

    Parameters
    ----------
    between
        Symmetric, shape ``[k, k]``, 0 on the diagonal.
    options
        Sizes of groups.
    apart
        In units of `between`, or None.
    """
    k = len(between)
    if k < 2:
        return Found([[i] for i in range(k)], np.empty((0, 4)), 0.0, 0.0)
    tree = _average_linkage(between)
    # rounding may leave the mean of distances that are all apart a little below
    most = k - 1 if apart is None else int(np.sum(tree[:, 2] < apart * (1 - 1e-9)))
    groups = sorted(
        piece for related in partition(tree, most) for piece in _pieces(between, related, STRUCTURE)
    )
    cut, clear = _cut_height(tree, groups), _silhouette(between, groups)
    if options.max_size is not None:
        groups = split_oversized(tree, groups, options.max_size)
    if options.min_size > 1:
        groups = merge_undersized(between, groups, options.min_size, options.max_size)
    return Found(groups, tree, cut, clear)


def _pieces(between: FloatArray, members: list[int], needed: float) -> Partition:
    """Cut a group, and the pieces again, as long as the silhouette is what is needed."""
    inside = between[np.ix_(members, members)]
    if len(members) < 3:
        return [members]
    tree = _average_linkage(inside)
    cuts = [partition(tree, merges) for merges in range(1, len(members) - 1)]
    clear = [_silhouette(inside, cut) for cut in cuts]
    best = int(np.argmax(clear))
    if clear[best] < needed:
        return [members]
    pieces = [[members[i] for i in piece] for piece in cuts[best]]
    return [part for piece in pieces for part in _pieces(between, piece, FURTHER)]


def _average_linkage(between: FloatArray) -> FloatArray:
    return np.asarray(linked(squareform(between, checks=False), "average"))  # [k - 1, 4]


def _silhouette(between: FloatArray, groups: Partition) -> float:
    """Return the mean silhouette, 0 where it is not defined."""
    from sklearn.metrics import silhouette_score

    if not 2 <= len(groups) < len(between):
        return 0.0
    return float(silhouette_score(between, _labels(groups, len(between)), metric="precomputed"))


def _labels(groups: Partition, k: int) -> NDArray[np.intp]:
    labels = np.empty(k, dtype=np.intp)
    for number, members in enumerate(groups):
        labels[members] = number
    return labels


def _cut_height(tree: FloatArray, groups: Partition) -> float:
    """Return a height between the highest merge within a group and the lowest one that is not."""
    k = len(tree) + 1
    home = _labels(groups, k).tolist()
    for a, b in tree[:, :2].astype(int).tolist():
        home.append(home[a] if home[a] == home[b] else -1)
    made = np.array(home[k:]) >= 0  # [k - 1]
    within = tree[made, 2].max(initial=0.0)
    beyond = tree[~made, 2].min(initial=np.inf)
    return float(within if np.isinf(beyond) else (within + beyond) / 2.0)


def _compared(distances: FloatArray) -> list[int]:
    """Return the sites that are compared with another one, either way."""
    finite = ~np.isnan(distances)
    np.fill_diagonal(finite, False)
    return [int(i) for i in np.flatnonzero(finite.any(axis=0) | finite.any(axis=1))]


def _mean_pair(between: FloatArray) -> float:
    k = len(between)
    mean = float(between.sum()) / max(k * (k - 1), 1)
    return mean if mean > 0 else 1.0


def _known_partners(
    distances: FloatArray, names: Sequence[str], count: int
) -> dict[str, list[Partner]]:
    """Name the nearest sources of every target, without those that nothing is known of."""
    ranked = partners(np.where(np.isnan(distances), np.inf, distances), names, count)
    return {
        site: [partner for partner in found if np.isfinite(partner.distance)]
        for site, found in ranked.items()
    }


def _stability(
    between: FloatArray, groups: Partition, options: GroupingOptions, apart: float | None
) -> list[float] | None:
    """Return how alike groups stay when parts of the sites are left out, each part once."""
    k = len(between)
    parts = min(options.draws, k)
    if parts == 0 or k < 3:
        return None
    order = np.random.default_rng(options.seed).permutation(k)
    member = together(groups, k)  # [k, k]
    total, times = np.zeros(k), np.zeros(k)
    for gone in np.array_split(order, parts):
        kept = np.setdiff1d(np.arange(k), gone)
        found = find_groups(
            between[np.ix_(kept, kept)], options, None if apart is None else 2.0 * apart
        )
        now, old = together(found.groups, len(kept)), member[np.ix_(kept, kept)]
        total[kept] += (old & now).sum(axis=1) / (old | now).sum(axis=1)
        times[kept] += 1
    return [float(value) for value in total / times]


def _unknown(measure: str) -> Explanation:
    reason = f"Alone: by measure {measure} it cannot be compared with anybody."
    return Explanation(reason=reason, margin=0.0, stability=None, nearest=[], partners=[])
