"""A site that comes later is placed as the grouping would have placed it, and moves nobody."""

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import FedprintError
from protocol.fingerprint import Fingerprint
from strategies.assign import assign, joining_cut
from strategies.grouping import Group, GroupingOptions, group
from tests.strategies.synthetic import make_sites, make_spec

SPEC = make_spec(features=96, bins=40)
MIXED = [[600, 60, 30], [240, 45], [30, 30, 120, 90], [300], [75, 150]]
OPTIONS = GroupingOptions(draws=0)


def mates(groups: Sequence[Group], name: str | None) -> set[str]:
    return next((set(g.sites) for g in groups if g.name == name), set())


def others(sites: Sequence[Fingerprint], newcomer: Fingerprint) -> list[Fingerprint]:
    return [s for s in sites if s.site != newcomer.site]


@pytest.mark.parametrize("seed", range(3))
def test_each_site_left_out_finds_its_task(seed: int) -> None:
    sites, truth = make_sites(MIXED, SPEC, seed, shift=0.1)
    for newcomer in sites:
        rest = others(sites, newcomer)
        groups = group(rest, SPEC, OPTIONS).groups
        found = assign(newcomer, rest, groups, SPEC)
        same = {s.site for s in rest if truth[s.site] == truth[newcomer.site]}
        assert mates(groups, found.group) == same
        assert (found.distance < found.cut) == bool(same)
        assert found.margin > 0


@given(seed=st.integers(0, 10_000), data=st.data())
@settings(max_examples=25)
def test_it_agrees_with_grouping_everybody_where_the_others_stay(
    seed: int, data: st.DataObject
) -> None:
    sizes = data.draw(
        st.lists(st.lists(st.sampled_from([30, 60, 300]), min_size=1, max_size=3), min_size=2)
    )
    sites, _ = make_sites(sizes[:5], SPEC, seed, shift=data.draw(st.sampled_from([0.0, 0.1, 0.5])))
    newcomer = data.draw(st.sampled_from(sites))
    rest = others(sites, newcomer)
    groups = group(rest, SPEC, OPTIONS).groups
    whole = [set(g.sites) for g in group(sites, SPEC, OPTIONS).groups]
    if {frozenset(g - {newcomer.site}) for g in whole if g != {newcomer.site}} != {
        frozenset(g.sites) for g in groups
    }:
        return  # with the newcomer the others would be grouped otherwise
    found = assign(newcomer, rest, groups, SPEC)
    assert {*mates(groups, found.group), newcomer.site} in whole


@given(st.randoms(use_true_random=False))
@settings(max_examples=15)
def test_names_and_order_do_not_matter(random: Random) -> None:
    sites, _ = make_sites(MIXED, SPEC, 0, shift=0.1)
    newcomer, rest = sites[5], others(sites, sites[5])
    groups = group(rest, SPEC, OPTIONS).groups
    names = [s.site for s in sites]
    shuffled = list(names)
    random.shuffle(shuffled)
    rename = dict(zip(names, shuffled, strict=True))
    moved = [replace(s, site=rename[s.site]) for s in rest]
    random.shuffle(moved)
    regrouped = [Group(g.name, sorted(rename[s] for s in g.sites)) for g in groups]
    random.shuffle(regrouped)
    first = assign(newcomer, rest, groups, SPEC)
    second = assign(replace(newcomer, site=rename[newcomer.site]), moved, regrouped, SPEC, OPTIONS)
    assert (second.group, second.distance, second.cut) == (first.group, first.distance, first.cut)
    assert second.margin == pytest.approx(first.margin, abs=1e-12)
    assert [n.site for n in second.nearest] == [rename[n.site] for n in first.nearest]
    assert [p.site for p in second.partners] == [rename[p.site] for p in first.partners]


@given(st.integers(0, 11))
@settings(max_examples=12)
def test_a_copy_of_a_member_joins_it(number: int) -> None:
    sites, _ = make_sites(MIXED, SPEC, 1, shift=0.1)
    groups = group(sites, SPEC, OPTIONS).groups
    found = assign(replace(sites[number], site="twin"), sites, groups, SPEC)
    assert sites[number].site in mates(groups, found.group)
    assert sites[number].site in {n.site for n in found.nearest}
    assert all(n.same_group == (n.site in mates(groups, found.group)) for n in found.nearest)


def test_a_site_far_from_all_stays_alone() -> None:
    sites, _ = make_sites(MIXED, SPEC, 0, shift=0.1)
    counts = np.zeros_like(sites[0].counts)
    counts[:, -1] = 100
    groups = group(sites, SPEC, OPTIONS).groups
    far = Fingerprint("far", counts, SPEC.digest, 100)
    found = assign(far, sites, groups, SPEC)
    assert found.group is None
    assert found.distance > found.cut
    assert re.match(
        r"^Came later\. Alone: nobody within the cut at 0\.\d{3}, \d\.\d{3} to the next group "
        r"\(site-.*\)\.$",
        found.reason,
    )


