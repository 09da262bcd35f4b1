"""The figures that a report speaks of: means of the arms and paired differences between them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from protocol.runfiles import SiteMetrics

ARMS = ("alone", "together", "random", "grouped", "planned", "final")
COMPARISONS = (
    ("grouped", "alone"),
    ("grouped", "together"),
    ("grouped", "random"),
    ("planned", "grouped"),
    ("final", "alone"),
)


@dataclass(frozen=True)
class Paired:
    """Difference of two arms over the sites that have both.

    Attributes
    ----------
    arm, against : str
        The difference is ``arm - against``.
    mean : float
        Mean difference of balanced accuracy, from -1 to 1.
    low, high : float or None
        95 % interval of Student's t over the sites; None for fewer than two.
    sites, better, worse : int
        Sites with both arms, and with a difference above and below 0.
    """

    arm: str
    against: str
    mean: float
    low: float | None
    high: float | None
    sites: int
    better: int
    worse: int


def arm_means(metrics: Iterable[SiteMetrics]) -> dict[str, float]:
    """Return the mean of every arm over the sites that have *all* the arms that anyone has.

    Parameters
    ----------
    metrics : iterable of SiteMetrics
        One a site.

    Returns
    -------
    dict of str to float
        By arm, in the order of `ARMS`; arms that nobody has are missing.
    """
    rows = list(metrics)
    arms = [arm for arm in ARMS if any(getattr(row, arm) is not None for row in rows)]
    full = [r for row in rows if None not in (r := [getattr(row, arm) for arm in arms])]
    if not full:
        return {}
    means = np.mean(np.array(full, dtype=np.float64), axis=0)  # [arms]
    return dict(zip(arms, means.tolist(), strict=True))


def paired(metrics: Iterable[SiteMetrics], arm: str, against: str) -> Paired | None:
    """Compare two arms site by site.

    Parameters
    ----------
    metrics : iterable of SiteMetrics
        One a site.
    arm, against : str
        Names of arms.

    Returns
    -------
    Paired or None
        None when no site has both.
    """
    values = [(getattr(row, arm), getattr(row, against)) for row in metrics]
    difference = np.array([a - b for a, b in values if a is not None and b is not None])  # [n]
    count = len(difference)
    if not count:
        return None
    low = high = None
    if count > 1:
        half = float(stats.sem(difference) * stats.t.ppf(0.975, count - 1))
        low, high = float(difference.mean()) - half, float(difference.mean()) + half
    return Paired(
        arm,
        against,
        float(difference.mean()),
        low,
        high,
        count,
        better=int((difference > 0).sum()),
        worse=int((difference < 0).sum()),
    )


def comparisons(metrics: Sequence[SiteMetrics]) -> list[Paired]:
    """Return the comparisons that matter, as far as their arms ran."""
    found = (paired(metrics, arm, against) for arm, against in COMPARISONS)
    return [pair for pair in found if pair is not None]
