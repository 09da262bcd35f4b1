"""A dendrogram cut at its height gives the very groups it was made for."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster, is_valid_linkage

from strategies.dendrogram import centroid_linkage
from strategies.nested import nested_linkage


@given(st.integers(0, 10_000), st.lists(st.integers(0, 3), min_size=2, max_size=14))
@settings(max_examples=60)
def test_cut_gives_the_groups(seed: int, label: list[int]) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(len(label), 3))
    squared = ((x[:, None] - x[None, :]) ** 2).sum(axis=2) - 0.3 * (1 - np.eye(len(label)))
    groups = [[i for i, one in enumerate(label) if one == g] for g in sorted(set(label))]
    tree, cut = nested_linkage(squared, groups)
    assert is_valid_linkage(tree)
    assert (np.diff(tree[:, 2]) >= 0).all()
    marks = fcluster(tree, cut, "distance")
    found = {frozenset(np.flatnonzero(marks == m).tolist()) for m in set(marks)}
    assert found == {frozenset(g) for g in groups}


def test_groups_of_one_are_linked_as_ever() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(7, 3))
    squared = ((x[:, None] - x[None, :]) ** 2).sum(axis=2)
    tree, cut = nested_linkage(squared, [[i] for i in range(7)])
    np.testing.assert_allclose(tree, centroid_linkage(squared))
    assert 0 < cut < tree[0, 2]


def test_one_site() -> None:
    tree, cut = nested_linkage(np.zeros((1, 1)), [[0]])
    assert (tree.shape, cut) == ((0, 4), 0.0)
