"""From verified fingerprints to what is decided on them: distances, groups, partners."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fl_server.settings import RunSettings
from protocol.errors import FedprintError
from protocol.fingerprint import Fingerprint
from protocol.runfiles import GroupEntry, GroupsFile, NeighbourEntry, PartnerEntry, SiteGroupEntry
from protocol.spec import Spec
from strategies.grouping import GroupingOptions, group
from strategies.measures import get, released
from strategies.suspicion import Suspicion, suspicions


@dataclass(frozen=True)
class Decision:
    """Distances (row = source, column = target) and the groups, for `names` in order.

    `suspicions` are about all fingerprints, also of the sites that were `left_out` for them.
    """

    names: list[str]
    distances: NDArray[np.float64]
    groups: GroupsFile
    suspicions: list[Suspicion] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def decide(
    fingerprints: Sequence[Fingerprint],
    spec: Spec,
    *,
    measure: str = "bkld-large-unweighted",
    min_size: int = 1,
    max_size: int = 0,
    partners: int = 3,
    truth: Literal["task", "data"] = "task",
    suspects: Literal["warn", "leave-out"] = "warn",
) -> Decision:
    """Decide who trains with whom, from fingerprints alone.

    Names, classes and task cards play no part; sites are taken in the order of their names so
    that the same fingerprints always give the same file.

    Parameters
    ----------
    fingerprints : sequence of Fingerprint
        One a site.
    spec : Spec
        Their common spec.
    measure : str
        Distance of the distance file; groups and partners use the debiased symmetrised excess,
        because a directed divergence names the same concentrated site to nearly every target.
    min_size, max_size : int
        Bounds on the size of a group; a maximum of 0 is none.
    partners : int
        Co-training partners to name for each site.
    truth : {"task", "data"}
        What makes sites alike, see `strategies.grouping.GroupingOptions`.
    suspects : {"warn", "leave-out"}
        Whether fingerprints that certainly are not honest are grouped with a warning, or not.

    Raises
    ------
    FedprintError
        If nobody is left to be grouped.
    """
    found = suspicions(sorted(fingerprints, key=lambda f: f.site), spec)
    certain = {s.site for s in found if s.certain} if suspects == "leave-out" else set()
    ordered = sorted(
        (f for f in fingerprints if f.site not in certain), key=lambda fingerprint: fingerprint.site
    )
    if not ordered:
        raise FedprintError(f"no fingerprint is left to group; first problem: {found[0].message}")
    names = [fingerprint.site for fingerprint in ordered]
    tasks = released(ordered, spec)
    distances = get(measure).distances(tasks, tasks)  # [k, k]
    options = GroupingOptions(
        min_size=min_size, max_size=max_size or None, partners=partners, truth=truth
    )
    grouping = group(ordered, spec, options)
    return Decision(
        names,
        distances,
        GroupsFile(
            groups=[GroupEntry(name=g.name, sites=list(g.sites)) for g in grouping.groups],
            sites={
                site: SiteGroupEntry(
                    reason=why.reason,
                    margin=why.margin,
                    stability=why.stability,
                    nearest=[NeighbourEntry(**vars(n)) for n in why.nearest],
                    partners=[
                        PartnerEntry(site=p.site, distance=p.distance, percentile=p.percentile)
                        for p in why.partners
                    ],
                    certain=why.certain,
                    confidence=why.confidence,
                    warnings=[s.message for s in found if s.site == site],
                )
                for site, why in grouping.sites.items()
            },
        ),
        found,
        sorted(certain),
    )


def decide_as(settings: RunSettings, fingerprints: Sequence[Fingerprint], spec: Spec) -> Decision:
    """Decide as a run with these settings does."""
    return decide(
        fingerprints,
        spec,
        measure=settings.measure,
        min_size=settings.min_group_size,
        max_size=settings.max_group_size,
        partners=settings.partners,
        truth=settings.groups,
        suspects=settings.suspects,
    )
