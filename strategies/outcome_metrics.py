"""How good a ranking of sources was, judged by what the transfers really gave.

The measures of Godau et al. (arXiv 2412.08763), each of one target in one scenario and metric:
higher performance is better, and every function takes the performances of all possible sources.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

__all__ = ["MEASURES", "judge", "percentiles", "regret", "weighted_tau"]

Floats = NDArray[np.float64]

MEASURES = (
    "percentile1", "percentile3", "gain1", "gain3", "gain5", "improvement1", "regret1",
    "weightedtau",
)  # fmt: skip
"""What `judge` returns, in this order."""


def percentiles(performance: Floats, *, as_published: bool = False) -> Floats:
    """Return for every source the share of possible outcomes that are not above its own.

    Parameters
    ----------
    performance
        Performance with each of the n sources, shape ``[n]``.
    as_published
        Give ties their average rank (pandas' ``rank(pct=True)``) instead of the highest.

    Returns
    -------
    ndarray
        From 1/n to 1, shape ``[n]``; 1 is the best.
    """
    if as_published:
        return np.asarray(stats.rankdata(performance, method="average") / len(performance))
    return np.asarray(stats.rankdata(performance, method="max") / len(performance))


def regret(performance: Floats, chosen: int, *, as_published: bool = False) -> float:
    """Return the share of the way to perfection that the best source goes beyond the chosen one.

    ``(best - chosen) / (1 - chosen)``; 0 when the pick is perfect.

    Parameters
    ----------
    performance
        Performance with each of the n sources, shape ``[n]``; 1 is perfect.
    chosen
        Position of the source that was picked.
    as_published
        Score a pick of performance exactly 1 (0 / 0) as the worst regret, 1.
    """
    value = float(performance[chosen])
    if value >= 1:
        return 1.0 if as_published else 0.0
    return float((performance.max() - value) / (1 - value))


def weighted_tau(scores: Floats, performance: Floats) -> float:
    """Return scipy's hyperbolic weighted Kendall's tau of the whole ranking.

    A selector that gives every source the same score knows nothing: 0. NaN if all performances
    are equal, because then there is nothing to know.
    """
    if np.ptp(performance) == 0:
        return float("nan")
    if np.ptp(scores) == 0:
        return 0.0
    return float(stats.weightedtau(scores, performance).statistic)


def judge(
    scores: Floats,
    performance: Floats,
    baseline: float,
    *,
    order: NDArray[np.intp] | None = None,
    draws: int = 20,
    rng: np.random.Generator | None = None,
    as_published: bool = False,
) -> Floats:
    """Return every measure of one ranking.

    Parameters
    ----------
    scores
        What the selector thinks of each of the n sources, shape ``[n]``; higher is better.
        NaN, a source the selector knows nothing of, comes last.
    performance
        What came of it, shape ``[n]``.
    baseline
        Performance without any transfer; NaN leaves gain and improvement unknown.
    order
        The shots, if they are not simply the highest scores first; positions, shape ``[n]``.
    draws
        Ties among scores are broken at random so many times, and the measures averaged.
    rng
        For the ties; seed 0 if None.
    as_published
        See `percentiles` and `regret`.

    Returns
    -------
    ndarray
        In the order of `MEASURES`. ``percentile3`` is the mean of three shots, ``gain3`` whether
        any of three beats the baseline.
    """
    known = np.isfinite(scores)
    floor = scores[known].min() - 1 if known.any() else 0.0
    scores = np.where(known, scores, floor)
    if order is not None:
        orders = [order]
    elif len(np.unique(scores)) == len(scores):
        orders = [np.argsort(-scores)]
    else:
        rng = np.random.default_rng(0) if rng is None else rng
        orders = [np.lexsort((rng.random(len(scores)), -scores)) for _ in range(draws)]
    shares = percentiles(performance, as_published=as_published)
    rows = [_of_order(o, performance, shares, baseline, as_published) for o in orders]
    return np.append(np.mean(rows, axis=0), weighted_tau(scores, performance))


def _of_order(
    order: NDArray[np.intp],
    performance: Floats,
    shares: Floats,
    baseline: float,
    as_published: bool,
) -> list[float]:
    better = performance[order] - baseline
    gains = [
        float("nan") if np.isnan(baseline) else float((better[:k] > 0).any()) for k in (1, 3, 5)
    ]
    return [
        float(shares[order[0]]),
        float(shares[order[:3]].mean()),
        *gains,
        float(better[0]),
        regret(performance, int(order[0]), as_published=as_published),
    ]
