"""Successive halving: most effort for the best candidates, little for the rest.

Karnin, Koren and Somekh, "Almost optimal exploration in multi-armed bandits", ICML 2013; as a way
to choose among trainings: Jamieson and Talwalkar (arXiv 1502.07943). Every round measures what is
left with more effort than the round before, and lets the better half through.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from protocol.errors import ConfigError

SPENT = "the budget was spent"


@dataclass(frozen=True)
class Trial:
    """One measurement of a candidate.

    Attributes
    ----------
    score : float
        Higher is better; NaN ranks last.
    price : float
        What using the candidate costs, in any unit: of equal scores the cheaper one wins. It must
        not depend on chance, or neither would the ranking.
    cost : float
        What the measurement took of the budget.
    """

    score: float
    price: float = 0.0
    cost: float = 0.0


@dataclass(frozen=True)
class Budget:
    """What may be spent.

    Attributes
    ----------
    rounds : int
        Number of rounds.
    cost : float
        When the trials have cost so much, no other begins; in the unit of `Trial.cost`.
    eta : float
        One in so many goes on to the next round.
    """

    rounds: int
    cost: float = math.inf
    eta: float = 2.0

    def __post_init__(self) -> None:
        """Refuse what is no budget."""
        if self.rounds < 1 or not self.cost > 0 or not self.eta > 1:
            raise ConfigError("a budget needs at least one round, a cost above 0, eta above 1")

    def places(self, candidates: int, round_: int) -> int:
        """Return how many of so many candidates take part in a round, counted from 0."""
        # rounded first: 27 / 3 ** 2 must not become 4 by the last bit of a power
        return max(1, math.ceil(round(candidates / self.eta**round_, 9)))


@dataclass
class Course:
    """How far a candidate came.

    Attributes
    ----------
    name : str
        The candidate.
    trials : list of Trial
        One a round in which it was measured, from round 0 on.
    complete : int
        Rounds that it took part in and that were completed: what it is ranked by.
    dropped : int or None
        The round after which it was out (0 is the first), None if it never was.
    reason : str
        Why it was dropped, in a few words.
    """

    name: str
    trials: list[Trial] = field(default_factory=list)
    complete: int = 0
    dropped: int | None = None
    reason: str = ""

    @property
    def judged(self) -> Trial | None:
        """The trial that it is ranked by; None if it was never measured."""
        if not self.trials:
            return None
        return self.trials[max(self.complete, 1) - 1]


@dataclass(frozen=True)
class Race:
    """What a search came to.

    Attributes
    ----------
    ranking : list of Course
        The best candidate first.
    rounds : int
        Rounds that were completed.
    spent : float
        Cost of all trials.
    """

    ranking: list[Course]
    rounds: int
    spent: float


def successive_halving(
    candidates: Sequence[str],
    evaluate: Callable[[str, int], Trial],
    budget: Budget,
    keep: Collection[str] = (),
) -> Race:
    """Rank candidates under a budget.

    Parameters
    ----------
    candidates : sequence of str
        Their names, each once.
    evaluate : callable
        Takes a name and a round (0 is the first) and returns what was measured. It is called at
        most once for each pair, and for the rounds of a candidate in order.
    budget : Budget
        Rounds and cost. A round that the cost of the round before says will not fit is not begun;
        a round that was cut off changes no place among those who reached it, because trials of
        different effort cannot be compared.
    keep : collection of str
        Candidates measured in every round even when they are out, first in each: what others are
        compared with. It changes neither their own place nor anybody else's.

    Returns
    -------
    Race
        By how far a candidate came, then score, price and name. The first trial always takes
        place, so that the cost exceeds the budget by less than the last trial.

    Raises
    ------
    ConfigError
        If there are no candidates, or a name comes twice, or a kept one is none.

    Examples
    --------
    >>> race = successive_halving("abcd", lambda name, round_: Trial(ord(name)), Budget(3))
    >>> [(course.name, course.complete) for course in race.ranking]
    [('d', 3), ('c', 2), ('b', 1), ('a', 1)]
    """
    courses = {name: Course(name) for name in candidates}
    if not courses or len(courses) != len(candidates) or not courses.keys() >= set(keep):
        raise ConfigError("candidates must be at least one, each named once, the kept among them")
    kept = [course for name, course in courses.items() if name in keep]
    running, spent, done = list(courses.values()), 0.0, 0
    for round_ in range(budget.rounds):
        entrants = kept + [course for course in running if course not in kept]
        foreseen = sum(course.trials[-1].cost for course in entrants) if round_ else 0.0
        if round_ and spent + foreseen > budget.cost:
            break
        for course in entrants:
            if spent >= budget.cost:
                break
            course.trials.append(trial := evaluate(course.name, round_))
            spent += trial.cost
        if any(len(course.trials) <= round_ for course in entrants):
            break
        done, running = round_ + 1, _let_through(running, budget, len(courses), round_)
    for course in courses.values():
        if not course.trials:
            course.dropped, course.reason = 0, SPENT
    return Race(sorted(courses.values(), key=_place), done, spent)


def _let_through(running: list[Course], budget: Budget, all_: int, round_: int) -> list[Course]:
    """End a round: return who takes part in the next one, the best first."""
    for course in running:
        course.complete = round_ + 1
    ranked = sorted(running, key=_place)
    if round_ + 1 == budget.rounds:
        return ranked
    places = budget.places(all_, round_ + 1)
    for place, course in enumerate(ranked[places:], places + 1):
        course.dropped = round_
        course.reason = f"place {place} of {len(ranked)}, {places} went on"
    return ranked[:places]


def _place(course: Course) -> tuple[int, bool, float, float, str]:
    """Return what candidates are sorted by, the best first."""
    trial = course.judged
    if trial is None:
        return 1, True, 0.0, 0.0, course.name
    unknown = math.isnan(trial.score)
    score = 0.0 if unknown else -trial.score
    return -course.complete, unknown, score, trial.price, course.name
