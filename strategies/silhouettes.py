"""Groups by the shape of distances alone: average linkage, cut by silhouettes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import linkage as linked
from scipy.spatial.distance import squareform

from strategies.dendrogram import Partition, merge_undersized, partition, split_oversized
from strategies.grouping import GroupingOptions

__all__ = ["Found", "find_groups"]

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


def find_groups(between: FloatArray, options: GroupingOptions, apart: float | None = None) -> Found:
    """Cluster by average linkage, and cut where the mean silhouette is largest, again and again.

    The rule: of all cuts into 2 to k - 1 groups the one with the largest mean silhouette
    (Rousseeuw 1987) is taken if that is at least 0.25. Each piece is then looked into by itself,
    and cut where the largest is at least 0.5, until no piece is: one silhouette sees the widest
    gaps only. The two thresholds are those of some and of reasonable structure. A cut that only
    sets lone sites aside leaves the threshold as it was, or one site that says what is absurd
    would join all others in one group.

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
    related = sum(len(piece) > 1 for piece in pieces)
    further = FURTHER if related > 1 else needed
    return [part for piece in pieces for part in _pieces(between, piece, further)]


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
