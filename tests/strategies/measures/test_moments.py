"""FID and principal angles against closed forms and scipy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm, subspace_angles

from protocol.descriptors import Moments
from strategies.measures import Task, get
from strategies.measures.angles import leading_directions
from strategies.measures.frechet import factor
from tests.strategies.measures.made_up import SPEC, make_tasks
from tests.strategies.synthetic import make_spec

TASKS = make_tasks([0, 0, 1, 2])


def with_moments(mean: np.ndarray, covariance: np.ndarray, images: int = 100) -> Task:
    return Task("x", images, SPEC, moments=Moments(mean, covariance, images))


def test_fid_is_the_closed_form_with_a_matrix_root() -> None:
    found = get("fid").matrix(TASKS[:2], TASKS)
    for i, s in enumerate(TASKS[:2]):
        for j, t in enumerate(TASKS):
            a, b = s.moments, t.moments
            assert a is not None
            assert b is not None
            root = np.real(sqrtm(a.covariance @ b.covariance))
            expected = np.sum((a.mean - b.mean) ** 2) + np.trace(
                a.covariance + b.covariance - 2 * root
            )
            assert found[i, j] == pytest.approx(expected, abs=1e-9)


def test_fid_of_known_gaussians() -> None:
    # isotropic Gaussians: m (s - t)^2 plus the squared distance of the means
    a = with_moments(np.zeros(6), 4.0 * np.eye(6))
    b = with_moments(np.full(6, 2.0), 9.0 * np.eye(6))
    assert get("fid").matrix([a], [b])[0, 0] == pytest.approx(6 * 1.0 + 6 * 4.0)


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.integers(2, 12))
def test_fid_is_symmetric_and_does_not_turn(seed: int, images: int) -> None:
    rng = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    clouds = [rng.normal(size=(images, 6)) @ rng.normal(size=(6, 6)) for _ in range(2)]
    plain, turned = (
        [with_moments(c.mean(axis=0), np.cov(c, rowvar=False), images) for c in own]
        for own in (clouds, [c @ turn for c in clouds])
    )
    d = get("fid").matrix(plain, plain)
    scale = 1e-6 * d.max() + 1e-9
    np.testing.assert_allclose(d, d.T, atol=scale)
    np.testing.assert_allclose(np.diag(d), 0, atol=scale)
    np.testing.assert_allclose(d, get("fid").matrix(turned, turned), atol=scale)


def test_factor_has_no_more_columns_than_images_span_and_clips_noise() -> None:
    values = np.random.default_rng(0).normal(size=(4, 6))
    covariance = np.cov(values, rowvar=False)
    found = factor(covariance)
    assert found.shape == (6, 3)
    np.testing.assert_allclose(found @ found.T, covariance, atol=1e-12)
    noised = np.diag([2.0, 1.0, -0.5, 0.0, 0.0, 0.0])
    np.testing.assert_allclose(factor(noised) @ factor(noised).T, np.diag([2.0, 1, 0, 0, 0, 0]))
    assert factor(np.zeros((6, 6))).shape == (6, 0)


def test_fid_of_wide_sites_follows_from_their_few_images() -> None:
    """The trace of the root is the sum of the singular values of the images' inner products."""
    spec = make_spec(features=1280, bins=2)
    rng = np.random.default_rng(0)
    tasks, clouds = [], []
    for i in range(2):
        values = rng.normal(size=(60, 1280)) + i
        clouds.append(values - values.mean(axis=0))
        moments = Moments(values.mean(axis=0), np.cov(values, rowvar=False), 60)
        tasks.append(Task(f"s{i}", 60, spec, moments=moments))
    root = np.linalg.svd(clouds[0] @ clouds[1].T / 59, compute_uv=False).sum()
    traces = sum((cloud**2).sum() / 59 for cloud in clouds)
    assert tasks[0].moments is not None
    assert tasks[1].moments is not None
    apart = ((tasks[0].moments.mean - tasks[1].moments.mean) ** 2).sum()
    found = get("fid").matrix(tasks, tasks)
    assert found[0, 1] == pytest.approx(apart + traces - 2 * root, rel=1e-9)


def test_angles_are_those_of_scipy_between_singular_vectors_of_the_features() -> None:
    found = get("pacfl-angles").matrix(TASKS[:2], TASKS)
    for i, s in enumerate(TASKS[:2]):
        for j, t in enumerate(TASKS):
            spans = []
            for task in (s, t):
                assert task.moments is not None
                assert task.features is not None
                # as PACFL: the matrix of features itself, images as columns, not centred
                values = task.features.values.astype(np.float64)
                spans.append(np.linalg.svd(values.T, full_matrices=False)[0][:, :5])
            expected = np.degrees(subspace_angles(*spans)).sum()
            assert found[i, j] == pytest.approx(expected, abs=0.05)  # features are float32


def test_directions_are_orthonormal_and_lead() -> None:
    moments = Moments(np.zeros(6), np.diag([1.0, 5.0, 2.0, 0.0, 0.0, 3.0]), 100)
    found = leading_directions(moments, 2)
    np.testing.assert_allclose(np.abs(found), np.eye(6)[:, [1, 5]], atol=1e-12)


def test_few_images_give_few_angles() -> None:
    few = Task("few", 2, SPEC, moments=Moments(np.ones(6), np.zeros((6, 6)), 2))
    assert get("pacfl-angles").matrix([few], TASKS).max() <= 180.0
