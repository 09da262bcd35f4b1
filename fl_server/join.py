"""Sites that come after the groups were made: placed, and trained from their group's model.

Nobody else is asked or moved. Newcomers are placed one after the other, in the order of their
names, and a later one sees the earlier ones as members: two sites of a new task find each other.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from flwr.app import ArrayRecord
from flwr.serverapp import Grid

from fl_server.decisions import Decision, compare
from fl_server.descriptors import Collected
from fl_server.exchange import Exchange, Release
from fl_server.join_training import train_newcomers
from fl_server.journal import Journal
from fl_server.outcomes import metrics_file
from fl_server.placing import Place, place
from fl_server.progress import Progress
from fl_server.scores import ArmOutcome
from fl_server.settings import RunSettings
from fl_server.tasks import tasks_of
from protocol.runfiles import GroupsFile, MetricsFile
from protocol.sharing import GroupPlan
from strategies.measures import Task, get

log = logging.getLogger("fedprint")


@dataclass(frozen=True)
class Joined:
    """What taking newcomers in ended with.

    Attributes
    ----------
    decision : Decision
        Distances and groups of all sites; entries of the earlier sites are as they were.
    releases : dict
        The newcomers' verified releases.
    places : dict
        By newcomer.
    outcomes : dict
        By arm (``alone``, ``grouped``); empty where nothing is trained.
    described : Collected
        What the newcomers released beside their fingerprints.
    """

    decision: Decision
    releases: dict[str, Release]
    places: dict[str, Place]
    outcomes: dict[str, ArmOutcome]
    described: Collected = field(default_factory=Collected)

    @property
    def lost(self) -> dict[str, str]:
        """Newcomers that stopped answering, with the reason."""
        lost: dict[str, str] = {}
        for outcome in self.outcomes.values():
            lost |= outcome.lost
        return lost

    def metrics(self, before: MetricsFile | None) -> MetricsFile | None:
        """Return ``metrics.json`` with the newcomers' entries beside those of before."""
        if not self.outcomes:
            return before
        own = metrics_file(self.outcomes, list(self.releases)).sites
        extra = (before.model_extra or {}) if before else {}
        plans, lost = extra.get("plans", {}), extra.get("lost", {})
        shared = [p.plan.model_dump(mode="json") for p in self.places.values() if p.plan]
        return MetricsFile.model_validate(
            {
                **extra,
                "sites": {
                    **(before.sites if before else {}),
                    **{s: m.model_copy(update={"joined": True}) for s, m in own.items()},
                },
                "plans": {**plans, "joined": [*plans.get("joined", []), *shared]},
                "lost": {**lost, "joined": {**lost.get("joined", {}), **self.lost}},
            }
        )

    def entries(self, time: datetime) -> list[dict[str, str]]:
        """Return who joined which group when, as ``run.json`` lists it."""
        return [
            {"site": site, "group": placed.group, "time": time.isoformat()}
            for site, placed in self.places.items()
        ]


def join(
    grid: Grid,
    newcomers: Mapping[str, Release],
    exchange: Exchange,
    groups: GroupsFile,
    plans: Sequence[GroupPlan],
    models: Mapping[str, ArrayRecord],
    settings: RunSettings,
    *,
    before: Sequence[Task] = (),
    described: Collected | None = None,
    journal: Journal | None = None,
    progress: Progress | None = None,
) -> Joined:
    """Take newcomers into the groups of a run.

    Parameters
    ----------
    grid : Grid
        Flower's grid.
    newcomers : mapping of str to Release
        Verified releases of sites that are in no group.
    exchange : Exchange
        The run, with the releases of the sites that are in groups.
    groups : GroupsFile
        The groups so far.
    plans : sequence of GroupPlan
        Of the arm ``grouped``.
    models : mapping of str to ArrayRecord
        What the groups' trainings ended with, by name of the plan.
    settings : RunSettings
        Of the run: the budget and all else must be what the groups had.
    before : sequence of Task
        All that is known of the earlier sites, where that is more than their fingerprints.
    described : Collected, optional
        The newcomers' descriptors.
    journal, progress
        See `fl_server.arms.run_arm`.

    Returns
    -------
    Joined
        Newcomers that stop answering are named in ``lost``.
    """
    newcomers = dict(sorted(newcomers.items()))
    everybody = replace(exchange, releases={**exchange.releases, **newcomers})
    decided = groups.model_copy(deep=True)
    places = {site: place(site, everybody, decided, plans, models, settings) for site in newcomers}
    for site, placed in places.items():
        log.info("%s joins %s: %s", site, placed.group, decided.sites[site].reason)
    outcomes: dict[str, ArmOutcome] = {}
    if settings.arms and newcomers:
        starts = {site: p.start for site, p in places.items() if p.start is not None}
        among = replace(exchange, releases=newcomers, left_out=[], seconds={})
        outcomes = train_newcomers(grid, among, starts, settings, journal, progress)
    known, own = {task.name: task for task in before}, described or Collected()
    tasks = [known.get(task.name, task) for task in tasks_of(everybody, own.descriptors)]
    distances = compare(get(settings.measure), tasks)  # [k, k]
    decision = Decision([task.name for task in tasks], distances, decided)
    return Joined(decision, newcomers, places, outcomes, own)
