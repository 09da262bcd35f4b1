"""Noised fingerprints are grouped by task or by data, and each site is told how sure that is."""

from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score

from protocol.errors import ConfigError
from protocol.spec import load_spec
from strategies.assign import assign
from strategies.grouping import Group, Grouping, GroupingOptions, group
from tests.strategies.private import SPEC, private_sites

SIGMA = 8.65  # epsilon 2 at delta 1e-5 for 8 features
CLASSES = [
    (0, 0, [200] * 4),
    (0, 1, [200] * 4),
    (1, 0, [200] * 3),
    (1, 1, [200] * 3),
    (2, 0, [200] * 3),
]
TASKS = [(t, 0, [60, 240, 60, 240]) for t in range(4)]
DATA = GroupingOptions(truth="data")


def agreement(grouping: Grouping, truth: dict[str, object]) -> float:
    """Adjusted Rand index between the groups and the truth."""
    label = {site: g.name for g in grouping.groups for site in g.sites}
    return float(adjusted_rand_score([str(truth[s]) for s in label], list(label.values())))


@pytest.mark.parametrize("seed", range(3))
def test_tasks_or_data_are_found_as_asked(seed: int) -> None:
    sites, _, data = private_sites(CLASSES, SIGMA, seed)
    assert agreement(group(sites, SPEC, DATA), dict(data)) == 1.0
    sites, tasks, _ = private_sites(CLASSES, SIGMA, seed, apart=0.03)
    assert agreement(group(sites, SPEC), dict(tasks)) == 1.0


@pytest.mark.parametrize("seed", range(3))
def test_sizes_may_be_mixed(seed: int) -> None:
    sites, tasks, _ = private_sites(TASKS, SIGMA, seed)
    for options in (GroupingOptions(), DATA):
        assert agreement(group(sites, SPEC, options), dict(tasks)) == 1.0


def test_plain_fingerprints_are_grouped_by_data_too() -> None:
    sites, _, data = private_sites(CLASSES, 0.0)
    assert agreement(group(sites, SPEC, DATA), dict(data)) == 1.0


def test_plain_and_noised_sites_may_be_mixed() -> None:
    sites, _, data = private_sites(CLASSES, SIGMA)
    clear, _, _ = private_sites(CLASSES, 0.0, 1)
    mixed = [c if i % 2 else s for i, (s, c) in enumerate(zip(sites, clear, strict=True))]
    assert agreement(group(mixed, SPEC, DATA), dict(data)) == 1.0


@given(st.randoms(use_true_random=False))
@settings(max_examples=5)
def test_names_and_order_do_not_matter(random: Random) -> None:
    sites, _, _ = private_sites(CLASSES, SIGMA)
    names = [s.site for s in sites]
    shuffled = list(names)
    random.shuffle(shuffled)
    rename = dict(zip(names, shuffled, strict=True))
    moved = [replace(s, site=rename[s.site]) for s in sites]
    random.shuffle(moved)
    options = replace(DATA, draws=3)
    first, second = group(sites, SPEC, options), group(moved, SPEC, options)
    assert {frozenset(g.sites) for g in second.groups} == {
        frozenset(rename[s] for s in g.sites) for g in first.groups
    }
    for old, new in rename.items():
        assert second.sites[new].confidence == first.sites[old].confidence
    np.testing.assert_array_equal(first.linkage, second.linkage)


def test_noise_makes_doubtful_and_says_so() -> None:
    mean, certain = [], []
    for sigma in (0.5, SIGMA, 15 * SIGMA):
        sites, _, _ = private_sites(CLASSES, sigma)
        told = group(sites, SPEC, DATA).sites.values()
        mean.append(np.mean([why.confidence for why in told]))
        certain.append(np.mean([bool(why.certain) for why in told]))
        for why in told:
            assert why.confidence is not None
            assert why.stability is not None
            assert 0 <= why.confidence <= why.stability <= 1
            assert why.certain == ("Not certain: confidence 0." not in why.reason)
    assert mean == sorted(mean, reverse=True)
    assert (certain[0], certain[2]) == (1.0, 0.0)


def test_a_site_that_noise_hides_makes_its_mates_doubtful_too() -> None:
    plan = [(0, 0, [400] * 3), (1, 0, [400] * 3)]
    clear, _, _ = private_sites(plan, SIGMA)
    assert all(why.certain for why in group(clear, SPEC).sites.values())
    hidden, _, _ = private_sites([(0, 1, [8])], SIGMA)
    found = group([*clear, *hidden], SPEC)
    [mates] = [g.sites for g in found.groups if hidden[0].site in g.sites]
    assert not any(found.sites[site].certain for site in mates)
    assert all(why.certain for site, why in found.sites.items() if site not in mates)


