"""A linear model in which every observation belongs to one group, and what its data add up to.

Some columns of the design are one group's own, 0 for the observations of all others; the rest are
shared. So ``X'X`` is block-diagonal with a border, and one group's block is all that is kept of it.
The p coefficients are those of the G groups, w each, one group after the other, and q shared ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Rows", "Sums", "split"]

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]


@dataclass(frozen=True)
class Rows:
    """The design of n observations.

    Parameters
    ----------
    group
        Whose each is, shape ``[n]``.
    own
        Columns of that group, shape ``[n, w]``.
    shared
        Columns of all, shape ``[n, q]``.
    """

    group: Ints
    own: Floats
    shared: Floats


@dataclass(frozen=True)
class Sums:
    """What observations add up to: all that a regression needs of them.

    Parameters
    ----------
    own, border, shared
        ``X'X`` within groups, between them and the shared columns, and within these, shapes
        ``[G, w, w]``, ``[G, w, q]`` and ``[q, q]``.
    moment
        ``X'y``, shape ``[p]``.
    square
        ``y'y``.
    count
        Number of observations.
    """

    own: Floats
    border: Floats
    shared: Floats
    moment: Floats
    square: float
    count: int

    @staticmethod
    def of(rows: Rows, values: Floats, groups: int) -> Sums:
        """Return the sums of observations with these values, shape ``[n]``."""
        width, common = rows.own.shape[1], rows.shared.shape[1]
        own, border = np.zeros((groups, width, width)), np.zeros((groups, width, common))
        moment = np.zeros((groups, width))
        for group in np.unique(rows.group):
            k = rows.group == group
            mine = rows.own[k]
            own[group] = mine.T @ mine
            border[group] = mine.T @ rows.shared[k]
            moment[group] = mine.T @ values[k]
        return Sums(
            own, border, rows.shared.T @ rows.shared,
            np.concatenate([moment.ravel(), rows.shared.T @ values]),
            float(values @ values), len(values),
        )  # fmt: skip

    def __add__(self, other: Sums) -> Sums:
        """Return the sums with the other's observations."""
        return self._plus(other, 1)

    def __sub__(self, other: Sums) -> Sums:
        """Return the sums without the other's observations."""
        return self._plus(other, -1)

    def misfit(self, weights: Floats) -> float:
        """Return the sum of squared residuals under coefficients ``[p]``."""
        own, shared = split(weights, *self.own.shape[:2])
        explained = np.einsum("gi,gij,gj->", own, self.own, own, optimize=True)
        explained += 2 * np.einsum("gi,giq->q", own, self.border, optimize=True) @ shared
        explained += shared @ self.shared @ shared
        return float(self.square - 2 * weights @ self.moment + explained)

    def _plus(self, other: Sums, sign: int) -> Sums:
        return Sums(
            self.own + sign * other.own, self.border + sign * other.border,
            self.shared + sign * other.shared, self.moment + sign * other.moment,
            self.square + sign * other.square, self.count + sign * other.count,
        )  # fmt: skip


def split(values: Floats, groups: int, width: int) -> tuple[Floats, Floats]:
    """Return the groups' part ``[G, w]`` and the shared part ``[q]`` of ``[p]`` values."""
    size = groups * width
    return values[:size].reshape(groups, width), values[size:]
