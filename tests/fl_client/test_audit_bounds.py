"""The maths of the audit, against independent references."""

from __future__ import annotations

import math

import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, norm
from sklearn.metrics import roc_auc_score, roc_curve

from fl_client import audit_bounds as bounds
from protocol.privacy import epsilon_of


@given(st.integers(1, 500), st.floats(0, 1), st.sampled_from([1e-4, 1e-3, 0.05]))
def test_rates_are_bounded_as_scipy_bounds_them(games: int, share: float, alpha: float) -> None:
    hits = round(share * games)
    for alternative, bound in (("greater", bounds.rate_at_least), ("less", bounds.rate_at_most)):
        known = binomtest(hits, games, alternative=alternative).proportion_ci(1 - alpha, "exact")
        expected = known.low if alternative == "greater" else known.high
        assert bound(hits, games, alpha) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("mu", [0.2, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("delta", [1e-5, 1e-3])
def test_epsilon_of_gaussian_privacy_is_that_of_dp_accounting(mu: float, delta: float) -> None:
    loss = privacy_loss_distribution.from_gaussian_mechanism(
        1 / mu, value_discretization_interval=1e-4
    )
    assert bounds.gaussian_epsilon(mu, delta) == pytest.approx(
        loss.get_epsilon_for_delta(delta), abs=2e-4
    )


def test_what_is_no_loss_is_epsilon_zero() -> None:
    assert bounds.gaussian_epsilon(0, 1e-5) == 0
    assert bounds.gaussian_epsilon(1e-6, 1e-5) == 0


@pytest.mark.parametrize("rho", [0.02, 0.05, 0.125, 0.5, 2.0])
def test_epsilon_of_zcdp_is_no_smaller(rho: float) -> None:
    """Else an intact mechanism could be told to break what it declares."""
    tight = bounds.gaussian_epsilon(bounds.declared_mu(rho), 1e-5)
    assert 0.7 * epsilon_of(rho, 1e-5) < tight < epsilon_of(rho, 1e-5)


@pytest.mark.parametrize("mu", [0.0, 0.5, 2.0])
def test_figures_of_two_gaussians(mu: float) -> None:
    rng = np.random.default_rng(0)
    inside, outside = rng.normal(mu, 1, 200_000), rng.normal(0, 1, 200_000)
    assert bounds.auc(inside, outside) == pytest.approx(norm.cdf(mu / math.sqrt(2)), abs=3e-3)
    assert bounds.gaussian_auc(mu) == pytest.approx(norm.cdf(mu / math.sqrt(2)))
    expected = norm.sf(norm.isf(0.01) - mu)
    assert bounds.tpr_at(inside, outside, 0.01) == pytest.approx(expected, abs=4e-3)
    assert bounds.gaussian_tpr(mu, 0.01) == pytest.approx(expected)


@given(st.lists(st.integers(0, 5), min_size=2, max_size=40), st.integers(1, 39))
def test_figures_are_those_of_scikit_learn(scores: list[int], cut: int) -> None:
    cut = min(cut, len(scores) - 1)
    inside, outside = np.array(scores[:cut]), np.array(scores[cut:])
    labels, both = np.r_[np.ones(len(inside)), np.zeros(len(outside))], np.r_[inside, outside]
    assert bounds.auc(inside, outside) == pytest.approx(roc_auc_score(labels, both))
    false, true, _ = roc_curve(labels, both, drop_intermediate=False)
    assert bounds.tpr_at(inside, outside, 0.3) in true[false <= 0.3]


def test_bounds_hold_and_are_tight() -> None:
    rng = np.random.default_rng(1)
    for mu in (0.2, 0.5, 1.0):
        inside, outside = rng.normal(mu, 1, 50_000), rng.normal(0, 1, 50_000)
        proved = bounds.certify(inside, outside, delta=1e-5, alpha=1e-3)
        assert mu - 0.1 < proved.mu < mu
        assert proved.epsilon_gaussian == bounds.gaussian_epsilon(proved.mu, 1e-5)
        assert 0 < proved.epsilon < bounds.gaussian_epsilon(mu, 1e-5)


def test_bounds_are_wrong_no_more_often_than_promised() -> None:
    rng, wrong, alpha = np.random.default_rng(2), 0, 0.2
    for _ in range(300):
        inside, outside = rng.normal(0.5, 1, 400), rng.normal(0, 1, 400)
        proved = bounds.certify(inside, outside, delta=1e-5, alpha=alpha)
        wrong += proved.mu > 0.5 or proved.epsilon > bounds.gaussian_epsilon(0.5, 1e-5)
    assert wrong <= 300 * alpha


def test_a_thousand_games_prove_little_even_of_a_mechanism_without_noise() -> None:
    proved = bounds.certify(np.ones(500), np.zeros(500), delta=1e-5, alpha=1e-3)
    assert 3 < proved.epsilon < 4
    assert math.isfinite(proved.mu)
    assert bounds.certify(np.ones(500), np.ones(500), delta=1e-5, alpha=1e-3) == (0, 0, 0)
