"""Which plan a site accepts: signed by its coordinator, for its own release, within its means."""

from __future__ import annotations

from collections.abc import Collection

from fl_client.checkpoints import Checkpoints
from fl_client.gate import Gate
from fl_client.history import DEPARTURES, Entry, History
from fl_client.plans import KeptPlan, Plans, opened
from fl_client.site import Site
from protocol.errors import (
    BadLog,
    DigestMismatch,
    FedprintError,
    UnknownKey,
    WrongRun,
    WrongSite,
)
from protocol.keys import key_id
from protocol.plan import Knowledge, Plan
from protocol.plan_records import ShownPlan


def accept_plan(gate: Gate, shown: ShownPlan, coordinators: Collection[str]) -> str:
    """Check the plan that a coordinator shows a site, and keep it.

    Parameters
    ----------
    gate : Gate
        The site's.
    shown : ShownPlan
        The run, the coordinator's key and the signed plan.
    coordinators : collection of str
        Ids of the keys that may sign; empty where the one that signed the run's log counts.

    Returns
    -------
    str
        SHA-256 of the envelope.

    Raises
    ------
    PolicyError
        If the site takes part in no plans, or cannot keep it.
    VerificationError
        If it is not the coordinator's, of another run or of other sites, or names another
        architecture than the site has.
    ConfigError, WeightsError
        If the site cannot apply it.
    """
    plans, left = Plans(gate.site.state), _departures(gate.site, shown.run)
    try:
        found = _checked(gate, shown, coordinators, left)
        if plans.find(found.sha256) is None:
            plans.require_room(_accepted(gate.site, shown.run))
            gate.recorder.plan(left[-1], found.sha256)
            plans.keep(shown.plan)
    except FedprintError as error:
        if left:  # else the run is none of the site's
            gate.recorder.refused_plan(left[-1], error)
        raise
    return found.sha256


def _checked(
    gate: Gate, shown: ShownPlan, coordinators: Collection[str], left: Collection[Entry]
) -> KeptPlan:
    gate.require_plans()
    found = opened(shown.plan)
    if found.key != key_id(shown.coordinator):
        raise UnknownKey(f"the plan is signed with key {found.key[:12]}, not the coordinator's")
    _require_known(gate.site, shown.run, found.key, coordinators)
    _require_of(gate.site, shown.run, found.plan, left)
    _require_usable(found.plan.knowledge)
    return found


def _departures(site: Site, run: str) -> list[Entry]:
    """Return the site's records of the releases that left it for a run."""
    return [entry for entry in History(site.state).read(run) if entry.decision in DEPARTURES]


def _accepted(site: Site, run: str) -> int:
    """Return how many plans of a run the site accepted."""
    return sum(entry.decision == "plan" for entry in History(site.state).read(run))


def _require_known(site: Site, run: str, key: str, coordinators: Collection[str]) -> None:
    """Raise unless the key is one of the invitation's and the one that signed the run's log."""
    pinned = Checkpoints(site.state, run).coordinator()
    if not coordinators and pinned is None:
        raise BadLog(f"site {site.name} was shown no log of run {run} before its plan")
    if (coordinators and key not in coordinators) or pinned not in (None, key):
        raise UnknownKey(
            f"the plan is signed with key {key[:12]}, which is not the coordinator's of run {run} "
            "as the site knows it"
        )


def _require_of(site: Site, run: str, plan: Plan, left: Collection[Entry]) -> None:
    """Raise unless a plan is of this run, and of the release that left the site for it."""
    if plan.run != run:
        raise WrongRun(f"the plan is of run {plan.run!r}, not {run!r}")
    if site.name not in plan.sites:
        raise WrongSite(f"the plan is of {', '.join(plan.sites):.200}, and not of {site.name}")
    released = plan.sites[site.name]
    if released not in {entry.sha256 for entry in left}:
        raise DigestMismatch(
            f"the plan names a release {released[:12]} of {site.name}, which did not leave it for "
            f"run {run}"
        )


def _require_usable(knowledge: Knowledge) -> None:
    """Raise unless the site can train with this, as far as can be told before the weights come."""
    from fl_client.policy_files import policy_of
    from fl_client.recipes import ordered_candidate  # brings torch along

    if knowledge.architecture is not None:
        ordered_candidate(knowledge.architecture)
    if knowledge.augmentation is not None:
        policy_of(knowledge.augmentation.pipeline, "the plan's augmentation")
