"""What a group shares, from the task cards alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.sharing import row_name
from protocol.taskcard import ClassCard, TaskCard
from strategies.cotrain import plan_group, row_factors


def card(*classes: str | tuple[str, str]) -> TaskCard:
    """Return a card; a pair is a name and its code."""
    pairs = [c if isinstance(c, tuple) else (c, None) for c in classes]
    return TaskCard(name="t", classes=[ClassCard(name=n, code=c) for n, c in pairs])


def test_the_same_classes_are_all_shared() -> None:
    plan = plan_group("g", {"b": card("x", "y"), "a": card("Y ", "X")})
    assert plan.sites == ["a", "b"]
    assert plan.shared_classes == ["x", "y"]
    assert plan.holders == {"x": ["a", "b"], "y": ["a", "b"]}
    assert plan.trainable
    assert plan.expectation == (
        "2 of 2 classes are held by two or more sites: expect a gain on these, most at small sites."
    )


def test_of_overlapping_classes_those_of_two_sites_are_shared() -> None:
    plan = plan_group("g", {"a": card("x", "y"), "b": card("y", "z"), "c": card("w", "z")})
    assert plan.shared_classes == ["y", "z"]
    assert plan.holders == {"y": ["a", "b"], "z": ["b", "c"]}
    assert plan.trainable
    assert plan.expectation == (
        "2 of 4 classes are held by two or more sites: expect a gain on these, most at small sites."
    )


def test_disjoint_classes_are_not_worth_a_round() -> None:
    plan = plan_group("g", {"a": card("x", "y"), "b": card("v", "w")})
    assert (plan.shared_classes, plan.holders, plan.trainable) == ([], {}, False)
    assert plan.expectation.startswith("No class in common: ")


def test_a_group_of_one_trains_alone() -> None:
    plan = plan_group("g", {"a": card("x", "y")})
    assert (plan.shared_classes, plan.trainable) == ([], False)
    assert plan.expectation == "A group of one trains alone."


@pytest.mark.parametrize("cards", [{}, {"a": card(), "b": card()}])
def test_nothing_at_all_is_no_plan_to_train(cards: dict[str, TaskCard]) -> None:
    assert not plan_group("g", cards).trainable


def test_a_site_without_a_class_of_another_is_apart_unless_everybody_trains() -> None:
    cards = {"a": card("x", "y"), "b": card("y"), "c": card("u", "v")}
    plan = plan_group("g", cards)
    assert (plan.apart, plan.taking_part, plan.trainable) == (["c"], ["a", "b"], True)
    assert plan.expectation == (
        "1 of 4 classes are held by two or more sites: expect a gain on these, most at small "
        "sites. No class in common with anyone, so training alone: c."
    )
    everybody = plan_group("g", cards, everybody=True)
    assert (everybody.apart, everybody.taking_part) == ([], ["a", "b", "c"])
    assert everybody.shared_classes == ["y"]


def test_codes_beat_names() -> None:
    english, german = card(("cyst", "C1"), "stone"), card(("Zyste", "C1"), ("stone", "S9"))
    plan = plan_group("g", {"a": english, "b": german})
    assert plan.shared_classes == ["C1"]


def test_a_robust_strategy_shares_rows_only_where_all_hold_all_classes() -> None:
    differing = {"a": card("x", "y"), "b": card("y", "z"), "c": card("y", "z")}
    plan = plan_group("g", differing, linear=False)
    assert (plan.shared_classes, plan.holders, plan.trainable) == ([], {}, True)
    assert plan.expectation == (
        "2 of 3 classes are held by two or more sites, but this strategy is no weighted mean, "
        "so only the body is shared: expect little."
    )
    same = {"a": card("x", "y"), "b": card("y", "x")}
    assert plan_group("g", same, linear=False) == plan_group("g", same)


def test_factors_are_all_over_holders() -> None:
    plan = plan_group("g", {"a": card("x", "y"), "b": card("y", "z"), "c": card("z", "x")})
    factors = row_factors(plan, {"a": 10, "b": 30, "c": 60})
    assert factors == {
        row_name("x"): 100 / 70,
        row_name("y"): 100 / 40,
        row_name("z"): 100 / 90,
    }
    without_c = row_factors(plan, {"a": 10, "b": 30})
    assert without_c == {row_name("x"): 4.0, row_name("y"): 1.0, row_name("z"): 40 / 30}
    assert row_name("y") not in row_factors(plan, {"c": 60})
    assert row_factors(plan, {}) == {}


@given(st.lists(st.sets(st.sampled_from("uvwxyz")), min_size=1, max_size=6), st.booleans())
def test_a_shared_row_has_two_holders_and_every_factor_is_at_least_one(
    held: list[set[str]], linear: bool
) -> None:
    cards = {f"s{i}": card(*sorted(classes)) for i, classes in enumerate(held)}
    plan = plan_group("g", cards, linear)
    assert plan == plan_group("g", dict(reversed(cards.items())), linear)
    assert all(len(sites) >= 2 for sites in plan.holders.values())
    assert plan.shared_classes == sorted(plan.holders)
    assert all(set(sites) <= set(plan.sites) for sites in plan.holders.values())
    factors = row_factors(plan, {site: 5 for site in plan.sites})
    assert len(factors) == len(plan.holders)
    assert all(factor >= 1 for factor in factors.values())
