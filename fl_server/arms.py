"""The trainings that are compared: every site alone, all together, random groups, found groups.

All arms run on the same budget (rounds x local epochs), through the same client code and the same
stock strategy; they differ in who trains with whom, and in nothing else.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MessageType, RecordDict
from flwr.app.exception import AppExitException
from flwr.serverapp import Grid

from fl_server.asking import Problem
from fl_server.backbone import agreed_body, only_body
from fl_server.exchange import Exchange
from fl_server.journal import EVALUATE, Journal
from fl_server.progress import Progress
from fl_server.scores import Answer, ArmOutcome, score
from fl_server.settings import Arm, RunSettings
from fl_server.steps import GroupRounds, Steps
from protocol.errors import FedprintError
from protocol.orders import Order
from protocol.sharing import HIDDEN, GroupPlan, initial_adapter, initial_rows
from strategies.cotrain import plan_group, row_factors
from strategies.flower import strategy_maker
from strategies.group_grid import GroupGrid, Prepare, per_group

__all__ = ["ArmOutcome", "arm_groups", "run_arm"]

log = logging.getLogger("fedprint")


@dataclass(frozen=True)
class _Course:
    """What every part of an arm needs."""

    arm: Arm
    grid: Grid
    exchange: Exchange
    settings: RunSettings
    steps: Steps

    def order(self, **changes: object) -> Order:
        """Return what every message of the arm asks for."""
        settings = self.settings
        values: dict[str, object] = {
            "run": self.exchange.run,
            "arm": self.arm,
            "spec": self.exchange.spec,
            "recipe": settings.recipe,
            "epochs": settings.local_epochs,
            "batch_size": settings.batch_size,
            "learning_rate": settings.learning_rate,
            "proximal_mu": settings.proximal_mu,
            "seed": settings.seed,
        }
        return Order.model_validate(values | changes)


def arm_groups(
    arm: Arm, groups: Sequence[Sequence[str]], sites: Sequence[str], seed: int
) -> list[list[str]]:
    """Return who trains with whom in an arm.

    ``random`` deals the sites anew into groups of the same sizes as the found ones.
    """
    if arm == "alone":
        return [[site] for site in sites]
    if arm == "together":
        return [list(sites)]
    if arm == "grouped":
        return [list(group) for group in groups]
    shuffled = [str(s) for s in np.random.default_rng([seed, 7]).permutation(sorted(sites))]
    ends = np.cumsum([len(group) for group in groups])
    return [sorted(part.tolist()) for part in np.split(np.array(shuffled), ends[:-1])]


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
    """
    started = time.monotonic()
    kept = journal.recall_outcome(arm) if journal else None
    if journal and kept and _is_of(kept, groups):
        journal.clear(arm)
        return kept
    steps = Steps(exchange.nodes, settings.train_timeout, journal, progress)
    course = _Course(arm, grid, exchange, settings, steps)
    outcome = ArmOutcome(plans=_plans(course, groups))
    if alone is None:
        _train_alone(outcome, course)
    else:
        _train_groups(outcome, alone, course)
    outcome.seconds = time.monotonic() - started
    if journal:
        journal.keep_outcome(arm, outcome)
        journal.clear(arm)
    return outcome


def _is_of(outcome: ArmOutcome, groups: Sequence[Sequence[str]]) -> bool:
    """Tell whether an outcome is of these very groups: newcomers may have been others before."""
    return [plan.sites for plan in outcome.plans] == [sorted(group) for group in groups]


def _plans(course: _Course, groups: Sequence[Sequence[str]]) -> list[GroupPlan]:
    """Return what each group shares."""
    arm, linear = course.arm, strategy_maker(course.settings.strategy).linear
    cards = {site: release.verified.card for site, release in course.exchange.releases.items()}
    plans = []
    for number, members in enumerate(groups, start=1):
        group = {site: cards[site] for site in members}
        plans.append(plan_group(f"{arm}-{number}", group, linear, everybody=arm != "grouped"))
        if arm == "grouped" and len(members) > 1:
            log.info("%s: %s", ", ".join(plans[-1].sites), plans[-1].expectation)
    return plans


def _train_alone(outcome: ArmOutcome, course: _Course) -> None:
    """Let every site train by itself with the whole budget, in one message."""
    settings, exchange, steps = course.settings, course.exchange, course.steps
    budget = settings.rounds * settings.local_epochs
    content = _content(course.order(epochs=budget, proximal_mu=0.0).to_config())
    sites = list(exchange.nodes)
    steps.phase(f"train {course.arm}", sites, settings.train_timeout)
    step, kind = f"{course.arm}/train", f"{MessageType.TRAIN}.alone"
    score(outcome, steps.ask(step, kind, dict.fromkeys(sites, content), course.grid))
    for site, claimed in list(outcome.examples.items()):
        stated = exchange.releases[site].verified.statement.predicate
        signed = stated.held or stated.images  # a private release counts few of each patient
        if not 0 < claimed <= signed:
            del outcome.examples[site], outcome.scores[site]
            outcome.lost[site] = f"claims {claimed} training images, but signed for {signed} images"
            steps.lost(site, Problem("wrong-size", outcome.lost[site]))


