"""The trainings that are compared: every site alone, all together, random groups, found groups.

All arms run on the same budget (rounds x local epochs), through the same client code and the same
stock strategy; they differ in who trains with whom, and in nothing else.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence

import numpy as np
from flwr.app import MessageType
from flwr.serverapp import Grid

from fl_server.asking import Problem
from fl_server.course import Course, Way, message
from fl_server.exchange import Exchange
from fl_server.group_training import train_groups
from fl_server.journal import Journal
from fl_server.progress import Progress
from fl_server.scores import ArmOutcome, score
from fl_server.settings import Arm, RunSettings
from fl_server.steps import Steps
from fl_server.tracking import RunTracker
from protocol.sharing import GroupPlan
from protocol.taskcard import Objective
from strategies.cotrain import plan_group
from strategies.flower import strategy_maker
from strategies.objectives import by_objective

__all__ = ["ArmOutcome", "arm_groups", "is_of", "keep_scores", "plan_groups", "run_arm"]

log = logging.getLogger("fedprint")

FOUND: tuple[Arm, ...] = ("grouped", "planned")
"""Arms of the groups that were found, in which who shares no class with anybody trains alone."""


def arm_groups(
    arm: Arm,
    groups: Sequence[Sequence[str]],
    sites: Sequence[str],
    seed: int,
    objectives: Mapping[str, Objective] | None = None,
) -> list[list[str]]:
    """Return who trains with whom in an arm; never sites of different objectives.

    ``together`` is everybody of one objective. ``random`` deals the sites of each objective anew
    into groups of the same sizes as the found ones.

    Parameters
    ----------
    arm : str
        Name of the arm.
    groups : sequence of sequences of str
        Found groups, each of one objective.
    sites : sequence of str
        All sites.
    seed : int
        Of the deal.
    objectives : mapping, optional
        By site; the same of all by default.
    """
    if arm == "alone":
        return [[site] for site in sites]
    if arm == "grouped":
        return [list(group) for group in groups]
    parts = by_objective(objectives or dict.fromkeys(sites, "classification")).values()
    if arm == "together":
        return [[site for site in sites if site in part] for part in parts]
    rng = np.random.default_rng([seed, 7])
    dealt = []
    for part in parts:
        shuffled = np.array([str(site) for site in rng.permutation(part)])
        ends = np.cumsum([len(group) for group in groups if set(group) <= set(part)])
        dealt += [sorted(share.tolist()) for share in np.split(shuffled, ends[:-1])]
    return dealt


def run_arm(
    arm: Arm,
    groups: Sequence[Sequence[str]],
    grid: Grid,
    exchange: Exchange,
    settings: RunSettings,
    alone: ArmOutcome | None = None,
    *,
    journal: Journal | None = None,
    progress: Progress | None = None,
    tracker: RunTracker | None = None,
) -> ArmOutcome:
    """Train one arm and score every site's model on its own validation and test data.

    In the arm ``grouped`` a site that has no class in common with its group trains with nobody; so
    does a group of one. Such a site is not trained again: its model is that of the arm ``alone``.

    Parameters
    ----------
    arm : str
        Name of the arm; private rows and models are kept apart by it at the sites.
    groups : sequence of sequences of str
        Who trains with whom.
    grid, exchange, settings
        The run.
    alone : ArmOutcome or None
        Outcome of the arm ``alone``, which every other arm needs.
    journal : Journal, optional
        Keeps what the sites answer: called again with it after any interruption, the arm goes on
        where it was, and one that had ended ends at once.
    progress : Progress, optional
        Told who is awaited, done or lost.
    tracker : RunTracker, optional
        Told how each group's rounds go.
    """
    started = time.monotonic()
    kept = journal.recall_outcome(arm) if journal else None
    if journal and kept and is_of(kept, groups):
        journal.clear(arm)
        return kept
    steps = Steps(exchange.nodes, settings.train_timeout, journal, progress)
    course = Course(arm, grid, exchange, settings, steps, tracker)
    named = {f"{arm}-{number}": members for number, members in enumerate(groups, start=1)}
    outcome = ArmOutcome(plans=plan_groups(course, named))
    if alone is None:
        _train_alone(outcome, course)
    else:
        train_groups(outcome, alone, course, _ways(outcome.plans) if arm == "grouped" else {})
        keep_scores(outcome, alone)
    outcome.seconds = time.monotonic() - started
    if journal:
        journal.keep_outcome(arm, outcome)
        journal.clear(arm)
    return outcome


def keep_scores(outcome: ArmOutcome, before: ArmOutcome) -> None:
    """Give sites that did not train again the scores that they had, but for those that were lost.

    A lost site's earlier score must not pass for one of this arm.
    """
    for site, scores in before.scores.items():
        if site not in outcome.lost:
            outcome.scores.setdefault(site, scores)


def _ways(plans: Sequence[GroupPlan]) -> dict[str, Way]:
    """Return what lets every site of a found group choose between its two models."""
    return {plan.group: Way(guard=dict.fromkeys(plan.sites, "alone")) for plan in plans}


def is_of(outcome: ArmOutcome, groups: Sequence[Sequence[str]]) -> bool:
    """Tell whether an outcome is of these very groups: newcomers may have been others before."""
    return [plan.sites for plan in outcome.plans] == [sorted(group) for group in groups]


def plan_groups(course: Course, groups: Mapping[str, Sequence[str]]) -> list[GroupPlan]:
    """Return what each group shares; by name, its sites."""
    found, linear = course.arm in FOUND, strategy_maker(course.settings.strategy).linear
    cards = {site: release.verified.card for site, release in course.exchange.releases.items()}
    plans = []
    for name, members in groups.items():
        group = {site: cards[site] for site in members}
        plans.append(plan_group(name, group, linear, everybody=not found))
        if found and len(members) > 1:
            log.info("%s: %s", ", ".join(plans[-1].sites), plans[-1].expectation)
    return plans


def _train_alone(outcome: ArmOutcome, course: Course) -> None:
    """Let every site train by itself with the whole budget, in one message."""
    exchange, steps = course.exchange, course.steps
    content = message(course.order(epochs=course.budget, proximal_mu=0.0).to_config())
    sites = list(exchange.nodes)
    steps.phase(f"train {course.arm}", sites, course.settings.train_timeout)
    step, kind = f"{course.arm}/train", f"{MessageType.TRAIN}.alone"
    score(outcome, steps.ask(step, kind, dict.fromkeys(sites, content), course.grid))
    for site, claimed in list(outcome.examples.items()):
        stated = exchange.releases[site].verified.statement.predicate
        signed = stated.held or stated.images  # a private release counts few of each patient
        if not 0 < claimed <= signed:
            del outcome.examples[site], outcome.scores[site]
            outcome.lost[site] = f"claims {claimed} training images, but signed for {signed} images"
            steps.lost(site, Problem("wrong-size", outcome.lost[site]))
