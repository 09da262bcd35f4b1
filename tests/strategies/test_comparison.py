"""Agreement, families and their recovery, against scipy and by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from protocol.errors import BadShape
from strategies.comparison import agreement, rank_correlation, recovery

values = st.one_of(st.sampled_from([0.0, 1.0, 2.0, np.nan]), st.floats(-10, 10))
columns = st.integers(3, 7).flatmap(
    lambda n: st.tuples(
        arrays(np.float64, n, elements=values), arrays(np.float64, n, elements=values)
    )
)


def two_families(rng, k=6, apart=1.0):
    """Distances of k tasks, every other one of a family; a target's own offset hides it."""
    family = np.arange(k) % 2
    points = family * apart + 0.01 * rng.random(k)
    return np.abs(points[:, None] - points[None, :]), [f"family {f}" for f in family]


@given(columns)
def test_rank_correlation_is_scipys_spearman(pair):
    a, b = pair
    got = rank_correlation(a[:, None], b[:, None])[0]
    known = np.isfinite(a) & np.isfinite(b)
    if known.sum() < 2:
        assert np.isnan(got)
    elif np.ptp(a[known]) == 0 or np.ptp(b[known]) == 0:
        assert got == 0
    else:
        assert got == pytest.approx(stats.spearmanr(a[known], b[known]).statistic, abs=1e-9)


def test_rank_correlation_refuses_other_shapes():
    with pytest.raises(BadShape) as caught:
        rank_correlation(np.zeros((2, 3)), np.zeros((3, 2)))
    assert str(caught.value) == "only matrices of one shape compare, got (2, 3) and (3, 2)"


def test_agreement_is_the_mean_over_targets_without_what_is_said_of_oneself():
    rng = np.random.default_rng(0)
    a, b = rng.random((5, 5)), rng.random((5, 5))
    by_hand = [
        stats.spearmanr(np.delete(a[:, t], t), np.delete(b[:, t], t)).statistic for t in range(5)
    ]
    got = agreement([a, b, -a])
    assert got[0, 1] == got[1, 0] == pytest.approx(np.mean(by_hand))
    assert got[0, 2] == pytest.approx(-1)
    assert np.diag(got).tolist() == [1, 1, 1]
    np.fill_diagonal(a, 99.0)
    assert agreement([a, b])[0, 1] == got[0, 1]


def test_targets_that_only_one_measure_knows_do_not_count():
    a = np.random.default_rng(1).random((4, 4))
    b = a.copy()
    b[:, 2] = np.nan
    assert agreement([a, b])[0, 1] == pytest.approx(1)
    assert np.isnan(agreement([a, np.full((4, 4), np.nan)])[0, 1])


def test_families_are_found_whatever_a_target_adds_to_all_its_distances():
    rng = np.random.default_rng(2)
    distances, families = two_families(rng)
    for shifted in (distances, distances + 5 * rng.random(6)):
        found = recovery(shifted, families)
        assert (found.adjusted_rand, found.nearest) == (1, 1)
        assert found.chance == pytest.approx(2 / 5)


def test_families_are_found_without_self_distances():
    rng = np.random.default_rng(3)
    distances, families = two_families(rng)
    distances += 100 * rng.random(6)
    np.fill_diagonal(distances, np.nan)
    found = recovery(distances, families)
    assert (found.adjusted_rand, found.nearest) == (1, 1)


def test_random_distances_find_families_by_chance():
    rng = np.random.default_rng(4)
    found = [recovery(rng.random((12, 12)), ["a", "b", "c"] * 4) for _ in range(60)]
    assert np.mean([f.adjusted_rand for f in found]) == pytest.approx(0, abs=0.05)
    assert np.mean([f.nearest for f in found]) == pytest.approx(found[0].chance, abs=0.05)


def test_a_target_without_kin_is_not_asked_for_its_nearest():
    distances, _ = two_families(np.random.default_rng(5), k=4)
    found = recovery(distances, ["a", "b", "a", "c"])
    assert (found.nearest, found.chance) == (1.0, pytest.approx(1 / 3))


def test_families_must_fit():
    with pytest.raises(BadShape) as caught:
        recovery(np.zeros((3, 3)), ["a", "b"])
    assert str(caught.value) == "2 families do not fit distances of (3, 3)"


def test_a_measure_that_ties_everything_finds_kin_by_chance():
    found = recovery(np.ones((6, 6)), ["a", "b"] * 3)
    assert found.nearest == pytest.approx(found.chance)
    assert found.adjusted_rand == 0
