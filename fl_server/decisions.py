"""From verified tasks to what is decided on them: distances, groups, partners."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fl_server.settings import RunSettings
from protocol.errors import ConfigError, FedprintError
from protocol.fingerprint import Fingerprint
from protocol.runfiles import GroupEntry, GroupsFile, NeighbourEntry, PartnerEntry, SiteGroupEntry
from protocol.spec import Spec
from protocol.taskcard import ONE_CLASS, Objective
from strategies.excess import Overlap, takes_every_edge
from strategies.explain import Explanation
from strategies.grouping import (
    Grouping,
    GroupingOptions,
    by_content,
    by_evidence,
    compared,
    group,
)
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
    require_one_spec,
)
from strategies.measures.base import Need
from strategies.objectives import by_objective, objective_of, side_by_side
from strategies.suspicion import Suspicion, suspicions

FAMILY = (Excess, SmallTarget, LargeSource, LargeUnweighted)
"""Measures of the bKLD share one grouping, which knows of noise: see `strategies.grouping`."""


OF_CLASSES: frozenset[Need] = frozenset({"class-moments", "fisher", "features", "scores"})
"""What is computed of one class an image, and so released by no site of another objective."""


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

    Names and classes play no part, nor do task cards unless the measure is about them, but for the
    objective: sites are grouped among those of their own, see `strategies.objectives`. Sites are
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
    options = GroupingOptions(
        min_size=min_size, max_size=max_size or None, partners=partners, truth=truth
    )
    prints, family = by_content(_fingerprints(tasks)), type(chosen) in FAMILY
    shared = _compared(prints, tasks[0].spec, options) if prints and family else None
    found = _suspicions(prints, tasks[0].spec, shared) if prints else []
    certain = {s.site for s in found if s.certain} if suspects == "leave-out" else set()
    ordered = sorted((t for t in tasks if t.name not in certain), key=lambda task: task.name)
    if not ordered:
        first = found[0].message if found else "no site released one"
        raise FedprintError(f"no fingerprint is left to group; first problem: {first}")
    names = [task.name for task in ordered]
    distances = compare(chosen, ordered)  # [k, k]
    parts = by_objective({task.name: objective_of(task.card) for task in ordered})
    groupings = {
        objective: _grouped(prints, tasks[0].spec, sites, options, shared)
        if family
        else _grouped_by_distance(chosen, names, distances, sites, options)
        for objective, sites in parts.items()
    }
    warnings = {
        task.name: [s.message for s in found if s.site == task.name] + _doubts(chosen, task)
        for task in ordered
    }
    return Decision(names, distances, _groups_file(groupings, warnings), found, sorted(certain))


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


def _grouped(
    prints: Sequence[Fingerprint],
    spec: Spec,
    sites: Collection[str],
    options: GroupingOptions,
    shared: Overlap | None,
) -> Grouping:
    """Group some of the sites by their fingerprints, which come in the order `by_content`."""
    kept = [i for i, each in enumerate(prints) if each.site in sites]
    among = None if shared is None else shared.among(kept)
    return group([prints[i] for i in kept], spec, options, among)


def _grouped_by_distance(
    measure: Measure,
    names: Sequence[str],
    distances: NDArray[np.float64],
    sites: Collection[str],
    options: GroupingOptions,
) -> Grouping:
    """Group some of the sites by the distances ``[k, k]`` of all."""
    places = [i for i, name in enumerate(names) if name in sites]
    between, among = distances[np.ix_(places, places)], [names[i] for i in places]
    return group_by_distance(between, among, measure.name, options, apart=measure.apart)


def _doubts(measure: Measure, task: Task) -> list[str]:
    """Return what speaks against what a measure says of a task."""
    lacking = " and ".join(lacks(measure, task))
    said = [f"Released no {lacking}, which measure {measure.name} needs."] if lacking else []
    objective = objective_of(task.card)
    if said and objective not in ONE_CLASS and OF_CLASSES.intersection(lacks(measure, task)):
        said = [
            f"Measure {measure.name} needs one class an image, and its objective is {objective}: "
            "it is compared with nobody."
        ]
    noised = task.fingerprint is not None and task.fingerprint.sigma > 0
    if noised and "fingerprint" in measure.needs and type(measure) not in FAMILY:
        said.append(f"Its counts are noised, which measure {measure.name} takes for data.")
    return said


def _compared(
    prints: Sequence[Fingerprint], spec: Spec, options: GroupingOptions
) -> Overlap | None:
    """Return what groups are cut by; nothing where they are weighed by evidence."""
    require_one_spec(prints, spec)
    return None if by_evidence(prints, spec, options) else compared(prints)


def _suspicions(
    prints: Sequence[Fingerprint], spec: Spec, shared: Overlap | None
) -> list[Suspicion]:
    """Look for suspicions; they look at every edge between bins, groups at a hundred."""
    return suspicions(prints, spec, shared if takes_every_edge(spec.bins) else None)


def _fingerprints(tasks: Sequence[Task]) -> list[Fingerprint]:
    return [task.fingerprint for task in tasks if task.fingerprint is not None]


def _groups_file(
    groupings: Mapping[Objective, Grouping], warnings: Mapping[str, list[str]]
) -> GroupsFile:
    groups, sites = side_by_side(groupings)
    return GroupsFile(
        groups=[GroupEntry(name=g.name, sites=list(g.sites)) for g in groups],
        sites={site: _entry(why, warnings[site]) for site, why in sites.items()},
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
