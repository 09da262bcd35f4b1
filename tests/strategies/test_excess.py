"""The symmetrised excess is a squared distance, and its sampling variance is known."""

import re
import tracemalloc

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import energy_distance

from protocol.errors import BadShape
from strategies.bkld import bkld_matrix
from strategies.excess import (
    counted_overlap,
    cumulative,
    debiased,
    excess,
    histograms_below,
    histograms_overlap,
    overlap,
    relative,
    sampling_variance,
    site_distances,
    spread,
    summed_below,
    symmetrised,
)
from strategies.whole_numbers import feature_gram


def test_symmetrised_excess_is_the_squared_euclidean_distance() -> None:
    rng = np.random.default_rng(0)
    rows = rng.dirichlet(np.full(9, 0.3), size=(7, 5))  # [k, m, b]
    flat = rows.reshape(7, -1)
    expected = cdist(flat, flat, "sqeuclidean") / 5
    np.testing.assert_allclose(symmetrised(bkld_matrix(rows, rows)), expected, atol=1e-12)


def test_symmetrised_excess_with_common_weights() -> None:
    rng = np.random.default_rng(1)
    rows = rng.dirichlet(np.full(4, 0.5), size=(6, 3))
    w = np.array([0.2, 0.5, 0.3])
    flat = (rows * np.sqrt(w)[None, :, None]).reshape(6, -1)
    distances = bkld_matrix(rows, rows, target_weights=np.tile(w, (6, 1)))
    np.testing.assert_allclose(symmetrised(distances), cdist(flat, flat, "sqeuclidean"), atol=1e-12)


def test_distances_by_blocks_are_the_excess_of_cumulated_histograms() -> None:
    """The symmetrised excess bKLD, as it is defined, at more features than one block takes."""
    rng = np.random.default_rng(4)
    images = rng.integers(5, 60, 40)
    shares = rng.dirichlet(np.full(200, 0.2), size=(40, 900))  # [k, m, b], two bins an edge
    counts = rng.multinomial(images[:, None], shares).astype(np.uint8)
    rows = counts / images[:, None, None]
    below = cumulative(rows)  # [k, m * e, 2]
    squared = symmetrised(bkld_matrix(below, below))
    unbiased = debiased(squared, sampling_variance(below, images.tolist()))
    expected = relative(unbiased, spread(below, images.tolist()))
    tracemalloc.start()
    found = site_distances(overlap(histograms_below(list(counts))), images.tolist())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    assert peak < 3 * 2**26 < rows.nbytes * 4


