"""How well a measure would have chosen sources, judged by what the transfers really gave."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from strategies.comparison import rank_correlation
from strategies.outcome_metrics import MEASURES, judge

__all__ = ["BOOTSTRAPS", "JUDGEMENTS", "interval", "judged_by_transfer"]

Floats = NDArray[np.float64]

JUDGEMENTS = ("weightedtau", "spearman", "kendall", "percentile1", "improvement1")
"""Rank correlations of the whole ranking; the percentile of its first shot, and what it gains."""
BOOTSTRAPS = 1000


def judged_by_transfer(
    distances: Floats, performance: Floats, baseline: Floats, *, seed: int = 0
) -> Floats:
    """Judge a measure's ranking of the sources, target by target.

    Conventions are those of `strategies.outcome_metrics.judge`: a source of which the measure says
    nothing comes last, and a ranking that ties all sources correlates with nothing.

    Parameters
    ----------
    distances
        Shape ``[s, t]``, lower is closer, NaN where unknown.
    performance
        Outcomes, shape ``[repetition, t, s]``, higher is better; NaN where nothing was measured.
    baseline
        Without transfer, shape ``[repetition, t]``; NaN where unknown.
    seed
        Of how ties are broken where a first shot must be taken.

    Returns
    -------
    ndarray
        Shape ``[judgement, t]`` in the order of `JUDGEMENTS`: means over the repetitions. NaN for a
        target with fewer than two measured sources that the measure knows.
    """
    out = np.full((len(JUDGEMENTS), distances.shape[1]), np.nan)
    for target in range(distances.shape[1]):
        known = np.isfinite(distances[:, target])
        repetitions = [
            _judged(-distances[done, target], outcome[done], float(alone), seed)
            for outcome, alone in zip(performance[:, target], baseline[:, target], strict=True)
            if ((done := np.isfinite(outcome)) & known).sum() >= 2
        ]
        if repetitions:
            out[:, target] = _known_mean(np.stack(repetitions))
    return out


def interval(values: Floats, seed: int = 0) -> tuple[Floats, Floats, Floats]:
    """Return mean and 95 % percentile interval over the last axis, the targets.

    The same targets are drawn for every measure, so that measures may be compared draw by draw.

    Parameters
    ----------
    values
        Shape ``[..., t]``; NaN is left out.
    seed
        Of the bootstrap.

    Returns
    -------
    mean, low, high : ndarray
        Shape ``[...]``; NaN where no target is known.
    """
    targets = values.shape[-1]
    draws = np.random.default_rng(seed).integers(0, targets, (BOOTSTRAPS, targets))
    drawn = _known_mean(np.moveaxis(values[..., draws], -1, 0))  # [..., bootstrap]
    mean = _known_mean(np.moveaxis(values, -1, 0))
    drawn = np.where(np.isnan(mean)[..., None], 0.0, drawn)  # else percentiles of nothing
    low, high = np.nanpercentile(drawn, [2.5, 97.5], axis=-1)
    return mean, np.where(np.isnan(mean), np.nan, low), np.where(np.isnan(mean), np.nan, high)


def _judged(scores: Floats, performance: Floats, baseline: float, seed: int) -> Floats:
    """Return all judgements of scores [n] for one target and repetition."""
    known = np.isfinite(scores)
    scores = np.where(known, scores, scores[known].min() - 1)
    by_name = dict(
        zip(
            MEASURES,
            judge(scores, performance, baseline, rng=np.random.default_rng(seed)),
            strict=True,
        )
    )
    spearman = rank_correlation(scores[:, None], performance[:, None])[0]
    kendall = 0.0 if np.ptp(scores) == 0 else stats.kendalltau(scores, performance).statistic
    if np.ptp(performance) == 0:  # all sources served alike: there is nothing to know
        spearman = kendall = np.nan
    by_name |= {"spearman": spearman, "kendall": kendall}
    return np.array([by_name[name] for name in JUDGEMENTS])


def _known_mean(values: Floats) -> Floats:
    """Return the mean over the first axis of what is not NaN."""
    known = np.isfinite(values)
    total, count = np.where(known, values, 0.0).sum(axis=0), known.sum(axis=0)
    return np.asarray(np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0))
