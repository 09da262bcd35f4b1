"""Scores of models agree with their definitions, written out naively."""

import re
from collections import Counter
from math import log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

from protocol.errors import DataError
from strategies.transferability import (
    SCORES,
    h_score,
    h_score_shrunk,
    leep,
    logme,
    nce,
    score_model,
)

FloatArray = NDArray[np.float64]


def task(
    images: int, width: int, classes: int, seed: int = 0
) -> tuple[FloatArray, NDArray[np.int64]]:
    """Features that know a little of the labels, and the labels; every class is present."""
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), rng.integers(0, classes, images - classes)])
    centres = rng.normal(size=(classes, width))
    return centres[labels] + rng.normal(size=(images, width)), labels


def by_definition(features: FloatArray, labels: NDArray[np.int64]) -> float:
    means = np.stack([features[labels == label].mean(axis=0) for label in labels])
    inverse = np.linalg.pinv(np.cov(features, rowvar=False), rcond=1e-10)
    return float(np.trace(inverse @ np.cov(means, rowvar=False)))


@pytest.mark.parametrize(("images", "width", "classes"), [(50, 4, 3), (20, 30, 4), (200, 8, 2)])
def test_h_score_is_the_trace_of_its_definition(images: int, width: int, classes: int) -> None:
    features, labels = task(images, width, classes)
    assert h_score(features, labels) == pytest.approx(by_definition(features, labels), abs=1e-8)


def test_h_score_takes_redundant_and_constant_features_out() -> None:
    features, labels = task(60, 3, 3)
    redundant = np.hstack([features, features @ np.ones((3, 2)), np.full((60, 1), 7.0)])
    assert h_score(redundant, labels) == pytest.approx(h_score(features, labels), abs=1e-9)
    assert h_score(np.full((60, 2), 0.1), labels) == 0.0


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(2, 5))
def test_h_score_knows_no_units_and_no_names(seed: int, classes: int) -> None:
    features, labels = task(40, 5, classes, seed)
    rng = np.random.default_rng(seed + 1)
    moved = features @ rng.normal(size=(5, 5)) + rng.normal(size=5)
    renamed = rng.permutation(100)[labels]
    value = h_score(features, labels)
    assert 0 <= value <= classes - 1 + 1e-9
    assert h_score(moved, renamed) == pytest.approx(value, rel=1e-6)


def test_shrunk_h_score_is_its_definition_with_the_library_covariance() -> None:
    from sklearn.covariance import LedoitWolf

    features, labels = task(40, 60, 4)
    fitted = LedoitWolf().fit(features)
    means = np.stack([features[labels == label].mean(axis=0) for label in labels])
    between = np.cov(means, rowvar=False, bias=True)
    expected = np.trace(np.linalg.inv(fitted.covariance_) @ between) * (1 - fitted.shrinkage_)
    assert h_score_shrunk(features, labels) == pytest.approx(expected, rel=1e-9)


def test_shrinkage_tells_what_few_images_hide() -> None:
    useful, labels = task(40, 60, 3)
    useless = np.random.default_rng(5).normal(size=useful.shape)
    assert h_score(useful, labels) == pytest.approx(2) == h_score(useless, labels)
    assert h_score_shrunk(useful, labels) > h_score_shrunk(useless, labels) + 0.2
    assert h_score_shrunk(np.ones((40, 60)), labels) == 0.0


def test_nce_of_a_table_by_hand() -> None:
    # z = 0: labels a a b, z = 1: b; H(Y | Z) = 3/4 (2/3 log 3/2 + 1/3 log 3)
    expected = -0.75 * (2 / 3 * log(3 / 2) + 1 / 3 * log(3))
    assert nce([0, 0, 0, 1], [4, 4, 9, 9]) == pytest.approx(expected, abs=1e-12)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(-2, 3), st.integers(0, 3)), min_size=2, max_size=30))
def test_nce_counts_pairs(pairs: list[tuple[int, int]]) -> None:
    zs = Counter(z for z, _ in pairs)
    expected = sum(n / len(pairs) * log(n / zs[z]) for (z, _), n in Counter(pairs).items())
    found = nce([z for z, _ in pairs], [y for _, y in pairs])
    assert found == pytest.approx(expected, abs=1e-12)
    assert found <= 0


