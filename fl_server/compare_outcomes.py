"""Transfers that measures are judged by: a run's own, and those of a folder of outcomes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from fl_server.outcome_records import EXPERIMENTS, METRICS
from fl_server.pool.add import read_experiments
from fl_server.replay_data import read_replay
from protocol.errors import ConfigError
from protocol.experiment import Scenario
from strategies.measurements import credited, measurements, offers, pooled

__all__ = ["Measured", "own_outcomes", "recorded_outcomes"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Measured:
    """What transfers between the compared tasks came to, in one scenario and metric.

    Parameters
    ----------
    origin : str
        ``run``: the compared run's own trials; ``outcomes``: a folder of recorded outcomes.
    scenario, metric : str
        What was handed over, and what was measured; higher is better.
    performance : ndarray
        Shape ``[repetition, target, source]``; NaN where nothing was measured.
    baseline : ndarray
        Without transfer, shape ``[repetition, target]``; NaN where unknown.
    """

    origin: str
    scenario: str
    metric: str
    performance: Floats
    baseline: Floats


def own_outcomes(run: Path, ids: Mapping[str, str]) -> list[Measured]:
    """Return what a run's own trials tell of transfer between its sites.

    A trial compares a few sources under equal conditions, and another trial others, so what counts
    is where a source stood among them (`strategies.standing`), on average.

    Parameters
    ----------
    run
        The run folder; without ``experiments.jsonl`` it tells nothing.
    ids
        By site, in the order of the tasks, the SHA-256 of its release.
    """
    path = run / EXPERIMENTS
    if not path.is_file():
        return []
    experiments, tasks = read_experiments(path), list(ids.values())
    scenarios: tuple[Scenario, ...] = get_args(Scenario)
    found = []
    for scenario in scenarios:
        measured = measurements(e for e in experiments if e.scenario == scenario)
        spoken = credited(measured, offers(measured, scenario), scenario)
        standings = pooled(spoken, tasks, METRICS)
        table = np.full((len(METRICS), len(tasks), len(tasks)), np.nan)
        table[standings.metric, standings.target, standings.source] = standings.value
        for metric, values in zip(METRICS, table, strict=True):
            baseline = np.full((1, len(tasks)), np.nan)
            found.append(Measured("run", scenario, metric, values[None], baseline))
    return [each for each in found if _ranks_something(each)]


def recorded_outcomes(folder: Path, sites: Sequence[str]) -> list[Measured]:
    """Return the outcomes of a folder as `fedprint replay` reads it, for these sites.

    Parameters
    ----------
    folder
        See `fl_server.replay_data`; its tasks are matched with the sites by name.
    sites
        In the order of the tasks.

    Raises
    ------
    ConfigError
        If for no target among the sites two of them are told apart.
    DataError
        If the folder is not in order.
    """
    data = read_replay(folder)
    place = {task: i for i, task in enumerate(data.tasks)}
    here = [i for i, site in enumerate(sites) if site in place]
    there = [place[sites[i]] for i in here]
    found = []
    for s, scenario in enumerate(data.scenarios):
        for m, metric in enumerate(data.metrics):
            recorded = data.performance[s, m]  # [r, t, s]
            performance = np.full((len(recorded), len(sites), len(sites)), np.nan)
            known = recorded[:, there][:, :, there]  # [r, t, s], of those that are sites
            performance[np.ix_(range(len(recorded)), here, here)] = known
            baseline = np.full(performance.shape[:2], np.nan)
            baseline[:, here] = data.baseline[m][:, there]
            found.append(Measured("outcomes", scenario, metric, performance, baseline))
    found = [each for each in found if _ranks_something(each)]
    if not found:
        raise ConfigError(
            f"--outcomes {folder} tells no two sources apart for any site of the run "
            f"({', '.join(sites[:5])}{', ...' if len(sites) > 5 else ''}): its tasks must be named "
            "like the sites"
        )
    return found


def _ranks_something(measured: Measured) -> bool:
    """Tell whether two sources served a target differently; a target is no source of its own."""
    own = np.eye(measured.performance.shape[1], dtype=bool)
    unknown = ~np.isfinite(measured.performance) | own  # [r, t, s]
    best = np.where(unknown, -np.inf, measured.performance).max(axis=2)
    worst = np.where(unknown, np.inf, measured.performance).min(axis=2)
    return bool((best > worst).any())
