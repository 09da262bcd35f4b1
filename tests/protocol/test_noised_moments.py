"""Noised moments: what one patient can move, and what is left to read."""

from __future__ import annotations

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import (
    BadDescriptor,
    BadDtype,
    BadShape,
    ConfigError,
    MalformedPayload,
    TooLarge,
)
from protocol.noised_moments import (
    GRID,
    TENSOR,
    entries,
    from_bytes,
    most_bytes,
    products,
    sensitivity,
    to_bytes,
    to_moments,
)
from protocol.privacy import noised, terms_for
from tests.protocol.conftest import make_spec

SPEC = make_spec()
M = SPEC.width


def inside(seed: int, n: int) -> np.ndarray:
    """Return features within the spec's edges."""
    share = np.random.default_rng(seed).beta(2, 2, (n, M))
    return SPEC.lower_array + share * (SPEC.upper_array - SPEC.lower_array)


def test_products_are_those_of_plain_loops() -> None:
    features = inside(0, 5)
    lower, upper = SPEC.lower_array, SPEC.upper_array
    steps = np.rint((2 * features - lower - upper) / (upper - lower) * GRID)
    rows = [[GRID, *map(int, row)] for row in steps]
    wanted = [
        sum(row[i] * row[j] for row in rows) for i in range(M + 1) for j in range(max(i, 1), M + 1)
    ]
    assert products(features, SPEC).tolist() == wanted
    assert len(wanted) == entries(M)


@given(
    st.integers(0, 10**6),
    st.sampled_from([0.3, 1.0, 30.0]),
    st.booleans(),
)
def test_no_image_moves_them_by_more_than_stated(seed: int, spread: float, corners: bool) -> None:
    rng = np.random.default_rng(seed)
    both = rng.normal(scale=spread, size=(2, 1, M)) + SPEC.lower_array
    if corners:
        both = np.where(rng.random((2, 1, M)) < 0.5, SPEC.lower_array, SPEC.upper_array)
    moved = products(both[0], SPEC) - products(both[1], SPEC)
    assert np.linalg.norm(moved.astype(float)) <= sensitivity(M) * (1 + 1e-12)


def test_the_bound_is_nearly_reached() -> None:
    # w'v = 0 wants 1 + z'y / GRID^2 = 0: of 6 signs 3.5 would differ; 3 or 4 come close
    one = np.where(np.arange(M) < 0, SPEC.lower_array, SPEC.upper_array)[None]
    other = np.where(np.arange(M) < 4, SPEC.lower_array, SPEC.upper_array)[None]
    moved = products(one, SPEC) - products(other, SPEC)
    assert np.linalg.norm(moved.astype(float)) > 0.9 * sensitivity(M)


@given(st.integers(0, 999), st.integers(1, 4))
def test_patients_of_several_images_move_them_as_often(seed: int, cap: int) -> None:
    rng = np.random.default_rng(seed)
    choose = rng.random((2, cap, M)) < 0.5
    both = np.where(choose, SPEC.lower_array, SPEC.upper_array)
    moved = products(both[0], SPEC) - products(both[1], SPEC)
    assert np.linalg.norm(moved.astype(float)) <= sensitivity(M, cap) * (1 + 1e-12)


def test_without_noise_the_moments_come_back() -> None:
    features = inside(1, 400)
    found = to_moments(products(features, SPEC), SPEC, 400, 0.0)
    half = (SPEC.upper_array - SPEC.lower_array) / 2
    np.testing.assert_allclose(found.mean, features.mean(axis=0), atol=half.max() / GRID)
    np.testing.assert_allclose(
        found.covariance, np.cov(features, rowvar=False), atol=2 * half.max() ** 2 / GRID
    )
    assert found.images == 400


def test_values_outside_the_edges_count_as_at_them() -> None:
    wild = inside(2, 30) * 100
    clipped = np.clip(wild, SPEC.lower_array, SPEC.upper_array)
    np.testing.assert_array_equal(products(wild, SPEC), products(clipped, SPEC))


def test_noise_leaves_the_moments_right_on_average_and_covariances_possible() -> None:
    n, terms = 300, terms_for(sensitivity(M), epsilon=8.0, delta=1e-5)
    features = inside(3, n)
    exact = products(features, SPEC)
    assert terms.sigma is not None
    draws = [to_moments(noised(exact, terms.sigma), SPEC, n, terms.sigma) for _ in range(100)]
    for drawn in draws:
        assert np.linalg.eigvalsh(drawn.covariance).min() > -1e-12
        np.testing.assert_allclose(drawn.covariance, drawn.covariance.T, atol=1e-12)
    means = np.array([drawn.mean for drawn in draws])
    half = (SPEC.upper_array - SPEC.lower_array) / 2
    scatter = half * terms.sigma / (n * GRID**2)  # of one draw
    off = np.abs(means.mean(axis=0) - features.mean(axis=0))
    assert bool((off < 5 * scatter / 10 + half / GRID).all())
    np.testing.assert_allclose(means.std(axis=0), scatter, rtol=0.35)


def test_file_is_read_as_it_was_written() -> None:
    values = products(inside(4, 20), SPEC)
    data = to_bytes(values)
    assert len(data) <= most_bytes(M)
    np.testing.assert_array_equal(from_bytes(data, M, 20, 0.0), values)


@pytest.mark.parametrize(
    ("data", "error", "text"),
    [
        (b"x" * 10_000, TooLarge, "^the noised moments have 10000 bytes, the limit is 4312$"),
        (b"x" * 10, MalformedPayload, "^noised moments are no readable safetensors: "),
        (
            safetensors.numpy.save({"counts": np.ones(3, np.int64)}),
            MalformedPayload,
            "^noised moments must hold one tensor 'products'$",
        ),
        (
            safetensors.numpy.save({TENSOR: np.ones(entries(M))}),
            BadDtype,
            "^products are float64, not int64$",
        ),
        (
            safetensors.numpy.save({TENSOR: np.ones(3, np.int64)}),
            BadShape,
            r"^products have shape \(3,\), not \(27,\)$",
        ),
        (
            to_bytes(np.full(entries(M), 21 * GRID**2)),
            BadDescriptor,
            "^an entry of the products is further off than 20 images and noise of 2 explain$",
        ),
        (to_bytes(np.full(entries(M), -(2**63))), BadDescriptor, "^an entry of the products is"),
    ],
)
def test_everything_else_is_refused(data: bytes, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        from_bytes(data, M, 20, 2.0)


def test_more_noise_than_can_be_drawn_is_refused_before_it_is_paid_for() -> None:
    with pytest.raises(ConfigError, match=r"^epsilon 1 takes noise of .*: count fewer images of"):
        terms_for(sensitivity(1280, cap=10_000), epsilon=1.0, delta=1e-5)
