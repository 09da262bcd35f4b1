"""From verified tasks to what is decided on them: distances, groups, partners."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fl_server.settings import RunSettings
from protocol.errors import ConfigError, FedprintError
from protocol.fingerprint import Fingerprint
from protocol.runfiles import GroupEntry, GroupsFile, NeighbourEntry, PartnerEntry, SiteGroupEntry
from strategies.explain import Explanation
from strategies.grouping import Grouping, GroupingOptions, group
from strategies.grouping_by_distance import group_by_distance
from strategies.measures import (
    Excess,
    LargeSource,
    LargeUnweighted,
    Measure,
    SmallTarget,
    Task,
    get,
    lacks,
    require,
)
from strategies.suspicion import Suspicion, suspicions

FAMILY = (Excess, SmallTarget, LargeSource, LargeUnweighted)
"""Measures of the bKLD share one grouping, which knows of noise: see `strategies.grouping`."""


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
    tasks: Sequence[Task],
    *,
    measure: str = "bkld-large-unweighted",
    min_size: int = 1,
    max_size: int = 0,
    partners: int = 3,
    truth: Literal["task", "data"] = "task",
    suspects: Literal["warn", "leave-out"] = "warn",
) -> Decision:
    """Decide who trains with whom, from what the sites released.

    Names and classes play no part, nor do task cards unless the measure is about them; sites are
    taken in the order of their names so that the same releases always give the same file.

    Parameters
    ----------
    tasks : sequence of Task
        One a site, of one spec, each with its fingerprint.
    measure : str
        Distance of the distance file. Groups and partners use it too, but for the bKLD family: for
        that the debiased symmetrised excess, because a directed divergence names the same
        concentrated site to nearly every target. A site that has not released what the measure
        needs is compared with nobody, and warned of.
    min_size, max_size : int
        Bounds on the size of a group; a maximum of 0 is none.
    partners : int
        Co-training partners to name for each site.
    truth : {"task", "data"}
        What makes sites alike, see `strategies.grouping.GroupingOptions`; for the bKLD family.
    suspects : {"warn", "leave-out"}
        Whether fingerprints that certainly are not honest are grouped with a warning, or not.

    Raises
    ------
    ConfigError
        If no two sites have what the measure needs, or it cannot group by data.
    FedprintError
        If nobody is left to be grouped.
    """
    chosen = grouping_measure(measure, truth)
    by_name = sorted(tasks, key=lambda task: task.name)
    found = suspicions(_fingerprints(by_name), by_name[0].spec) if by_name else []
    certain = {s.site for s in found if s.certain} if suspects == "leave-out" else set()
    ordered = [task for task in by_name if task.name not in certain]
    if not ordered:
        first = found[0].message if found else "no site released one"
        raise FedprintError(f"no fingerprint is left to group; first problem: {first}")
    names = [task.name for task in ordered]
    distances = compare(chosen, ordered)  # [k, k]
    options = GroupingOptions(
        min_size=min_size, max_size=max_size or None, partners=partners, truth=truth
    )
    if type(chosen) in FAMILY:
        grouping = group(_fingerprints(ordered), ordered[0].spec, options)
    else:
        grouping = group_by_distance(distances, names, measure, options, apart=chosen.apart)
    warnings = {
        task.name: [s.message for s in found if s.site == task.name] + _doubts(chosen, task)
        for task in ordered
    }
    return Decision(names, distances, _groups_file(grouping, warnings), found, sorted(certain))


def decide_as(settings: RunSettings, tasks: Sequence[Task]) -> Decision:
    """Decide as a run with these settings does."""
    return decide(
        tasks,
        measure=settings.measure,
        min_size=settings.min_group_size,
        max_size=settings.max_group_size,
        partners=settings.partners,
        truth=settings.groups,
        suspects=settings.suspects,
    )


def grouping_measure(name: str, truth: Literal["task", "data"]) -> Measure:
    """Return a measure that is to group by task or by data.

    Raises
    ------
    ConfigError
        If there is none of the name, or it knows nothing of chance and so not whether data differ.
    """
    measure = get(name)
    if truth == "data" and type(measure) not in FAMILY:
        raise ConfigError(
            f'measure {name} groups by task only: take groups="task", or a bKLD measure'
        )
    return measure


def compare(measure: Measure, tasks: Sequence[Task]) -> NDArray[np.float64]:
    """Return the distances ``[k, k]`` of tasks, NaN where one has not released what is needed.

    A task without scores is no target, but may be a source: the measure says where it is none.

    Raises
    ------
    ConfigError
        If fewer than two tasks have released all that is needed.
    FedprintError
        If the measure fails, in one line: it may be another package's.
    """
    lacking = [lacks(measure, task) for task in tasks]
    if sum(not needs for needs in lacking) < min(2, len(tasks)):
        require(measure, tasks)
    able = [i for i, needs in enumerate(lacking) if set(needs) <= {"scores"}]
    inside = [tasks[i] for i in able]
    distances = np.full((len(tasks), len(tasks)), np.nan)
    distances[np.ix_(able, able)] = measure.distances(inside, inside)
    return distances


def _doubts(measure: Measure, task: Task) -> list[str]:
    """Return what speaks against what a measure says of a task."""
    lacking = " and ".join(lacks(measure, task))
    said = [f"Released no {lacking}, which measure {measure.name} needs."] if lacking else []
    noised = task.fingerprint is not None and task.fingerprint.sigma > 0
    if noised and "fingerprint" in measure.needs and type(measure) not in FAMILY:
        said.append(f"Its counts are noised, which measure {measure.name} takes for data.")
    return said


def _fingerprints(tasks: Sequence[Task]) -> list[Fingerprint]:
    return [task.fingerprint for task in tasks if task.fingerprint is not None]


def _groups_file(grouping: Grouping, warnings: Mapping[str, list[str]]) -> GroupsFile:
    return GroupsFile(
        groups=[GroupEntry(name=g.name, sites=list(g.sites)) for g in grouping.groups],
        sites={site: _entry(why, warnings[site]) for site, why in grouping.sites.items()},
    )


def _entry(why: Explanation, warnings: list[str]) -> SiteGroupEntry:
    return SiteGroupEntry(
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
        warnings=warnings,
    )