def test_the_reason_names_the_group() -> None:
    sites, _ = make_sites(MIXED, SPEC, 2, shift=0.1)
    newcomer, rest = sites[3], others(sites, sites[3])
    groups = group(rest, SPEC, OPTIONS).groups
    found = assign(newcomer, rest, groups, SPEC, GroupingOptions(partners=2))
    home = next(g.name for g in groups if "site-1-1" in g.sites)
    assert found.group == home
    assert re.match(
        rf"^Came later and joined {home}\. Nearest: site-1-1\. Distance 0\.0\d\d to its group, "
        r"0\.\d{3} to the next group \(site-\d-0( and \d more)?\)\.$",
        found.reason,
    )
    assert len(found.nearest) == 3
    assert [p.rank for p in found.partners] == [1, 2]


def test_a_full_group_is_not_joined() -> None:
    sites, _ = make_sites([[100, 100, 100], [100, 100]], SPEC, 0)
    newcomer, rest = sites[2], others(sites, sites[2])
    groups = group(rest, SPEC, OPTIONS).groups
    home = next(g.name for g in groups if "site-0-0" in g.sites)
    assert assign(newcomer, rest, groups, SPEC, GroupingOptions(max_size=3)).group == home
    found = assign(newcomer, rest, groups, SPEC, GroupingOptions(max_size=2))
    assert found.group is None
    assert found.reason.startswith(f"Came later. No room in {home}. Alone, though site-0-")
    # of a task that was split for its size, the half that has room is joined
    halves = [Group("a", ["site-0-0"]), Group("b", ["site-0-1"]), Group("c", ["site-1-0"])]
    apart = [s for s in rest if s.site != "site-1-1"]
    assert assign(newcomer, apart, halves, SPEC, GroupingOptions(max_size=1)).group is None
    twins = [replace(apart[0], site="t"), *apart]
    split = [Group("a", ["site-0-0", "t"]), *halves[1:]]
    found = assign(newcomer, twins, split, SPEC, GroupingOptions(max_size=2))
    assert found.group == "b"


def test_a_smallest_size_makes_it_join_the_nearest_group_with_room() -> None:
    sites, _ = make_sites([[100, 100], [100, 100, 100], [100]], SPEC, 0)
    newcomer, rest = sites[-1], sites[:-1]
    groups = group(rest, SPEC, OPTIONS).groups
    alone = assign(newcomer, rest, groups, SPEC)
    assert alone.group is None
    least = assign(newcomer, rest, groups, SPEC, GroupingOptions(min_size=2, max_size=4))
    assert least.group is not None
    assert least.distance == alone.distance
    room = assign(newcomer, rest, groups, SPEC, GroupingOptions(min_size=2, max_size=3))
    assert mates(groups, room.group) == {"site-0-0", "site-0-1"}
    full = assign(newcomer, rest, groups, SPEC, GroupingOptions(min_size=2, max_size=2))
    assert full.group is None


def test_the_cut_is_the_scale_until_groups_say_more() -> None:
    assert joining_cut(np.zeros((1, 1)), OPTIONS) == pytest.approx(OPTIONS.scale)
    wide = 1e6 * (1 - np.eye(2))
    assert joining_cut(wide, OPTIONS) == pytest.approx(OPTIONS.scale)
    close = 1e-6 * (1 - np.eye(2))
    assert joining_cut(close, OPTIONS) == pytest.approx(OPTIONS.scale)
    # groups that differ within stretch it, but never beyond the belief's own width
    loose = joining_cut(0.1 * (1 - np.eye(2)), OPTIONS)
    assert OPTIONS.scale < loose < OPTIONS.scale * OPTIONS.factor
    near = joining_cut(0.2 * (1 - np.eye(2)), OPTIONS)
    assert OPTIONS.scale / OPTIONS.factor < near < OPTIONS.scale
    assert all(math.isfinite(value) for value in (loose, near))


@pytest.mark.parametrize(
    ("pick", "groups", "text"),
    [
        ([0], [], "there is no group to join: group the sites first"),
        ([1], [Group("a", ["site-0-1"])], "a site sent two fingerprints: keep one of each"),
        (
            [0],
            [Group("a", ["site-0-0", "x"])],
            "x is not in exactly one group with a fingerprint",
        ),
        (
            [0, 2],
            [Group("a", ["site-0-0"])],
            "site-1-0 is not in exactly one group with a fingerprint",
        ),
        (
            [0],
            [Group("a", ["site-0-0"]), Group("b", ["site-0-0"])],
            "site-0-0 is not in exactly one group with a fingerprint",
        ),
    ],
)
def test_wrong_groups_are_refused(pick: list[int], groups: list[Group], text: str) -> None:
    sites, _ = make_sites([[60, 60], [60]], SPEC, 0)
    with pytest.raises(FedprintError, match=f"^{re.escape(text)}$"):
        assign(sites[1], [sites[i] for i in pick], groups, SPEC)
