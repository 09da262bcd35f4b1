"""A pool that starts empty: targets arrive one by one, and only the shots they try become known.

In every scenario each target tries k sources, which the recommender chooses jointly for all
metrics: the first is the most promising one, the rest explore. All recorded metrics and repetitions
of a tried transfer become known, nothing of any other. A target is judged before it is learnt from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fl_server.replay_data import ReplayData
from fl_server.replay_selectors import outcomes, replay_tasks
from strategies.recommender import Advice, Recommender
from strategies.standing import standings
from strategies.task_pairs import TaskPairs

__all__ = ["Arrival", "arrivals"]

Ints = NDArray[np.intp]
Floats = NDArray[np.float64]
RELEARN_EVERY = 4  # arrivals between two updates of the variances


@dataclass(frozen=True)
class Arrival:
    """What the pool said when one target arrived in one scenario.

    Parameters
    ----------
    scenario, target
        Positions.
    place
        How many targets had been there before.
    scores
        Posterior mean, shape ``[metric, source]``; NaN for sources that are not possible.
    shots
        The sources that were tried, in order.
    """

    scenario: int
    target: int
    place: int
    scores: Floats
    shots: Ints


def arrivals(
    data: ReplayData,
    rng: np.random.Generator,
    *,
    shots: int = 3,
    step: Callable[[], None] = lambda: None,
) -> Iterator[Arrival]:
    """Let all targets arrive once, in an order drawn for each scenario.

    Parameters
    ----------
    data
        Recorded outcomes.
    rng
        Draws the orders and the exploration.
    shots
        How many sources each target tries.
    step
        Called after every arrival.
    """
    metrics = len(data.metrics)
    pairs = TaskPairs(replay_tasks(data), metrics)
    # [scenario, target, source]
    recorded = np.asarray(np.isfinite(data.performance).any(axis=(1, 2)))
    for s in range(len(data.scenarios)):
        model = Recommender(pairs, metrics)
        for place, target in enumerate(rng.permutation(np.flatnonzero(recorded[s].any(axis=1)))):
            advice = _possible(model.advise(int(target), relearn=0), recorded[s, target])
            tried = advice.shots(shots, rng)
            scores = np.full((metrics, len(data.tasks)), np.nan)
            scores[:, advice.source] = advice.mean
            yield Arrival(s, int(target), place, scores, tried)
            model.add(standings(outcomes(data, s, int(target), tried)))
            if place % RELEARN_EVERY == RELEARN_EVERY - 1:
                model.learn(steps=2)
            step()


def _possible(advice: Advice, recorded: NDArray[np.bool_]) -> Advice:
    """Keep the sources whose outcome was recorded: only they can be tried in a replay."""
    k = np.flatnonzero(recorded[advice.source])
    return Advice(
        advice.source[k], advice.mean[:, k], advice.sd[:, k],
        advice.joint_mean[k], advice.joint_covariance[np.ix_(k, k)],
    )  # fmt: skip
