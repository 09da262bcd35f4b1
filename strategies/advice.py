"""Shots for one target: which task's knowledge to use next, on what evidence.

While nothing was measured with anybody's knowledge in a scenario, the nearest task is the best
guess (Godau et al., arXiv 2412.08763). As outcomes of other targets accumulate, the recommender
learns from them. What was measured on the target itself is never used.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from protocol.errors import ConfigError
from protocol.experiment import Detail, Experiment, Scenario
from strategies.measurements import (
    NAMED,
    Measurement,
    credited,
    knowledge_id,
    measurements,
    offers,
    pooled,
)
from strategies.neighbourhood import Neighbourhood, PoolTask
from strategies.recommender import Advice, Recommender
from strategies.shot_evidence import with_evidence
from strategies.shots import Counsel, Shot, Why
from strategies.task_pairs import TaskPairs

__all__ = ["counsel"]

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

MOST_METRICS = 4
"""Metrics that share one model: those that most was measured in."""


def counsel(
    around: Neighbourhood,
    experiments: Sequence[Experiment],
    scenario: Scenario,
    k: int = 3,
    seed: int = 0,
) -> Counsel:
    """Return k shots for a target, no two of which hand over the same.

    Parameters
    ----------
    around
        The target and its possible sources.
    experiments
        Of any scenario and on any target; the target's own are left out here.
    scenario
        What is to be handed over.
    k
        Shots at most.
    seed
        Of exploration.
    """
    if k < 1:
        raise ConfigError(f"cannot return {k} shots: ask for at least 1")
    asking = around.tasks[around.target]
    own = {task.id for task in around.tasks if task.is_same(asking)}
    usable = [e for e in experiments if e.scenario == scenario and e.target not in own]
    measured = measurements(usable)
    offered = offers(measured, scenario)
    sides = _of_others(around, credited(measured, offered, scenario))
    candidates = _candidates(around, offered, scenario)
    ids = {around.tasks[c].id for c in candidates}
    here = {task.id for task in around.tasks}
    outcomes = [each for each in sides if each.target in here and each.sources & ids]
    if outcomes:
        ranked = _learnt(around, outcomes, candidates, offered, k, _rng(seed, scenario, asking))
    else:
        ranked = _nearest(around, candidates, offered, k)
    shots = tuple(
        with_evidence(replace(shot, rank=rank), around, scenario, offered, sides)
        for rank, shot in enumerate(ranked, 1)
    )
    return Counsel(scenario, len(outcomes), shots)


def _of_others(around: Neighbourhood, sides: Sequence[Measurement]) -> list[Measurement]:
    """Drop, as sources, other releases of the very task that was measured."""
    task = {each.id: each for each in around.tasks}
    return [
        replace(
            each,
            sources=frozenset(
                s
                for s in each.sources
                if s in task and not (each.target in task and task[s].is_same(task[each.target]))
            ),
        )
        for each in sides
    ]


def _candidates(
    around: Neighbourhood, offered: Mapping[str, Detail], scenario: Scenario
) -> list[int]:
    """Return who may be a source: of a name or a policy, whoever has one, if anybody does.

    A task of another objective may hand over what it learnt, but is nobody to train with.
    """
    allowed = around.eligible()[:, around.target]
    if scenario == "co-training":
        own = around.tasks[around.target].objective
        allowed &= np.array([task.objective == own for task in around.tasks])
    every = [i for i in range(len(around.tasks)) if allowed[i]]
    able = [i for i in every if around.tasks[i].id in offered]
    return able if able and scenario in NAMED else every


def _nearest(
    around: Neighbourhood, candidates: Sequence[int], offered: Mapping[str, Detail], k: int
) -> list[Shot]:
    column = np.nan_to_num(around.distances[:, around.target], nan=np.inf)
    order = sorted(candidates, key=lambda i: (*_place(around, i), column[i], around.tasks[i].id))
    return [
        _shot(around, same[0], "distance") for same in _by_knowledge(around, order, offered)[:k]
    ]


def _learnt(
    around: Neighbourhood,
    outcomes: Sequence[Measurement],
    candidates: Sequence[int],
    offered: Mapping[str, Detail],
    k: int,
    rng: np.random.Generator,
) -> list[Shot]:
    counted = Counter(each.metric for each in outcomes)
    metrics = sorted(sorted(counted), key=lambda name: -counted[name])[:MOST_METRICS]
    model = Recommender(TaskPairs(around.known(), len(metrics)), len(metrics))
    model.add(pooled(outcomes, [task.id for task in around.tasks], metrics))
    advice = model.advise(around.target)
    advice = _only(advice, np.flatnonzero(np.isin(advice.source, candidates)))
    better = dict(zip(advice.source.tolist(), _better(advice).tolist(), strict=True))
    groups = _by_knowledge(around, advice.ranked().tolist(), offered)
    firsts = np.isin(advice.source, [same[0] for same in groups])
    return [
        replace(shot, better=better[around.tasks.index(shot.task)])
        for shot in _explored(around, _only(advice, np.flatnonzero(firsts)), k, rng)
    ]


def _explored(
    around: Neighbourhood, advice: Advice, k: int, rng: np.random.Generator
) -> list[Shot]:
    """Return the recommender's shots, and why each was taken."""
    place = {source: i for i, source in enumerate(advice.source.tolist())}
    left = advice.ranked().tolist()
    found = []
    for source in advice.shots(k, rng).tolist():
        why: Why = "learnt" if source == left[0] else "explored"
        left.remove(source)
        i = place[source]
        spread = float(np.sqrt(max(advice.joint_covariance[i, i], 0.0)))
        found.append(
            replace(_shot(around, source, why), standing=float(advice.joint_mean[i]), sd=spread)
        )
    return found


def _better(advice: Advice) -> Floats:
    """Return the probability that each candidate is above their mean, shape ``[n]``."""
    n = len(advice.source)
    contrast = np.eye(n) - 1 / n
    mean = contrast @ advice.joint_mean
    variance = np.diag(contrast @ advice.joint_covariance @ contrast.T)
    spread = np.sqrt(np.maximum(variance, 0))
    z = np.divide(mean, spread, out=np.zeros(n), where=spread > 1e-9)
    return np.asarray(ndtr(z))


def _only(advice: Advice, keep: Ints) -> Advice:
    return Advice(
        advice.source[keep], advice.mean[:, keep], advice.sd[:, keep], advice.joint_mean[keep],
        advice.joint_covariance[np.ix_(keep, keep)],
    )  # fmt: skip


def _by_knowledge(
    around: Neighbourhood, order: Sequence[int], offered: Mapping[str, Detail]
) -> list[list[int]]:
    """Put candidates that offer the same together, in the order of the first of them."""
    same: dict[str, list[int]] = defaultdict(list)
    for i in order:
        detail = offered.get(around.tasks[i].id)
        same[around.tasks[i].id if detail is None else knowledge_id(detail)].append(i)
    return list(same.values())


def _shot(around: Neighbourhood, source: int, why: Why) -> Shot:
    distance = float(around.distances[source, around.target])
    task = around.tasks[source]
    return Shot(
        0, task, None, (), distance if np.isfinite(distance) else None,
        around.places.get(task.id), why, None, None, None, (),
    )  # fmt: skip


def _place(around: Neighbourhood, source: int) -> tuple[bool, int]:
    place = around.places.get(around.tasks[source].id)
    return place is None, place or 0


def _rng(seed: int, scenario: Scenario, asking: PoolTask) -> np.random.Generator:
    return np.random.default_rng([seed, *scenario.encode(), *bytes.fromhex(asking.id)])
