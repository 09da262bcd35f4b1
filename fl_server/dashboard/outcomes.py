"""Outcomes over runs: what each run's arms came to, and what a pool knows of each kind of try."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from fl_server.dashboard.runs import Run
from fl_server.report_numbers import ARMS, Paired, comparisons
from protocol.experiment import Experiment
from protocol.runfiles import SiteMetrics


@dataclass(frozen=True)
class RunOutcome:
    """One run.

    Attributes
    ----------
    run : Run
        Which.
    means : dict
        Mean balanced accuracy by arm, over the sites that have all arms.
    gains : list of Paired
        Differences between arms, site by site.
    """

    run: Run
    means: dict[str, float]
    gains: list[Paired]


@dataclass(frozen=True)
class Tried:
    """All experiments of a pool of one scenario in one metric.

    Attributes
    ----------
    scenario, metric : str
        Of which kind.
    count, tasks : int
        Experiments, and different targets.
    better : int
        How many were above their baseline, of those that have one.
    with_baseline : int
        How many have one.
    gain : float or None
        Mean difference to the baseline.
    """

    scenario: str
    metric: str
    count: int
    tasks: int
    better: int
    with_baseline: int
    gain: float | None


def run_outcomes(runs: Iterable[Run]) -> list[RunOutcome]:
    """Return the outcomes of runs that trained, in the order given."""
    found = []
    for run in runs:
        if run.results is None:
            continue
        metrics: dict[str, SiteMetrics] = run.results.context["metrics"]
        if metrics:
            gains = comparisons(list(metrics.values()))
            found.append(RunOutcome(run, run.results.context["means"], gains))
    return found


def arms_of(outcomes: Iterable[RunOutcome]) -> list[str]:
    """Return the arms that any run has, in the usual order."""
    ran = {arm for outcome in outcomes for arm in outcome.means}
    return [arm for arm in ARMS if arm in ran]


def tried(experiments: Iterable[Experiment]) -> list[Tried]:
    """Return what experiments came to, by scenario and metric."""
    kinds: dict[tuple[str, str], list[Experiment]] = defaultdict(list)
    for each in experiments:
        kinds[each.scenario, each.metric].append(each)
    return [_tried(*kind, kinds[kind]) for kind in sorted(kinds)]


def _tried(scenario: str, metric: str, found: list[Experiment]) -> Tried:
    gains = [each.performance - each.baseline for each in found if each.baseline is not None]
    return Tried(
        scenario,
        metric,
        len(found),
        len({each.target for each in found}),
        sum(gain > 0 for gain in gains),
        len(gains),
        float(np.mean(gains)) if gains else None,
    )
