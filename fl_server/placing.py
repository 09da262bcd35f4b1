"""Placing sites that come after the groups were made: which group, and what they share with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from flwr.app import ArrayRecord

from fl_server.exchange import Exchange
from fl_server.settings import RunSettings
from protocol.runfiles import (
    GroupEntry,
    GroupsFile,
    NeighbourEntry,
    PartnerEntry,
    SiteGroupEntry,
)
from protocol.sharing import GroupPlan, row_name
from protocol.spec import Spec
from protocol.taskcard import TaskCard, class_keys
from protocol.verify import VerifiedRelease
from strategies.assign import Assignment, assign
from strategies.cotrain import plan_group
from strategies.flower import strategy_maker
from strategies.grouping import Group, GroupingOptions


@dataclass(frozen=True)
class Place:
    """Where one newcomer was put, and what it trains from.

    Attributes
    ----------
    group : str
        Its group in ``groups.json``, perhaps one of its own.
    assignment : Assignment
        Why.
    plan : GroupPlan or None
        What it shares with its group; None in a group of its own.
    start : ArrayRecord or None
        The group's final arrays of what the two share; None where it trains alone.
    note : str
        Why it trains alone although it has a group, else empty.
    """

    group: str
    assignment: Assignment
    plan: GroupPlan | None = None
    start: ArrayRecord | None = field(default=None, repr=False)
    note: str = ""


def place(
    site: str,
    everybody: Exchange,
    groups: GroupsFile,
    plans: Sequence[GroupPlan],
    models: Mapping[str, ArrayRecord],
    settings: RunSettings,
) -> Place:
    """Put one site into a group, and enter it in `groups`.

    Parameters
    ----------
    site : str
        The newcomer.
    everybody : Exchange
        With the releases of all sites of the groups and of the newcomer.
    groups : GroupsFile
        The groups so far; changed: only the newcomer's own group and entry.
    plans, models, settings
        See `fl_server.join.join`.
    """
    known = {name: release.verified for name, release in everybody.releases.items()}
    found = assigned(site, known, groups, everybody.spec, settings)
    home = next((group for group in groups.groups if group.name == found.group), None)
    if home is None:
        home = GroupEntry(name=_free_name(groups), sites=[site])
        groups.groups.append(home)
        placed = Place(home.name, found)
    else:
        home.sites = sorted([*home.sites, site])
        cards = {s: everybody.releases[s].verified.card for s in home.sites}
        placed = _shared(site, found, home, cards, plans, models, settings)
    groups.sites[site] = _entry(placed)
    return placed


def assigned(
    site: str,
    known: Mapping[str, VerifiedRelease],
    groups: GroupsFile,
    spec: Spec,
    settings: RunSettings,
) -> Assignment:
    """Return where a newcomer belongs among the groups of its own objective.

    Parameters
    ----------
    site : str
        The newcomer.
    known : mapping of str to VerifiedRelease
        Its release, and those of all sites of the groups.
    groups : GroupsFile
        The groups so far.
    spec, settings
        Of the run.
    """
    own = known[site].card.objective
    among = [
        group
        for group in groups.groups
        if all(known[member].card.objective == own for member in group.sites)
    ]
    if not among:
        reason = f"Came later. Nobody else has its objective, {own}, so it stays alone."
        return Assignment(site, None, 0.0, 0.0, 0.0, reason, [], [])
    return assign(
        known[site].fingerprint,
        [known[member].fingerprint for group in among for member in group.sites],
        [Group(group.name, group.sites) for group in among],
        spec,
        placing_options(settings),
    )


def placing_options(settings: RunSettings) -> GroupingOptions:
    """Return how the groups of a run were made."""
    return GroupingOptions(
        min_size=settings.min_group_size,
        max_size=settings.max_group_size or None,
        partners=settings.partners,
        truth=settings.groups,
    )


def _shared(
    site: str,
    found: Assignment,
    home: GroupEntry,
    cards: Mapping[str, TaskCard],
    plans: Sequence[GroupPlan],
    models: Mapping[str, ArrayRecord],
    settings: RunSettings,
) -> Place:
    """Plan what a newcomer shares with its group, and take that out of the group's model."""
    trained = next((plan for plan in plans if set(plan.sites) & set(home.sites)), None)
    name = trained.group if trained else home.name
    plan = plan_group(name, cards, strategy_maker(settings.strategy).linear)
    model = models.get(name) if trained and trained.trainable else None
    if model is None or trained is None:
        note = "Its group has no model to start from, so it trains alone."
        return Place(home.name, found, plan, None, note)
    held = {key for member in trained.taking_part for key in class_keys(cards[member])}
    own = class_keys(cards[site])
    if not held.intersection(own):
        note = "It has no class in common with the sites that trained there, so it trains alone."
        return Place(home.name, found, plan, None, note)
    foreign = {row_name(key) for key in trained.shared_classes} - {row_name(key) for key in own}
    start = {array: value for array, value in model.items() if array not in foreign}
    return Place(home.name, found, plan, ArrayRecord(start))


def _entry(placed: Place) -> SiteGroupEntry:
    found = placed.assignment
    return SiteGroupEntry(
        reason=f"{found.reason} {placed.note}".strip(),
        margin=found.margin,
        stability=None,
        nearest=[NeighbourEntry(**vars(n)) for n in found.nearest],
        partners=[
            PartnerEntry(site=p.site, distance=p.distance, percentile=p.percentile)
            for p in found.partners
        ],
        joined=True,
        certain=found.certain,
        confidence=found.confidence,
    )


def _free_name(groups: GroupsFile) -> str:
    """Return the next group's name; the earlier ones keep theirs, whatever their width."""
    taken = {group.name for group in groups.groups}
    number = len(taken) + 1
    while f"group-{number}" in taken:
        number += 1
    return f"group-{number}"