def _train_groups(outcome: ArmOutcome, alone: ArmOutcome, course: _Course) -> None:
    """Run a stock strategy on every group that has something to gain, side by side."""
    plans = {plan.group: _training(plan, alone) for plan in outcome.plans if plan.trainable}
    plans = {name: plan for name, plan in plans.items() if len(plan.sites) > 1}
    nodes = course.exchange.nodes
    site_of = {node: site for site, node in nodes.items()}
    course.steps.phase(f"train {course.arm}", [s for plan in plans.values() for s in plan.sites])

    def job(group_grid: GroupGrid, group: str) -> tuple[GroupGrid, ArmOutcome]:
        try:
            result = _train_group(plans[group], group_grid, course)
        except (FedprintError, AppExitException) as error:  # costs this group, and no other
            result = ArmOutcome(lost=dict.fromkeys(plans[group].sites, str(error)))
            for site in plans[group].sites:
                course.steps.lost(site, Problem("group-failed", str(error)))
        return group_grid, result

    results = per_group(
        course.grid,
        {name: [nodes[site] for site in plan.sites] for name, plan in plans.items()},
        job,
        _with_factors(plans, alone.examples, site_of),
        {node: alone.examples.get(site, 0) for node, site in site_of.items()},
        lambda group: GroupRounds(group, course.steps),
        course.settings.train_timeout,
    )
    for group_grid, result in results.values():
        outcome.scores |= result.scores
        outcome.examples |= result.examples
        outcome.keeps_group |= result.keeps_group
        outcome.models |= result.models
        outcome.lost |= result.lost
        outcome.lost |= {site_of[node]: why for node, why in group_grid.lost.items()}
        outcome.returned |= {site_of[node]: why for node, why in group_grid.returned.items()}
    for site, scores in alone.scores.items():
        if site not in outcome.lost:
            outcome.scores.setdefault(site, scores)


def _with_factors(
    plans: Mapping[str, GroupPlan], examples: Mapping[str, int], site_of: Mapping[int, str]
) -> Callable[[str], Prepare]:
    """Return what puts into every message the factors of those who take part in the round."""

    def prepare(group: str) -> Prepare:
        def with_factors(content: RecordDict, _node: int, nodes: Sequence[int]) -> RecordDict:
            taking_part = {site_of[n]: examples[site_of[n]] for n in nodes}
            factors = row_factors(plans[group], taking_part)
            config = {**content.config_records["config"], "factors": json.dumps(factors)}
            return _content(config, content.array_records["arrays"])

        return with_factors

    return prepare


def _training(plan: GroupPlan, alone: ArmOutcome) -> GroupPlan:
    """Return the plan of those who train: not those apart, nor those lost before."""
    return plan.model_copy(
        update={"sites": [site for site in plan.taking_part if site in alone.examples]}
    )


def _train_group(plan: GroupPlan, grid: GroupGrid, course: _Course) -> ArmOutcome:
    """Run the strategy on one group, then let its sites score the final model."""
    settings, arm = course.settings, course.arm
    strategy = strategy_maker(settings.strategy).make(proximal_mu=settings.proximal_mu)
    start = _initial_arrays(plan, grid, course)
    result = strategy.start(
        grid=grid,
        initial_arrays=start,
        num_rounds=settings.rounds,
        timeout=settings.train_timeout,
        train_config=ConfigRecord(course.order().to_config()),
    )
    final = result.arrays or start
    guard = {"guard_against": "alone"} if arm == "grouped" else {}
    content = _content(course.order(**guard).to_config(), final)
    sites = [site for site in plan.sites if course.exchange.nodes[site] not in grid.lost]
    outcome = ArmOutcome(models={plan.group: final} if arm == "grouped" else {})
    with grid.aside():
        answers = course.steps.ask(
            f"{plan.group}/{EVALUATE}", MessageType.EVALUATE, dict.fromkeys(sites, content), grid
        )
    score(outcome, answers)
    return outcome


def _initial_arrays(plan: GroupPlan, grid: GroupGrid, course: _Course) -> ArrayRecord:
    """Return how the group starts: a seeded adapter, or the pretrained backbone of its sites."""
    settings, features = course.settings, course.exchange.spec.features
    width = HIDDEN if settings.recipe == "adapter" else features
    rows = initial_rows(plan.shared_classes, width, settings.seed)
    if settings.recipe == "adapter":
        arrays = initial_adapter(features, settings.seed)
        return ArrayRecord({name: Array(value) for name, value in (arrays | rows).items()})
    body = agreed_body(plan.group, _bodies(plan, grid, course))
    return ArrayRecord({**body, **{name: Array(row) for name, row in rows.items()}})


def _bodies(plan: GroupPlan, grid: GroupGrid, course: _Course) -> Iterator[tuple[str, Answer]]:
    """Ask one site after another for its backbone, as long as somebody wants to know."""
    steps = replace(course.steps, progress=None)
    content = _content(course.order().to_config())
    for site in plan.sites:
        with grid.aside():
            answers = steps.ask(
                *(f"{plan.group}/body", f"{MessageType.QUERY}.body", {site: content}, grid),
                check=only_body,
            )
        yield site, answers[site]


def _content(config: Mapping[str, Any], arrays: ArrayRecord | None = None) -> RecordDict:
    records: dict[str, Any] = {"config": ConfigRecord(dict(config))}
    return RecordDict(records if arrays is None else {**records, "arrays": arrays})
