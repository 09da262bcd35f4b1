"""Partners are the nearest sources of each target, in rank order."""

import re

import numpy as np
import pytest
from scipy.stats import rankdata

from protocol.errors import BadShape
from strategies.partners import partners


def test_rank_order_and_percentiles_agree_with_scipy() -> None:
    rng = np.random.default_rng(0)
    d = rng.integers(0, 6, (9, 9)).astype(float)  # ties on purpose
    names = [f"s{i}" for i in range(9)]
    for t, (target, found) in enumerate(partners(d, names, k=8).items()):
        assert target == names[t]
        assert [p.rank for p in found] == list(range(1, 9))
        assert target not in [p.site for p in found]
        others = np.delete(d[:, t], t)
        expected = dict(zip(np.delete(names, t), rankdata(-others, method="max") / 8, strict=True))
        for p in found:
            assert p.percentile == pytest.approx(expected[p.site])
            assert p.distance == d[names.index(p.site), t]
        assert [p.distance for p in found] == sorted(p.distance for p in found)


def test_order_of_sites_does_not_matter() -> None:
    rng = np.random.default_rng(1)
    d = rng.integers(0, 4, (7, 7)).astype(float)
    names = np.array(list("gbeafcd"))
    order = rng.permutation(7)
    again = partners(d[np.ix_(order, order)], list(names[order]), k=3)
    assert again == partners(d, list(names), k=3)


def test_other_targets_than_sources() -> None:
    d = np.array([[0.3, 0.1], [0.2, 0.4]])
    found = partners(d, ["a", "b"], k=5, targets=["x", "a"])
    assert [p.site for p in found["x"]] == ["b", "a"]
    assert [p.site for p in found["a"]] == ["b"]


def test_only_site_has_no_partner() -> None:
    assert partners(np.zeros((1, 1)), ["a"], k=3) == {"a": []}


def test_matrix_must_fit_the_names() -> None:
    text = "distances have shape (2, 2), but there are 3 sources and 3 targets"
    with pytest.raises(BadShape, match=f"^{re.escape(text)}$"):
        partners(np.zeros((2, 2)), ["a", "b", "c"], k=1)
