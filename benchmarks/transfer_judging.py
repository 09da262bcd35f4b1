"""Every measure against measured transfer: rank correlations and picks, with intervals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from fl_server.replay_data import ReplayData
from fl_server.replay_run import judged
from fl_server.replay_selectors import references, simple_selectors
from strategies.outcome_metrics import MEASURES

Floats = NDArray[np.float64]
COLUMNS = (
    *("weightedtau", "Spearman", "Kendall", "percentile1", "gain1", "improvement1"),
    "specific",
)
BOOTSTRAPS = 2000


def among_strangers(data: ReplayData, families: dict[str, str]) -> ReplayData:
    """Return the same outcomes without those between siblings."""
    family = np.array([families[task] for task in data.tasks])
    eligible = family[:, None] != family[None, :]
    performance = np.where(eligible.T, data.performance, np.nan)
    return replace(data, performance=performance, eligible=data.eligible & eligible)


def judge_all(data: ReplayData, seed: int = 0) -> dict[str, Floats]:
    """Judge every distance of the folder, and what bounds them.

    Returns
    -------
    dict
        By name, shape ``[scenario, column, target]``: mean over metrics and repetitions, columns
        as in `COLUMNS`.
    """
    rng = np.random.default_rng(seed)
    selectors = simple_selectors(data)
    selectors.pop("oracle")
    out = {name: _judged(data, scores, rng) for name, scores in selectors.items()}
    for name, scores in references(data).items():
        out[name] = _judged(data, scores, rng)
        out[name][:, COLUMNS.index("specific")] = np.nan  # they are made of the outcomes
    return out


def _judged(data: ReplayData, scores: Floats, rng: np.random.Generator) -> Floats:
    known = judged(data, scores, rng, as_published=False)  # [scenario, metric, measure, target]
    picks = {name: mean(known[:, :, i], 1) for i, name in enumerate(MEASURES)}
    ranks = mean(_rank_correlations(data, scores), 2)  # [2, scenario, target]
    columns = picks | {"Spearman": ranks[0], "Kendall": ranks[1]}
    columns["specific"] = _specific(data, scores)
    return np.stack([columns[name] for name in COLUMNS], axis=1)


def _specific(data: ReplayData, scores: Floats) -> Floats:
    """Return Spearman's rho of what is a pair's own, ``[scenario, target]``.

    Some sources serve every target well, and some measures rank sources nearly alike for every
    target. So each source's mean over the targets is taken from its ranks, those by the measure
    and those by the outcomes (mean over metrics and repetitions), before the two are correlated.
    """
    reached = mean(mean(_standings(data.performance), 2), 1)  # [scenario, target, source]
    known = np.isfinite(data.performance)
    wide = np.where(known, np.broadcast_to(scores, data.performance.shape), np.nan)
    told = mean(mean(_standings(wide), 2), 1)
    out = np.full(reached.shape[:2], np.nan)
    for s, t in np.ndindex(*out.shape):
        own, other = (x[s, t] - mean(x[s], 0) for x in (told, reached))
        both = np.isfinite(own) & np.isfinite(other)
        if both.sum() > 2:
            flat = np.ptp(told[s, t][both]) < 1e-9  # but for the last bit
            out[s, t] = 0.0 if flat else stats.spearmanr(own[both], other[both]).statistic
    return out


def _standings(values: Floats) -> Floats:
    """Return ranks within the last axis, from 0 to 1; what is unknown stays so."""
    known = np.isfinite(values)
    ranks = stats.rankdata(np.where(known, values, np.inf), axis=-1)
    return np.where(known, (ranks - 1) / np.maximum(known.sum(-1, keepdims=True) - 1, 1), np.nan)


def _rank_correlations(data: ReplayData, scores: Floats) -> Floats:
    """Return Spearman's rho and Kendall's tau-b, mean over repetitions; equal scores know nothing.

    A source that the measure knows nothing of comes last, as in `judge`.
    """
    scores = np.broadcast_to(scores, data.performance.shape)
    scenarios, metrics, repetitions, targets, _ = scores.shape
    out = np.full((2, scenarios, metrics, repetitions, targets), np.nan)
    for where in np.ndindex(scenarios, metrics, repetitions, targets):
        there = np.isfinite(data.performance[where])
        performance, own = data.performance[where][there], scores[where][there]
        if len(performance) < 2 or np.ptp(performance) == 0:
            continue
        finite = np.isfinite(own)
        own = np.where(finite, own, own[finite].min() - 1 if finite.any() else 0.0)
        known = np.ptp(own) > 0
        out[(0, *where)] = stats.spearmanr(own, performance).statistic if known else 0.0
        out[(1, *where)] = stats.kendalltau(own, performance).statistic if known else 0.0
    return mean(out, 3)


def mean(values: Floats, axis: int) -> Floats:
    """Return the mean of what is known, NaN where nothing is."""
    known = np.isfinite(values)
    total, count = np.where(known, values, 0).sum(axis=axis), known.sum(axis=axis)
    return np.asarray(np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0))


def interval(values: Floats, seed: int = 0) -> tuple[float, float, float]:
    """Return mean and 95 % percentile interval over bootstraps of the targets, values ``[target]``.

    The same draws serve everything of one length, so that differences are paired.
    """
    draws = np.random.default_rng(seed).integers(0, len(values), (BOOTSTRAPS, len(values)))
    resampled = mean(values[draws], 1)
    low, high = np.nanpercentile(np.nan_to_num(resampled), [2.5, 97.5])
    return float(mean(values, 0)), float(low), float(high)


def table(data: ReplayData, found: dict[str, Floats], scenario: str, against: str) -> str:
    """Return one scenario's table as Markdown, the best weighted tau first.

    Parameters
    ----------
    data, found
        What was judged, and what came of it.
    scenario : str
        Which one.
    against : str
        The measure that the last column subtracts, in weighted tau, target by target.
    """
    s = data.scenarios.index(scenario)
    rows = {name: values[s] for name, values in found.items()}  # [column, target]
    order = sorted(rows, key=lambda name: -float(mean(rows[name][0], 0)))
    names = ["weightedtau", "Spearman", "Kendall", "top-1 percentile", "gains", "improvement"]
    names.append("pair's own")
    lines = [f"| {scenario} | " + " | ".join(names) + f" | weightedtau - {against} |"]
    lines.append("|---" * (len(names) + 2) + "|")
    for name in order:
        cells = [_cell(interval(values)) for values in rows[name]]
        gap = "" if name == against else _cell(interval(rows[name][0] - rows[against][0]))
        lines.append("| " + " | ".join([name, *cells, gap]) + " |")
    return "\n".join(lines)


def _cell(values: tuple[float, float, float]) -> str:
    if np.isnan(values[0]):
        return ""
    middle, low, high = (f"{v:.3f}".replace("0.", ".", 1) for v in values)
    return f"{middle} [{low}, {high}]"