def test_reasons_name_the_other_truth() -> None:
    sites, _, _ = private_sites(CLASSES, SIGMA, apart=0.035)
    by_task, by_data = group(sites, SPEC), group(sites, SPEC, DATA)
    assert (
        "It shares its task with site-0-1-0 and 3 more, but beyond chance holds other classes or "
        "kinds of images." in by_task.sites["site-0-0-0"].reason
    )
    assert (
        "It seems to share its task with site-0-1-0 and 3 more, but to hold other classes or kinds "
        "of images." in by_data.sites["site-0-0-0"].reason
    )
    assert "classes" not in by_data.sites["site-2-0-0"].reason


def test_a_lonely_site_is_told_why() -> None:
    sites, _, _ = private_sites([(0, 0, [300] * 3), (1, 0, [300] * 3), (2, 0, [300])], SIGMA)
    why = group(sites, SPEC).sites["site-2-0-0"]
    assert why.reason.startswith(
        "Alone: no group is like it, noise and number of images considered, 0."
    )


def test_without_redrawings_the_placement_is_the_confidence() -> None:
    sites, _, _ = private_sites(CLASSES, SIGMA)
    told = group(sites, SPEC, replace(DATA, draws=0)).sites.values()
    assert all(why.stability is None and why.confidence is not None for why in told)


@pytest.mark.parametrize(("least", "most"), [(1, 2), (1, 1), (5, None), (2, 3)])
def test_sizes_of_groups_are_kept(least: int, most: int | None) -> None:
    sites, _, _ = private_sites(CLASSES, SIGMA)
    options = replace(DATA, min_size=least, max_size=most, draws=1)
    sizes = [len(g.sites) for g in group(sites, SPEC, options).groups]
    assert sum(sizes) == len(sites)
    assert min(sizes) >= least
    assert max(sizes) <= (most or len(sites))


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("truth", ["task", "data"])
def test_few_sites(number: int, truth: str) -> None:
    sites, _, _ = private_sites([(0, 0, [200] * number)], SIGMA)
    grouping = group(sites, SPEC, GroupingOptions(truth=truth))  # type: ignore[arg-type]
    assert [len(g.sites) for g in grouping.groups] == [number]


@pytest.mark.parametrize("truth", ["task", "data"])
def test_a_newcomer_finds_its_group_or_stays_alone(truth: str) -> None:
    options = GroupingOptions(truth=truth, draws=0)  # type: ignore[arg-type]
    sites, tasks, data = private_sites(CLASSES, SIGMA)
    kin = dict(tasks) if truth == "task" else dict(data)
    for newcomer in sites[::3]:
        rest = [s for s in sites if s is not newcomer]
        homes = sorted({str(kin[s.site]) for s in rest})
        groups = [Group(h, [s.site for s in rest if str(kin[s.site]) == h]) for h in homes]
        found = assign(newcomer, rest, groups, SPEC, options)
        assert found.group == str(kin[newcomer.site])
        assert found.confidence is not None
        assert found.confidence > 0.5
        others = [g for g in groups if g.name != found.group]
        strangers = [s for s in rest if str(kin[s.site]) != found.group]
        alone = assign(newcomer, strangers, others, SPEC, options)
        assert alone.group is None
        assert alone.reason.startswith("Came later. Alone: no group is like it")


def test_a_newcomer_joins_somebody_where_groups_have_a_smallest_size() -> None:
    sites, _, _ = private_sites([(0, 0, [200] * 3), (1, 0, [200] * 3), (2, 0, [200])], SIGMA)
    groups = [Group("a", [s.site for s in sites[:3]]), Group("b", [s.site for s in sites[3:6]])]
    options = GroupingOptions(min_size=2, max_size=3, truth="data")
    assert assign(sites[6], sites[:6], groups, SPEC, options).group is None  # no room
    options = replace(options, max_size=4)
    assert assign(sites[6], sites[:6], groups, SPEC, options).group in ("a", "b")


def test_an_unknown_truth_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^groups are by task or by data, not by 'name'$"):
        GroupingOptions(truth="name")  # type: ignore[arg-type]


def test_plain_releases_of_a_projected_spec_are_weighed_too() -> None:
    """So that one private site does not change the rule for all others."""
    shipped = load_spec("lite0-private")
    assert (shipped.width, shipped.bins) == (SPEC.features, SPEC.bins)
    sites, tasks, _ = private_sites(CLASSES, 0.0, apart=0.02)
    counted = [replace(s, spec_digest=shipped.digest) for s in sites]
    assert agreement(group(counted, shipped), dict(tasks)) == 1.0
