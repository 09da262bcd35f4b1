"""A dendrogram for groups that were not made by cutting one."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from strategies.dendrogram import centroid_distance, centroid_linkage

__all__ = ["nested_linkage"]

FloatArray = NDArray[np.float64]

_GAP = 1e-6  # least height between the last merge inside a group and the first of two groups


def nested_linkage(
    squared: FloatArray, groups: Sequence[Sequence[int]]
) -> tuple[FloatArray, float]:
    """Link sites inside every group first, then the groups, by the distance of their centroids.

    Parameters
    ----------
    squared
        Squared distances, shape ``[k, k]``; may be negative where debiased.
    groups
        Groups of indices.

    Returns
    -------
    linkage, cut
        Shape ``[k - 1, 4]`` as scipy's, heights that never fall, and the height to cut it at for
        these very groups. Where noise drives sites of a group further apart than two groups, the
        height of the latter is raised to that of the former.
    """
    k = len(squared)
    inside = sorted(  # (height, group, step, left, right) in the group's own numbers
        (float(row[2]), g, step, int(row[0]), int(row[1]))
        for g, members in enumerate(groups)
        for step, row in enumerate(centroid_linkage(squared[np.ix_(members, members)]))
    )
    names = [list(members) for members in groups]  # numbers in the whole tree, by those in a group
    size = dict.fromkeys(range(k), 1)
    rows: list[tuple[float, float, float, float]] = []

    def merge(a: int, b: int, height: float) -> int:
        new = k + len(rows)
        size[new] = size[a] + size[b]
        rows.append((min(a, b), max(a, b), height, size[new]))
        return new

    for height, g, _, left, right in inside:
        names[g].append(merge(names[g][left], names[g][right], height))
    last = rows[-1][2] if rows else 0.0
    tops = [name[-1] for name in names]
    between = np.array([[centroid_distance(squared, a, b) for b in groups] for a in groups])
    tree = centroid_linkage(between, [len(g) for g in groups])
    for row in tree:
        height = max(float(row[2]), last + _GAP)
        tops.append(merge(tops[int(row[0])], tops[int(row[1])], height))
    cut = (last + rows[k - len(groups)][2]) / 2 if len(groups) > 1 else last
    return np.array(rows, dtype=np.float64).reshape(-1, 4), cut
