"""Each measure against scipy, pandas or a calculation by hand."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from strategies.outcome_metrics import MEASURES, judge, percentiles, regret, weighted_tau

PERFORMANCE = np.array([0.5, 0.9, 0.7, 0.7, 0.6])
performances = arrays(np.float64, st.integers(2, 12), elements=st.sampled_from([0.1, 0.5, 0.9, 1]))


def named(values):
    return dict(zip(MEASURES, values, strict=True))


def test_percentiles_by_hand():
    assert percentiles(PERFORMANCE).tolist() == [0.2, 1.0, 0.8, 0.8, 0.4]


@given(performances)
def test_percentiles_are_the_share_not_above(performance):
    expected = [(performance <= p).mean() for p in performance]
    np.testing.assert_allclose(percentiles(performance), expected)


@given(performances)
def test_published_percentiles_are_those_of_pandas(performance):
    expected = pd.Series(performance).rank(pct=True)
    np.testing.assert_allclose(percentiles(performance, as_published=True), expected)


def test_regret_by_hand():
    assert regret(PERFORMANCE, 1) == 0
    assert regret(PERFORMANCE, 0) == pytest.approx(0.4 / 0.5)


def test_a_perfect_pick_has_no_regret_except_as_published():
    performance = np.array([0.5, 1.0])
    assert regret(performance, 1) == 0.0
    assert regret(performance, 1, as_published=True) == 1.0
    assert regret(performance, 0, as_published=True) == 1.0


def test_weighted_tau_by_its_definition():
    scores = np.array([3.0, 1.0, 4.0, 1.5, 5.0])
    performance = np.array([0.2, 0.1, 0.9, 0.5, 0.7])

    def one_way(rank_by):
        rank = np.argsort(np.argsort(-rank_by))
        num = den = 0.0
        for i, j in combinations(range(5), 2):
            weight = 1 / (rank[i] + 1) + 1 / (rank[j] + 1)
            num += weight * np.sign((scores[i] - scores[j]) * (performance[i] - performance[j]))
            den += weight
        return num / den

    expected = (one_way(scores) + one_way(performance)) / 2
    assert weighted_tau(scores, performance) == pytest.approx(expected)
    assert weighted_tau(scores, performance) == stats.weightedtau(scores, performance).statistic


def test_weighted_tau_where_nothing_is_said_or_to_be_known():
    assert weighted_tau(np.zeros(3), np.array([0.1, 0.2, 0.3])) == 0
    assert np.isnan(weighted_tau(np.arange(3.0), np.ones(3)))


def test_all_measures_of_one_ranking_by_hand():
    got = named(judge(np.array([5.0, 1.0, 4.0, 3.0, 2.0]), PERFORMANCE, 0.65))
    assert got["percentile1"] == 0.2
    assert got["percentile3"] == pytest.approx((0.2 + 0.8 + 0.8) / 3)
    assert (got["gain1"], got["gain3"], got["gain5"]) == (0, 1, 1)
    assert got["improvement1"] == pytest.approx(-0.15)
    assert got["regret1"] == pytest.approx(0.8)


def test_the_baseline_itself_is_no_gain():
    assert named(judge(np.array([1.0, 0.0]), np.array([0.5, 0.4]), 0.5))["gain1"] == 0


def test_unknown_scores_come_last_and_an_unknown_baseline_stays_unknown():
    got = named(judge(np.array([np.nan, 0.1, 0.2, 0.3, 0.4]), PERFORMANCE, np.nan))
    assert got["percentile1"] == 0.4
    assert np.isnan(got["gain3"])
    assert np.isnan(got["improvement1"])


def test_shots_in_another_order_than_the_scores():
    order = np.array([1, 0, 2, 3, 4])
    got = named(judge(np.arange(5.0), PERFORMANCE, 0.65, order=order))
    assert got["percentile1"] == 1
    assert got["weightedtau"] == weighted_tau(np.arange(5.0), PERFORMANCE)


def test_ties_are_broken_evenly():
    got = named(judge(np.zeros(4), np.array([0.1, 0.2, 0.3, 0.4]), 0.25, draws=4000))
    assert got["percentile1"] == pytest.approx(0.625, abs=0.02)
    assert got["gain1"] == pytest.approx(0.5, abs=0.03)
    assert got["gain3"] == 1


@given(performances, st.integers(0, 99))
def test_the_oracle_bounds_everybody(performance, seed):
    scores = np.random.default_rng(seed).random(len(performance))
    best, own = (named(judge(s, performance, 0.5)) for s in (performance, scores))
    assert best["percentile1"] == pytest.approx(1)
    assert best["regret1"] == 0
    assert own["regret1"] >= 0
    assert best["improvement1"] >= own["improvement1"] - 1e-12
