"""Training groups: a stock strategy on each group's own grid, side by side."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from flwr.app import ArrayRecord, ConfigRecord, MessageType, RecordDict
from flwr.app.exception import AppExitException

from fl_server.asking import Problem
from fl_server.backbone import agreed_body, only_body
from fl_server.course import Course, Way, array_record, message
from fl_server.journal import EVALUATE
from fl_server.scores import Answer, ArmOutcome, score
from fl_server.steps import GroupRounds
from protocol.errors import FedprintError
from protocol.sharing import HIDDEN, GroupPlan, initial_adapter, initial_rows
from strategies.cotrain import row_factors
from strategies.flower import strategy_maker
from strategies.group_grid import GroupGrid, Prepare, per_group

__all__ = ["train_groups"]

KEPT = ("grouped", "planned")
"""Arms whose final models are kept."""


def train_groups(
    outcome: ArmOutcome, alone: ArmOutcome, course: Course, ways: Mapping[str, Way]
) -> None:
    """Run a stock strategy on every group that has something to gain, side by side.

    Parameters
    ----------
    outcome : ArmOutcome
        Of the arm; its plans say who trains with whom, and it takes what comes of it.
    alone : ArmOutcome
        Of the arm ``alone``, which says who can train, and on how many images.
    course : Course
        The arm.
    ways : mapping of str to Way
        By name of the group, how it trains where that is not as the run has it.
    """
    plans = {plan.group: _training(plan, alone) for plan in outcome.plans if plan.trainable}
    plans = {name: plan for name, plan in plans.items() if len(plan.sites) > 1}
    nodes = course.exchange.nodes
    site_of = {node: site for site, node in nodes.items()}
    course.steps.phase(f"train {course.arm}", [s for plan in plans.values() for s in plan.sites])
    trackers = {name: course.tracker.group(name) for name in plans} if course.tracker else {}

    def job(group_grid: GroupGrid, group: str) -> tuple[GroupGrid, ArmOutcome]:
        try:
            result = _train_group(plans[group], group_grid, course, ways.get(group, Way()))
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
        lambda group: GroupRounds(group, course.steps, trackers.get(group)),
        course.settings.train_timeout,
    )
    for tracker in trackers.values():
        tracker.close()
    for group_grid, result in results.values():
        outcome.scores |= result.scores
        outcome.examples |= result.examples
        outcome.keeps_group |= result.keeps_group
        outcome.models |= result.models
        outcome.lost |= result.lost
        outcome.lost |= {site_of[node]: why for node, why in group_grid.lost.items()}
        outcome.returned |= {site_of[node]: why for node, why in group_grid.returned.items()}


def _with_factors(
    plans: Mapping[str, GroupPlan], examples: Mapping[str, int], site_of: Mapping[int, str]
) -> Callable[[str], Prepare]:
    """Return what puts into every message the factors of those who take part in the round."""

    def prepare(group: str) -> Prepare:
        def with_factors(content: RecordDict, _node: int, nodes: Sequence[int]) -> RecordDict:
            taking_part = {site_of[n]: examples[site_of[n]] for n in nodes}
            factors = row_factors(plans[group], taking_part)
            config = {**content.config_records["config"], "factors": json.dumps(factors)}
            return message(config, content.array_records["arrays"])

        return with_factors

    return prepare


def _training(plan: GroupPlan, alone: ArmOutcome) -> GroupPlan:
    """Return the plan of those who train: not those apart, nor those lost before."""
    return plan.model_copy(
        update={"sites": [site for site in plan.taking_part if site in alone.examples]}
    )


def _train_group(plan: GroupPlan, grid: GroupGrid, course: Course, way: Way) -> ArmOutcome:
    """Run the strategy on one group, then let its sites score the final model."""
    settings = course.settings
    strategy = strategy_maker(settings.strategy).make(proximal_mu=settings.proximal_mu)
    start = _initial_arrays(plan, grid, course, way)
    result = strategy.start(
        grid=grid,
        initial_arrays=start,
        num_rounds=settings.rounds,
        timeout=settings.train_timeout,
        train_config=ConfigRecord(course.order(**way.terms).to_config()),
    )
    final = result.arrays or start
    contents = {
        site: message(course.order(**way.judged(site)).to_config(), final)
        for site in plan.sites
        if course.exchange.nodes[site] not in grid.lost
    }
    outcome = ArmOutcome(models={plan.group: final} if course.arm in KEPT else {})
    with grid.aside():
        answers = course.steps.ask(f"{plan.group}/{EVALUATE}", MessageType.EVALUATE, contents, grid)
    score(outcome, answers)
    return outcome


def _initial_arrays(plan: GroupPlan, grid: GroupGrid, course: Course, way: Way) -> ArrayRecord:
    """Return how the group starts: from a plan's weights, else a seeded adapter or the backbone."""
    settings = course.settings
    features = (way.knowledge.architecture or course.exchange.spec).features
    width = HIDDEN if settings.recipe == "adapter" else features
    rows = array_record(initial_rows(plan.shared_classes, width, settings.seed))
    if way.body is not None:
        body = array_record(way.body)
    elif settings.recipe == "adapter":
        body = array_record(initial_adapter(features, settings.seed))
    else:
        body = agreed_body(plan.group, _bodies(plan, grid, course, way))
    return ArrayRecord({**body, **rows})


def _bodies(
    plan: GroupPlan, grid: GroupGrid, course: Course, way: Way
) -> Iterator[tuple[str, Answer]]:
    """Ask one site after another for its backbone, as long as somebody wants to know."""
    steps = replace(course.steps, progress=None)
    content = message(course.order(**way.terms).to_config())
    for site in plan.sites:
        with grid.aside():
            answers = steps.ask(
                *(f"{plan.group}/body", f"{MessageType.QUERY}.body", {site: content}, grid),
                check=only_body,
            )
        yield site, answers[site]
