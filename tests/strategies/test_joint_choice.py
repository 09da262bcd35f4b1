"""A group's joint choice: figures worked out by hand, and what one site can do to all."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import BadShape
from strategies.joint_choice import JointChoice, joint_choice

NAN = math.nan


def choose(accuracy: list[list[float]], loss: list[list[float]] | None = None) -> JointChoice:
    """Choose by rows: the baseline, then the candidates; equal losses unless given."""
    values = np.array(accuracy, dtype=np.float64)
    return joint_choice(values, np.ones_like(values) if loss is None else np.array(loss))


def test_the_best_mean_rank_wins_though_another_has_the_larger_gain() -> None:
    # ranks by site (1 is best): baseline 3 3 3; first 2 2 1 -> 5/3; second 1 1 2 -> 4/3
    found = choose([[0.5, 0.5, 0.5], [0.6, 0.6, 0.9], [0.7, 0.7, 0.6]])
    assert (found.best, found.taken, found.sites) == (1, True, 3)
    # gains of the second 0.2 0.2 0.1: mean 1/6, standard deviation sqrt(1/300), error that/sqrt(3)
    assert found.gain == pytest.approx(1 / 6)
    assert found.error == pytest.approx(1 / 30)


def test_a_gain_within_its_error_changes_nothing() -> None:
    # gains 0.3 and -0.1: mean 0.1, standard deviation 0.2 sqrt(2), error 0.2
    found = choose([[0.5, 0.5], [0.8, 0.4]])
    assert (found.best, found.taken) == (0, False)
    assert (found.gain, found.error) == (pytest.approx(0.1), pytest.approx(0.2))


def test_ties_in_accuracy_are_told_apart_by_the_loss() -> None:
    accuracy = [[0.5, 0.5], [0.7, 0.6], [0.7, 0.6]]
    assert choose(accuracy, [[1, 1], [0.9, 0.9], [0.8, 0.8]]).best == 1
    assert choose(accuracy).best == 0  # full ties: the first


@pytest.mark.parametrize(("loss", "taken"), [(0.9, True), (1.0, False), (1.1, False)])
def test_one_site_needs_a_lower_loss_too(loss: float, taken: bool) -> None:
    found = choose([[0.5], [0.6]], [[1.0], [loss]])
    assert (found.taken, found.error, found.sites) == (taken, None, 1)


@pytest.mark.parametrize(("loss", "taken"), [(0.9, True), (1.1, False)])
def test_gains_without_spread_need_a_lower_loss_too(loss: float, taken: bool) -> None:
    found = choose([[0.5, 0.25], [0.75, 0.5]], [[1.0, 1.0], [loss, loss]])
    assert (found.taken, found.error) == (taken, 0.0)


def test_a_loss_of_equal_accuracy_is_no_gain() -> None:
    assert not choose([[0.5, 0.5], [0.5, 0.5]], [[1, 1], [0.1, 0.1]]).taken


def test_who_could_not_try_counts_as_its_baseline() -> None:
    # the second site lacks the first candidate: gains 0.3 0 0.3 and not 0.3 0.3
    found = choose([[0.5] * 3, [0.8, NAN, 0.8]])
    assert found.gain == pytest.approx(0.2)
    assert found.error == pytest.approx(0.1)


def test_a_site_without_a_baseline_takes_no_part() -> None:
    found = choose([[0.5, NAN, 0.5], [0.6, 0.0, 0.7]])
    assert (found.sites, found.gain) == (2, pytest.approx(0.15))


@pytest.mark.parametrize(
    "accuracy",
    [[[0.5, 0.5]], [[NAN, NAN], [0.9, 0.9]], [[0.5, 0.5], [NAN, NAN]], [[], []]],
    ids=["no candidate", "no baseline", "nobody tried", "no site"],
)
def test_nothing_to_compare_is_no_choice(accuracy: list[list[float]]) -> None:
    assert choose(accuracy) == JointChoice(None)


def test_a_diverged_loss_is_the_worst() -> None:
    found = choose([[0.5], [0.6], [0.6]], [[1.0], [NAN], [0.9]])
    assert (found.best, found.taken) == (1, True)
    assert not choose([[0.5], [0.6]], [[1.0], [math.inf]]).taken


@pytest.mark.parametrize("shape", [(0, 2), (2,)])
def test_scores_of_no_group_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(BadShape, match="are no scores of a group"):
        joint_choice(np.ones(shape), np.ones(shape))
    with pytest.raises(BadShape):
        joint_choice(np.ones((2, 2)), np.ones((2, 3)))


@given(st.integers(2, 9), st.floats(0.001, 1), st.floats(0, 1))
def test_no_site_alone_moves_a_group(sites: int, gain: float, base: float) -> None:
    """One gain among n has the mean gain / n and just that as its error."""
    accuracy = np.full((2, sites), base)
    accuracy[1, 0] = base + gain
    assert not joint_choice(accuracy, np.ones_like(accuracy)).taken


@given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 99))
def test_the_order_of_the_sites_plays_no_part(candidates: int, sites: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    accuracy = rng.integers(0, 5, (candidates + 1, sites)) / 4
    loss = rng.integers(0, 3, (candidates + 1, sites)).astype(float)
    order = rng.permutation(sites)
    a, b = joint_choice(accuracy, loss), joint_choice(accuracy[:, order], loss[:, order])
    assert (a.best, a.taken) == (b.best, b.taken)
