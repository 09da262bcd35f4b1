"""OTCE as a measure: the pure functions over tasks, and no more images than are needed."""

import re
from dataclasses import replace

import numpy as np
import pytest

from protocol.descriptors import ClassMoments, Features
from protocol.errors import ConfigError
from protocol.taskcard import ClassCard, TaskCard
from strategies.measures import Task, get
from strategies.measures.label_transport import MOST
from strategies.transferability import even_sample, otce, otce_classes
from tests.strategies.synthetic import make_spec

SPEC = make_spec()


def make_task(name: str, seed: int, images: int) -> Task:
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(images) % 3)
    values = (rng.normal(size=(3, 8))[labels] + rng.normal(size=(images, 8))).astype(np.float32)
    parts = [values[labels == c].astype(np.float64) for c in range(3)]
    moments = ClassMoments(
        np.bincount(labels),
        np.stack([part.mean(axis=0) for part in parts]),
        np.stack([part.var(axis=0, ddof=1) for part in parts]),
    )
    features = Features(values, labels)
    return Task(name, images, SPEC, class_moments=moments, features=features)


TASKS = [make_task("a", 0, 30), make_task("b", 1, 24), make_task("c", 2, 2 * MOST)]


def test_they_are_the_pure_functions() -> None:
    images = get("otce").matrix(TASKS[:2], TASKS)
    classes = get("otce-classes").matrix(TASKS[:2], TASKS)
    assert images.shape == classes.shape == (2, 3)
    a, b = (task.features for task in TASKS[:2])
    assert a is not None
    assert b is not None
    expected = otce(a.values, a.labels, b.values, b.labels).task_difference
    assert images[0, 1] == pytest.approx(expected, abs=1e-9)
    assert TASKS[0].class_moments is not None
    assert TASKS[1].class_moments is not None
    expected = otce_classes(TASKS[0].class_moments, TASKS[1].class_moments).task_difference
    assert classes[0, 1] == expected


def test_large_tasks_are_thinned_evenly() -> None:
    labels = np.repeat([0, 1, 2], [600, 300, 100])
    chosen = even_sample(labels, 100)
    assert len(set(chosen)) == 100
    np.testing.assert_allclose(np.bincount(labels[chosen]), [60, 30, 10], atol=1)


@pytest.mark.parametrize("measure", ["otce-classes", "flux"])
def test_a_site_that_names_ten_thousand_classes_costs_only_itself(measure: str) -> None:
    def named(task: Task, classes: int) -> Task:
        names = [ClassCard(name=f"class {number}") for number in range(classes)]
        return replace(task, card=TaskCard(name="tissue", classes=names))

    many = ClassMoments(np.ones(10_000, np.int64), np.zeros((10_000, 8)), np.zeros((10_000, 8)))
    hostile = Task("many", 10_000, SPEC, class_moments=many)
    tasks = [named(TASKS[0], 3), named(hostile, 10_000)]
    found = get(measure).distances(tasks, tasks)
    np.testing.assert_array_equal(np.isnan(found), [[False, False], [False, True]])


def test_what_was_not_released_is_named() -> None:
    bare = Task("bare", 3, SPEC)
    text = (
        "task bare has not released raw features: run a simulation with run-config "
        'descriptors="features": no deployment lets them go'
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(text)}$"):
        get("otce").matrix([bare], TASKS)
    text = (
        "task bare has not released class-moments: run with run-config "
        'descriptors="class-moments", or fedprint fingerprint --also class-moments'
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(text)}$"):
        get("otce-classes").matrix(TASKS, [bare])
