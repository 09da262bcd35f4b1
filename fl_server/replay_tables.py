"""From judged selectors to rows with intervals, differences, win rates and doubtful ranks.

All intervals are 95 % percentile intervals over 1,000 bootstraps of the targets; the same draws
serve every selector, so that differences are paired.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from fl_server.replay_data import ReplayData
from fl_server.replay_run import FULL, LIFELONG, Replayed
from strategies.outcome_metrics import MEASURES

__all__ = ["BOOTSTRAPS", "replay_tables"]

Floats = NDArray[np.float64]
BOOTSTRAPS = 1000
LOWER_IS_BETTER = {"regret1"}
DECIDING = ("percentile1", "weightedtau")


def replay_tables(data: ReplayData, replayed: Replayed, *, seed: int = 0) -> dict[str, Any]:
    """Return the content of the JSON file: plain values, None where nothing is known.

    Parameters
    ----------
    data
        What was replayed.
    replayed
        What came of it.
    seed
        Of the bootstrap.
    """
    n = len(data.tasks)
    draws = np.random.default_rng(seed).integers(0, n, (BOOTSTRAPS, n))
    weights = np.stack([np.bincount(draw, minlength=n) for draw in draws]).astype(np.float64)
    names = ("rows", "overall", "differences", "by_scenario", "ranks", "win_rates")
    tables: dict[str, Any] = {name: [] for name in names}
    for protocol, values in replayed.values.items():
        for selector, own in values.items():
            tables["rows"] += _rows(data, selector, protocol, own, weights)
        others = {**values, **(replayed.references if protocol == FULL else {})}
        for selector, own in others.items():
            row = {"selector": selector, "protocol": protocol}
            tables["overall"].append({**row, **_summary(own, weights)})
        tables["differences"] += _differences(protocol, others, weights)
        for s, scenario in enumerate(data.scenarios):
            one = {name: own[s : s + 1] for name, own in others.items()}
            rows = _differences(protocol, one, weights)
            tables["by_scenario"] += [{**row, "scenario": scenario} for row in rows]
        tables["ranks"] += _ranks(protocol, values, weights)
        tables["win_rates"] += _win_rates(protocol, values)
    tables["references"] = [
        row
        for name, own in replayed.references.items()
        for row in _rows(data, name, "full", own, weights)
    ]
    tables["first_half"] = (
        _rows(data, "pool", LIFELONG, replayed.halves[0], weights) if replayed.halves else []
    )
    return tables


def _rows(
    data: ReplayData, selector: str, protocol: str, values: Floats, weights: Floats
) -> list[dict[str, Any]]:
    mean, low, high = _interval(values, weights)
    rows = []
    for (s, scenario), (m, metric) in (
        (s, m) for s in enumerate(data.scenarios) for m in enumerate(data.metrics)
    ):
        row = {"selector": selector, "protocol": protocol, "scenario": scenario, "metric": metric}
        rows.append({**row, **_named(mean[s, m], low[s, m], high[s, m])})
    return rows


def _differences(protocol: str, values: dict[str, Floats], weights: Floats) -> list[dict[str, Any]]:
    """Return the pool minus every other selector, averaged over scenarios and metrics."""
    row = {"selector": "pool", "protocol": protocol}
    return [
        {**row, "against": name, **_summary(values["pool"] - own, weights)}
        for name, own in values.items()
        if name != "pool"
    ]


def _ranks(protocol: str, values: dict[str, Floats], weights: Floats) -> list[dict[str, Any]]:
    """Rank the selectors in every bootstrap: 1 is the best, `low` and `high` say how sure."""
    names = [name for name in values if name != "oracle"]
    out = []
    for measure in DECIDING:
        i = MEASURES.index(measure)
        resampled = np.stack([_cell_means(values[name], weights)[i] for name in names])
        resampled = resampled[:, np.isfinite(resampled).all(axis=0)]  # draws that know something
        if not resampled.size:
            continue
        ranks = stats.rankdata(-resampled, axis=0)
        for name, own in zip(names, ranks, strict=True):
            low, high = np.percentile(own, [2.5, 97.5])
            out.append(
                {
                    "selector": name,
                    "protocol": protocol,
                    "measure": measure,
                    "rank": float(own.mean()),
                    "rank_low": float(low),
                    "rank_high": float(high),
                    "first": float((own == 1).mean()),
                }
            )
    return out


def _win_rates(protocol: str, values: dict[str, Floats]) -> list[dict[str, Any]]:
    """How often the row's selector is above the other on a target; equal counts a half."""
    out = []
    for measure in DECIDING:
        i = MEASURES.index(measure)
        for name in values:
            for other in values:
                difference = values[name][:, :, i] - values[other][:, :, i]
                known = difference[np.isfinite(difference)]
                if name != other and len(known):
                    rate = float((known > 0).mean() + (known == 0).mean() / 2)
                    out.append(
                        {
                            "selector": name,
                            "against": other,
                            "protocol": protocol,
                            "measure": measure,
                            "win_rate": rate,
                        }
                    )
    return out


def _summary(values: Floats, weights: Floats) -> dict[str, float | None]:
    """Return mean and interval of every measure over all scenarios and metrics."""
    mean = _cell_means(values, np.ones((1, values.shape[-1])))[:, 0]
    resampled = np.where(np.isnan(mean)[:, None], 0.0, _cell_means(values, weights))
    low, high = np.nanpercentile(resampled, [2.5, 97.5], axis=-1)
    return _named(mean, low, high)


def _cell_means(values: Floats, weights: Floats) -> Floats:
    """Resampled mean over the targets, then over scenarios and metrics: ``[measure, bootstrap]``.

    Scenarios count alike, though not all of them were recorded for every target.
    """
    means = _resampled(values, weights)
    flat = means.reshape(-1, *means.shape[2:])
    known = np.isfinite(flat)
    total, count = np.where(known, flat, 0).sum(axis=0), known.sum(axis=0)
    return np.asarray(np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0))


def _resampled(values: Floats, weights: Floats) -> Floats:
    known = np.isfinite(values)
    total, count = np.where(known, values, 0) @ weights.T, known @ weights.T
    return np.asarray(np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0))


def _interval(values: Floats, weights: Floats) -> tuple[Floats, Floats, Floats]:
    """Return mean and 95 % interval over the last axis, the targets."""
    mean = _resampled(values, np.ones((1, values.shape[-1])))[..., 0]
    resampled = _resampled(values, weights)
    resampled = np.where(np.isnan(mean)[..., None], 0.0, resampled)
    low, high = np.nanpercentile(resampled, [2.5, 97.5], axis=-1)
    return mean, low, high


def _named(mean: Floats, low: Floats, high: Floats) -> dict[str, float | None]:
    """Name the measures, shapes ``[measure]``, and the ends of their intervals."""
    out = {}
    for i, measure in enumerate(MEASURES):
        out[measure] = _plain(mean[i])
        out[f"{measure}_low"], out[f"{measure}_high"] = _plain(low[i]), _plain(high[i])
    return out


def _plain(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
