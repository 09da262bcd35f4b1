"""Measures on histograms against scipy, and moments against those of the values."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import wasserstein_distance

from protocol.fingerprint import Fingerprint
from strategies.measures import Task, get, released
from strategies.measures.histograms import histogram_moments
from tests.strategies.measures.made_up import SPEC, make_tasks
from tests.strategies.synthetic import make_spec

TASKS = make_tasks([0, 0, 1, 2])
SMALL = make_spec(features=2, bins=5)


def task(counts: np.ndarray) -> Task:
    return released([Fingerprint("x", counts, SMALL.digest, int(counts.sum()))], SMALL)[0]


def rows(task: Task) -> np.ndarray:
    assert task.fingerprint is not None
    return task.fingerprint.rows


def test_vdna_is_the_mean_wasserstein_distance_in_units_of_the_bin_range() -> None:
    width = SPEC.upper_array - SPEC.lower_array
    expected = [
        [
            np.mean(
                [
                    wasserstein_distance(c, c, rows(s)[i], rows(t)[i]) / width[i]
                    for i, c in enumerate(SPEC.centres)
                ]
            )
            for t in TASKS
        ]
        for s in TASKS[:3]
    ]
    found = get("vdna").matrix(TASKS[:3], TASKS)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_vdna_counts_bins_as_its_authors_do() -> None:
    # their sum over bins of |cumulated difference|, mean over the neurons, is b times as much
    a, b = rows(TASKS[0]), rows(TASKS[2])
    theirs = np.abs(np.cumsum(a - b, axis=1)).sum(axis=1).mean()
    assert get("vdna").matrix(TASKS[:1], TASKS[2:3])[0, 0] * SPEC.bins == pytest.approx(theirs)


COUNTS = st.lists(st.integers(0, 20), min_size=10, max_size=10).filter(
    lambda c: sum(c[:5]) > 0 and sum(c[5:]) > 0
)


@given(COUNTS, COUNTS, COUNTS)
def test_vdna_is_a_metric(a: list[int], b: list[int], c: list[int]) -> None:
    tasks = [task(np.array(counts).reshape(2, 5)) for counts in (a, b, c)]
    d = get("vdna").matrix(tasks, tasks)
    np.testing.assert_allclose(d, d.T, atol=1e-15)
    assert np.allclose(np.diag(d), 0)
    assert (d >= 0).all()
    assert (d <= 1).all()
    assert d[0, 2] <= d[0, 1] + d[1, 2] + 1e-12


def test_moments_are_those_of_the_bin_centres() -> None:
    values = np.repeat(SMALL.centres[0], [3, 0, 1, 4, 2])
    counts = np.array([[3, 0, 1, 4, 2], [10, 0, 0, 0, 0]])
    means, variances = histogram_moments(rows(task(counts))[None], SMALL)
    assert means[0, 0] == pytest.approx(values.mean())
    assert variances[0, 0] == pytest.approx(values.var())
    assert variances[0, 1] == 0


def test_diagonal_frechet_and_flux_moments_by_hand() -> None:
    for name in ("fid-diagonal", "flux-moments"):
        found = get(name).matrix(TASKS[:3], TASKS)
        for i, s in enumerate(TASKS[:3]):
            for j, t in enumerate(TASKS):
                assert found[i, j] == pytest.approx(_by_hand(name, s, t), abs=1e-9)


def _by_hand(name: str, source: Task, target: Task) -> float:
    total = 0.0
    for i, centres in enumerate(SPEC.centres):
        p, q = rows(source)[i], rows(target)[i]
        mu, nu = p @ centres, q @ centres
        v, w = p @ (centres - mu) ** 2, q @ (centres - nu) ** 2
        if name == "fid-diagonal":
            total += (mu - nu) ** 2 + v + w - 2 * np.sqrt(v * w)
        else:
            width = SPEC.upper_array[i] - SPEC.lower_array[i]
            total += ((mu - nu) / width) ** 2 + ((v - w) / width**2) ** 2
    return total if name == "fid-diagonal" else float(np.sqrt(total))
