"""OTCE agrees with POT called directly and with entropies counted one by one."""

import re
from math import log

import numpy as np
import ot
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.linalg import sqrtm

from protocol.descriptors import ClassMoments
from protocol.errors import DataError
from strategies.transferability import Otce, otce, otce_classes
from strategies.transferability.class_transport import squared_wasserstein
from strategies.transferability.transport import rounded

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


def cloud(
    images: int, classes: int, seed: int, centres: FloatArray | None = None
) -> tuple[FloatArray, IntArray]:
    """Labelled points around one centre a class."""
    rng = np.random.default_rng(seed)
    around = 2 * rng.normal(size=(classes, 4)) if centres is None else centres
    labels = np.arange(images) % classes
    return around[labels] + rng.normal(size=(images, 4)), labels


def one_by_one(plan: FloatArray, ys: IntArray, yt: IntArray) -> float:
    entropy = 0.0
    for a in set(ys):
        mass = sum(plan[i, j] for i in range(len(ys)) for j in range(len(yt)) if ys[i] == a)
        for b in set(yt):
            both = sum(
                plan[i, j]
                for i in range(len(ys))
                for j in range(len(yt))
                if ys[i] == a and yt[j] == b
            )
            if both > 0:
                entropy -= both * log(both / mass)
    return entropy


@pytest.mark.parametrize("entropy", [0.0, 0.02, 0.5])
def test_otce_is_pot_and_counting(entropy: float) -> None:
    (xs, ys), (xt, yt) = cloud(20, 3, 0), cloud(15, 2, 1)
    costs = ot.dist(xs, xt)
    a, b = ot.unif(20), ot.unif(15)
    scale = costs.mean() * entropy
    plan = ot.sinkhorn(a, b, costs, scale, stopThr=1e-12) if entropy else ot.emd(a, b, costs)
    found = otce(xs, ys, xt, yt, entropy=entropy)
    np.testing.assert_allclose(found.coupling, plan, atol=1e-6)
    assert found.domain_difference == pytest.approx(np.sum(plan * costs), rel=1e-5)
    assert found.task_difference == pytest.approx(one_by_one(plan, ys, yt), abs=1e-5)


@settings(max_examples=20)
@given(st.integers(0, 1000))
def test_otce_knows_no_names_order_or_units(seed: int) -> None:
    (xs, ys), (xt, yt) = cloud(12, 3, seed), cloud(10, 2, seed + 1)
    rng = np.random.default_rng(seed)
    order, names = rng.permutation(12), rng.permutation(50)
    one = otce(xs, ys, xt, yt)
    two = otce(1000 * xs[order] + 5, names[ys][order], 1000 * xt + 5, yt)
    assert two.task_difference == pytest.approx(one.task_difference, abs=1e-5)
    assert two.domain_difference == pytest.approx(1e6 * one.domain_difference, rel=1e-5)
    assert 0 <= one.task_difference <= log(2) + 1e-9


def test_labels_that_carry_over_differ_less() -> None:
    xs, ys = cloud(60, 3, 0)
    centres = np.stack([xs[ys == c].mean(axis=0) for c in range(3)])
    xt, yt = cloud(60, 3, 1, centres)
    shuffled = np.random.default_rng(0).permutation(yt)
    assert otce(xs, ys, xt, yt).task_difference < 0.5
    assert otce(xs, ys, xt, shuffled).task_difference > 0.9


def moments_of(features: FloatArray, labels: IntArray) -> ClassMoments:
    parts = [features[labels == c] for c in range(labels.max() + 1)]
    return ClassMoments(
        np.array([len(part) for part in parts]),
        np.stack([part.mean(axis=0) for part in parts]),
        np.stack([part.var(axis=0, ddof=1) for part in parts]),
    )


