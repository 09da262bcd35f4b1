"""How much one site changes the others' groups."""

from collections.abc import Sequence

import pytest
from sklearn.metrics import adjusted_rand_score

from protocol.fingerprint import Fingerprint
from protocol.spec import Spec
from strategies.grouping import Grouping, GroupingOptions, group
from strategies.influence import agreement, influence, members
from tests.strategies.synthetic import make_sites, make_spec

SPEC = make_spec(features=64, bins=20)


def quick(fingerprints: Sequence[Fingerprint], spec: Spec) -> Grouping:
    return group(fingerprints, spec, GroupingOptions(draws=0))


def test_members_of_clear_groups_change_nothing() -> None:
    pool, _ = make_sites([[200, 200], [200, 200], [200]], SPEC)
    found = influence(pool, SPEC, quick)
    assert found == {f.site: pytest.approx(0.0) for f in pool}
    assert influence(pool[:1], SPEC, quick) == {pool[0].site: 0.0}


def test_a_site_that_decides_about_the_others_is_seen() -> None:
    pool, _ = make_sites([[200, 200], [200, 200]], SPEC)

    def swayed(fingerprints: Sequence[Fingerprint], spec: Spec) -> Grouping:
        """Group as ever, but all together once the first site is there."""
        there = any(f.site == pool[0].site for f in fingerprints)
        size = len(fingerprints) if there else 1
        return group(fingerprints, spec, GroupingOptions(draws=0, min_size=size))

    found = influence(pool, SPEC, swayed)
    assert found[pool[0].site] == pytest.approx(1.0)
    assert all(found[f.site] == pytest.approx(0.0) for f in pool[1:])


def test_agreement_is_the_adjusted_rand_index_of_who_is_in_both() -> None:
    first = {"a": "x", "b": "x", "c": "y", "d": "y", "gone": "x"}
    second = {"a": "1", "b": "1", "c": "1", "d": "2", "new": "2"}
    assert agreement(first, second) == adjusted_rand_score([0, 0, 1, 1], [0, 0, 0, 1])
    assert agreement({"a": "x"}, {"a": "y"}) == 1.0
    assert members(quick(make_sites([[90, 90]], SPEC)[0], SPEC)) == {
        "site-0-0": "group-1",
        "site-0-1": "group-1",
    }
