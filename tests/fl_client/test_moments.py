"""Moments against numpy, naive sums and laws of mixtures."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_client.moments import class_moments, moments
from protocol.errors import DataError


def drawn(seed: int, n: int, m: int, centre: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(centre, 1.0, (n, m)).astype(np.float32)


@given(seed=st.integers(0, 999), n=st.integers(2, 30), m=st.integers(1, 12))
def test_moments_are_those_of_numpy(seed: int, n: int, m: int) -> None:
    features = drawn(seed, n, m)
    found = moments(features)
    assert found.images == n
    np.testing.assert_allclose(found.mean, features.astype(float).mean(axis=0), atol=1e-12)
    wanted = np.cov(features.astype(float), rowvar=False).reshape(m, m)
    np.testing.assert_allclose(found.covariance, wanted, atol=1e-12)


def test_far_from_zero_nothing_is_lost() -> None:
    features = drawn(0, 50, 3, centre=30_000.0)
    wanted = np.cov(features.astype(float), rowvar=False)
    np.testing.assert_allclose(moments(features).covariance, wanted, rtol=1e-9)


def test_one_image_has_no_covariance() -> None:
    with pytest.raises(DataError, match=r"^1 images have no covariance: at least two are needed$"):
        moments(drawn(0, 1, 3))


@given(seed=st.integers(0, 999), n=st.integers(2, 40), m=st.integers(1, 8), c=st.integers(1, 5))
def test_moments_of_classes_make_up_those_of_all(seed: int, n: int, m: int, c: int) -> None:
    features = drawn(seed, n, m)
    labels = np.random.default_rng(seed + 1).integers(0, c, n)
    found, whole = class_moments(features, labels, c), moments(features)
    assert found.counts.sum() == n
    np.testing.assert_allclose(found.counts @ found.means / n, whole.mean, atol=1e-9)
    # total variance = within + between (law of total variance, unbiased estimates)
    within = np.maximum(found.counts - 1, 0) @ found.variances
    between = found.counts @ (found.means - whole.mean) ** 2
    total = (within + between) / (n - 1)
    np.testing.assert_allclose(total, np.diag(whole.covariance), atol=1e-9)


def test_classes_are_those_of_the_labels() -> None:
    features = drawn(2, 7, 3)
    labels = np.array([2, 0, 2, 2, 0, 3, 2])
    found = class_moments(features, labels, 4)
    assert found.counts.tolist() == [2, 0, 4, 1]
    np.testing.assert_allclose(found.means[2], features[labels == 2].astype(float).mean(axis=0))
    np.testing.assert_allclose(
        found.variances[2], features[labels == 2].astype(float).var(axis=0, ddof=1)
    )
    assert not found.means[1].any()
    assert not found.variances[[1, 3]].any()
