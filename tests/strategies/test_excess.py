"""The symmetrised excess is a squared distance, and its sampling variance is known."""

import re

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from protocol.errors import BadShape
from strategies.bkld import bkld_matrix
from strategies.excess import debiased, excess, sampling_variance, symmetrised


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
