"""What a pool advises a task: the tasks around it, what was measured on them, and the shots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.orm import Session

from fl_server.pool import views
from fl_server.pool.models import SpecRow, TaskRow
from fl_server.pool.records import open_spec
from fl_server.pool.session import Pool
from fl_server.pool.telling import told
from fl_server.pool_nearest import MEASURE, Near, find_near
from fl_server.pool_target import Target, pool_task, same_task
from fl_server.pool_vectors import retrievable
from protocol.experiment import Experiment, Scenario
from protocol.fingerprint import Fingerprint
from protocol.spec import Spec
from strategies.advice import counsel
from strategies.measures import get, released
from strategies.neighbourhood import Neighbourhood
from strategies.shots import Counsel, Shot

SCENARIOS: tuple[Scenario, ...] = get_args(Scenario)
NEAREST = 1000
"""Tasks whose place by nearness is told; who is further away is only known to be."""
MOST = 100
"""Tasks that the recommender takes in: its work grows with their third power."""
FIRST = 40
"""Places of these that the nearest tasks have for sure; the rest goes to tasks with outcomes."""
PART = 2**28  # bytes of histograms a side that are compared at a time: bounded memory


@dataclass(frozen=True)
class Recommendation:
    """What a pool advises a target.

    Attributes
    ----------
    target : Target
        Who asked.
    measure : str
        Of nearness.
    candidates : int
        How many tasks of the pool compare with the target.
    counsels : list of Counsel
        One a scenario.
    """

    target: Target
    measure: str
    candidates: int
    counsels: list[Counsel]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "target": self.target.to_json(),
            "measure": self.measure,
            "candidates": self.candidates,
            "scenarios": {
                each.scenario: {
                    "outcomes": each.outcomes,
                    "shots": [_shot_json(shot) for shot in each.shots],
                }
                for each in self.counsels
            },
        }


def recommend(
    pool: Pool,
    target: Target,
    scenarios: Sequence[Scenario] = SCENARIOS,
    *,
    k: int = 3,
    measure: str = MEASURE,
    seed: int = 0,
    device: str = "auto",
) -> Recommendation:
    """Return k shots for each scenario.

    Parameters
    ----------
    pool : Pool
        What is known.
    target : Target
        Who asks; what was measured on it is not used.
    scenarios : sequence of str
        Which are asked for.
    k : int
        Shots at most.
    measure : str
        One of `strategies.augmented.MEASURES`.
    seed : int
        Of exploration.
    device : str
        See `fl_server.pool_search.make_index`.

    Raises
    ------
    ConfigError
        When k is below 1, or the measure or the device cannot be used.
    """
    with pool.reading() as session:
        own = same_task(session, target.task)
    near = find_near(pool, target, NEAREST, measure, exclude=own, device=device)
    with pool.reading() as session:
        tried = {scenario: views.experiments(session, scenario) for scenario in scenarios}
        every = [experiment for found in tried.values() for experiment in found]
        around = _neighbourhood(session, target, measure, near, every)
    steps = told(scenarios, "recommend", len(scenarios), "scenarios")
    counsels = [counsel(around, tried[scenario], scenario, k, seed) for scenario in steps]
    return Recommendation(target, measure, near.candidates, counsels)


def _neighbourhood(
    session: Session, target: Target, measure: str, near: Near, experiments: Sequence[Experiment]
) -> Neighbourhood:
    rows = {task: row for task in _chosen(near, experiments) if (row := session.get(TaskRow, task))}
    rows.pop(target.task.id, None)
    tasks = {task: pool_task(row) for task, row in rows.items()} | {target.task.id: target.task}
    prints = {task: views.fingerprint(session, task) for task in rows}
    prints[target.task.id] = target.fingerprint
    ids = sorted(tasks)
    distances = _distances(prints, ids, _specs(session, target, prints), measure)
    here = ids.index(target.task.id)
    for task, distance in zip(near.ids, near.distances, strict=True):
        if task in rows:
            distances[ids.index(task), here] = distance
    return Neighbourhood(
        [tasks[task] for task in ids], here, distances, near.places, near.candidates
    )


def _chosen(near: Near, experiments: Sequence[Experiment]) -> list[str]:
    """Return the tasks to learn from: the nearest, and the nearest of those with outcomes."""
    tried = {e.target for e in experiments} | {e.source for e in experiments if e.source}
    order = [task for task in near.ids if task in tried]
    order += sorted(tried - set(near.ids))  # further away, or of another spec
    return list(dict.fromkeys([*near.ids[:FIRST], *order, *near.ids]))[:MOST]


def _specs(session: Session, target: Target, prints: Mapping[str, Fingerprint]) -> dict[str, Spec]:
    named = {each.spec_digest for each in prints.values()}
    rows = session.scalars(select(SpecRow).where(SpecRow.digest.in_(named)))
    found = {row.digest: open_spec(row.content, row.digest) for row in rows}
    return found | {target.spec.digest: target.spec}


def _distances(
    prints: Mapping[str, Fingerprint],
    ids: Sequence[str],
    specs: Mapping[str, Spec],
    measure: str,
) -> NDArray[np.float64]:
    """Compare all tasks of one spec with each other; NaN between specs, ``[n, n]``."""
    out = np.full((len(ids), len(ids)), np.nan)
    for digest in sorted(specs):
        spec = specs[digest]
        here = [
            i
            for i, task in enumerate(ids)
            if prints[task].spec_digest == digest and retrievable(prints[task], spec, measure)
        ]
        size = max(1, PART // (spec.width * spec.bins * np.dtype(np.float64).itemsize))
        parts = [here[start : start + size] for start in range(0, len(here), size)]
        for rows in parts:
            for columns in parts:
                found = get(measure).distances(
                    released([prints[ids[i]] for i in rows], spec),
                    released([prints[ids[i]] for i in columns], spec),
                )
                out[np.ix_(rows, columns)] = found
    return out


def _shot_json(shot: Shot) -> dict[str, Any]:
    said = asdict(shot)
    task = said.pop("task")
    knowledge = None if shot.knowledge is None else shot.knowledge.model_dump(mode="json")
    source = {name: task[name] for name in ("id", "site", "name", "images", "classes")}
    return {**said, "source": source, "knowledge": knowledge}
