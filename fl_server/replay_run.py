"""Judge every selector on recorded outcomes, under both protocols."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fl_server.replay_data import ReplayData
from fl_server.replay_lifelong import Arrival, arrivals
from fl_server.replay_selectors import full_pool, references, simple_selectors
from strategies.outcome_metrics import MEASURES, judge

__all__ = ["FULL", "LIFELONG", "Replayed", "replay"]

Floats = NDArray[np.float64]
Step = Callable[[str], None]
FULL, LIFELONG = "full", "lifelong"


@dataclass
class Replayed:
    """What came of a replay.

    Parameters
    ----------
    values
        By protocol and selector, shape ``[scenario, metric, measure, target]``: mean over
        repetitions, NaN where nothing was recorded. Lifelong: of targets that arrived in the
        second half.
    references
        The same for what bounds the full protocol.
    halves
        The pool's lifelong values by half, of the same shape: the first arrivals and the later.
    """

    values: dict[str, dict[str, Floats]] = field(default_factory=dict)
    references: dict[str, Floats] = field(default_factory=dict)
    halves: list[Floats] = field(default_factory=list)


def replay(
    data: ReplayData,
    protocols: tuple[str, ...] = (FULL, LIFELONG),
    *,
    as_published: bool = False,
    hold_out: str = "target",
    seed: int = 0,
    orders: int = 10,
    step: Step = lambda what: None,
) -> Replayed:
    """Replay recorded outcomes.

    Parameters
    ----------
    data
        Recorded outcomes.
    protocols
        ``"full"``: all outcomes of other targets are known; ``"lifelong"``: see `arrivals`.
    as_published
        Judge by the published conventions, see `judge`.
    hold_out
        See `full_pool`.
    seed
        Of ties, arrival orders and exploration.
    orders
        How many arrival orders the lifelong protocol averages.
    step
        Told what was just done.
    """
    rng = np.random.default_rng(seed)
    out = Replayed()
    simple = {}
    for name, scores in simple_selectors(data).items():
        simple[name] = judged(data, scores, rng, as_published)
        step(name)
    for protocol in protocols:
        out.values[protocol] = dict(simple)
    if FULL in protocols:
        scores = full_pool(data, hold_out=hold_out, step=lambda: step("pool"))
        out.values[FULL]["pool"] = judged(data, scores, rng, as_published)
        for name, bound in references(data).items():
            out.references[name] = judged(data, bound, rng, as_published)
    if LIFELONG in protocols:
        out.halves = _lifelong(data, rng, orders, as_published, step)
        out.values[LIFELONG]["pool"] = out.halves[1]
    return out


def judged(
    data: ReplayData, scores: Floats, rng: np.random.Generator, as_published: bool
) -> Floats:
    """Return every measure of a selector, shape ``[scenario, metric, measure, target]``."""
    scores = np.broadcast_to(scores, data.performance.shape)
    scenarios, metrics, _, targets, _ = data.performance.shape
    out = np.full((scenarios, metrics, len(MEASURES), targets), np.nan)
    for s, m, t in np.ndindex(scenarios, metrics, targets):
        out[s, m, :, t] = _over_repetitions(data, (s, m, t), scores[s, m, :, t], rng, as_published)
    return out


def _over_repetitions(
    data: ReplayData,
    where: tuple[int, int, int],
    scores: Floats,
    rng: np.random.Generator,
    as_published: bool,
    shots: NDArray[np.intp] | None = None,
) -> Floats:
    s, m, t = where
    results = []
    for r, own in enumerate(scores):
        performance = data.performance[s, m, r, t]
        possible = np.flatnonzero(np.isfinite(performance))
        if len(possible) < 2:
            continue
        order = None if shots is None else _shots_first(own, possible, shots)
        results.append(
            judge(
                own[possible],
                performance[possible],
                float(data.baseline[m, r, t]),
                order=order,
                rng=rng,
                as_published=as_published,
            )
        )
    return _nanmean(np.array(results)) if results else np.full(len(MEASURES), np.nan)


def _shots_first(
    scores: Floats, possible: NDArray[np.intp], shots: NDArray[np.intp]
) -> NDArray[np.intp]:
    """Order the possible sources: the tried shots as they were tried, then by score."""
    turn = {int(source): i for i, source in enumerate(shots)}
    tried = np.array([turn.get(int(source), len(shots)) for source in possible])
    return np.lexsort((-scores[possible], tried))


def _lifelong(
    data: ReplayData, rng: np.random.Generator, orders: int, as_published: bool, step: Step
) -> list[Floats]:
    scenarios, metrics, repetitions, targets, _ = data.performance.shape
    shape = (2, scenarios, metrics, len(MEASURES), targets)
    total, count = np.zeros(shape), np.zeros(shape)
    recorded = np.isfinite(data.performance).any(axis=(1, 2, 4)).sum(axis=1)  # targets
    for _ in range(orders):
        for arrival in arrivals(data, rng, step=lambda: step("pool, lifelong")):
            late = int(2 * arrival.place >= recorded[arrival.scenario])
            for m in range(metrics):
                values = _of_arrival(data, arrival, m, repetitions, rng, as_published)
                where = (late, arrival.scenario, m, slice(None), arrival.target)
                total[where] += np.nan_to_num(values)
                count[where] += np.isfinite(values)
    means = np.divide(total, count, out=np.full(shape, np.nan), where=count > 0)
    return [means[0], means[1]]


def _of_arrival(
    data: ReplayData,
    arrival: Arrival,
    metric: int,
    repetitions: int,
    rng: np.random.Generator,
    as_published: bool,
) -> Floats:
    scores = np.repeat(arrival.scores[metric][None], repetitions, axis=0)
    where = (arrival.scenario, metric, arrival.target)
    return _over_repetitions(data, where, scores, rng, as_published, arrival.shots)


def _nanmean(values: Floats) -> Floats:
    known = np.isfinite(values)
    total, count = np.where(known, values, 0).sum(axis=0), known.sum(axis=0)
    return np.asarray(np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0))