@pytest.mark.parametrize("most", [40, 5000])
def test_overlap_of_counts_is_that_of_their_shares(most: int) -> None:
    """Once in parts whose sums single precision holds, once in double precision."""
    rng = np.random.default_rng(5)
    images = rng.integers(most // 2, most, 9)
    counts = rng.multinomial(images[:, None], np.full(8, 0.125), size=(9, 2000))
    below = summed_below(counts)  # [k, m, e]
    shares = below.reshape(9, -1) / images[:, None]
    found, expected = counted_overlap(below, images), overlap([shares])
    np.testing.assert_allclose(found.products, expected.products, rtol=1e-14)
    np.testing.assert_allclose(found.spread, expected.spread, rtol=1e-12)
    assert (found.products == found.products.T).all()


@pytest.mark.parametrize(("most", "bins"), [(60, 100), (60, 200), (60, 2), (5000, 100)])
def test_overlap_of_histograms_is_that_of_their_blocks(most: int, bins: int) -> None:
    rng = np.random.default_rng(7)
    images = rng.integers(most // 2, most, 5)
    shares = rng.dirichlet(np.full(bins, 0.2), size=(5, 130))  # [k, m, b]
    counts = list(rng.multinomial(images[:, None], shares).astype(np.uint16))
    found, expected = histograms_overlap(counts), overlap(histograms_below(counts))
    np.testing.assert_allclose(found.products, expected.products, rtol=1e-13)
    np.testing.assert_allclose(found.means, expected.means, rtol=1e-13)
    counts[2][3] = 0  # an empty row counts as uniform, which is no count of images
    found, expected = histograms_overlap(counts), overlap(histograms_below(counts))
    np.testing.assert_allclose(found.products, expected.products, rtol=1e-13)


def test_overlap_of_many_small_sites_needs_little_memory() -> None:
    """Single precision would hold the sums of all features at once; memory would not."""
    counts = [np.zeros((600, 100), dtype=np.uint8) for _ in range(400)]
    for site, each in enumerate(counts):
        each[:, site % 100] = 2
    tracemalloc.start()
    histograms_overlap(counts)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * 2**26 < 2 * 4 * 400 * 600 * 99


def test_products_of_counts_have_no_error() -> None:
    rng = np.random.default_rng(6)
    counts = rng.multinomial(600, rng.dirichlet(np.full(20, 0.05)), size=(5, 300))  # [k, m, b]
    flat = counts.reshape(5, -1)
    whole = flat @ flat.T
    single = flat.astype(np.float32) @ flat.astype(np.float32).T
    assert (feature_gram(list(counts.astype(np.uint16)), 600) == whole).all()
    assert (single != whole).any()  # which is why they are summed in parts


def test_excess_is_zero_on_the_diagonal() -> None:
    d = np.array([[1.0, 3.0], [2.0, 2.5]])
    np.testing.assert_array_equal(excess(d), [[0.0, 0.5], [1.0, 0.0]])


@pytest.mark.parametrize(("images", "draws"), [(20, None), (200, None), (30, 50), (15, 400)])
def test_sampling_variance_is_unbiased(images: int, draws: int | None) -> None:
    rng = np.random.default_rng(2)
    truth = rng.dirichlet(np.full(6, 0.7), size=3)  # [m, b]
    scatter, estimate = [], []
    for _ in range(4000):
        rows = rng.multinomial(images, truth) / images  # [m, b]
        if draws is not None:
            rows = rng.multinomial(draws, rows) / draws
        scatter.append(((rows - truth) ** 2).sum() / 3)
        estimate.append(sampling_variance(rows[None], [images], draws)[0])
    assert np.mean(estimate) == pytest.approx(np.mean(scatter), rel=0.03)


def test_debiased_distances_of_one_task_scatter_around_zero() -> None:
    rng = np.random.default_rng(3)
    truth = rng.dirichlet(np.full(20, 1.0), size=64)  # [m, b]
    images = [30, 60, 120, 300, 600] * 4
    rows = np.stack([rng.multinomial(n, truth) / n for n in images])
    squared = symmetrised(bkld_matrix(rows, rows))
    apart = ~np.eye(len(images), dtype=bool)
    corrected = debiased(squared, sampling_variance(rows, images))
    assert squared[apart].mean() > 0.01
    assert abs(corrected[apart].mean()) < 0.001
    np.testing.assert_array_equal(np.diag(corrected), 0.0)


def test_one_image_is_no_division_by_zero() -> None:
    rows = np.array([[[1.0, 0.0]], [[0.5, 0.5]]])
    assert np.isfinite(sampling_variance(rows, [1, 2])).all()


def test_matrix_must_be_square() -> None:
    text = "the excess needs a square matrix of distances, got (2, 3)"
    with pytest.raises(BadShape, match=f"^{re.escape(text)}$"):
        excess(np.zeros((2, 3)))


@pytest.mark.parametrize(("bins", "edges"), [(2, 1), (10, 9), (100, 99), (199, 198), (1000, 99)])
def test_cumulative_rows_are_distribution_functions(bins: int, edges: int) -> None:
    rng = np.random.default_rng(4)
    rows = rng.dirichlet(np.full(bins, 0.3), size=(3, 4))  # [k, m, b]
    below = cumulative(rows)
    assert below.shape == (3, 4 * edges, 2)
    np.testing.assert_allclose(below.sum(axis=2), 1.0)
    step = bins // (edges + 1) or 1
    expected = rows.cumsum(axis=2)[:, :, step - 1 :: step][:, :, :edges]
    np.testing.assert_allclose(below[..., 0].reshape(3, 4, edges), expected, atol=1e-12)


def test_excess_of_cumulative_rows_is_the_energy_distance() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.integers(0, 12, 40), rng.integers(3, 12, 60)
    rows = np.stack([np.bincount(x, minlength=12) / len(x) for x in (a, b)])[:, None, :]
    below = cumulative(rows)
    d = symmetrised(bkld_matrix(below, below))[0, 1]
    assert d * 11 == pytest.approx(energy_distance(a, b) ** 2)
    # and relative to the spread it is how much more images of two sites differ than those of one
    within = (np.abs(a[:, None] - a).mean() + np.abs(b[:, None] - b).mean()) / 2
    between = np.abs(a[:, None] - b).mean()
    plain = spread(below, [10**9, 10**9])  # the histograms taken as populations
    share = relative(np.array([[0.0, d], [d, 0.0]]), plain)[0, 1]
    assert share == pytest.approx(between / within - 1)


def test_relative_distance_of_constant_images_is_finite() -> None:
    assert relative(np.ones((2, 2)), np.zeros(2)).tolist() == [[1.0, 1.0], [1.0, 1.0]]