def test_leep_of_a_table_by_hand() -> None:
    theta = [[0.8, 0.2], [0.6, 0.4], [0.1, 0.9]]
    # p(z): 1.5, 1.5; p(y=0, z): 1.4, 0.6; p(y=1, z): 0.1, 0.9 (all over 3)
    a, b = 1.4 / 1.5, 0.6 / 1.5
    expected = (log(0.8 * a + 0.2 * b) + log(0.6 * a + 0.4 * b)) / 3
    expected += log(0.1 * 0.1 / 1.5 + 0.9 * 0.9 / 1.5) / 3
    assert leep(theta, [0, 0, 1]) == pytest.approx(expected, abs=1e-12)


@settings(max_examples=30)
@given(st.integers(0, 10_000))
def test_leep_of_certain_answers_is_nce(seed: int) -> None:
    rng = np.random.default_rng(seed)
    z, y = rng.integers(0, 3, 25), rng.integers(0, 4, 25)
    assert leep(np.eye(3)[z], y) == pytest.approx(nce(z, y), abs=1e-12)
    assert leep(rng.dirichlet(np.ones(3), 25), y) <= 0


@pytest.mark.parametrize(("images", "width", "classes"), [(40, 5, 3), (25, 40, 2), (30, 30, 4)])
def test_logme_is_the_evidence_maximised_directly(images: int, width: int, classes: int) -> None:
    features, labels = task(images, width, classes)

    def largest(target: FloatArray) -> float:
        def loss(logs: FloatArray) -> float:
            alpha, beta = np.exp(logs)
            covariance = features @ features.T / alpha + np.eye(images) / beta
            return -float(multivariate_normal(np.zeros(images), covariance).logpdf(target))

        found = [minimize(loss, [a, 1.0], method="Nelder-Mead", tol=1e-10) for a in (-1.0, 4.0)]
        return -min(result.fun for result in found)

    expected = np.mean([largest(1.0 * (labels == c)) for c in range(classes)]) / images
    assert logme(features, labels) == pytest.approx(expected, abs=1e-5)


def test_logme_stays_finite_where_evidence_has_no_bound() -> None:
    labels = np.array([0, 0, 1, 1, 2, 2])
    exact = np.eye(3)[labels]
    assert np.isfinite(logme(exact, labels))
    assert np.isfinite(logme(np.zeros((6, 2)), labels))
    assert logme(exact, labels) > logme(np.zeros((6, 2)), labels)


def test_a_useful_model_scores_higher_by_every_score() -> None:
    useful, labels = task(80, 6, 3)
    rng = np.random.default_rng(1)
    answers = 0.6 * np.eye(3)[labels] + 0.4 * rng.dirichlet(np.ones(3), 80)
    good = score_model(useful, answers, labels)
    bad = score_model(rng.normal(size=(80, 6)), rng.dirichlet(np.ones(3), 80), labels)
    assert tuple(good) == SCORES
    assert all(good[name] > bad[name] for name in SCORES)


def test_what_does_not_fit_is_refused() -> None:
    features, labels = task(6, 2, 2)
    theta = np.full((6, 2), 0.5)

    def refused(text: str) -> object:
        return pytest.raises(DataError, match=f"^{re.escape(text)}$")

    with refused(
        "features must be numbers of shape [images, width], not float64 of shape (6,): "
        "give one row an image"
    ):
        score_model(features[:, 0], theta, labels)
    with refused("features hold NaN or infinite values: leave that model out"):
        score_model(np.where(features > 0, np.nan, 0), theta, labels)
    with refused("features exceed 1e+12: leave that model out"):
        score_model(features * 1e200, theta, labels)
    with refused("features are of 5 images, probabilities of 6"):
        score_model(features[:5], theta, labels)
    with refused("probabilities must not be negative and must sum to 1 in every row"):
        score_model(features, theta + 0.1, labels)
    with refused("labels must be 6 integers, one an image, not int64 of shape (5,)"):
        score_model(features, theta, labels[:5])
    with refused("labels must be 6 integers, one an image, not float64 of shape (6,)"):
        score_model(features, theta, labels * 1.0)
    with refused("scores need images of at least two classes: label more of them"):
        score_model(features, theta, np.zeros(6, int))
