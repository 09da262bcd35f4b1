"""One ranking for a group: means over its sites, worked out by hand."""

from __future__ import annotations

import pytest

from strategies.joint_advice import Joint, Ranked, joint_ranking


def test_the_mean_standing_decides() -> None:
    one = [Ranked("a", 1.0), Ranked("b", 0.5), Ranked("c", -0.2)]
    two = [Ranked("b", 0.9), Ranked("a", 0.0)]
    # c was not suggested to the second site: it counts there as the least that was, 0.0
    assert joint_ranking([one, two]) == [
        Joint("b", pytest.approx(0.7), 1.5, 2),
        Joint("a", 0.5, 1.5, 2),
        Joint("c", -0.1, 3.0, 1),
    ]


def test_without_outcomes_the_mean_place_decides() -> None:
    one = [Ranked("a", None), Ranked("b", None)]
    two = [Ranked("b", None), Ranked("c", None), Ranked("a", None)]
    three = [Ranked("b", None)]
    # places of a: 1, 3, 2; of b: 2, 1, 1; of c: 3, 2, 2
    assert [
        (j.knowledge, j.place, j.standing, j.sites) for j in joint_ranking([one, two, three])
    ] == [
        ("b", pytest.approx(4 / 3), None, 3),
        ("a", 2.0, None, 2),
        ("c", pytest.approx(7 / 3), None, 1),
    ]


def test_a_site_without_outcomes_only_breaks_ties() -> None:
    learnt = [Ranked("a", 0.3), Ranked("b", 0.3), Ranked("c", 0.1)]
    by_distance = [Ranked("b", None), Ranked("c", None)]  # places of a: 1, 3; of b: 2, 1
    assert [j.knowledge for j in joint_ranking([learnt, by_distance])] == ["b", "a", "c"]


def test_a_site_that_was_told_nothing_has_no_say() -> None:
    ranked = [Ranked("b", 0.3), Ranked("a", 0.1)]
    assert [j[:3] for j in joint_ranking([ranked, []])] == [("b", 0.3, 1.0), ("a", 0.1, 2.0)]
    assert joint_ranking([]) == joint_ranking([[], []]) == []


def test_equals_are_ordered_by_their_ids_whatever_the_order_of_the_sites() -> None:
    one, two = [Ranked("b", 0.2), Ranked("a", 0.2)], [Ranked("a", 0.2), Ranked("b", 0.2)]
    assert joint_ranking([one, two]) == joint_ranking([two, one])
    assert [j.knowledge for j in joint_ranking([one, two])] == ["a", "b"]
