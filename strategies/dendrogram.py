r"""Centroid linkage on squared distances, and where to cut it.

The height of a merge is the squared distance between the centroids of its two groups,

.. math:: h(A, B) = \overline{D}_{AB} - \tfrac12 \overline{D}_{AA} - \tfrac12 \overline{D}_{BB}

so a group whose sites differ among themselves (other scanners, other slices, other class shares)
does not look far from everybody. The recurrence (Lance & Williams 1967) is linear in the squared
distances, hence exact on debiased ones too, negative values included.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

__all__ = [
    "Cut",
    "Partition",
    "best_cut",
    "centroid_distance",
    "centroid_linkage",
    "merge_undersized",
    "partition",
    "split_oversized",
]

FloatArray = NDArray[np.float64]
Partition = list[list[int]]

_FLOOR = 1e-12  # heights at or below 0: the same population


@dataclass(frozen=True)
class Cut:
    """Where a dendrogram is cut.

    Parameters
    ----------
    merges
        Number of merges made; k - merges groups remain.
    height
        Squared distance at which it is cut.
    support
        Belief in this number of groups, between 0 and 1.
    """

    merges: int
    height: float
    support: float


def centroid_linkage(squared: FloatArray, sizes: Sequence[int] | None = None) -> FloatArray:
    """Merge the two groups with the nearest centroids until one is left.

    Parameters
    ----------
    squared
        Squared distances, shape ``[k, k]``, symmetric; may be negative where debiased.
    sizes
        How many sites each of the k stands for, length k; one each if None.

    Returns
    -------
    numpy.ndarray
        Shape ``[k - 1, 4]`` as `scipy.cluster.hierarchy.linkage` returns it. Heights are squared
        distances; where a centroid moved closer (an inversion) a merge has the height of the one
        before, so that heights never fall.
    """
    k = len(squared)
    d = np.array(squared, dtype=np.float64)  # [k, k], rows of merged groups become inf
    np.fill_diagonal(d, np.inf)
    size = np.ones(k) if sizes is None else np.array(sizes, dtype=np.float64)
    name = np.arange(k)
    merges = np.empty((max(0, k - 1), 4))
    nearest, least = _nearest(d)
    for step in range(k - 1):
        first = int(least.argmin())
        i, j = sorted((first, int(nearest[first])))
        height, total = d[i, j], size[i] + size[j]
        merges[step] = *sorted((name[i], name[j])), max(height, 0.0), total
        a, b = size[i] / total, size[j] / total
        moved = a * d[i] + b * d[j] - a * b * height  # [k] squared distance from the new centroid
        d[i, :], d[:, i] = moved, moved
        d[i, i] = np.inf
        d[j, :], d[:, j] = np.inf, np.inf
        size[i], name[i] = total, k + step
        closer = (moved < least) | ((moved == least) & (nearest > i))
        nearest[closer], least[closer] = i, moved[closer]
        gone = (nearest == i) & ~closer | (nearest == j)
        gone[[i, j]] = True
        stale = np.flatnonzero(gone)
        nearest[stale], least[stale] = _nearest(d[stale])
    merges[:, 2] = np.maximum.accumulate(merges[:, 2]) if k > 1 else merges[:, 2]
    return merges


def _nearest(rows: FloatArray) -> tuple[NDArray[np.intp], FloatArray]:
    """Return where each row ``[r, k]`` is least, of several the first, and its least value."""
    where = rows.argmin(axis=1) if rows.size else np.empty(len(rows), dtype=np.intp)
    return where, rows[np.arange(len(rows)), where]


def best_cut(linkage: FloatArray, scale: float, spread: float) -> Cut:
    r"""Choose the number of groups that most cuts agree on.

    Where "the same task" ends is known only roughly: we believe in a cut at height t with
    :math:`\ln t \sim N(\ln scale, spread^2)`. A number of groups is right for all t between two
    successive heights, so its support is the belief in that interval: a wide gap near the scale
    wins. One group (the interval above the last height) and all alone (below the first) compete
    like any other.

    Parameters
    ----------
    linkage
        Shape ``[k - 1, 4]``, heights that never fall.
    scale
        Squared distance where the belief is centred.
    spread
        Standard deviation of its logarithm.

    Returns
    -------
    Cut
        Of equally supported numbers the larger number of groups.
    """
    heights = np.concatenate([[0.0], linkage[:, 2], [np.inf]])  # [k + 1]
    belief = ndtr(np.log(np.maximum(heights, _FLOOR) / scale) / spread)  # [k + 1]
    belief[0] = 0.0
    support = np.diff(belief)  # [k] by number of merges
    merges = int(np.argmax(support))
    height = float(np.clip(scale, heights[merges], heights[merges + 1]))
    return Cut(merges, height, float(support[merges]))


def partition(linkage: FloatArray, merges: int) -> Partition:
    """Return the groups after the first merges, each sorted, in the order of their first member.

    Parameters
    ----------
    linkage
        Shape ``[k - 1, 4]``.
    merges
        Number of merges to make, 0 to k - 1.
    """
    k = len(linkage) + 1
    groups = {i: [i] for i in range(k)}
    for step in range(merges):
        a, b = int(linkage[step, 0]), int(linkage[step, 1])
        groups[k + step] = groups.pop(a) + groups.pop(b)
    return sorted(sorted(members) for members in groups.values())


def split_oversized(linkage: FloatArray, groups: Partition, max_size: int) -> Partition:
    """Undo the latest merges within every group that is too large.

    Parameters
    ----------
    linkage
        Shape ``[k - 1, 4]``.
    groups
        Groups that are subtrees of the dendrogram.
    max_size
        Largest number of members.
    """
    finer = {merges: partition(linkage, merges) for merges in range(len(linkage))}
    result: Partition = []
    for members in groups:
        result += _split(members, finer, max_size)
    return sorted(result)


def _split(members: list[int], finer: dict[int, Partition], max_size: int) -> Partition:
    if len(members) <= max_size:
        return [members]
    inside = set(members)
    for merges in sorted(finer, reverse=True):
        parts = [part for part in finer[merges] if inside.issuperset(part)]
        if len(parts) > 1 and sum(map(len, parts)) == len(members):
            return [piece for part in parts for piece in _split(part, finer, max_size)]
    return [[i] for i in members]


def merge_undersized(
    squared: FloatArray, groups: Sequence[list[int]], min_size: int, max_size: int | None
) -> Partition:
    """Join every group that is too small with the nearest one that has room, smallest first.

    Parameters
    ----------
    squared
        Squared distances, shape ``[k, k]``.
    groups
        Groups of indices.
    min_size, max_size
        Smallest and largest number of members; a group for which nobody has room stays small.
    """
    done: Partition = []
    todo = sorted((sorted(g) for g in groups), key=lambda g: (len(g), g))
    while todo and len(todo[0]) < min_size:
        small = todo.pop(0)
        room = [g for g in todo + done if max_size is None or len(g) + len(small) <= max_size]
        if not room:
            done.append(small)
            continue
        nearest = min(room, key=lambda g: (centroid_distance(squared, small, g), g))
        (todo if nearest in todo else done).remove(nearest)
        todo = sorted([*todo, sorted(small + nearest)], key=lambda g: (len(g), g))
    return sorted(todo + done)


def centroid_distance(squared: FloatArray, a: Sequence[int], b: Sequence[int]) -> float:
    """Return the squared distance between the centroids of two groups of indices.

    Parameters
    ----------
    squared
        Squared distances, shape ``[k, k]``, 0 on the diagonal.
    a, b
        Indices of the members.
    """
    between = squared[np.ix_(a, b)].mean()
    own = squared[np.ix_(a, a)].mean() + squared[np.ix_(b, b)].mean()
    return float(between - own / 2)
