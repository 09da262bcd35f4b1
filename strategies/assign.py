"""Where a site belongs that comes after the groups were made: one site placed, no other moved."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from protocol.errors import FedprintError
from protocol.fingerprint import Fingerprint
from protocol.spec import Spec
from strategies.dendrogram import centroid_distance
from strategies.explain import Neighbour, explain
from strategies.grouping import Group, GroupingOptions, by_content
from strategies.nearness import joining_cut, view_of
from strategies.partners import Partner, partners

__all__ = ["Assignment", "assign", "joining_cut"]


@dataclass(frozen=True)
class Assignment:
    """Where a newcomer belongs, and why.

    Parameters
    ----------
    site
        The newcomer.
    group
        Name of the group that it joins; None where it stays alone.
    distance
        Squared distance to the centroid of that group, or of the nearest one where it stays alone.
    cut
        Squared distance below which a group is joined.
    margin, reason, nearest, partners, certain, confidence
        As for the sites that were grouped, see `Explanation`.
    """

    site: str
    group: str | None
    distance: float
    cut: float
    margin: float
    reason: str
    nearest: list[Neighbour]
    partners: list[Partner]
    certain: bool | None = None
    confidence: float | None = None


def assign(
    newcomer: Fingerprint,
    fingerprints: Sequence[Fingerprint],
    groups: Sequence[Group],
    spec: Spec,
    options: GroupingOptions | None = None,
) -> Assignment:
    """Place one site among groups that stay as they are.

    The newcomer joins the group with the nearest centroid that has room, if that lies below
    `joining_cut`, or, where groups are weighed by evidence, the group that is more likely than any
    other and than none. A smallest size of groups makes it join in any case.

    Parameters
    ----------
    newcomer
        A site of no group.
    fingerprints
        One for each site of the groups. Neither their order nor names change the result.
    groups
        The groups, as `group` found them or as earlier newcomers left them.
    spec
        What all fingerprints were made by.
    options
        As the groups were made with.

    Raises
    ------
    FedprintError
        If there are no groups, a site of a group has no fingerprint, or the newcomer is no new one.
    SpecMismatch
        If a fingerprint was made by another spec.
    """
    options = options or GroupingOptions()
    ordered = [*by_content(fingerprints), newcomer]
    names = [f.site for f in ordered]
    members = _members(names, groups)
    new = len(names) - 1
    view = view_of(ordered, list(members.values()), spec, options)
    far = {name: centroid_distance(view.squared, [new], m) for name, m in members.items()}
    gain = dict(zip(members, view.better, strict=True))
    near = sorted(members, key=lambda name: (-gain[name], far[name], name))
    most = options.max_size or math.inf
    open_to_it = [name for name in near if len(members[name]) < most]
    home = open_to_it[0] if open_to_it else near[0]
    joins = bool(open_to_it) and (gain[home] > 0 or options.min_size > 1)
    least = max(gain[home], 0.0) if open_to_it else 0.0
    full = [name for name in near if gain[name] > least and len(members[name]) >= most]
    placed = {**members, home: [*members[home], new]} if joins else {**members, "": [new]}
    sure = view.chance[list(members).index(home) if joins else -1] if view.chance else None
    why = explain(
        view.squared,
        list(placed.values()),
        names,
        view.cut,
        None,
        partners(view.squared, names, options.partners),
        confidence=None if sure is None else [sure] * len(names),
        notes=[""] * len(names) if view.chance else None,
    )[newcomer.site]
    return Assignment(
        site=newcomer.site,
        group=home if joins else None,
        distance=max(far[home], 0.0),  # below 0 is sampling noise around 0
        cut=view.cut,
        margin=why.margin,
        reason=_reason(home if joins else None, full, why.reason),
        nearest=why.nearest,
        partners=why.partners,
        certain=why.certain,
        confidence=why.confidence,
    )


def _members(names: Sequence[str], groups: Sequence[Group]) -> dict[str, list[int]]:
    """Return the indices of each group's sites among the names; the newcomer's is the last."""
    if not groups:
        raise FedprintError("there is no group to join: group the sites first")
    if len(set(names)) < len(names):
        raise FedprintError("a site sent two fingerprints: keep one of each")
    index = {name: i for i, name in enumerate(names[:-1])}
    grouped = [site for g in groups for site in g.sites]
    if sorted(grouped) != sorted(index):
        odd = sorted(set(grouped) ^ set(index)) or sorted(grouped)
        raise FedprintError(f"{odd[0]} is not in exactly one group with a fingerprint")
    return {g.name: [index[site] for site in g.sites] for g in groups}


def _reason(home: str | None, full: Sequence[str], reason: str) -> str:
    told = f"Came later and joined {home}. " if home else "Came later. "
    if full:
        told += f"No room in {', '.join(full)}. "
    return told + reason
