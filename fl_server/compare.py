"""Every measure that a folder's data allow, computed side by side and judged."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fl_server.compare_outcomes import Measured
from fl_server.decisions import compare as distances_between
from protocol.errors import FedprintError
from strategies.comparison import Recovery, agreement, recovery
from strategies.grouping import group
from strategies.measures import Measure, Task, lacks
from strategies.transfer_evidence import judged_by_transfer

__all__ = ["Comparison", "Computed", "compare", "compute"]

Floats = NDArray[np.float64]
QUICK_SECONDS = 0.2


@dataclass(frozen=True, eq=False)
class Computed:
    """One measure on all tasks.

    Parameters
    ----------
    measure : Measure
        Which.
    distances : ndarray
        Shape ``[k, k]``: row = source, column = target, lower is closer; NaN where a task lacks
        what the measure needs.
    tasks : int
        How many lack nothing.
    seconds : float
        What computing took, a pair.
    """

    measure: Measure
    distances: Floats
    tasks: int
    seconds: float


@dataclass(frozen=True)
class Grouped:
    """What a run does by default, which takes more than the distances of one measure.

    Parameters
    ----------
    number : int
        How many groups it finds.
    adjusted_rand : float
        Of these groups.
    nearest : float or None
        Share of the targets whose first partner is of their family, among those that have kin.
    """

    number: int
    adjusted_rand: float
    nearest: float | None


@dataclass(frozen=True, eq=False)
class Comparison:
    """All measures of a folder, judged.

    Parameters
    ----------
    tasks : list of str
        Their names, in order.
    computed : list of Computed
        The measures that the data allow, n of them.
    left_out : dict
        By measure, why it is not among them.
    agreement : ndarray
        Shape ``[n, n]``, see `strategies.comparison.agreement`.
    families : list of str or None
        Of each task, where known.
    recovered : list of Recovery
        For each measure, if families are known.
    measured : list of Measured
        Transfers, in the order of `judged`.
    judged : list of ndarray
        For each scenario and metric, shape ``[n, judgement, target]``, see `judged_by_transfer`.
    by_chance : list of ndarray
        The same of sources in random order, shape ``[judgement, target]``.
    grouped : Grouped or None
        What a run would do by default; None where families or a fingerprint are not known.
    """

    tasks: list[str]
    computed: list[Computed]
    left_out: dict[str, str]
    agreement: Floats
    families: list[str] | None = None
    recovered: list[Recovery] = field(default_factory=list)
    measured: list[Measured] = field(default_factory=list)
    judged: list[Floats] = field(default_factory=list)
    by_chance: list[Floats] = field(default_factory=list)
    grouped: Grouped | None = None


def compare(
    tasks: Sequence[Task],
    measures: Iterable[Measure],
    *,
    families: Sequence[str] | None = None,
    measured: Sequence[Measured] = (),
    seed: int = 0,
) -> Comparison:
    """Compute every measure that the tasks allow, and judge it.

    Parameters
    ----------
    tasks
        At least three, of one spec.
    measures
        Which; the ones that cannot be computed end in `Comparison.left_out`.
    families
        Of each task, if known.
    measured
        What transfers came to, for the tasks in this order.
    seed
        Of how ties are broken.
    """

    def judged(distances: Floats) -> list[Floats]:
        return [
            judged_by_transfer(distances, by.performance, by.baseline, seed=seed) for by in measured
        ]

    computed, left_out, rows = list[Computed](), dict[str, str](), list[list[Floats]]()
    for measure in measures:
        outcome = compute(measure, tasks)
        if isinstance(outcome, Computed):
            computed.append(outcome)
            rows.append(judged(outcome.distances))
        else:
            left_out[measure.name] = outcome
    matrices = [each.distances for each in computed]
    return Comparison(
        [task.name for task in tasks],
        computed,
        left_out,
        agreement(matrices),
        None if families is None else list(families),
        [] if families is None else [recovery(matrix, families) for matrix in matrices],
        list(measured),
        [np.array([row[i] for row in rows]) for i in range(len(measured))],
        judged(np.zeros((len(tasks), len(tasks)))),
        None if families is None else _grouped(tasks, families),
    )


def compute(measure: Measure, tasks: Sequence[Task]) -> Computed | str:
    """Compare all tasks that lack nothing by one measure; else say in one line why not."""
    try:
        distances, seconds = _timed(measure, tasks)
    except FedprintError as error:
        return str(error)
    distances = np.where(np.isfinite(distances), distances, np.nan)
    if np.isnan(distances[~np.eye(len(tasks), dtype=bool)]).all():
        return "says nothing of any pair of these tasks"
    whole = sum(not lacks(measure, task) for task in tasks)
    return Computed(measure, distances, whole, seconds / distances.size)


def _grouped(tasks: Sequence[Task], families: Sequence[str]) -> Grouped | None:
    """Group tasks as a run does by default, and judge that."""
    from sklearn.metrics import adjusted_rand_score

    prints = [task.fingerprint for task in tasks if task.fingerprint is not None]
    if len(prints) < len(tasks):
        return None
    found = group(prints, tasks[0].spec)
    home = {site: each.name for each in found.groups for site in each.sites}
    family = {task.name: name for task, name in zip(tasks, families, strict=True)}
    kin = [
        family[found.sites[site].partners[0].site] == own
        for site, own in family.items()
        if families.count(own) > 1 and found.sites[site].partners
    ]
    return Grouped(
        len(found.groups),
        float(adjusted_rand_score(families, [home[task.name] for task in tasks])),
        sum(kin) / len(kin) if kin else None,
    )


def _timed(measure: Measure, tasks: Sequence[Task]) -> tuple[Floats, float]:
    """Return distances [k, k] and the seconds they took; a quick measure is timed once more."""
    for attempt in (1, 2):  # the first call of a measure may import a library
        start = time.perf_counter()
        distances = distances_between(measure, tasks)
        seconds = time.perf_counter() - start
        if attempt == 1 and seconds > QUICK_SECONDS:
            break
    return distances, seconds
