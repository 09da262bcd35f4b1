"""Tuning by OTCE: its loss is OTCE's, its gradient is right, and the entropy falls."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fl_client.otce_tuning import (
    MOST,
    Labelled,
    conditional_entropy,
    pseudo_samples,
    tune,
)
from protocol.descriptors import ClassMoments
from strategies.transferability import otce

pytestmark = pytest.mark.filterwarnings("ignore:Sinkhorn did not converge")
CPU = torch.device("cpu")


def cloud(images: int, classes: int, seed: int, width: int = 6) -> Labelled:
    """Features of which only the first two know the labels; the rest is loud."""
    labels = np.arange(images) % classes
    rng = np.random.default_rng(seed)
    values = 3 * rng.normal(size=(images, width))
    values[:, :2] = 0.3 * rng.normal(size=(images, 2))
    values[:, 0] += np.cos(2 * np.pi * labels / classes)
    values[:, 1] += np.sin(2 * np.pi * labels / classes)
    return Labelled(values.astype(np.float32), labels)


def hot(labels: NDArray[np.int64]) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.from_numpy(labels)).double()


def loss_of(source: Labelled, target: Labelled, entropy: float) -> float:
    xs, xt = (torch.from_numpy(side.values).double() for side in (source, target))
    ys, yt = hot(source.labels), hot(target.labels)
    return float(conditional_entropy(xs, ys, xt, yt, entropy))


def test_the_loss_is_the_task_difference() -> None:
    source, target = cloud(24, 3, 0), cloud(18, 2, 1)
    expected = otce(source.values, source.labels, target.values, target.labels, entropy=0.5)
    assert loss_of(source, target, 0.5) == pytest.approx(expected.task_difference, abs=1e-4)


def test_its_gradient_is_that_of_small_steps() -> None:
    source, target = cloud(7, 2, 0, width=3), cloud(6, 3, 1, width=3)
    ys, yt = hot(source.labels), hot(target.labels)
    xt = torch.from_numpy(target.values).double()
    xs = torch.from_numpy(source.values).double().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: conditional_entropy(x, ys, xt, yt, 0.5), (xs,), atol=1e-4, rtol=1e-3
    )


@settings(max_examples=10)
@given(st.floats(1e-3, 1e3))
def test_growing_is_no_gain(factor: float) -> None:
    source, target = cloud(12, 3, 0), cloud(12, 3, 1)
    grown = (Labelled((factor * s.values).astype(np.float32), s.labels) for s in (source, target))
    assert loss_of(*grown, 0.1) == pytest.approx(loss_of(source, target, 0.1), abs=1e-3)


def test_tuning_lowers_the_entropy_of_the_labels() -> None:
    torch.manual_seed(0)
    body = torch.nn.Linear(6, 6)
    torch.nn.init.eye_(body.weight)
    source, target = cloud(60, 3, 0), cloud(48, 3, 1)

    def difference() -> float:
        with torch.no_grad():
            zs, zt = (body(torch.from_numpy(side.values)).numpy() for side in (source, target))
        return otce(zs, source.labels, zt, target.labels).task_difference

    before = difference()
    course = tune(body, source, target, steps=40, device=CPU, lr=0.05)
    assert len(course) == 40
    assert course[-1] < 0.6 * course[0]
    assert difference() < 0.6 * before


def test_large_sides_take_part_by_a_sample() -> None:
    body = torch.nn.Linear(6, 2)
    assert len(tune(body, cloud(3 * MOST, 3, 0), cloud(2 * MOST, 2, 1), steps=1, device=CPU)) == 1


def test_pseudo_samples_have_the_moments_they_were_drawn_from() -> None:
    rng = np.random.default_rng(0)
    moments = ClassMoments(
        np.array([30, 0, 10]), rng.normal(size=(3, 4)), rng.uniform(0.1, 2, (3, 4))
    )
    drawn = pseudo_samples(moments, 40_000, seed=1)
    np.testing.assert_array_equal(np.bincount(drawn.labels), [30_000, 0, 10_000])
    for label in (0, 2):
        values = drawn.values[drawn.labels == label]
        np.testing.assert_allclose(values.mean(axis=0), moments.means[label], atol=0.06)
        np.testing.assert_allclose(values.var(axis=0), moments.variances[label], rtol=0.06)
    again = pseudo_samples(moments, 40_000, seed=1)
    np.testing.assert_array_equal(drawn.values, again.values)
    assert len(pseudo_samples(moments, 3, seed=1).labels) == 3  # each class that has images
