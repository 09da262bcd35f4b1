"""Directed co-training partners: the nearest sources of every target, in rank order."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from protocol.errors import BadShape

__all__ = ["Partner", "partners"]


@dataclass(frozen=True)
class Partner:
    """One suggested source for a target.

    Parameters
    ----------
    site
        Name of the source.
    rank
        1 is the nearest.
    distance
        Divergence of the source for the target; compare within one target only.
    percentile
        Share of the target's candidates that are not nearer; 1 is the best.
    """

    site: str
    rank: int
    distance: float
    percentile: float


def partners(
    distances: NDArray[np.float64],
    names: Sequence[str],
    k: int,
    targets: Sequence[str] | None = None,
) -> dict[str, list[Partner]]:
    """Rank the sources of every target.

    Parameters
    ----------
    distances
        Divergences, shape ``[S, T]``: row = source, column = target; lower is closer.
    names
        Names of the S sources.
    k
        Number of partners to return at most.
    targets
        Names of the T targets; the sources' if None. A site is never its own partner.

    Returns
    -------
    dict of str to list of Partner
        By target, nearest first; ties in the order of the names.

    Raises
    ------
    BadShape
        If the matrix does not fit the names.

    Examples
    --------
    >>> d = np.array([[0.0, 0.2], [0.1, 0.0], [0.3, 0.1]])
    >>> [p.site for p in partners(d, ["a", "b", "c"], k=2, targets=["a", "b"])["a"]]
    ['b', 'c']
    """
    goals = names if targets is None else targets
    if distances.shape != (len(names), len(goals)):
        raise BadShape(
            f"distances have shape {distances.shape}, but there are {len(names)} sources and "
            f"{len(goals)} targets"
        )
    by_name = np.argsort(np.argsort(np.array(names, dtype=object), kind="stable"))  # [S] ranks
    return {
        target: _ranked(distances[:, t], names, by_name, target, k)
        for t, target in enumerate(goals)
    }


def _ranked(
    column: NDArray[np.float64],
    names: Sequence[str],
    by_name: NDArray[np.intp],
    target: str,
    k: int,
) -> list[Partner]:
    ordered = [s for s in np.lexsort((by_name, column))[: k + 1] if names[s] != target][:k]
    others = column[[name != target for name in names]]
    return [
        Partner(names[s], i + 1, float(column[s]), float(1 - np.mean(others < column[s])))
        for i, s in enumerate(ordered)
    ]
