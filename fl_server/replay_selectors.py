"""Who ranks the sources in a replay: distances, the learning recommender, and what bounds them.

Every selector gives scores of shape ``[scenario, metric, repetition, target, source]``, higher is
better; axes of length 1 stand for "the same for all".
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fl_server.replay_data import ReplayData
from strategies.outcome_metrics import percentiles
from strategies.recommender import Recommender
from strategies.standing import Outcomes
from strategies.standing import standings as standings_of
from strategies.task_pairs import TaskPairs, Tasks, keyword_similarity

__all__ = ["full_pool", "references", "replay_tasks", "simple_selectors"]

Floats = NDArray[np.float64]


def replay_tasks(data: ReplayData) -> Tasks:
    """Return what the recommender may know of the tasks before any outcome."""
    known = [d for d in data.distances.values() if np.isfinite(d).any()]
    return Tasks(
        len(data.tasks),
        np.stack(known) if known else None,
        data.covariates,
        None if data.keywords is None else keyword_similarity(data.keywords),
        data.eligible,
    )


def simple_selectors(data: ReplayData) -> dict[str, Floats]:
    """Return every distance of the folder, ``random`` and ``oracle``."""
    scores = {name: -d.T[None, None, None] for name, d in data.distances.items()}
    scores["random"] = np.zeros((1, 1, 1, len(data.tasks), len(data.tasks)))
    scores["oracle"] = data.performance
    return scores


def full_pool(
    data: ReplayData, *, hold_out: str = "target", step: Callable[[], None] = lambda: None
) -> Floats:
    """Return the learning recommender's scores when the outcomes of all other targets are known.

    Parameters
    ----------
    data
        Recorded outcomes.
    hold_out
        ``"target"`` leaves out the target's own outcomes, ``"group"`` those of its whole
        exclusion group.
    step
        Called after every target.
    """
    metrics = len(data.metrics)
    pairs = TaskPairs(replay_tasks(data), metrics)
    out = np.full((len(data.scenarios), metrics, 1, *data.performance.shape[3:]), np.nan)
    for s in range(len(data.scenarios)):
        model = Recommender(pairs, metrics)
        model.add(standings_of(outcomes(data, s)))
        for target in range(len(data.tasks)):
            group = np.flatnonzero(~data.eligible[:, target]) if hold_out == "group" else None
            advice = model.advise(target, without=group)
            out[s, :, 0, target, advice.source] = advice.mean.T
            step()
    return out


def outcomes(
    data: ReplayData,
    scenario: int,
    target: int | None = None,
    tried: NDArray[np.intp] | None = None,
) -> Outcomes:
    """Return a scenario's recorded outcomes, or only one target's with the tried sources."""
    values = data.performance[scenario]
    if target is not None:
        mask = np.full(values.shape, False)
        mask[:, :, target, tried] = True
        values = np.where(mask, values, np.nan)
    m, r, t, s = np.nonzero(np.isfinite(values))
    return Outcomes(t, s, m, r, values[m, r, t, s])


def references(data: ReplayData) -> dict[str, Floats]:
    """Return what to compare with besides: the pool's plain mean, and the noise ceiling.

    ``mean percentile``: a source's mean percentile over the other targets. ``noise ceiling``: the
    mean percentile of the very same transfer in its other repetitions; no selector can know it.
    """
    shares = np.full(data.performance.shape, np.nan)
    for where in np.ndindex(shares.shape[:-1]):
        known = np.isfinite(data.performance[where])
        if known.any():
            shares[where][known] = percentiles(data.performance[where][known])
    mean = _leave_one_out(_mean(shares, axis=2), axis=2)[:, :, None]
    return {"mean percentile": mean, "noise ceiling": _leave_one_out(shares, axis=2)}


def _mean(values: Floats, axis: int) -> Floats:
    known = np.isfinite(values)
    total, count = np.where(known, values, 0).sum(axis=axis), known.sum(axis=axis)
    return np.asarray(np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0))


def _leave_one_out(values: Floats, axis: int) -> Floats:
    known = np.isfinite(values)
    filled = np.where(known, values, 0)
    total = filled.sum(axis=axis, keepdims=True) - filled
    count = known.sum(axis=axis, keepdims=True) - known
    return np.asarray(np.divide(total, count, out=np.full(values.shape, np.nan), where=count > 0))
