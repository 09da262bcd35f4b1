from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fl_client.histogram import BinCounter
from protocol.errors import DataError
from protocol.spec import Calibration, Preprocess, Projection, Spec, Weights

CPU = torch.device("cpu")


def spec_of(lower: np.ndarray, upper: np.ndarray, bins: int) -> Spec:
    recipe = Spec(
        name="x",
        backbone="resnet10t",
        weights=Weights(source="timm"),
        preprocess=Preprocess(resize=8, crop=8, mean=[0, 0, 0], std=[1, 1, 1]),
        features=len(lower),
        bins=bins,
    )
    calibration = Calibration(images=["none"], count=1)
    return recipe.with_edges(lower, upper, weights_sha256="0" * 64, calibration=calibration)


@given(
    arrays(
        np.float32, st.tuples(st.integers(1, 40), st.just(5)), elements=st.floats(-9, 9, width=32)
    ),
    st.integers(2, 64),
    st.integers(0, 5),
)
@settings(max_examples=60)
def test_against_numpy_histogram(values: np.ndarray, bins: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    lower = rng.uniform(-2, 1, 5)
    # powers of two keep the division exact, so that values on an edge are no matter of rounding
    bins = 1 << (bins.bit_length() - 1)
    lower, values = np.round(lower * 8) / 8, np.round(values * 64) / 64
    upper = lower + 2.0 ** rng.integers(-1, 3, 5)
    counter = BinCounter(spec_of(lower, upper, bins), CPU)
    for part in np.array_split(values, 3):
        counter.add(torch.from_numpy(part))
    counts = counter.counts()
    for feature in range(5):
        clipped = np.clip(values[:, feature].astype(float), lower[feature], upper[feature])
        edges = lower[feature] + (upper - lower)[feature] * np.arange(bins + 1) / bins
        assert np.array_equal(counts[feature], np.histogram(clipped, edges)[0])
    assert counts.dtype == np.int64
    assert (counts.sum(axis=1) == len(values)).all()


def test_outside_and_on_the_edges() -> None:
    counter = BinCounter(spec_of(np.zeros(1), np.ones(1), 4), CPU)
    counter.add(torch.tensor([[-1e30], [-0.1], [0.0], [0.25], [0.999], [1.0], [1e30]]))
    assert counter.counts().tolist() == [[3, 1, 0, 3]]


def projected_spec_of(matrix: np.ndarray, bins: int) -> Spec:
    components, features = matrix.shape
    recipe = spec_of(np.zeros(features), np.ones(features), 2)
    return recipe.model_copy(update={"bins": bins}).with_edges(
        np.full(components, -4.0),
        np.full(components, 4.0),
        weights_sha256="0" * 64,
        calibration=Calibration(images=["none"], count=1),
        projection=Projection.of(matrix),
    )


@given(st.integers(1, 30), st.integers(1, 5), st.integers(0, 2**32))
@settings(max_examples=60)
def test_projected_features_against_numpy(images: int, components: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(images, 6)).astype(np.float32)
    matrix = rng.normal(size=(components, 6)).astype(np.float32)
    counter = BinCounter(projected_spec_of(matrix, 8), CPU)
    for part in np.array_split(values, 3):
        counter.add(torch.from_numpy(part))
    projected = values.astype(np.float64) @ matrix.astype(np.float64).T
    for direction in range(components):
        clipped = np.clip(projected[:, direction], -4, 4)
        expected = np.histogram(clipped, np.linspace(-4, 4, 9))[0]
        assert np.array_equal(counter.counts()[direction], expected)


def test_projection_is_computed_in_double_precision() -> None:
    # in float32 the large terms would swallow the small one, and the bin would be another
    counter = BinCounter(projected_spec_of(np.array([[1.0, 1.0, -1.0]]), 8), CPU)
    counter.add(torch.tensor([[2.5, 1e9, 1e9]]))
    assert counter.counts().tolist() == [[0, 0, 0, 0, 0, 0, 1, 0]]


def test_not_finite_before_the_projection() -> None:
    counter = BinCounter(projected_spec_of(np.array([[0.0, 1.0]]), 4), CPU)
    counter.add(torch.tensor([[float("inf"), 0.5]]))  # of a feature that does not even count
    with pytest.raises(DataError, match=r"^the backbone gave NaN or infinite features: check"):
        counter.counts()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_not_finite(bad: float) -> None:
    counter = BinCounter(spec_of(np.zeros(2), np.ones(2), 4), CPU)
    counter.add(torch.tensor([[0.5, bad]]))
    counter.add(torch.tensor([[0.5, 0.5]]))
    with pytest.raises(DataError, match=r"^the backbone gave NaN or infinite features: check"):
        counter.counts()


@pytest.mark.parametrize("images", [1, 63, 64, 65, 300])
def test_all_at_once_or_in_parts(images: int) -> None:
    values = np.random.default_rng(images).normal(size=(images, 7)).astype(np.float32)
    spec = spec_of(np.full(7, -1.0), np.full(7, 1.0), 16)
    whole, parts = BinCounter(spec, CPU), BinCounter(spec, CPU)
    whole.add(torch.from_numpy(values))
    for part in np.array_split(values, 5):
        parts.add(torch.from_numpy(part))
    assert np.array_equal(whole.counts(), parts.counts())
    assert (whole.counts().sum(axis=1) == images).all()
