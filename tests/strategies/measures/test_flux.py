"""FLUX's class-conditional descriptors, written out."""

from dataclasses import replace

import numpy as np
import pytest

from protocol.taskcard import ClassCard
from strategies.measures import Task, get
from tests.strategies.measures.made_up import SPEC, make_task, make_tasks

TASKS = make_tasks([0, 0, 1, 2])


def points(task: Task) -> tuple[np.ndarray, np.ndarray]:
    assert task.class_moments is not None
    width = SPEC.upper_array - SPEC.lower_array
    moments = task.class_moments
    shares = moments.counts / moments.counts.sum()
    return shares, np.hstack([moments.means / width, np.sqrt(moments.variances) / width])


def test_same_classes_are_compared_with_each_other() -> None:
    (w, a), (v, b) = points(TASKS[0]), points(TASKS[2])
    classes = sum((w[c] + v[c]) / 2 * np.sum((a[c] - b[c]) ** 2) for c in range(2))
    whole = np.sum((w @ a - v @ b) ** 2)
    found = get("flux").matrix(TASKS[:1], TASKS[2:3])[0, 0]
    assert found == pytest.approx(np.sqrt(whole + classes))


def test_other_classes_are_compared_with_the_nearest() -> None:
    other = make_task("other", 0, classes=("c", "d"))
    (w, a), (v, b) = points(TASKS[0]), points(other)
    d = np.array([[np.sum((x - y) ** 2) for y in b] for x in a])
    classes = (w @ d.min(axis=1) + v @ d.min(axis=0)) / 2
    whole = np.sum((w @ a - v @ b) ** 2)
    found = get("flux").matrix([TASKS[0]], [other])[0, 0]
    assert found == pytest.approx(np.sqrt(whole + classes))


def test_it_is_symmetric_and_knows_equals() -> None:
    d = get("flux").matrix(TASKS, TASKS)
    np.testing.assert_allclose(d, d.T, atol=1e-12)
    np.testing.assert_allclose(np.diag(d), 0, atol=1e-12)
    assert d[0, 1] < d[0, 2]


def test_order_of_classes_and_classes_without_images_do_not_matter() -> None:
    task = TASKS[0]
    assert task.class_moments is not None
    assert task.card is not None
    moments = task.class_moments
    turned = replace(
        task,
        card=task.card.model_copy(
            update={"classes": [*task.card.classes[::-1], ClassCard(name="none")]}
        ),
        class_moments=replace(
            moments,
            counts=np.append(moments.counts[::-1], 0),
            means=np.vstack([moments.means[::-1], np.zeros(6)]),
            variances=np.vstack([moments.variances[::-1], np.zeros(6)]),
        ),
    )
    assert get("flux").matrix([task], [turned])[0, 0] == pytest.approx(0)
