"""What the experiments of one scenario measured, and what every task has to offer by them.

One measurement may be told by several experiments: training in a group is reported once a partner.
And it may speak for several sources: whatever shared an architecture's name would have shared the
same, so a site's own search among architectures tells of every task that would recommend one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from protocol.experiment import Detail, Experiment, Scenario
from protocol.files import canonical_json, sha256_hex
from strategies.standing import Outcomes, Standings, standings

__all__ = ["NAMED", "Measurement", "credited", "knowledge_id", "measurements", "offers", "pooled"]

Ints = NDArray[np.intp]

NAMED: frozenset[Scenario] = frozenset({"architecture", "augmentation"})
"""Scenarios whose knowledge is the same whoever hands it over, and which a site may find alone."""

MIXED = "planned"
"""Arm of the co-trainings in which a group's plan was at work beside its partners."""


@dataclass(frozen=True)
class Measurement:
    """How well knowledge served a target.

    Parameters
    ----------
    target
        The task it was used on.
    metric
        What was measured; higher is better.
    knowledge
        What was used, see `knowledge_id`.
    detail
        The same, as it was recorded.
    sources
        The tasks that it speaks for.
    performance, baseline
        With the knowledge, and without where that was measured.
    standing
        Among what was tried on the target under equal conditions, see `strategies.standing`.
    """

    target: str
    metric: str
    knowledge: str
    detail: Detail
    sources: frozenset[str]
    performance: float
    baseline: float | None
    standing: float = 0.0


def knowledge_id(detail: Detail) -> str:
    """Return what is equal for equal knowledge."""
    return sha256_hex(canonical_json(detail.model_dump(mode="json")))


def measurements(experiments: Iterable[Experiment]) -> list[Measurement]:
    """Return what was measured, each with where it stands.

    Parameters
    ----------
    experiments
        Of one scenario, in any order; co-trainings by a plan are left out.

    Returns
    -------
    list of Measurement
        In an order that does not depend on that of the experiments.
    """
    told: dict[tuple[str, ...], list[Experiment]] = defaultdict(list)
    for experiment in experiments:
        if _is_mixed(experiment):
            continue
        told[_same_measurement(experiment)].append(experiment)
    found, races = [], []
    for key in sorted(told):
        first = min(told[key], key=lambda each: each.id)
        races.append(key[2])
        found.append(
            Measurement(
                first.target,
                first.metric,
                key[3],
                first.detail,
                frozenset(each.source for each in told[key] if each.source is not None),
                first.performance,
                first.baseline,
            )
        )
    return [
        replace(each, standing=float(standing))
        for each, standing in zip(found, _standing(found, races), strict=True)
    ]


def offers(measured: Sequence[Measurement], scenario: Scenario) -> dict[str, Detail]:
    """Return the knowledge that each task has to offer, where any is known.

    Of architectures and policies it is the one that did best on the task itself, or else the best
    that came from it; of weights the best that came from it. Co-training takes no more than the
    partner.
    """
    if scenario == "co-training":
        return {}
    handed = _best([(source, each) for each in measured for source in each.sources])
    own = _best([(each.target, each) for each in measured]) if scenario in NAMED else {}
    return handed | own


def credited(
    measured: Sequence[Measurement], offered: Mapping[str, Detail], scenario: Scenario
) -> list[Measurement]:
    """Return the measurements with all tasks that they speak for.

    In the scenarios of `NAMED` these are the tasks that offer what was used, never the target.
    """
    if scenario not in NAMED:
        return list(measured)
    by_knowledge: dict[str, set[str]] = defaultdict(set)
    for task, detail in offered.items():
        by_knowledge[knowledge_id(detail)].add(task)
    return [
        replace(each, sources=frozenset(by_knowledge[each.knowledge] - {each.target}))
        for each in measured
    ]


def pooled(
    measured: Sequence[Measurement], tasks: Sequence[str], metrics: Sequence[str]
) -> Standings:
    """Return the mean standing of every (target, source, metric), by position.

    Parameters
    ----------
    measured
        From `credited`.
    tasks, metrics
        What the positions mean; measurements of others are left out.
    """
    task, metric = ({name: i for i, name in enumerate(names)} for names in (tasks, metrics))
    cells: dict[tuple[int, int, int], list[float]] = defaultdict(list)
    for each in measured:
        if each.target in task and each.metric in metric:
            for source in each.sources & task.keys():
                where = (task[each.target], task[source], metric[each.metric])
                cells[where].append(each.standing)
    order = sorted(cells)
    found = np.array(order, dtype=np.intp).reshape(-1, 3)
    value = np.array([float(np.mean(sorted(cells[cell]))) for cell in order])
    return Standings(found[:, 0], found[:, 1], found[:, 2], value)


def _is_mixed(experiment: Experiment) -> bool:
    """Tell whether partners were tried along with other knowledge: who gained what is unknown."""
    return experiment.detail.kind == "partner" and experiment.detail.arm == MIXED


def _same_measurement(experiment: Experiment) -> tuple[str, ...]:
    """Return target, metric, race and knowledge, and what else tells measurements apart."""
    said = experiment.model_dump(mode="json")
    # who was compared with the same baseline ran under equal conditions, though hyperparameters may
    # differ: those that come with an architecture or a policy do
    conditions = "hyperparameters" if experiment.baseline is None else "baseline"
    race = canonical_json([said[name] for name in ("run", "seed", conditions)])
    # in a group of two the partner is what was tried; in a larger one the whole group was
    pair = experiment.detail.kind == "partner" and experiment.detail.tasks == 2
    return (
        experiment.target,
        experiment.metric,
        race.decode(),
        knowledge_id(experiment.detail),
        repr(experiment.performance),
        str(experiment.source) if pair else "",
    )


def _standing(found: Sequence[Measurement], races: Sequence[str]) -> NDArray[np.float64]:
    """Return where each stands within its target, metric and race; each is a contender."""
    if not found:
        return np.zeros(0)
    baselines = [np.nan if each.baseline is None else each.baseline for each in found]
    result = standings(
        Outcomes(
            _positions([each.target for each in found]),
            np.arange(len(found), dtype=np.intp),
            _positions([each.metric for each in found]),
            _positions(races),
            np.array([each.performance for each in found]),
            np.array(baselines),
        )
    )
    out = np.zeros(len(found))
    out[result.source] = result.value
    return out


def _positions(names: Sequence[str]) -> Ints:
    return np.unique(np.array(names, dtype=object), return_inverse=True)[1].astype(np.intp)


def _best(offered: Sequence[tuple[str, Measurement]]) -> dict[str, Detail]:
    """Return, for each task, the knowledge of the best mean standing; equals by its digest."""
    stood: dict[str, dict[str, list[Measurement]]] = defaultdict(lambda: defaultdict(list))
    for task, each in offered:
        stood[task][each.knowledge].append(each)
    best = {}
    for task, known in stood.items():
        means = {name: np.mean(sorted(each.standing for each in m)) for name, m in known.items()}
        first = min(known, key=lambda name: (-means[name], name))
        best[task] = known[first][0].detail
    return best