@settings(max_examples=50)
@given(st.integers(0, 1000), st.floats(0, 3))
def test_rounded_plans_have_the_weights_and_moved_little(seed: int, error: float) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.dirichlet(np.ones(6)), rng.dirichlet(np.ones(4))
    rough = np.outer(a, b) * np.exp(error * rng.normal(size=(6, 4)))
    plan = rounded(rough, a, b)
    np.testing.assert_allclose(plan.sum(axis=1), a, atol=1e-12)
    np.testing.assert_allclose(plan.sum(axis=0), b, atol=1e-12)
    assert (plan >= 0).all()
    off = np.abs(rough.sum(axis=1) - a).sum() + np.abs(rough.sum(axis=0) - b).sum()
    assert np.abs(plan - rough).sum() <= 2 * off + 1e-12


def test_a_task_has_a_plan_to_itself() -> None:
    xs, ys = cloud(60, 3, 0)
    found = otce(xs, ys, xs, ys)
    np.testing.assert_allclose(found.coupling.sum(axis=0), 1 / 60, atol=1e-12)
    assert found.task_difference < 0.5 * log(3)


def test_class_costs_are_bures() -> None:
    rng = np.random.default_rng(0)
    means, deviations = rng.normal(size=(5, 4)), rng.uniform(0.2, 2, (5, 4))
    found = squared_wasserstein(means[:2], deviations[:2], means[2:], deviations[2:])
    for i in range(2):
        for j in range(3):
            a, b = np.diag(deviations[i] ** 2), np.diag(deviations[2 + j] ** 2)
            root = sqrtm(a)
            cross = sqrtm(root @ b @ root).real
            bures = np.trace(a + b - 2 * cross)
            expected = np.sum((means[i] - means[2 + j]) ** 2) + bures
            assert found[i, j] == pytest.approx(expected)


def test_class_coupling_is_pot_on_those_costs() -> None:
    source, target = moments_of(*cloud(40, 3, 0)), moments_of(*cloud(30, 4, 1))
    costs = squared_wasserstein(
        source.means, np.sqrt(source.variances), target.means, np.sqrt(target.variances)
    )
    p, q = source.counts / 40, target.counts / 30
    plan = ot.sinkhorn(p, q, costs, 0.2 * (p @ costs @ q), stopThr=1e-12)
    found = otce_classes(source, target)
    np.testing.assert_allclose(found.coupling, plan, atol=1e-6)
    every = np.arange(3), np.arange(4)
    assert found.task_difference == pytest.approx(one_by_one(plan, *every), abs=1e-5)
    assert found.domain_difference == pytest.approx(np.sum(plan * costs), rel=1e-5)


def test_classes_without_images_change_nothing() -> None:
    source, target = moments_of(*cloud(40, 3, 0)), moments_of(*cloud(30, 2, 1))
    empty = ClassMoments(
        np.append(source.counts, 0),
        np.vstack([source.means, np.zeros(4)]),
        np.vstack([source.variances, np.zeros(4)]),
    )
    one, two = otce_classes(source, target), otce_classes(empty, target)
    assert two.task_difference == one.task_difference
    np.testing.assert_array_equal(two.coupling, np.vstack([one.coupling, np.zeros((1, 2))]))


def test_what_does_not_fit_is_refused() -> None:
    (xs, ys), (xt, yt) = cloud(6, 2, 0), cloud(5, 2, 1)

    def refused(text: str) -> object:
        return pytest.raises(DataError, match=f"^{re.escape(text)}$")

    with refused(
        "features are 4 wide at the source and 3 at the target: take those of one network"
    ):
        otce(xs, ys, xt[:, :3], yt)
    with refused("the source's labels must be 6 integers, one an image, not int64 of shape (5,)"):
        otce(xs, yt, xt, yt)
    good = moments_of(xs, ys)
    narrow = ClassMoments(good.counts, good.means[:, :3], good.variances[:, :3])
    with refused(
        "class moments are 4 wide at the source and 3 at the target: take those of one spec"
    ):
        otce_classes(good, narrow)
    with refused("class moments of the target do not fit together: release them again"):
        otce_classes(good, ClassMoments(good.counts[:1], good.means, good.variances))
    with refused("class moments of the source are negative or of no image"):
        otce_classes(ClassMoments(0 * good.counts, good.means, good.variances), good)


def test_result_is_a_record() -> None:
    assert isinstance(otce(*cloud(6, 2, 0), *cloud(5, 2, 1)), Otce)
