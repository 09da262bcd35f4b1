"""The dendrogram in words: which branches meet, and how far apart they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MOST_NAMES = 6
"""Sites of a branch that are named; the rest is counted."""


@dataclass(frozen=True)
class Merge:
    """Two branches that meet.

    Attributes
    ----------
    height : float
        Mean symmetrised excess distance between their sites.
    left, right : str
        Their sites.
    """

    height: float
    left: str
    right: str


def merges(sites: Sequence[str], linkage: NDArray[np.float64]) -> list[Merge]:
    """Return the branches of a dendrogram, the nearest first.

    Parameters
    ----------
    sites : sequence of str
        Names of the k leaves.
    linkage : float64 array
        Shape ``[k - 1, 4]``, as scipy's.
    """
    members = [[site] for site in sites]
    found = []
    for left, right, height, _ in linkage.tolist():
        a, b = members[int(left)], members[int(right)]
        found.append(Merge(height, _named(a), _named(b)))
        members.append(a + b)
    return found


def _named(sites: Sequence[str]) -> str:
    more = f" and {len(sites) - MOST_NAMES} more" if sites[MOST_NAMES:] else ""
    return ", ".join(sites[:MOST_NAMES]) + more
