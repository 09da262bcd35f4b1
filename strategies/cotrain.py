"""What a group shares: planned from the sites' task cards and the strategy, before any round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from protocol.sharing import GroupPlan, row_name
from protocol.taskcard import TaskCard, class_keys
from strategies.objectives import UNTRAINED


def plan_group(
    group: str, cards: Mapping[str, TaskCard], linear: bool = True, everybody: bool = False
) -> GroupPlan:
    """Plan one group's co-training.

    Parameters
    ----------
    group : str
        Name of the group.
    cards : mapping of str to TaskCard
        The group's sites.
    linear : bool
        Whether the strategy aggregates by a weighted mean. Robust and clipping strategies do not,
        so with differing label sets they share the body only.
    everybody : bool
        Let sites without any class in common take part too, with the body alone.

    Returns
    -------
    GroupPlan
        With the head rows of every class that at least two of the sites hold. Sites of different
        objectives share nothing.
    """
    sites = sorted(cards)
    objectives = sorted({card.objective for card in cards.values()})
    if len(objectives) > 1:
        return _apart(group, sites, f"Objectives differ ({', '.join(objectives)})")
    if objectives and objectives[0] in UNTRAINED:
        return _apart(group, sites, f"A {objectives[0]} is compared and grouped only")
    keys = {site: set(class_keys(cards[site])) for site in sites}
    holders = {
        key: [site for site in sites if key in keys[site]]
        for key in sorted(set().union(*keys.values()))
    }
    common = {key: held for key, held in holders.items() if len(held) >= 2}
    together = set().union(*common.values())
    apart = [] if everybody else [site for site in sites if site not in together]
    same = len({frozenset(keys[site]) for site in sites if site not in apart}) == 1
    rows = common if linear or same else {}
    return GroupPlan(
        group=group,
        sites=sites,
        shared_classes=list(rows),
        holders=rows,
        apart=apart,
        trainable=bool(common),
        expectation=_expectation(sites, apart, len(holders), len(common), bool(rows)),
    )


def _apart(group: str, sites: list[str], why: str) -> GroupPlan:
    return GroupPlan(
        group=group,
        sites=sites,
        shared_classes=[],
        holders={},
        apart=sites,
        trainable=False,
        expectation=f"{why}, so nothing is trained together.",
    )


def _expectation(
    sites: Sequence[str], apart: Sequence[str], classes: int, common: int, rows: bool
) -> str:
    if len(sites) == 1:
        return "A group of one trains alone."
    if not common:
        return (
            "No class in common: pooling labels is where co-training gains, so nothing can be "
            "expected and no round is spent; give classes common names or codes on the task cards."
        )
    held = f"{common} of {classes} classes are held by two or more sites"
    if not rows:
        return (
            f"{held}, but this strategy is no weighted mean, so only the body is shared: "
            "expect little."
        )
    gain = f"{held}: expect a gain on these, most at small sites."
    if not apart:
        return gain
    return f"{gain} No class in common with anyone, so training alone: {', '.join(apart)}."


def row_factors(plan: GroupPlan, examples: Mapping[str, int]) -> dict[str, float]:
    """Return, for every shared head row, (weight of all) / (weight of its holders).

    Parameters
    ----------
    plan : GroupPlan
        The group.
    examples : mapping of str to int
        Training images of the sites that take part in the round.

    Returns
    -------
    dict
        By array name; a row without a holder in the round is left out: nobody changes it.
    """
    total = sum(examples.values())
    factors = {}
    for key, held in plan.holders.items():
        weight = sum(examples.get(site, 0) for site in held)
        if weight:
            factors[row_name(key)] = total / weight
    return factors
