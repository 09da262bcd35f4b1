"""The arm ``planned``: trials, plans, and each group trained once more as its plan says.

It differs from the arm ``grouped`` in the knowledge that a group trains with, and in nothing else.
Where a plan changes nothing, nothing is trained again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from flwr.app import MessageType

from fl_server.arms import is_of, keep_scores, plan_groups
from fl_server.course import Course, Way, array_record, message
from fl_server.group_training import train_groups
from fl_server.offers import Adviser
from fl_server.planning import SignedPlan, show_plans, sign_plans
from fl_server.scores import ArmOutcome, score
from fl_server.trial_choice import AS_IN_THE_RUN
from fl_server.trials import run_trials
from protocol.files import atomic_json
from protocol.runfiles import GroupEntry
from protocol.sharing import GroupPlan
from protocol.trials import PlansFile, TrialsFile

__all__ = ["run_planned"]

log = logging.getLogger("fedprint")


def run_planned(
    groups: Sequence[GroupEntry],
    course: Course,
    outcomes: Mapping[str, ArmOutcome],
    advice: Adviser,
    folder: Path,
) -> ArmOutcome:
    """Find out what each group had better train with, and train it that way.

    Parameters
    ----------
    groups : sequence of GroupEntry
        The groups that were found.
    course : Course
        The arm.
    outcomes : mapping of str to ArmOutcome
        Of the arms ``alone`` and ``grouped``.
    advice : Adviser
        Who proposes what to try.
    folder : Path
        The run folder: ``trials.json``, ``plans.json`` and the signed plans are written there.
    """
    started = time.monotonic()
    chosen = run_trials([(g.name, g.sites) for g in groups], outcomes["alone"], course, advice)
    trials = [trial for each in chosen for trial in each.trials]
    atomic_json(folder / "trials.json", TrialsFile(trials=trials))
    signed = sign_plans(chosen, course.exchange, folder)
    refused = show_plans(signed, course)
    plans = PlansFile(plans=[each.plan for each in signed], refused=refused)
    atomic_json(folder / "plans.json", plans)
    _tell(plans)
    course.exchange.seconds["trials"] = time.monotonic() - started
    numbers = {group.name: number for number, group in enumerate(groups, start=1)}
    changing = {
        f"{course.arm}-{numbers[each.plan.group]}": each
        for each in signed
        if not each.plan.knowledge.is_default and each.plan.sites.keys() - refused.keys()
    }
    return _train(changing, refused, course, outcomes)


def _tell(plans: PlansFile) -> None:
    for plan in plans.plans:
        taken = [choice.label for choice in plan.choices if choice.label != AS_IN_THE_RUN]
        log.info("plan of %s: %s", plan.group, ", ".join(taken) or AS_IN_THE_RUN)
    for site, why in plans.refused.items():
        log.info("%s does not train by its plan: %s", site, why)


def _train(
    changing: Mapping[str, SignedPlan],
    refused: Mapping[str, str],
    course: Course,
    outcomes: Mapping[str, ArmOutcome],
) -> ArmOutcome:
    """Train the groups whose plans change something, without those who refuse."""
    started, arm, journal = time.monotonic(), course.arm, course.steps.journal
    members = {
        name: [site for site in each.plan.sites if site not in refused]
        for name, each in changing.items()
    }
    kept = journal.recall_outcome(arm) if journal else None
    if journal and kept and is_of(kept, list(members.values())):
        journal.clear(arm)
        return kept
    outcome = ArmOutcome(plans=plan_groups(course, members))
    ways = {name: _way(each, outcomes["grouped"]) for name, each in changing.items()}
    if outcome.plans:
        train_groups(outcome, outcomes["alone"], course, ways)
        _train_singles(outcome, course, ways)
    keep_scores(outcome, outcomes["grouped"])
    outcome.seconds = time.monotonic() - started
    if journal:
        journal.keep_outcome(arm, outcome)
        journal.clear(arm)
    return outcome


def _way(signed: SignedPlan, grouped: ArmOutcome) -> Way:
    """Return how a group trains by its plan, and what each site keeps unless that gained."""
    guard = {
        site: "grouped" if grouped.keeps_group.get(site) else "alone" for site in signed.plan.sites
    }
    return Way(signed.plan.knowledge, signed.sha256, signed.body, guard)


def _train_singles(outcome: ArmOutcome, course: Course, ways: Mapping[str, Way]) -> None:
    """Let those who train with nobody train by their group's plan alone, in one message each."""
    contents, steps = {}, {}
    for plan in outcome.plans:
        way = ways[plan.group]
        for site in _singles(plan):
            order = course.order(epochs=course.budget, proximal_mu=0.0, **way.judged(site))
            body = array_record(way.body) if way.body else None
            contents[site] = message(order.to_config(), body)
            steps[site] = f"{plan.group}/alone"
    if contents:
        course.steps.phase(f"train {course.arm} alone", list(contents))
        kind = f"{MessageType.TRAIN}.alone"
        score(outcome, course.steps.ask(steps, kind, contents, course.grid))


def _singles(plan: GroupPlan) -> list[str]:
    together = plan.trainable and len(plan.taking_part) > 1
    return plan.apart if together else plan.sites
