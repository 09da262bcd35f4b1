"""Where a site belongs that comes after the groups were made: one site placed, no other moved."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from protocol.errors import FedprintError
from protocol.fingerprint import Fingerprint
from protocol.spec import Spec
from strategies.dendrogram import best_cut, centroid_distance, centroid_linkage
from strategies.explain import Neighbour, explain
from strategies.grouping import Group, GroupingOptions, by_content, site_distances
from strategies.measures import stack
from strategies.partners import Partner, partners

__all__ = ["Assignment", "assign", "joining_cut"]

FloatArray = NDArray[np.float64]


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
    margin, reason, nearest, partners
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


def assign(
    newcomer: Fingerprint,
    fingerprints: Sequence[Fingerprint],
    groups: Sequence[Group],
    spec: Spec,
    options: GroupingOptions | None = None,
) -> Assignment:
    """Place one site among groups that stay as they are.

    The newcomer joins the group with the nearest centroid that has room, if that lies below
    `joining_cut`; a smallest size of groups makes it join in any case.

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
    squared = site_distances(
        stack(ordered, spec), [f.n_images for f in ordered], spec.sampling.draws
    )  # [k + 1, k + 1], the newcomer last
    new = len(names) - 1
    cut = joining_cut(squared[:new, :new], options)
    near = sorted((centroid_distance(squared, [new], m), name) for name, m in members.items())
    most = options.max_size or math.inf
    open_to_it = [(d, name) for d, name in near if len(members[name]) < most]
    distance, home = open_to_it[0] if open_to_it else near[0]
    joins = bool(open_to_it) and (distance < cut or options.min_size > 1)
    nearer = min(distance, cut) if open_to_it else cut
    full = [name for d, name in near if d < nearer and len(members[name]) >= most]
    placed = {**members, home: [*members[home], new]} if joins else {**members, "": [new]}
    ranked = partners(squared, names, options.partners)
    why = explain(squared, list(placed.values()), names, cut, None, ranked)[newcomer.site]
    return Assignment(
        site=newcomer.site,
        group=home if joins else None,
        distance=max(distance, 0.0),  # below 0 is sampling noise around 0
        cut=cut,
        margin=why.margin,
        reason=_reason(home if joins else None, full, why.reason),
        nearest=why.nearest,
        partners=why.partners,
    )


def joining_cut(squared: FloatArray, options: GroupingOptions) -> float:
    """Return below which distance to a group's centroid a newcomer joins it.

    The groups were cut between two heights of their dendrogram. A newcomer puts a height of its own
    between the two: of the belief in that interval, what lies above says that it belongs to the
    group, what lies below that it is alone. It joins where the former is more, hence below the
    median of the belief in the interval: as `group` would decide if the others stayed.

    Parameters
    ----------
    squared
        Squared distances between the sites that were grouped, shape ``[k, k]``.
    options
        Scale and factor of the belief.

    Returns
    -------
    float
        The scale itself where nothing else is known; less or more where groups lie close or wide.
    """
    spread = math.log(options.factor)
    linkage = centroid_linkage(squared)
    cut = best_cut(linkage, options.scale, spread)
    heights = np.concatenate([[0.0], linkage[:, 2], [np.inf]])  # [k + 1]
    with np.errstate(divide="ignore"):
        logs = np.log(heights[cut.merges : cut.merges + 2] / options.scale)  # [2] may be infinite
    return float(options.scale * np.exp(spread * ndtri(ndtr(logs / spread).mean())))


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
