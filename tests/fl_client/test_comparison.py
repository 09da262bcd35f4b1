"""Paired differences in balanced accuracy, against scikit-learn and the bootstrap."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import recall_score

from fl_client.comparison import balanced_accuracy, paired_difference


def draw(seed: int, subjects: int) -> tuple[np.ndarray, ...]:
    """Return hits of two models, labels and subjects; a subject's images are alike."""
    rng = np.random.default_rng(seed)
    of_image = np.repeat(np.arange(subjects), rng.integers(1, 6, subjects))
    labels = rng.integers(0, 3, subjects)[of_image]
    easy = rng.normal(size=subjects)[of_image] + rng.normal(size=len(of_image))
    return easy > -0.5, easy + rng.normal(size=len(of_image)) > 0, labels, of_image.astype(str)


@given(st.integers(0, 10**6), st.integers(2, 60))
def test_the_difference_is_that_of_the_scores(seed: int, subjects: int) -> None:
    ours, theirs, labels, who = draw(seed, subjects)
    found = paired_difference(ours, theirs, labels, who)
    present = np.unique(labels)
    scores = [
        recall_score(
            labels, np.where(hits, labels, -1), labels=present, average="macro", zero_division=0
        )
        for hits in (ours, theirs)
    ]
    assert found.value == pytest.approx(scores[0] - scores[1])
    assert balanced_accuracy(ours, labels) == pytest.approx(scores[0])
    back = paired_difference(theirs, ours, labels, who)
    assert back == pytest.approx((-found.value, found.error))
    assert paired_difference(ours, ours, labels, who) == (0, 0)


def test_the_error_is_that_of_drawing_subjects_again() -> None:
    ours, theirs, labels, who = draw(5, 150)
    rng, members = np.random.default_rng(0), [np.flatnonzero(who == s) for s in np.unique(who)]
    again = []
    for _ in range(2000):
        rows = np.concatenate([members[i] for i in rng.integers(0, len(members), len(members))])
        again.append(paired_difference(ours[rows], theirs[rows], labels[rows], who[rows]).value)
    assert paired_difference(ours, theirs, labels, who).error == pytest.approx(
        np.std(again), rel=0.1
    )


def test_by_hand() -> None:
    # class 0: differences 1, 0 (mean 1/2); class 1: 0, 0 (mean 0); each image its own subject
    found = paired_difference(
        np.array([True, True, False, True]),
        np.array([False, True, False, True]),
        np.array([0, 0, 1, 1]),
        np.array(list("abcd")),
    )
    assert found == pytest.approx((1 / 4, math.sqrt(4 / 3 * 2 * (1 / 8) ** 2)))


def test_one_subject_tells_nothing_certain() -> None:
    one = np.ones(4, bool)
    found = paired_difference(one, ~one, np.array([0, 1, 0, 1]), np.array(["a"] * 4))
    assert found == (1, math.inf)
