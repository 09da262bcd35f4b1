"""What a measure needs of a task, and who has not released it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from protocol.descriptors import ClassMoments, Features, Fisher, Moments
from protocol.errors import BadShape, ConfigError, FedprintError, NotFinite, SpecMismatch
from protocol.spec import Spec, check_same
from protocol.taskcard import TaskCard
from strategies.measures.base import FloatArray, Measure, Need, Task, rows_of

T = TypeVar("T")
MOST_PAIRS = 1_000_000
"""Pairs of classes of two tasks."""

_NAMES: dict[Need, str] = {
    "fingerprint": "the fingerprint",
    "card": "the task card",
    "moments": "moments",
    "class-moments": "class-moments",
    "fisher": "fisher",
    "features": "raw features",
    "scores": "scores",
}


def require(measure: Measure, tasks: Sequence[Task]) -> None:
    """Check that every task has what a measure needs.

    Parameters
    ----------
    measure
        The one to be computed.
    tasks
        All that are to be compared.

    Raises
    ------
    ConfigError
        Naming the first task that lacks something, and how it is released.
    """
    for task in tasks:
        for need in lacks(measure, task):
            raise ConfigError(
                f"measure {measure.name} needs {_NAMES[need]} of every site, {task.name} "
                f"released none: {_remedy(need)}"
            )


def lacks(measure: Measure, task: Task) -> list[Need]:
    """Return what a measure needs of a task and the task does not have, sorted."""
    return sorted(need for need in measure.needs if not _has(task, need, measure.name))


def _has(task: Task, need: Need, measure: str) -> bool:
    if need == "scores":
        return measure in task.scores
    return getattr(task, need.replace("-", "_")) is not None


def _remedy(need: Need) -> str:
    if need in ("fingerprint", "card"):
        return "compare run folders, or folders of signed fingerprints"
    if need == "scores":
        return "run with run-config scores=true"
    if need == "features":
        return 'run a simulation with run-config descriptors="features": no deployment lets them go'
    return f'run with run-config descriptors="{need}", or fedprint fingerprint --also {need}'


def same_spec(*tasks: Task) -> Spec:
    """Return the spec that all tasks share.

    Raises
    ------
    FedprintError
        If there are no tasks.
    SpecMismatch
        Naming what differs.
    """
    if not tasks:
        raise FedprintError("there are no tasks to compare: give at least one")
    spec = tasks[0].spec
    for task in tasks[1:]:
        if task.spec is not spec:
            check_same(spec, task.spec)
    return spec


def both_rows(
    sources: Sequence[Task], targets: Sequence[Task]
) -> tuple[FloatArray, FloatArray, Spec]:
    """Return the histograms ``[S, m, b]`` and ``[T, m, b]`` of both sides and their one spec.

    Where both sides are the same, so are the arrays: they need not lie in memory twice.
    """
    own, spec = rows_of(sources)
    same = list(map(id, sources)) == list(map(id, targets))
    others = own if same else rows_of(targets)[0]
    same_spec(*sources, *targets)
    return own, others, spec


def moments_of(tasks: Sequence[Task]) -> list[Moments]:
    """Return the moments of every task, checked, see `require` for what is raised."""
    found = [_given(task.moments, task, "moments") for task in tasks]
    for task, moments in zip(tasks, found, strict=True):
        m = task.spec.width
        _check(task, "mean", moments.mean, (m,))
        _check(task, "covariance", moments.covariance, (m, m))
    return found


def class_moments_of(tasks: Sequence[Task]) -> list[ClassMoments]:
    """Return the class moments of every task, checked, see `require` for what is raised."""
    found = [_given(task.class_moments, task, "class-moments") for task in tasks]
    for task, moments in zip(tasks, found, strict=True):
        c, m = len(moments.counts), task.spec.width
        _check(task, "class means", moments.means, (c, m))
        _check(task, "class variances", moments.variances, (c, m))
    return found


def few_classes(source: int, target: int) -> bool:
    """Tell whether two tasks have so few classes that all pairs of them can be compared.

    A card may name 10,000 classes, and what takes all pairs of so many takes minutes and gigabytes.
    """
    return source * target <= MOST_PAIRS


def fisher_of(tasks: Sequence[Task]) -> list[Fisher]:
    """Return the Fisher embedding of every task, checked, see `require` for what is raised."""
    found = [_given(task.fisher, task, "fisher") for task in tasks]
    for task, fisher in zip(tasks, found, strict=True):
        _check(task, "Fisher embedding", fisher.values, (len(found[0].values),))
    return found


def features_of(tasks: Sequence[Task]) -> list[Features]:
    """Return the raw features of every task, checked, see `require` for what is raised."""
    found = [_given(task.features, task, "features") for task in tasks]
    for task, features in zip(tasks, found, strict=True):
        _check(task, "features", features.values, (len(features.labels), task.spec.width))
        if not len(features.labels):
            raise BadShape(f"task {task.name} has no features: release those of one image at least")
    return found


def cards_of(tasks: Sequence[Task]) -> list[TaskCard]:
    """Return the card of every task, see `require` for what is raised."""
    if not tasks:
        raise FedprintError("there are no tasks to compare: give at least one")
    return [_given(task.card, task, "card") for task in tasks]


def _given(value: T | None, task: Task, need: Need) -> T:
    if value is None:
        raise ConfigError(f"task {task.name} has not released {_NAMES[need]}: {_remedy(need)}")
    return value


def _check(task: Task, what: str, values: NDArray[np.floating], shape: tuple[int, ...]) -> None:
    if values.shape != shape:
        raise SpecMismatch(
            f"{what} of task {task.name} have shape {values.shape}, but {shape} is expected: "
            "release them again under the spec of the others"
        )
    if not np.isfinite(values).all():
        raise NotFinite(f"{what} of task {task.name} are not finite: release them again")
