"""Noise and sampling scatter as the coordinates and distances say they do."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.fingerprint import Fingerprint
from strategies.noise import coarse, coordinates, noisy_distances, shares_of
from tests.strategies.private import SPEC, class_images
from tests.strategies.synthetic import count


def _released(rng: np.random.Generator, n: int, sigma: float, p: np.ndarray) -> Fingerprint:
    """Independent features [m, b] of n images, with noise."""
    counts = np.stack([rng.multinomial(n, row) for row in p])
    noise = np.rint(sigma * rng.normal(size=counts.shape)).astype(np.int64)
    return Fingerprint("a", counts + noise, SPEC.digest, n, sigma)


def test_shares_sum_to_one_and_stay_unbiased() -> None:
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(5), size=8)
    shares = shares_of([_released(rng, 100, 9.0, p) for _ in range(4000)])
    np.testing.assert_allclose(shares.sum(axis=2), 1.0)
    assert shares.min() < 0
    np.testing.assert_allclose(shares.mean(axis=0), p, atol=0.006)


@pytest.mark.parametrize("sigma", [0.0, 9.0])
def test_coordinates_scatter_as_stated(sigma: float) -> None:
    rng = np.random.default_rng(1)
    p = rng.dirichlet(np.full(5, 3.0), size=8)
    sites = [_released(rng, 120, sigma, p) for _ in range(3000)]
    points = coordinates(shares_of(sites), [120] * 3000, [sigma] * 3000)
    assert points.values.shape == (3000, 8 * 4)
    np.testing.assert_allclose(points.values.mean(axis=0), 0.0, atol=0.02)
    np.testing.assert_allclose(points.values.var(axis=0), points.variance[0], rtol=0.15)
    total = np.cov(points.values.T)
    off = total - np.diag(np.diag(total))
    assert np.abs(off).max() < 0.1 * np.diag(total).max()  # independent
    np.testing.assert_allclose(points.scale.sum(), (1 - (p**2).sum(axis=1)).sum(), rtol=0.01)


@pytest.mark.parametrize(("sizes", "sigma"), [((60, 60), 0.0), ((60, 240), 8.7), ((40, 40), 8.7)])
def test_distances_are_unbiased(sizes: tuple[int, int], sigma: float) -> None:
    rng = np.random.default_rng(2)
    p, q = rng.dirichlet(np.ones(5), size=(2, 8))
    got = []
    for _ in range(1500):
        pair = [_released(rng, n, sigma, r) for n, r in zip(sizes, (p, q), strict=True)]
        got.append(noisy_distances(shares_of(pair), sizes, [sigma] * 2)[0, 1])
    spread = np.mean([8 - (r**2).sum() for r in (p, q)])
    assert np.mean(got) == pytest.approx(((p - q) ** 2).sum() / (2 * spread), rel=0.06)


def test_distances_without_noise_are_the_naive_ones() -> None:
    rng = np.random.default_rng(3)
    counts = [count(class_images(rng, t, 0, 50), 5) for t in range(3)]
    x = np.stack(counts) / 50
    v = np.array([sum((1 - (row**2).sum()) for row in s) * 50 / 49 for s in x])  # spread
    naive = np.zeros((3, 3))
    for i in range(3):
        for j in range(3):
            if i != j:
                naive[i, j] = ((x[i] - x[j]) ** 2).sum() - v[i] / 50 - v[j] / 50
    np.testing.assert_allclose(
        noisy_distances(x, [50] * 3, [0.0] * 3), naive / (2 * v.mean()), atol=1e-12
    )


def test_equal_single_valued_sites_are_at_no_distance() -> None:
    shares = np.zeros((2, 3, 4))
    shares[:, :, 0] = 1.0
    np.testing.assert_array_equal(noisy_distances(shares, [9, 9], [0.0, 0.0]), np.zeros((2, 2)))


@given(st.integers(0, 10_000), st.integers(2, 40))
@settings(max_examples=25)
def test_coarse_bins_keep_mass_and_order(seed: int, bins: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.dirichlet(np.ones(bins), size=(3, 4))
    few = coarse(rows, 8)
    assert few.shape == (3, 4, min(bins, 8))
    np.testing.assert_allclose(few.sum(axis=2), 1.0)
    if bins > 8:  # each coarse edge is one of the fine edges, the same for all sites
        for feature in range(4):
            fine, rough = rows[:, feature].cumsum(axis=1), few[:, feature].cumsum(axis=1)
            fine = np.hstack([np.zeros((3, 1)), fine])
            gaps = np.abs(fine[:, :, None] - rough[:, None, :]).max(axis=0)  # [bins + 1, 8]
            assert gaps.min(axis=0).max() < 1e-12
