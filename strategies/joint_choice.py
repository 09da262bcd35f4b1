"""One choice for a whole group out of what each of its sites scored by itself.

Sites of a group differ in how hard their tasks are, so scores are compared within a site only: a
candidate's place is its rank there, and its gain is over what the very same site has without it.

    rank[c]  = mean over sites of the rank of candidate c among all of the site's, baseline included
    best     = the candidate of the lowest mean rank (1 is best; of equals the first)
    gain     = mean over sites of score[best] - score[baseline]
    error    = standard deviation of these differences / sqrt(sites)

The best is taken if its gain is above 0 and above its error, and else nothing changes. Where the
differences have no spread (or there is only one of them) chance cannot be told from gain by it;
then the mean loss must be lower as well.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from protocol.errors import BadShape

Floats = NDArray[np.float64]

__all__ = ["JointChoice", "joint_choice"]


@dataclass(frozen=True)
class JointChoice:
    """What a group chose.

    Attributes
    ----------
    best : int or None
        Position of the candidate that ranks best, from 0; None where there was nothing to compare.
    taken : bool
        Whether the group takes it.
    gain, error : float or None
        Mean gain of the best over the baseline, and its standard error; of one site there is none.
    sites : int
        How many sites were compared.
    """

    best: int | None
    taken: bool = False
    gain: float | None = None
    error: float | None = None
    sites: int = 0


def joint_choice(score: Floats, loss: Floats) -> JointChoice:
    """Choose one candidate for all sites of a group, or none.

    Parameters
    ----------
    score : ndarray, float [candidates + 1, sites]
        On each site's validation data, higher is better; the first row is the baseline. NaN where
        a site could not try a candidate: it would keep what it has, so it counts as its baseline
        there. A site without a baseline takes no part.
    loss : ndarray, float [candidates + 1, sites]
        The same of the loss, which tells equal scores apart.

    Raises
    ------
    BadShape
        If there is no row, or the two differ in shape.
    """
    if score.shape != loss.shape or score.ndim != 2 or len(score) == 0:
        raise BadShape(f"scores {score.shape} and loss {loss.shape} are no scores of a group")
    judging = np.isfinite(score[0])
    kept = score[:, judging]
    absent = ~np.isfinite(kept)
    value = np.where(absent, kept[:1], kept)  # [candidates + 1, judging sites]
    losses = np.where(absent, loss[:1, judging], loss[:, judging])
    losses = np.where(np.isfinite(losses), losses, np.inf)  # one that diverged is the worst
    if value.size == 0 or len(value) == 1 or absent[1:].all():
        return JointChoice(None)
    best = int(np.argmin(_ranks(value, losses)[1:].mean(axis=1).round(9)))
    gains = value[best + 1] - value[0]
    gain, error = float(gains.mean()), _error(gains)
    # a gain at one site only is as large as its own error, whatever rounding makes of that
    sure = gain > error * (1 + 1e-9) if error else losses[best + 1].mean() < losses[0].mean()
    return JointChoice(best, bool(gain > 0 and sure), gain, error, len(gains))


def _ranks(value: Floats, loss: Floats) -> Floats:
    """Return the rank of every row within each column: 1 is best, equals share their mean rank."""
    more = value[None] > value[:, None]  # [this, other, sites]
    same = value[None] == value[:, None]
    better = more | (same & (loss[None] < loss[:, None]))
    equal = same & (loss[None] == loss[:, None])
    return np.asarray(1 + better.sum(axis=1) + (equal.sum(axis=1) - 1) / 2, dtype=np.float64)


def _error(gains: Floats) -> float | None:
    """Return the standard error of the mean gain, None of a single one."""
    if len(gains) < 2:
        return None
    spread = float(gains.std(ddof=1))
    return spread / float(np.sqrt(len(gains))) if spread > 1e-12 else 0.0
