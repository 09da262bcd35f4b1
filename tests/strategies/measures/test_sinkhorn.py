"""Sinkhorn divergences against POT's other solvers, and what they must be."""

import re

import numpy as np
import ot
import pytest

from protocol.descriptors import Features
from protocol.errors import ConfigError
from protocol.projection import Projection
from strategies.measures import Task, get
from strategies.measures.sinkhorn import REGULARISATION, cloud, divergences, transport
from tests.strategies.measures.made_up import SPEC, make_tasks

TASKS = make_tasks([0, 0, 1, 2])


def clouds() -> list[np.ndarray]:
    return [cloud(t.features.values, SPEC, 200) for t in TASKS if t.features is not None]


def test_transport_is_what_pot_solves_in_the_log_domain() -> None:
    x, y = clouds()[0], clouds()[2]
    cost = ot.dist(x, y) / 6
    solved = ot.solve(cost, reg=REGULARISATION, reg_type="KL", max_iter=20_000, tol=1e-12)
    assert transport(x, y) == pytest.approx(float(solved.value), rel=1e-6)


def test_transport_without_regularisation_is_the_earth_movers_distance() -> None:
    x, y = clouds()[0], clouds()[2]
    exact = ot.emd2([], [], ot.dist(x, y) / 6)
    assert transport(x, y, 2e-4) == pytest.approx(exact, rel=0.05)


def test_divergence_is_debiased() -> None:
    own = clouds()
    d = get("sinkhorn").matrix(TASKS, TASKS)
    np.testing.assert_allclose(np.diag(d), 0, atol=1e-12)
    np.testing.assert_allclose(d, d.T, atol=1e-9)
    a, b = own[0], own[2]
    expected = transport(a, b) - (transport(a, a) + transport(b, b)) / 2
    assert d[0, 2] == pytest.approx(expected)
    assert d[0, 1] < d[0, 2]


def test_two_points_by_hand() -> None:
    # of single points there is one plan only: the divergence is their cost
    found = divergences([np.array([[0.0, 0.0]])], [np.array([[0.6, 0.8]])])
    assert found[0, 0] == pytest.approx(0.5)


def test_the_sample_does_not_depend_on_the_order_of_images() -> None:
    values = np.random.default_rng(0).uniform(size=(50, 6)).astype(np.float32)
    taken = cloud(values, SPEC, 10)
    assert taken.shape == (10, 6)
    np.testing.assert_array_equal(taken, cloud(values[::-1], SPEC, 10))
    assert taken.min() >= 0
    assert cloud(values + 9, SPEC, 10).max() == 1


def test_the_projected_form_needs_a_projection() -> None:
    text = (
        "measure sinkhorn-projected needs a spec with a public projection, test has none: "
        "take lite0-private, or measure sinkhorn"
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(text)}$"):
        get("sinkhorn-projected").matrix(TASKS, TASKS)


def test_the_projected_form_is_the_same_on_projected_features() -> None:
    spec = SPEC.model_copy(update={"projection": Projection.of(np.eye(6))})
    tasks = [Task(t.name, t.images, spec, features=t.features) for t in TASKS]
    found = get("sinkhorn-projected").matrix(tasks, tasks)
    np.testing.assert_allclose(found, get("sinkhorn").matrix(TASKS, TASKS))


def test_a_task_without_images_is_refused() -> None:
    empty = Features(np.zeros((0, 6), np.float32), np.zeros(0, np.int64))
    task = Task("none", 0, SPEC, features=empty)
    with pytest.raises(Exception, match=r"^task none has no features: release those of one image"):
        get("sinkhorn").matrix([task], TASKS)
