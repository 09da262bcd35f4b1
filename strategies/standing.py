"""Where a source stands among the sources that were tried on the same target.

Performances of different tasks cannot be compared, ranks within one task can: a standing is the
expected normal score of a rank (Blom 1958), so that three tried sources and thirty speak the same
language.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from protocol.errors import BadShape

__all__ = ["Outcomes", "Standings", "normal_scores", "standings"]

Ints = NDArray[np.intp]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Outcomes:
    """Measured transfers of one scenario, one entry each; tasks and metrics by position.

    Parameters
    ----------
    target, source, metric, repetition
        Positions, shape ``[n]``.
    performance
        Higher is better, shape ``[n]``; NaN where unknown.
    baseline
        The target's performance without transfer, shape ``[n]``, or None. It counts as one more
        contender: with few sources tried it tells whether all of them were good.
    """

    target: Ints
    source: Ints
    metric: Ints
    repetition: Ints
    performance: Floats
    baseline: Floats | None = None

    def __post_init__(self) -> None:
        """Refuse arrays of different lengths."""
        arrays = [self.target, self.source, self.metric, self.repetition, self.performance]
        arrays += [] if self.baseline is None else [self.baseline]
        if len({array.shape for array in arrays}) != 1 or self.target.ndim != 1:
            raise BadShape("the arrays of the outcomes must be one-dimensional and equally long")


@dataclass(frozen=True)
class Standings:
    """One standing a (target, source, metric): repetitions are averaged. Shapes ``[n]``."""

    target: Ints
    source: Ints
    metric: Ints
    value: Floats

    def of(self, target: int) -> Standings:
        """Return one target's."""
        k = self.target == target
        return Standings(self.target[k], self.source[k], self.metric[k], self.value[k])


def normal_scores(values: Floats) -> Floats:
    """Return expected standard normal order statistics of the ranks; NaN stays NaN.

    Examples
    --------
    >>> normal_scores(np.array([0.1, 0.9, 0.5])).round(2).tolist()
    [-0.82, 0.82, 0.0]
    """
    out = np.full(len(values), np.nan)
    known = np.isfinite(values)
    ranks = stats.rankdata(values[known])
    out[known] = special.ndtri((ranks - 0.375) / (known.sum() + 0.25))
    return out


def standings(outcomes: Outcomes) -> Standings:
    """Return where every source stands within its target, metric and repetition.

    Parameters
    ----------
    outcomes
        Measured transfers of one scenario.

    Returns
    -------
    Standings
        Ordered by target, source, metric.
    """
    keys = np.stack([outcomes.target, outcomes.metric, outcomes.repetition], axis=1)
    known = np.isfinite(outcomes.performance)
    value = np.full(len(known), np.nan)
    _, race = np.unique(keys, axis=0, return_inverse=True)
    for members in _groups(race.reshape(-1), known):
        value[members] = _race(outcomes, members)
    cells = np.stack([outcomes.target, outcomes.source, outcomes.metric], axis=1)[known]
    if not len(cells):
        empty = np.zeros(0, dtype=np.intp)
        return Standings(empty, empty, empty, np.zeros(0))
    unique, where = np.unique(cells, axis=0, return_inverse=True)
    where = where.reshape(-1)
    mean = np.bincount(where, value[known]) / np.bincount(where)
    return Standings(unique[:, 0], unique[:, 1], unique[:, 2], mean)


def _race(outcomes: Outcomes, members: Ints) -> Floats:
    performance = outcomes.performance[members]
    if outcomes.baseline is None or not np.isfinite(outcomes.baseline[members[0]]):
        return normal_scores(performance)
    with_baseline = np.append(performance, outcomes.baseline[members[0]])
    return normal_scores(with_baseline)[:-1]


def _groups(race: Ints, known: NDArray[np.bool_]) -> list[Ints]:
    order = np.flatnonzero(known)[np.argsort(race[known], kind="stable")]
    cuts = np.flatnonzero(np.diff(race[order])) + 1
    return [group for group in np.split(order, cuts) if len(group)]
