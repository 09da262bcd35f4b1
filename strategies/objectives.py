"""Who may train with whom at all: sites that learn the same kind of thing.

A class of images, several labels an image and a grade have losses of their own, and a head row
means something else to each. So groups are found among the sites of one objective; that is all that
they know beside fingerprints.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from protocol.taskcard import Objective, TaskCard
from strategies.explain import Explanation
from strategies.grouping import Group, Grouping, named_groups

__all__ = ["UNTRAINED", "by_objective", "objective_of", "side_by_side"]

UNTRAINED: tuple[Objective, ...] = ("segmentation",)
"""Objectives whose sites are compared and grouped, and not trained."""


def objective_of(card: TaskCard | None) -> Objective:
    """Return what a task learns; classification where nothing is said."""
    return card.objective if card is not None else "classification"


def by_objective(objectives: Mapping[str, Objective]) -> dict[Objective, list[str]]:
    """Return the sites of each objective, both sorted by name.

    Examples
    --------
    >>> by_objective({"b": "ordinal", "c": "classification", "a": "ordinal"})
    {'classification': ['c'], 'ordinal': ['a', 'b']}
    """
    return {
        objective: sorted(site for site, own in objectives.items() if own == objective)
        for objective in sorted(set(objectives.values()))
    }


def side_by_side(
    groupings: Mapping[Objective, Grouping],
) -> tuple[list[Group], dict[str, Explanation]]:
    """Put groups that were found within each objective side by side.

    Parameters
    ----------
    groupings
        By objective.

    Returns
    -------
    groups
        The largest first, named anew.
    sites
        Explanation by site; where there are several objectives it says so.
    """
    groups = [group.sites for grouping in groupings.values() for group in grouping.groups]
    told = {
        site: replace(why, reason=f"{why.reason} {_note(objective, groupings)}".rstrip())
        for objective, grouping in groupings.items()
        for site, why in grouping.sites.items()
    }
    return _named(groups), dict(sorted(told.items()))


def _note(objective: Objective, groupings: Mapping[Objective, Grouping]) -> str:
    notes = [_others(objective, groupings)]
    if objective in UNTRAINED:
        notes.append(f"Its task is a {objective}, which is compared and grouped, and not trained.")
    return " ".join(note for note in notes if note)


def _others(objective: Objective, groupings: Mapping[Objective, Grouping]) -> str:
    others = [
        f"{len(grouping.sites)} of {other}"
        for other, grouping in groupings.items()
        if other != objective
    ]
    if not others:
        return ""
    return (
        f"Compared within its objective, {objective}: sites of another are not trained with it "
        f"({', '.join(others)})."
    )


def _named(groups: Sequence[Sequence[str]]) -> list[Group]:
    names = [site for members in groups for site in members]
    place = {site: index for index, site in enumerate(names)}
    return named_groups([[place[site] for site in members] for members in groups], names)
