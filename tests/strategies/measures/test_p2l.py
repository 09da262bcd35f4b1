"""P2L against scipy's relative entropy, and its size term."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import entropy

from strategies.measures import get
from strategies.measures.p2l import SIMILARITY, with_size
from tests.strategies.measures.made_up import SPEC, make_task, make_tasks
from tests.strategies.synthetic import make_spec

TASKS = make_tasks([0, 0, 1, 2])


def test_p2l_is_the_relative_entropy_of_mean_features() -> None:
    def means(task):
        return (task.fingerprint.rows * SPEC.centres).sum(axis=1)

    expected = [[entropy(means(t), means(s)) for t in TASKS] for s in TASKS[:2]]  # it normalises
    found = get("p2l").matrix(TASKS[:2], TASKS)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_features_that_may_be_negative_go_through_a_softmax() -> None:
    plain = make_spec(features=3, bins=4)
    spec = plain.model_copy(update={"lower": [-1.0, 0.0, 0.0], "upper": [1.0, 1.0, 1.0]})
    tasks = [make_task("x", 0, spec=spec), make_task("y", 1, spec=spec)]
    means = [(t.fingerprint.rows * spec.centres).sum(axis=1) for t in tasks]  # type: ignore[union-attr]
    expected = entropy(softmax(means[1]), softmax(means[0]))
    assert get("p2l").matrix(tasks[:1], tasks[1:])[0, 0] == pytest.approx(expected)


def test_size_term_prefers_the_larger_of_equal_sources() -> None:
    small = make_task("small", 0, 40)
    large = replace(make_task("large", 0, 40), images=400)
    d = get("p2l-with-size").matrix([small, large], make_tasks([1, 2]))
    assert (d[1] < d[0]).all()
    np.testing.assert_allclose(d[0] - d[1], 2.0)  # z-scores of two sizes are -1 and 1


def test_size_term_by_hand() -> None:
    distances = np.array([[0.0, 1.0, 2.0], [3.0, 0.0, 6.0]])
    pairs = np.array([[False, True, True], [True, False, True]])
    off = np.array([1.0, 2.0, 3.0, 6.0])
    sizes = np.log([10, 1000])
    expected = (
        SIMILARITY * (distances - off.mean()) / off.std()
        - ((sizes - sizes.mean()) / sizes.std())[:, None]
    )
    np.testing.assert_allclose(with_size(distances, [10, 1000], pairs), expected)
    np.testing.assert_allclose(
        with_size(distances, [10, 10], pairs), SIMILARITY * (distances - 3.0) / off.std()
    )
    alone = with_size(np.zeros((1, 1)), [5], np.array([[False]]))
    assert alone.tolist() == [[0.0]]
