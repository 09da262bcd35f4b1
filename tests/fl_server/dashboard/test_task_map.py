"""The map: distances kept as well as two dimensions can, the same whatever the order of sites."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import pdist, squareform

from fl_server.dashboard.task_map import COLOURS, EDGE, MOST_LABELS, WIDTH, embed, task_map
from protocol.runfiles import GroupEntry

seeds = st.integers(0, 2**32 - 1)


def points(seed: int, count: int, width: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, width))


def squared(of: np.ndarray) -> np.ndarray:
    return squareform(pdist(of)) ** 2


@given(seeds, st.integers(3, 30))
def test_what_is_flat_is_kept(seed: int, count: int) -> None:
    wanted = squared(points(seed, count))
    places, shown = embed([f"s{i}" for i in range(count)], wanted)
    assert squared(places) == pytest.approx(wanted, abs=1e-8)
    assert shown == pytest.approx(1)


@given(seeds, st.integers(3, 20))
def test_order_of_the_sites_changes_nothing(seed: int, count: int) -> None:
    of = squared(points(seed, count, 5))
    names = [f"s{i}" for i in range(count)]
    places, shown = embed(names, of)
    order = np.random.default_rng(seed).permutation(count)
    again, shown_again = embed([names[i] for i in order], of[np.ix_(order, order)])
    assert again == pytest.approx(places[order], abs=1e-6)
    assert shown_again == pytest.approx(shown)
    assert 0 < shown < 1 + 1e-12


def test_signs_are_settled_by_name_when_two_are_equally_far() -> None:
    places, _ = embed(["b", "a"], np.array([[0.0, 4.0], [4.0, 0.0]]))
    assert places[:, 0] == pytest.approx([-1, 1])


@pytest.mark.parametrize("count", [1, 2])
def test_few_or_equal_sites(count: int) -> None:
    names = ["a", "b"][:count]
    groups = [GroupEntry(name="g", sites=names)]
    drawn = task_map(names, np.zeros((count, count)), groups)
    assert drawn.shown == 1
    assert not drawn.places.any()
    assert np.isfinite([[dot.x, dot.y] for dot in drawn.figure.dots]).all()


@given(seeds, st.integers(1, 40))
def test_all_of_it_is_on_the_paper_and_no_name_on_another(seed: int, count: int) -> None:
    names = [f"site-{i}" for i in range(count)]
    groups = [GroupEntry(name=f"g{i}", sites=names[i::3]) for i in range(min(3, count))]
    figure = task_map(names, squared(points(seed, count, 4)), groups).figure
    for dot in figure.dots:
        assert EDGE <= dot.x <= WIDTH - EDGE
        assert EDGE <= dot.y <= figure.height - EDGE
    assert len(figure.dots) == len([line for line in figure.lines if line.kind == "spoke"]) == count
    for a, b in itertools.combinations(figure.labels, 2):
        apart = abs(a.y - b.y) >= 13 or abs(a.x - b.x) >= 6.4 * min(len(a.text), len(b.text))
        assert apart
    assert max((label.y for label in figure.labels), default=0) < figure.height


def test_groups_have_colours_and_many_sites_no_labels() -> None:
    names = [f"s{i}" for i in range(MOST_LABELS + 1)]
    groups = [GroupEntry(name=name, sites=[name]) for name in names]
    drawn = task_map(names, squared(points(0, len(names))), groups)
    assert [drawn.colours[name] for name in names[:8]] == list(COLOURS)
    assert drawn.figure.labels == []
