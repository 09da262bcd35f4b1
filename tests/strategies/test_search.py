"""The evidence is that of the Gaussian it stands for, and the search finds its maximum."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal

from strategies.mixture import GROUP, Mixture, mixture, total_evidence
from strategies.noise import Coordinates
from strategies.search import fit, placement, refit


def make_points(
    seed: int, groups: list[int], apart: float = 0.5, noise: float = 0.01, dimensions: int = 6
) -> Coordinates:
    """Sites around centres of the given numbers of sites."""
    rng = np.random.default_rng(seed)
    scale = rng.uniform(0.1, 0.2, dimensions)
    variance = noise * rng.uniform(0.5, 2.0, (sum(groups), dimensions))
    centres = np.repeat(rng.normal(size=(len(groups), dimensions)), groups, axis=0)
    values = np.sqrt(apart * scale) * centres + np.sqrt(variance) * rng.normal(size=variance.shape)
    return Coordinates(values, variance, scale)


def partitions(items: list[int]) -> Iterator[list[list[int]]]:
    """All partitions of a few items."""
    if not items:
        yield []
        return
    for rest in partitions(items[1:]):
        yield [[items[0]], *rest]
        for i, g in enumerate(rest):
            yield [*rest[:i], [items[0], *g], *rest[i + 1 :]]


def naive(sites: Mixture, groups: list[list[int]], strength: float, vague: float = 1e7) -> float:
    """Joint Gaussian density of all sites, the middle with a very wide prior instead of none."""
    k, dimensions = sites.precision.shape
    values = sites.weighted / sites.precision
    same = np.array([[any(i in g and j in g for g in groups) for j in range(k)] for i in range(k)])
    log = 0.0
    for d in range(dimensions):
        cov = np.diag(1 / sites.precision[:, d]) + strength * sites.scale[d] * same + vague
        log += multivariate_normal.logpdf(values[:, d], np.zeros(k), cov)
        log += 0.5 * np.log(vague) + 0.5 * k * np.log(2 * np.pi)
    return log + GROUP * len(groups)


@pytest.mark.parametrize("seed", range(3))
def test_evidence_is_the_density_of_a_joint_gaussian(seed: int) -> None:
    points = make_points(seed, [2, 1, 2])
    for strength in (0.06, 0.5):
        sites = mixture(points, 6, 0.05, strength)
        for groups in ([[0, 1], [2], [3, 4]], [[0, 1, 2, 3, 4]], [[0], [1], [2], [3], [4]]):
            got = total_evidence(sites, groups, strength)
            assert got == pytest.approx(naive(sites, groups, strength), abs=2e-3)


@pytest.mark.parametrize("seed", range(12))
def test_search_finds_the_best_of_all_partitions(seed: int) -> None:
    points = make_points(seed, [3, 2, 1], apart=0.12, noise=0.02)
    found = fit(points, 6, 0.0)
    sites = mixture(points, 6, 0.0, found.strength)
    best = max(total_evidence(sites, p, found.strength) for p in partitions(list(range(6))))
    assert found.total == pytest.approx(best)
    assert refit(points, 6, 0.0, found.groups).total == pytest.approx(found.total)
    assert 0 < found.support <= 1


@given(st.integers(0, 10_000), st.randoms(use_true_random=False))
@settings(max_examples=20)
def test_order_of_sites_does_not_matter(seed: int, random: object) -> None:
    points = make_points(seed, [3, 2, 4])
    order = np.arange(9)
    random.shuffle(order)  # type: ignore[attr-defined]
    moved = Coordinates(points.values[order], points.variance[order], points.scale)
    first, second = fit(points, 6, 0.0), fit(moved, 6, 0.0)
    assert {frozenset(int(order[i]) for i in g) for g in second.groups} == {
        frozenset(g) for g in first.groups
    }
    assert second.total == pytest.approx(first.total)


@pytest.mark.parametrize("seed", range(5))
def test_where_everything_is_does_not_matter(seed: int) -> None:
    points = make_points(seed, [3, 3, 2])
    moved = Coordinates(points.values + 0.7, points.variance, points.scale)
    assert fit(moved, 6, 0.0).groups == fit(points, 6, 0.0).groups


def test_one_population_is_one_group() -> None:
    whole = [len(fit(make_points(seed, [8], noise=0.02), 6, 0.0).groups) for seed in range(40)]
    assert whole.count(1) >= 36


def test_more_noise_never_makes_more_sure_of_two_groups() -> None:
    values = np.repeat([[-0.1] * 6, [0.1] * 6], 3, axis=0)
    gain = []
    for noise in (1e-4, 1e-3, 1e-2, 1e-1):
        points = Coordinates(values, np.full((6, 6), noise), np.full(6, 0.15))
        sites = mixture(points, 6, 0.0, 0.12)
        two = total_evidence(sites, [[0, 1, 2], [3, 4, 5]], 0.12)
        gain.append(two - total_evidence(sites, [[0, 1, 2, 3, 4, 5]], 0.12))
    assert gain == sorted(gain, reverse=True)
    assert gain[0] > 0 > gain[-1]


@pytest.mark.parametrize("seed", range(4))
def test_placement_is_the_difference_of_evidences(seed: int) -> None:
    points = make_points(seed, [3, 2, 2])
    found = refit(points, 6, 0.0, [[0, 1, 2], [3, 4], [5, 6]])
    gains = placement(found.sites, found.label, 2, found.strength)
    choices = [
        [[0, 1, 2], [3, 4], [5, 6]],
        [[0, 1], [2, 3, 4], [5, 6]],
        [[0, 1], [3, 4], [2, 5, 6]],
        [[0, 1], [3, 4], [5, 6], [2]],
    ]
    totals = np.array([total_evidence(found.sites, c, found.strength) for c in choices])
    np.testing.assert_allclose(gains - gains[0], totals - totals[0], atol=1e-9)


def test_many_dependent_features_count_as_few() -> None:
    points = make_points(0, [3, 3])
    assert mixture(points, 64, 0.0, 0.1).temper == 1.0
    assert mixture(points, 1280, 0.0, 0.1).temper == 0.05
