"""Successive halving: what holds for any candidates, scores, costs and budgets."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_client.halving import Budget, Race, Trial, successive_halving
from protocol.errors import ConfigError

SCORES = st.sampled_from([0.0, 0.25, 0.5, 0.5, 0.75, 1.0]) | st.floats(0, 1) | st.just(math.nan)
TABLES = st.integers(1, 24).flatmap(
    lambda count: st.lists(
        st.lists(st.tuples(SCORES, st.integers(0, 3), st.floats(0, 5)), min_size=5, max_size=5),
        min_size=count,
        max_size=count,
    )
)
"""For each candidate and round: score, price and cost."""
Table = list[list[tuple[float, int, float]]]


class Measuring:
    """Evaluates by a table, and remembers what it was asked."""

    def __init__(self, table: Table) -> None:
        self.table = {f"c{i:02d}": rows for i, rows in enumerate(table)}
        self.asked: list[tuple[str, int]] = []

    def __call__(self, name: str, round_: int) -> Trial:
        self.asked.append((name, round_))
        score, _, cost = self.table[name][round_]
        return Trial(score, float(self.table[name][0][1]), cost)

    @property
    def names(self) -> list[str]:
        return list(self.table)


def outline(race: Race) -> list[tuple[str, int, int | None]]:
    return [(c.name, c.complete, c.dropped) for c in race.ranking]


def order(trial: Trial, name: str) -> tuple[bool, float, float, str]:
    unknown = math.isnan(trial.score)
    return unknown, 0.0 if unknown else -trial.score, trial.price, name


@given(TABLES, st.integers(1, 5), st.sampled_from([1.5, 2.0, 3.0]))
def test_each_round_halves_and_lets_the_best_through(table: Table, rounds: int, eta: float) -> None:
    measuring = Measuring(table)
    race = successive_halving(measuring.names, measuring, Budget(rounds, eta=eta))
    assert sorted(c.name for c in race.ranking) == measuring.names
    assert race.rounds == rounds
    taking_part = Counter(round_ for _, round_ in measuring.asked)
    for round_ in range(rounds):
        exact = len(table) / eta**round_
        assert taking_part[round_] >= 1
        assert exact - 1e-6 <= taking_part[round_] < max(exact, 1) + 1
        here = [c for c in race.ranking if len(c.trials) > round_]
        through = [order(c.trials[round_], c.name) for c in here if len(c.trials) > round_ + 1]
        out = [order(c.trials[round_], c.name) for c in here if c.dropped == round_]
        assert not through or not out or max(through) < min(out)
    assert len(measuring.asked) == len(set(measuring.asked))
    places = [(-c.complete, *order(c.trials[c.complete - 1], c.name)) for c in race.ranking]
    assert places == sorted(places)


@given(TABLES, st.integers(1, 5), st.floats(0.1, 60))
def test_the_budget_holds_but_for_the_last_trial(table: Table, rounds: int, cost: float) -> None:
    measuring = Measuring(table)
    race = successive_halving(measuring.names, measuring, Budget(rounds, cost))
    costs = [measuring.table[name][round_][2] for name, round_ in measuring.asked]
    assert race.spent == pytest.approx(sum(costs))
    assert len(costs) >= 1
    assert sum(costs[:-1]) < cost or len(costs) == 1
    # what fits goes the same way as without a limit
    free = Measuring(table)
    successive_halving(free.names, free, Budget(rounds))
    assert free.asked[: len(measuring.asked)] == measuring.asked
    for course in race.ranking:
        assert course.complete <= race.rounds
        if not course.trials:
            assert course.reason == "the budget was spent"


@given(TABLES, st.integers(1, 5), st.randoms(use_true_random=False))
def test_the_order_of_the_candidates_does_not_matter(
    table: Table, rounds: int, random: object
) -> None:
    measuring = Measuring(table)
    race = successive_halving(measuring.names, measuring, Budget(rounds))
    shuffled = measuring.names
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    again = successive_halving(shuffled, Measuring(table), Budget(rounds))
    assert outline(again) == outline(race)


@given(TABLES, st.integers(1, 5), st.integers(0, 23))
def test_what_is_kept_is_measured_in_every_round_and_changes_nothing(
    table: Table, rounds: int, which: int
) -> None:
    measuring = Measuring(table)
    kept = measuring.names[which % len(table)]
    race = successive_halving(measuring.names, measuring, Budget(rounds), keep=[kept])
    assert [round_ for name, round_ in measuring.asked if name == kept] == list(range(rounds))
    plain = successive_halving(measuring.names, Measuring(table), Budget(rounds))
    assert outline(race) == outline(plain)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30, unique=True), st.integers(1, 6))
def test_without_noise_the_best_wins(scores: list[float], rounds: int) -> None:
    by_name = {str(i): score for i, score in enumerate(scores)}
    race = successive_halving(list(by_name), lambda n, _: Trial(by_name[n]), Budget(rounds))
    assert by_name[race.ranking[0].name] == max(scores)


def test_of_equal_scores_the_cheaper_then_the_first_by_name() -> None:
    prices = {"a": 2.0, "b": 1.0, "c": 1.0}
    race = successive_halving(list(prices), lambda n, _: Trial(0.5, prices[n]), Budget(2))
    assert [course.name for course in race.ranking] == ["b", "c", "a"]
    assert race.ranking[2].reason == "place 3 of 3, 2 went on"


def test_a_round_that_was_cut_off_changes_no_place() -> None:
    # round 0 costs 4; round 1 is foreseen to cost 2, but its first trial takes all that is left
    scores = {"a": (0.9, 0.1), "b": (0.8, 1.0), "c": (0.2, 0.0), "d": (0.1, 0.0)}

    def evaluate(name: str, round_: int) -> Trial:
        return Trial(scores[name][round_], cost=1.0 if round_ == 0 else 9.0)

    race = successive_halving(list(scores), evaluate, Budget(2, 6.0))
    assert outline(race) == [("a", 1, None), ("b", 1, None), ("c", 1, 0), ("d", 1, 0)]
    assert race.rounds == 1
    assert race.spent == 13.0
    # and a round that cannot fit is not begun
    assert successive_halving(list(scores), evaluate, Budget(2, 5.5)).spent == 4.0


def test_what_the_budget_left_out_is_last() -> None:
    race = successive_halving("abc", lambda *_: Trial(0.0, cost=1.0), Budget(2, 2.0))
    assert [(c.name, len(c.trials), c.reason) for c in race.ranking] == [
        ("a", 1, ""),
        ("b", 1, ""),
        ("c", 0, "the budget was spent"),
    ]
    assert race.ranking[2].judged is None


def test_what_is_no_search() -> None:
    for candidates, keep in (("", ""), ("aa", ""), ("ab", "c")):
        with pytest.raises(ConfigError, match=r"^candidates must be at least one, each named once"):
            successive_halving(candidates, lambda *_: Trial(0.0), Budget(1), keep=keep)
    for wrong in ({"rounds": 0}, {"rounds": 1, "cost": 0.0}, {"rounds": 1, "eta": 1.0}):
        with pytest.raises(ConfigError, match=r"^a budget needs at least one round"):
            Budget(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"^a budget needs"):
        Budget(1, math.nan)
