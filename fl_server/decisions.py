"""From verified fingerprints to what is decided on them: distances, groups, partners."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from protocol.fingerprint import Fingerprint
from protocol.runfiles import GroupEntry, GroupsFile, NeighbourEntry, PartnerEntry, SiteGroupEntry
from protocol.spec import Spec
from strategies.grouping import GroupingOptions, group
from strategies.measures import get


@dataclass(frozen=True)
class Decision:
    """Distances (row = source, column = target) and the groups, for `names` in order."""

    names: list[str]
    distances: NDArray[np.float64]
    groups: GroupsFile


def decide(
    fingerprints: Sequence[Fingerprint],
    spec: Spec,
    *,
    measure: str = "bkld-large-unweighted",
    min_size: int = 1,
    max_size: int = 0,
    partners: int = 3,
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
    """
    ordered = sorted(fingerprints, key=lambda fingerprint: fingerprint.site)
    names = [fingerprint.site for fingerprint in ordered]
    distances = get(measure).matrix(ordered, ordered, spec)  # [k, k]
    options = GroupingOptions(min_size=min_size, max_size=max_size or None, partners=partners)
    found = group(ordered, spec, options)
    return Decision(
        names,
        distances,
        GroupsFile(
            groups=[GroupEntry(name=g.name, sites=list(g.sites)) for g in found.groups],
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
                )
                for site, why in found.sites.items()
            },
        ),
    )
