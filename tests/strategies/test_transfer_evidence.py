"""Measures against measured transfer: scipy on each target, and conventions by hand."""

import numpy as np
import pytest
from scipy import stats

from strategies.transfer_evidence import JUDGEMENTS, interval, judged_by_transfer


def by_name(values, target=0):
    return dict(zip(JUDGEMENTS, values[:, target], strict=True))


@pytest.fixture
def transfers():
    """Outcomes of 5 tasks in 3 repetitions; nobody is its own source."""
    performance = np.random.default_rng(0).random((3, 5, 5))
    performance[:, *np.diag_indices(5)] = np.nan
    return performance, np.full((3, 5), 0.5)


def test_every_judgement_is_the_mean_over_repetitions(transfers):
    performance, baseline = transfers
    distances = np.random.default_rng(1).random((5, 5))
    got = judged_by_transfer(distances, performance, baseline)
    assert got.shape == (len(JUDGEMENTS), 5)
    for target in range(5):
        others = np.delete(np.arange(5), target)
        scores = -distances[others, target]
        outcomes = performance[:, target, others]
        mine = by_name(got, target)
        for name, function in (
            ("weightedtau", stats.weightedtau),
            ("spearman", stats.spearmanr),
            ("kendall", stats.kendalltau),
        ):
            wanted = np.mean([function(scores, outcome).statistic for outcome in outcomes])
            assert mine[name] == pytest.approx(wanted)
        first = scores.argmax()
        shares = (outcomes <= outcomes[:, [first]]).mean(axis=1)
        assert mine["percentile1"] == pytest.approx(shares.mean())
        assert mine["improvement1"] == pytest.approx((outcomes[:, first] - 0.5).mean())


def test_the_outcomes_themselves_are_the_perfect_measure(transfers):
    performance, baseline = transfers
    got = judged_by_transfer(-performance[0].T, performance[:1], baseline[:1])
    np.testing.assert_allclose(got[:4], 1)


def test_a_measure_that_ties_all_sources_knows_nothing(transfers):
    got = judged_by_transfer(np.zeros((5, 5)), *transfers)
    assert (got[:3] == 0).all()
    assert got[3].mean() == pytest.approx(5 / 8, abs=0.1)  # a random one of 4 sources


def test_targets_of_which_nothing_is_known_do_not_count(transfers):
    performance, baseline = transfers
    distances = np.random.default_rng(2).random((5, 5))
    distances[:, 1] = np.nan
    distances[1:4, 0] = np.nan  # knows one source only
    performance[:, 2] = np.nan
    got = judged_by_transfer(distances, performance, baseline)
    assert np.isnan(got[:, :3]).all()
    assert np.isfinite(got[:, 3:]).all()


def test_sources_of_which_a_measure_says_nothing_come_last():
    performance = np.array([[[np.nan, 0.9, 0.8, 0.1]]])
    distances = np.array([[np.nan], [1.0], [2.0], [np.nan]])
    got = by_name(judged_by_transfer(distances, performance, np.array([[np.nan]])))
    assert got["spearman"] == got["kendall"] == pytest.approx(1)
    assert np.isnan(got["improvement1"])


def test_sources_that_served_alike_judge_nobody():
    performance = np.full((1, 1, 4), 0.7)
    got = by_name(judged_by_transfer(np.arange(4.0)[:, None], performance, np.array([[0.5]])))
    assert np.isnan([got["weightedtau"], got["spearman"], got["kendall"]]).all()
    assert (got["percentile1"], got["improvement1"]) == (1, pytest.approx(0.2))


def test_intervals_are_percentiles_of_means_over_drawn_targets():
    values = np.array([[0.0, 1.0, 2.0, 3.0], [np.nan, 1.0, np.nan, 3.0], [np.nan] * 4])
    mean, low, high = interval(values, seed=3)
    assert mean[:2].tolist() == [1.5, 2.0]
    draws = np.random.default_rng(3).integers(0, 4, (1000, 4))
    np.testing.assert_allclose(
        [low[0], high[0]], np.percentile(values[0][draws].mean(axis=1), [2.5, 97.5])
    )
    assert (low[1], high[1]) == (1, 3)
    assert np.isnan([mean[2], low[2], high[2]]).all()
    np.testing.assert_array_equal(interval(values, seed=3), (mean, low, high))
