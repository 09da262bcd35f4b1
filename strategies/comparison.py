"""How measures compare: with each other, with known families of tasks, with measured transfer.

Matrices are distances ``[source, target]``: lower is closer, NaN where a measure says nothing. What
a measure says of a task and itself is never judged, and values of different targets are only
compared where the measure makes them comparable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from protocol.errors import BadShape
from strategies.grouping_by_distance import there_and_back

__all__ = ["Recovery", "agreement", "rank_correlation", "recovery"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Recovery:
    """How well distances find tasks of one family.

    Parameters
    ----------
    adjusted_rand : float
        Adjusted Rand index (Hubert & Arabie 1985) of the average-linkage groups, as many as there
        are families, of distances taken `there_and_back`: 1 finds them all, 0 is chance.
    nearest : float
        Share of the targets whose nearest source is of their family, among targets that have kin;
        of several nearest ones each counts alike.
    chance : float
        The same share where sources are picked at random.
    """

    adjusted_rand: float
    nearest: float
    chance: float


def rank_correlation(a: Floats, b: Floats) -> Floats:
    """Return Spearman's rank correlation of two matrices within each column.

    Parameters
    ----------
    a, b
        Shape ``[n, c]``; a row counts in a column where neither is NaN.

    Returns
    -------
    ndarray
        Shape ``[c]``; 0 where one of the two ties all rows and so knows nothing, NaN where fewer
        than two rows count.
    """
    if a.shape != b.shape:
        raise BadShape(f"only matrices of one shape compare, got {a.shape} and {b.shape}")
    known = np.isfinite(a) & np.isfinite(b)  # [n, c]
    count = known.sum(axis=0)  # [c]
    x, y = (_centred_ranks(values, known, count) for values in (a, b))
    both = np.sqrt((x**2).sum(axis=0) * (y**2).sum(axis=0))  # [c]
    out = np.divide((x * y).sum(axis=0), both, out=np.zeros(len(both)), where=both > 0)
    return np.where(count < 2, np.nan, out)


def agreement(matrices: Sequence[Floats]) -> Floats:
    """Return how alike measures rank the sources: mean rank correlation over the targets.

    Parameters
    ----------
    matrices
        Distances by k measures, each ``[s, s]`` for the same tasks in the same order.

    Returns
    -------
    ndarray
        Shape ``[k, k]``, symmetric, from -1 to 1 and 1 on the diagonal; NaN where two measures
        know no target in common.
    """
    others = [_without_self(matrix) for matrix in matrices]
    out = np.eye(len(others))
    for i, one in enumerate(others):
        for j, other in enumerate(others[:i]):
            out[i, j] = out[j, i] = _mean(rank_correlation(one, other))
    return out


def recovery(distances: Floats, families: Sequence[str]) -> Recovery:
    """Judge whether distances find the tasks of one family.

    Parameters
    ----------
    distances
        Shape ``[k, k]``, k at least 2.
    families
        The family of each task, length k.

    Returns
    -------
    Recovery
        `nearest` is NaN if no family has two tasks of which the measure says anything.
    """
    from sklearn.metrics import adjusted_rand_score

    if distances.shape != (len(families), len(families)):
        raise BadShape(f"{len(families)} families do not fit distances of {distances.shape}")
    kin = np.array(families)[:, None] == np.array(families)[None, :]  # [k, k]
    others = _without_self(distances)
    np.fill_diagonal(kin, False)
    judged = np.isfinite(others).any(axis=0) & kin.any(axis=0)  # [k] targets
    reached = np.where(np.isfinite(others), others, np.inf)
    nearest = reached == reached.min(axis=0)  # [k, k] where several tie, any of them
    found = (kin & nearest).sum(axis=0) / nearest.sum(axis=0)  # [k]
    tree = linkage(squareform(there_and_back(distances), checks=False), "average")
    groups = fcluster(tree, len(set(families)), "maxclust")  # [k]
    return Recovery(
        float(adjusted_rand_score(families, groups)),
        _mean(found[judged]),
        _mean((kin.sum(axis=0) / (len(kin) - 1))[judged]),
    )


def _centred_ranks(values: Floats, known: NDArray[np.bool_], count: NDArray[np.intp]) -> Floats:
    """Return average ranks [n, c] minus their column's mean, 0 for what does not count."""
    ranks = stats.rankdata(np.where(known, values, np.inf), axis=0)  # what is unknown comes last
    return np.where(known, ranks - (count + 1) / 2, 0.0)


def _without_self(distances: Floats) -> Floats:
    out = np.array(distances, dtype=np.float64)
    np.fill_diagonal(out, np.nan)
    return out


def _mean(values: Floats) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")
