"""Groups come from the histograms alone and find the tasks."""

import re
from collections.abc import Sequence
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from sklearn.metrics import adjusted_rand_score

from protocol.errors import ConfigError, FedprintError
from strategies.bkld import bkld_matrix
from strategies.dendrogram import centroid_linkage
from strategies.excess import (
    cumulative,
    debiased,
    relative,
    sampling_variance,
    spread,
    symmetrised,
)
from strategies.grouping import Grouping, GroupingOptions, by_content, find_groups, group
from tests.strategies.synthetic import make_sites, make_spec

FloatArray = NDArray[np.float64]

SPEC = make_spec(features=96, bins=40)
MIXED = [[600, 60, 30], [240, 45], [30, 30, 120, 90], [300], [75, 150]]


def agreement(grouping: Grouping, truth: dict[str, int]) -> float:
    """Adjusted Rand index between the groups and the tasks."""
    label = {site: g.name for g in grouping.groups for site in g.sites}
    return float(adjusted_rand_score([truth[s] for s in label], list(label.values())))


def sets(grouping: Grouping) -> set[frozenset[str]]:
    return {frozenset(g.sites) for g in grouping.groups}


@pytest.mark.parametrize(
    "sizes",
    [
        MIXED,
        [[30, 600], [30, 600]],
        [[60, 120, 30, 300, 45, 200]],  # one task only
        [[100], [40], [600], [30], [150]],  # everybody alone
        [[50, 50, 50, 50]] * 10,  # forty sites
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_tasks_are_found(sizes: list[list[int]], seed: int) -> None:
    sites, truth = make_sites(sizes, SPEC, seed, shift=0.1)
    assert agreement(group(sites, SPEC, GroupingOptions(draws=0)), truth) == 1.0


@pytest.mark.parametrize("seed", range(5))
def test_raw_divergence_fails_where_the_excess_succeeds(seed: int) -> None:
    sites, truth = make_sites(MIXED, SPEC, seed, shift=0.1)
    assert agreement(group(sites, SPEC, GroupingOptions(draws=0)), truth) == 1.0
    rows = np.stack([s.rows for s in sites])
    raw = bkld_matrix(rows, rows)
    raw = raw + raw.T
    np.fill_diagonal(raw, 0.0)
    tree = linkage(squareform(raw, checks=False), "average")
    # even when told the true number of groups, or any other number
    best = max(
        adjusted_rand_score([truth[s.site] for s in sites], fcluster(tree, k, "maxclust"))
        for k in range(1, len(sites) + 1)
    )
    assert best < 0.8


@given(st.randoms(use_true_random=False))
@settings(max_examples=15)
def test_names_and_order_do_not_matter(random: Random) -> None:
    sites, _ = make_sites(MIXED, SPEC, 0, shift=0.1)
    names = [s.site for s in sites]
    shuffled = list(names)
    random.shuffle(shuffled)
    rename = dict(zip(names, shuffled, strict=True))
    moved = [replace(s, site=rename[s.site]) for s in sites]
    random.shuffle(moved)
    first, second = group(sites, SPEC), group(moved, SPEC)
    assert sets(second) == {frozenset(rename[s] for s in g.sites) for g in first.groups}
    for old, new in rename.items():
        assert second.sites[new].margin == first.sites[old].margin
        assert second.sites[new].stability == first.sites[old].stability
    np.testing.assert_array_equal(first.distances, second.distances)
    np.testing.assert_array_equal(first.linkage, second.linkage)


def test_same_input_gives_the_same_result() -> None:
    sites, _ = make_sites(MIXED, SPEC, 1)
    first, second = group(sites, SPEC), group(list(sites), SPEC)
    assert (first.groups, first.sites, first.order) == (second.groups, second.sites, second.order)


def test_every_site_is_explained() -> None:
    sites, truth = make_sites(MIXED, SPEC, 2, shift=0.1)
    grouping = group(sites, SPEC, GroupingOptions(partners=2))
    assert list(grouping.sites) == sorted(truth)
    for site, why in grouping.sites.items():
        assert 0 < why.margin <= 1
        assert why.stability is not None
        assert 0 < why.stability <= 1
        assert (len(why.nearest), len(why.partners)) == (3, 2)
        assert why.nearest[0].site == why.partners[0].site
        assert why.nearest[0].same_group == (truth[why.nearest[0].site] == truth[site])
    assert re.match(
        r"^Nearest: site-1-1\. Distance 0\.0\d\d to its group, 0\.\d{3} to the next "
        r"group \(site-\d-0( and \d more)?\)\.$",
        grouping.sites["site-1-0"].reason,
    )
    assert re.match(
        r"^Alone: nobody within the cut at 0\.\d{3}, 0\.\d{3} to the next group \(site-.*\)\.$",
        grouping.sites["site-3-0"].reason,
    )


def test_stability_tells_clear_from_unclear() -> None:
    sites, _ = make_sites([[300, 300], [300, 300]], SPEC, 0)
    clear = group(sites, SPEC)
    assert min(e.stability or 0 for e in clear.sites.values()) > 0.9
    border = group(sites, SPEC, GroupingOptions(scale=_top(clear), factor=1.05))
    assert max(e.stability or 1 for e in border.sites.values()) < 0.9


def _top(grouping: Grouping) -> float:
    return float(grouping.linkage[-1, 2])


@pytest.mark.parametrize("digits", [0, 1, 9])
def test_the_nearest_centroids_are_those_of_a_look_through_all(digits: int) -> None:
    """The recurrence of Lance & Williams, pairs of equal distance in their order."""
    rng = np.random.default_rng(digits)
    for k in (1, 2, 3, 12, 40):
        d = rng.normal(size=(k, k))
        d = (d + d.T).round(digits)
        found = centroid_linkage(d)
        np.fill_diagonal(d, np.inf)
        size, name, rows = np.ones(k), list(range(k)), []
        for step in range(k - 1):
            i, j = sorted(divmod(int(d.argmin()), k))
            a, b = size[[i, j]] / (size[i] + size[j])
            rows.append([*sorted((name[i], name[j])), max(d[i, j], 0.0), size[i] + size[j]])
            d[i] = d[:, i] = a * d[i] + b * d[j] - a * b * d[i, j]
            d[i, i], d[j], d[:, j] = np.inf, np.inf, np.inf
            size[i], name[i] = size[i] + size[j], k + step
        expected = np.array(rows).reshape(-1, 4)
        expected[:, 2] = np.maximum.accumulate(expected[:, 2])
        assert (found == expected).all()


def test_stability_is_that_of_groups_in_resampled_histograms() -> None:
    """Drawn with the same numbers, and distances as they are defined."""
    spec = make_spec(features=96, bins=100)  # of which four are taken together
    sites = by_content(make_sites([[60, 60, 90], [60, 75], [80]], spec, seed=4)[0])
    images = np.array([f.n_images for f in sites])
    rows = np.stack([f.rows for f in sites])  # [k, m, b]
    counts = np.stack([f.counts for f in sites]).reshape(*rows.shape[:2], 25, 4).sum(axis=3)
    coarse = counts / images[:, None, None]
    border = _top(group(sites, spec, GroupingOptions(draws=0)))
    options = GroupingOptions(draws=6, scale=1.02 * border, factor=1.05)
    whole = find_groups(_defined(rows, rows, images, 1), options)[0]
    expected = np.zeros(len(sites))
    for rng in np.random.default_rng(options.seed).spawn(options.draws):
        kept = coarse[:, np.sort(rng.permutation(spec.width)[:64])]
        again = rng.multinomial(images[:, None], kept) / images[:, None, None]
        found = find_groups(_defined(again, kept, images, 2), options)[0]
        for group_ in whole:
            for site in group_:
                mates = next(set(g) for g in found if site in g)
                expected[site] += len(mates & set(group_)) / len(mates | set(group_))
    told = group(sites, spec, options).sites
    assert [told[f.site].stability for f in sites] == pytest.approx((expected / 6).tolist())
    assert min(expected) < 6


def _defined(
    rows: FloatArray, old: FloatArray, images: NDArray[np.int64], drawn: int
) -> FloatArray:
    """Return debiased distances of rows that were drawn so often, the last time from the old."""
    below, before = cumulative(rows), cumulative(old)
    counts = images.tolist()
    variance = sampling_variance(before, counts)
    if drawn == 2:
        variance = variance + sampling_variance(below, counts)
    squared = symmetrised(bkld_matrix(below, below))
    return relative(debiased(squared, variance), spread(before, counts))


def test_dendrogram_is_scipys() -> None:
    sites, _ = make_sites(MIXED, SPEC, 3)
    grouping = group(sites, SPEC, GroupingOptions(draws=0))
    assert grouping.linkage.shape == (len(sites) - 1, 4)
    label = fcluster(grouping.linkage, grouping.cut, "distance")
    found = {
        frozenset(s for s, mark in zip(grouping.order, label, strict=True) if mark == one)
        for one in set(label)
    }
    assert found == sets(grouping)
    assert 0 < grouping.support <= 1


@pytest.mark.parametrize(("least", "most"), [(1, 2), (1, 1), (2, None), (3, 4), (2, 3), (12, 12)])
def test_sizes_are_kept(least: int, most: int | None) -> None:
    sites, _ = make_sites(MIXED, SPEC, 4)
    grouping = group(sites, SPEC, GroupingOptions(min_size=least, max_size=most, draws=2))
    sizes = [len(g.sites) for g in grouping.groups]
    assert sum(sizes) == len(sites) == 12
    assert sorted(sizes, reverse=True) == sizes
    assert max(sizes) <= (most or 12)
    assert min(sizes) >= least
    assert set(grouping.sites) == {s.site for s in sites}


def test_too_small_group_without_room_stays() -> None:
    sites, _ = make_sites([[50, 50], [50, 50], [50]], SPEC, 0)
    grouping = group(sites, SPEC, GroupingOptions(min_size=2, max_size=2))
    assert sorted(len(g.sites) for g in grouping.groups) == [1, 2, 2]


@pytest.mark.parametrize("number", [1, 2])
def test_few_sites(number: int) -> None:
    sites, _ = make_sites([[80] * number], SPEC, 0)
    grouping = group(sites, SPEC)
    assert [g.sites for g in grouping.groups] == [[s.site for s in sites]]
    assert grouping.linkage.shape == (number - 1, 4)
    if number == 1:
        reason = "The only site: there is nobody to group it with."
        assert grouping.sites["site-0-0"].reason == reason


def test_equal_fingerprints_are_one_group() -> None:
    sites, _ = make_sites([[60], [60]], SPEC, 0)
    twin = replace(sites[0], site="twin")
    assert {frozenset({"site-0-0", "twin"}), frozenset({"site-1-0"})} == sets(
        group([*sites, twin], SPEC)
    )


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"min_size": 0}, "minimum group size must be at least 1, got 0"),
        ({"min_size": 3, "max_size": 2}, "maximum group size 2 is below the minimum 3"),
        ({"scale": 0.0}, "scale of the grouping must be above 0 and its factor above 1"),
        ({"draws": -1}, "numbers of draws and of partners must not be negative"),
    ],
)
def test_wrong_options_are_refused(arguments: dict[str, float], text: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(text)}$"):
        GroupingOptions(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("pick", "text"),
    [
        ([], "there are no fingerprints to compare: give at least one"),
        ([0, 0], "a site sent two fingerprints: keep one of each"),
    ],
)
def test_wrong_fingerprints_are_refused(pick: Sequence[int], text: str) -> None:
    sites, _ = make_sites([[60]], SPEC, 0)
    with pytest.raises(FedprintError, match=f"^{re.escape(text)}$"):
        group([sites[i] for i in pick], SPEC)
