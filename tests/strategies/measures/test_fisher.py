"""Task2Vec and FED against their formulas, written out for one pair."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import cosine

from strategies.measures import get
from strategies.measures.fisher import ALPHA, symmetric
from tests.strategies.measures.made_up import make_tasks

TASKS = make_tasks([0, 0, 1, 2])
VALUES = [task.fisher.values for task in TASKS if task.fisher is not None]


def sym(a: np.ndarray, b: np.ndarray) -> float:
    return float(cosine(a / (a + b), b / (a + b)))


def test_symmetric_form() -> None:
    expected = [[sym(a, b) for b in VALUES] for a in VALUES[:2]]
    found = get("task2vec").matrix(TASKS[:2], TASKS)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_asymmetric_form_subtracts_the_complexity_of_the_source() -> None:
    flat = np.full(30, np.mean(VALUES[:2] + VALUES))
    expected = [[sym(a, b) - ALPHA * sym(a, flat) for b in VALUES] for a in VALUES[:2]]
    found = get("task2vec-asymmetric").matrix(TASKS[:2], TASKS)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_fed_is_the_plain_cosine_distance() -> None:
    expected = [[cosine(a, b) for b in VALUES] for a in VALUES]
    found = get("fed").matrix(TASKS, TASKS)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


FISHERS = arrays(np.float64, (3, 5), elements=st.floats(0, 1e6, width=32))


@given(FISHERS)
def test_symmetric_form_is_bounded_symmetric_and_knows_equals(values: np.ndarray) -> None:
    d = symmetric(values, values)
    np.testing.assert_allclose(d, d.T, atol=1e-12)
    assert (d >= 0).all()
    assert (d <= 1).all()
    used = values.any(axis=1)
    np.testing.assert_allclose(np.diag(d)[used], 0, atol=1e-12)


@given(FISHERS, st.floats(1e-3, 1e3))
def test_symmetric_form_has_no_unit(values: np.ndarray, scale: float) -> None:
    values = np.round(values, 3)
    scaled = symmetric(values * scale, values * scale)
    np.testing.assert_allclose(symmetric(values, values), scaled, atol=1e-9)


def test_filters_that_nobody_uses_do_not_count() -> None:
    a, b = np.array([[1.0, 2.0]]), np.array([[3.0, 1.0]])
    padded = [np.pad(x, ((0, 0), (0, 3))) for x in (a, b)]
    assert symmetric(*padded)[0, 0] == pytest.approx(symmetric(a, b)[0, 0])
