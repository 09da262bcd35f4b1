"""Probes and judges: verdicts against scikit-learn's metrics, weights by hand, worlds made up."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, log_loss

from fl_client.policy_judges import Judges
from fl_client.policy_probe import Scale, Verdict, folds_of, judge, mean_verdict, view_weights
from fl_client.site import ImageItem, Site
from protocol.errors import DataError
from protocol.taskcard import ClassCard, TaskCard


def site_of(labels: list[int], subjects: list[str] | None = None) -> Site:
    """Return a site whose images are never opened."""
    names = subjects or [str(number) for number in range(len(labels))]
    classes = [ClassCard(name=f"class {number}") for number in range(max(labels) + 1)]
    items = [ImageItem(Path("none"), *pair) for pair in zip(labels, names, strict=True)]
    card = TaskCard(name="task", classes=classes)
    return Site("north", Path(), card, items, Path(), True)


def test_weights_by_hand() -> None:
    labels, images = np.array([0, 0, 0, 1, 0]), np.array([0, 0, 0, 1, 2])
    # three images; two classes of 1.5 each; class 0 has two images of 0.75 each
    expected = [0.25, 0.25, 0.25, 1.5, 0.75]
    np.testing.assert_allclose(view_weights(labels, images, 3), expected)


@settings(max_examples=50)
@given(hnp.arrays(np.int64, st.integers(1, 12), elements=st.integers(0, 3)), st.data())
def test_weights_count_classes_alike_and_images_alike(
    labels: NDArray[np.int64], data: st.DataObject
) -> None:
    indices = st.integers(0, len(labels) - 1)
    more = np.array(data.draw(st.lists(indices, max_size=20)), dtype=np.int64)
    images = np.concatenate([np.arange(len(labels)), more])
    weights = view_weights(labels[images], images, 5)
    sums = np.bincount(labels[images], weights=weights, minlength=5)
    present = np.unique(labels)
    np.testing.assert_allclose(sums[present], len(labels) / len(present))
    for label in present:
        each = np.bincount(images, weights=weights)[labels == label]
        np.testing.assert_allclose(each, each[0])


def test_a_verdict_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 4)).astype(np.float32), rng.integers(0, 3, 60)
    x[:, 0] += y
    probe = LogisticRegression().fit(x[:30], y[:30])
    found = judge(probe, x[30:], y[30:], 3)
    assert found.recall == pytest.approx(balanced_accuracy_score(y[30:], probe.predict(x[30:])))
    balanced = 1 / np.bincount(y[30:])[y[30:]]
    expected = log_loss(y[30:], probe.predict_proba(x[30:]), sample_weight=balanced)
    assert found.loss == pytest.approx(expected)


def test_a_class_that_the_probe_has_never_seen_is_missed() -> None:
    x = np.array([[0.0], [1.0], [0.0], [1.0]], dtype=np.float32)
    probe = LogisticRegression().fit(x, [0, 1, 0, 1])
    found = judge(probe, x[:1], np.array([2]), 3)
    assert found.recall == 0
    assert found.loss == pytest.approx(-np.log(1e-6))
    assert mean_verdict([found, Verdict(1.0, 0.0)]) == (0.5, found.loss / 2)


def test_scaled_features_have_mean_0_and_length_1() -> None:
    features = np.random.default_rng(0).normal(3, 7, (50, 8)).astype(np.float32)
    features[:, 5] = 4.0
    scaled = Scale.of(features)(features)
    np.testing.assert_allclose(scaled.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose((scaled**2).mean(0), [1 / 8] * 5 + [0] + [1 / 8] * 2, atol=1e-6)


def test_folds_keep_subjects_apart_where_every_class_has_two() -> None:
    labels = [0, 0, 0, 0, 1, 1, 1, 1, 1, 1]
    folds, apart = folds_of(site_of(labels, list("aabbccddee")), np.arange(10), 0)
    assert apart
    assert len(folds) == 2  # class 0 has no third subject
    for fitted, out in folds:
        names = "aabbccddee"
        assert not {names[i] for i in fitted} & {names[i] for i in out}
    assert sorted(np.concatenate([out for _, out in folds]).tolist()) == list(range(10))

    folds, apart = folds_of(site_of(labels, list("aaaabbbbbb")), np.arange(10), 0)
    assert not apart
    assert len(folds) == 3


def test_too_few_images() -> None:
    text = (
        "site north has too few training images to choose an augmentation policy by: "
        "it needs two classes, and 3 images of each"
    )
    for labels in ([0] * 9, [0, 0, 0, 1, 1]):
        with pytest.raises(DataError, match=f"^{re.escape(text)}$"):
            folds_of(site_of(labels), np.arange(len(labels)), 0)


@pytest.fixture(scope="module")
def world() -> tuple[Judges, NDArray[np.float32], NDArray[np.int64]]:
    """Return judges of two classes that differ in feature 0; feature 1 is a nuisance."""
    rng = np.random.default_rng(1)
    labels = np.repeat([0, 1], 30)
    features = rng.normal(size=(60, 6)).astype(np.float32)
    features[:, 0] += 3.0 * (2 * labels - 1)
    return Judges(site_of(labels.tolist()), features, np.arange(60), 0), features, labels


def test_what_takes_images_out_of_their_class_does_not_pass(
    world: tuple[Judges, NDArray[np.float32], NDArray[np.int64]],
) -> None:
    judges, features, _ = world
    assert judges.apart
    assert judges.plain.recall > 0.9
    swapped = features.copy()
    swapped[:, 0] *= -1
    lost = judges.judge(swapped, np.arange(60))
    assert not lost.passes
    assert lost.density.recall < 0.1
    shaken = features.copy()
    shaken[:, 1] += np.random.default_rng(2).normal(0, 2, 60)
    kept = judges.judge(shaken, np.arange(60))
    assert kept.passes
    assert kept.score > lost.score
    assert kept.score == -kept.use.loss


def test_views_that_are_the_images_themselves_change_nothing(
    world: tuple[Judges, NDArray[np.float32], NDArray[np.int64]],
) -> None:
    judges, features, labels = world
    same = judges.judge(features, np.arange(60))
    assert same.density == pytest.approx(judges.plain)
    assert same.use.loss <= judges.plain.loss + 1e-3
    none = judges.on(features, labels, features[:0], np.arange(0))
    assert none.loss == pytest.approx(
        judges.on(features, labels, features, np.arange(60)).loss, abs=1e-3
    )


@pytest.mark.parametrize("seed", range(3))
def test_views_that_draw_a_nuisance_anew_are_of_use(seed: int) -> None:
    """24 images, whose classes differ in feature 0, and by chance in 39 others, too."""
    rng = np.random.default_rng(seed)
    labels = np.tile([0, 1], 12)
    features = rng.normal(size=(24, 40)).astype(np.float32)
    features[:, 0] += 1.5 * (2 * labels - 1)
    judges = Judges(site_of(labels.tolist()), features, np.arange(24), 0)
    places = np.tile(np.arange(24), 16)
    views = rng.normal(size=(len(places), 40)).astype(np.float32)
    views[:, 0] = features[places, 0]
    found = judges.judge(views, places)
    assert found.use.loss < 0.9 * judges.plain.loss
