"""Sensitivity, noise and budget against formulas, published figures and the exact distribution."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import chisquare

from protocol.errors import BadPrivacy, ConfigError
from protocol.privacy import (
    DELTA,
    EPSILON,
    AskedTerms,
    check_terms,
    epsilon_of,
    mechanism,
    noised,
    rho_for,
    rho_of,
    sensitivity,
    sigma_for,
    terms,
)
from protocol.statement import Privacy

EPSILONS = st.floats(0.05, 50)
DELTAS = st.floats(-9, -2).map(lambda power: 10.0**power)


@given(st.integers(1, 6), st.integers(2, 5), st.integers(1, 4), st.integers(0, 2**32))
@settings(max_examples=200)
def test_no_exchange_of_a_patient_moves_counts_further(m: int, b: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    before, after = rng.integers(0, b, (2, k, m))  # the bin of each image in each feature
    moved = np.zeros((m, b))
    for feature in range(m):
        moved[feature] += np.bincount(before[:, feature], minlength=b)
        moved[feature] -= np.bincount(after[:, feature], minlength=b)
    assert np.linalg.norm(moved) <= sensitivity(m, k) * (1 + 1e-12)
    worst = np.zeros((m, b))
    worst[:, 0], worst[:, 1] = k, -k  # every image goes from one bin to another, in every feature
    assert np.linalg.norm(worst) == pytest.approx(sensitivity(m, k))
    assert np.linalg.norm(worst[:, 0]) == pytest.approx(sensitivity(m, k, "add-remove"))


@pytest.mark.parametrize(("rho", "epsilon"), [(0.05, 1.31), (0.125, 2.17)])
def test_published_figures(rho: float, epsilon: float) -> None:
    assert round(epsilon_of(rho, 1e-5), 2) == epsilon
    assert rho_of(epsilon_of(rho, 1e-5), 1e-5) == pytest.approx(rho, rel=1e-9)


@given(st.floats(1e-4, 20), DELTAS)
@settings(max_examples=100)
def test_epsilon_against_the_bounds_it_comes_from(rho: float, delta: float) -> None:
    """Compare with Canonne, Kamath and Steinke (2004.00010), and Bun and Steinke (1605.02065)."""

    def at(power: float) -> float:
        alpha = 1 + math.exp(power)
        return rho * alpha + math.log1p(-1 / alpha) - math.log(delta * alpha) / (alpha - 1)

    best = minimize_scalar(at, bounds=(math.log(0.05), math.log(1e5)), method="bounded").fun
    epsilon = epsilon_of(rho, delta)
    if epsilon > 0.05:
        assert best * (1 - 1e-6) <= epsilon <= best * 1.05 + 0.01  # it looks at few orders alpha
    if 0.05 < epsilon < 10:
        assert epsilon <= rho + 2 * math.sqrt(rho * math.log(1 / delta))


@given(EPSILONS, DELTAS)
@settings(max_examples=60)
def test_rho_is_the_largest_that_epsilon_allows(epsilon: float, delta: float) -> None:
    rho = rho_of(epsilon, delta)
    assert epsilon_of(rho, delta) <= epsilon
    assert epsilon_of(rho * (1 + 1e-9), delta) > epsilon * (1 - 1e-12)
    assert epsilon_of(rho * (1 + 1e-6), delta) > epsilon


@given(EPSILONS, DELTAS, st.integers(1, 2000), st.integers(1, 50))
@settings(max_examples=60)
def test_the_mechanism_spends_no_more_than_its_terms(
    epsilon: float, delta: float, width: int, cap: int
) -> None:
    made = terms(width, epsilon=epsilon, delta=delta, cap=cap)
    check_terms(made, width, cap)
    assert (made.mode, made.neighbours, made.epsilon) == ("private", "replace-one", epsilon)
    assert made.rho is not None
    assert made.sigma is not None
    distance = sensitivity(width, cap)
    assert mechanism(made.sigma).map(distance) <= made.rho  # OpenDP's own accounting
    assert rho_for(sigma_for(made.rho, distance), distance) == pytest.approx(made.rho)
    assert made.sigma == float(f"{made.sigma:.6g}")
    assert Privacy.model_validate_json(made.model_dump_json()) == made


@pytest.mark.parametrize("sigma", [0.4, 1.7, 8.59645, 60.0])
def test_noise_is_the_exact_discrete_gaussian(sigma: float) -> None:
    counts = np.arange(30_000).reshape(300, 100) % 7
    noise = (noised(counts, sigma) - counts).ravel()
    reach = math.ceil(6 * sigma)
    support = np.arange(-reach, reach + 1)
    mass = np.exp(-(support**2) / (2 * sigma**2))
    expected = mass / mass.sum() * noise.size
    seen = np.bincount(np.clip(noise, -reach, reach) + reach, minlength=support.size)
    # neighbouring values are pooled until each class expects twenty
    edges = [0]
    for place in range(support.size):
        if expected[edges[-1] : place].sum() >= 20:
            edges.append(place)
    edges.pop()
    observed, predicted = np.add.reduceat(seen, edges), np.add.reduceat(expected, edges)
    assert chisquare(observed, predicted, sum_check=False).pvalue > 1e-6
    assert np.std(noise) <= sigma * 1.03


def test_noise_keeps_shape_and_is_drawn_anew() -> None:
    counts = np.full((8, 5), 12, np.uint8)[:, ::-1]
    first, second = noised(counts, 8.0), noised(counts, 8.0)
    assert first.shape == (8, 5)
    assert first.dtype == np.int64
    assert not np.array_equal(first, second)
    assert (counts == 12).all()
    assert noised(np.full((1, 2000), 1), 20.0).min() < 0  # never clipped before it is signed


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan, math.inf, 1e300])
def test_sigmas_that_are_none(sigma: float) -> None:
    with pytest.raises(ConfigError, match=r"^sigma .* must lie above 0 and not above 1.09951e\+12"):
        noised(np.zeros((2, 2), int), sigma)


@pytest.mark.parametrize(
    ("epsilon", "delta", "text"),
    [
        (0.0, 1e-5, "epsilon 0 must lie in 0.01 to 100"),
        (-1.0, 1e-5, "epsilon -1 must lie in 0.01 to 100"),
        (101.0, 1e-5, "epsilon 101 must lie in 0.01 to 100"),
        (math.nan, 1e-5, "epsilon nan must lie in 0.01 to 100"),
        (math.inf, 1e-5, "epsilon inf must lie in 0.01 to 100"),
        (1.0, 0.0, "delta 0 must lie in 1e-12 to 0.01"),
        (1.0, 0.02, "delta 0.02 must lie in 1e-12 to 0.01"),
        (1.0, math.nan, "delta nan must lie in 1e-12 to 0.01"),
        (
            0.01,
            1e-12,
            "epsilon 0.01 at delta 1e-12 cannot be had: ask for a larger epsilon",
        ),
    ],
)
def test_extreme_wishes(epsilon: float, delta: float, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        terms(8, epsilon=epsilon, delta=delta)
    assert str(caught.value) == text


def test_arguments_that_make_no_sense() -> None:
    for rho, delta in ((-1.0, 1e-5), (math.nan, 1e-5), (math.inf, 1e-5), (0.1, 0.0), (0.1, 1.0)):
        with pytest.raises(ConfigError, match=r"has no epsilon: check the two$"):
            epsilon_of(rho, delta)
    assert epsilon_of(0.0, 1e-5) == 0
    for width, cap in ((0, 1), (8, 0)):
        with pytest.raises(ConfigError, match=r"counts at least one feature and caps"):
            sensitivity(width, cap)


def test_defaults_are_those_of_the_documents() -> None:
    assert AskedTerms() == AskedTerms(mode="plain", epsilon=2.0, delta=1e-5)
    assert (EPSILON, DELTA) == (2.0, 1e-5)


MADE = terms(8, epsilon=2.0, delta=1e-5, cap=2)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"sigma": 17.0}, "sigma is 17 counts, but rho 0.108256 needs 17.1929"),
        ({"sigma": 34.0}, "sigma is 34 counts, but rho 0.108256 needs 17.1929"),
        ({"rho": 0.1}, "sigma is 17.1929 counts, but rho 0.1 needs 17.8885"),
        ({"epsilon": 1.9}, "epsilon is 1.9, but rho 0.108256 at delta 1e-05 is 2"),
        ({"epsilon": 2.1}, "epsilon is 2.1, but rho 0.108256 at delta 1e-05 is 2"),
        ({"delta": 1e-6}, "epsilon is 2, but rho 0.108256 at delta 1e-06 is 2.23727"),
        ({"sigma": None}, "a private release must state its sigma"),
        ({"rho": None}, "a private release must state its rho"),
        ({"epsilon": None}, "a private release must state its epsilon"),
        ({"delta": None}, "a private release must state its delta"),
        ({"sigma": 0.0}, "sigma 0 lies outside 0 to 1.09951e+12"),
        ({"sigma": 1e300}, "sigma 1e+300 lies outside 0 to 1.09951e+12"),
        ({"rho": 0.0}, "rho 0 lies outside 1e-07 to 100"),
        ({"epsilon": 1e9}, "epsilon 1e+09 lies outside 0.01 to 100"),
        ({"delta": 0.5}, "delta 0.5 lies outside 1e-12 to 0.01"),
        (
            {"neighbours": "add-remove"},
            "the neighbour relation is add-remove, it must be replace-one: the number of images "
            "is public",
        ),
        (
            {"neighbours": None},
            "the neighbour relation is None, it must be replace-one: the number of images is "
            "public",
        ),
        ({"spent_rho": 0.1}, "spent in all 0.1, less than this release alone (0.108256)"),
        ({"spent_rho": 3.0, "budget_rho": 2.0}, "spent in all 3 of a budget of 2"),
        ({"mode": "plain"}, "a plain release states noise: it must be private, or state none"),
    ],
)
def test_terms_that_contradict_each_other(changes: dict[str, Any], text: str) -> None:
    check_terms(MADE.model_copy(update={"spent_rho": 0.2, "budget_rho": 0.2}), 8, 2)
    with pytest.raises(BadPrivacy) as caught:
        check_terms(MADE.model_copy(update=changes), 8, 2)
    assert str(caught.value) == text
    assert caught.value.reason == "bad-privacy"


def test_terms_of_another_spec_or_cap() -> None:
    with pytest.raises(BadPrivacy, match=r"^a private release needs a contribution cap of at leas"):
        check_terms(MADE, 8, 0)
    for width, cap in ((8, 1), (8, 3), (9, 2), (1280, 2)):
        with pytest.raises(BadPrivacy, match=r"^sigma is 17\.1929 counts, but rho 0\.108256 needs"):
            check_terms(MADE, width, cap)
    check_terms(Privacy(), 8, 0)


@given(st.data())
@settings(max_examples=300)
def test_no_single_figure_can_be_changed(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["rho", "sigma", "epsilon", "delta"]))
    factor = data.draw(st.floats(1e-9, 1e9).filter(lambda f: abs(math.log(f)) > 1e-3))
    changed = MADE.model_copy(update={name: getattr(MADE, name) * factor})
    with pytest.raises(BadPrivacy):
        check_terms(changed, 8, 2)
