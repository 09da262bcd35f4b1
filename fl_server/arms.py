"""The trainings that are compared: every site alone, all together, random groups, found groups.

All arms run on the same budget (rounds x local epochs), through the same client code and the same
stock strategy; they differ in who trains with whom, and in nothing else.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from flwr.app.exception import AppExitException
from flwr.serverapp import Grid

from fl_server.exchange import Exchange, ask
from fl_server.settings import Arm, RunSettings
from protocol.errors import FedprintError
from protocol.orders import Order
from protocol.records import refusal
from protocol.sharing import HIDDEN, GroupPlan, initial_adapter, initial_rows
from strategies.cotrain import plan_group, row_factors
from strategies.flower import strategy_maker
from strategies.group_grid import GroupGrid, Prepare, per_group

log = logging.getLogger("fedprint")


@dataclass
class ArmOutcome:
    """What one arm ended with.

    Attributes
    ----------
    plans : list of GroupPlan
        One a group, with what the group shared and what it could expect.
    scores : dict
        Per site: balanced accuracy, AUROC and loss on validation and test data.
    examples : dict
        Per site: number of training images.
    keeps_group : dict
        Per site that was asked: whether it keeps the group's model.
    lost : dict
        Sites that stopped answering, with the reason.
    seconds : float
        Wall time of the arm.
    """

    plans: list[GroupPlan] = field(default_factory=list)
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    examples: dict[str, int] = field(default_factory=dict)
    keeps_group: dict[str, bool] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


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
    """
    started = time.monotonic()
    maker = strategy_maker(settings.strategy)
    cards = {site: release.verified.card for site, release in exchange.releases.items()}
    outcome = ArmOutcome(
        plans=[
            plan_group(
                f"{arm}-{number}",
                {site: cards[site] for site in members},
                maker.linear,
                everybody=arm != "grouped",
            )
            for number, members in enumerate(groups, start=1)
        ]
    )
    for plan in outcome.plans:
        if arm == "grouped" and len(plan.sites) > 1:
            log.info("%s: %s", ", ".join(plan.sites), plan.expectation)
    if alone is None:
        _train_alone(outcome, grid, exchange, settings)
    else:
        _train_groups(arm, outcome, alone, grid, exchange, settings)
    outcome.seconds = time.monotonic() - started
    return outcome


def _order(arm: Arm, exchange: Exchange, settings: RunSettings, **changes: object) -> Order:
    """Return what every message of an arm asks for."""
    values: dict[str, object] = {
        "run": exchange.run,
        "arm": arm,
        "spec": exchange.spec,
        "recipe": settings.recipe,
        "epochs": settings.local_epochs,
        "batch_size": settings.batch_size,
        "learning_rate": settings.learning_rate,
        "proximal_mu": settings.proximal_mu,
        "seed": settings.seed,
    }
    return Order.model_validate(values | changes)


def _train_alone(
    outcome: ArmOutcome, grid: Grid, exchange: Exchange, settings: RunSettings
) -> None:
    """Let every site train by itself with the whole budget, in one message."""
    budget = settings.rounds * settings.local_epochs
    config = _order("alone", exchange, settings, epochs=budget, proximal_mu=0.0).to_config()
    requests = [(node, _content(config)) for node in exchange.nodes.values()]
    replies = ask(grid, requests, f"{MessageType.TRAIN}.alone", settings.timeout)
    _score(outcome, exchange.nodes, replies)
    for site, claimed in list(outcome.examples.items()):
        signed = exchange.releases[site].verified.fingerprint.n_images
        if not 0 < claimed <= signed:
            del outcome.examples[site], outcome.scores[site]
            outcome.lost[site] = f"claims {claimed} training images, but signed for {signed} images"


def _train_groups(
    arm: Arm,
    outcome: ArmOutcome,
    alone: ArmOutcome,
    grid: Grid,
    exchange: Exchange,
    settings: RunSettings,
) -> None:
    """Run a stock strategy on every group that has something to gain, side by side."""
    plans = {plan.group: _training(plan, alone) for plan in outcome.plans if plan.trainable}
    plans = {name: plan for name, plan in plans.items() if len(plan.sites) > 1}
    site_of = {node: site for site, node in exchange.nodes.items()}

    def prepare(group: str) -> Prepare:
        def with_factors(content: RecordDict, _node: int, nodes: Sequence[int]) -> RecordDict:
            taking_part = {site_of[n]: alone.examples[site_of[n]] for n in nodes}
            factors = row_factors(plans[group], taking_part)
            config = {**content.config_records["config"], "factors": json.dumps(factors)}
            return _content(config, content.array_records["arrays"])

        return with_factors

    def job(group_grid: GroupGrid, group: str) -> tuple[GroupGrid, ArmOutcome]:
        try:
            result = _train_group(arm, plans[group], group_grid, exchange, settings)
        except (FedprintError, AppExitException) as error:  # costs this group, and no other
            result = ArmOutcome(lost=dict.fromkeys(plans[group].sites, str(error)))
        return group_grid, result

    nodes = {name: [exchange.nodes[site] for site in plan.sites] for name, plan in plans.items()}
    weights = {node: alone.examples.get(site, 0) for node, site in site_of.items()}
    for group_grid, result in per_group(grid, nodes, job, prepare, weights).values():
        outcome.scores |= result.scores
        outcome.examples |= result.examples
        outcome.keeps_group |= result.keeps_group
        outcome.lost |= result.lost
        outcome.lost |= {site_of[node]: why for node, why in group_grid.lost.items()}
    for site, scores in alone.scores.items():
        if site not in outcome.lost:
            outcome.scores.setdefault(site, scores)


def _training(plan: GroupPlan, alone: ArmOutcome) -> GroupPlan:
    """Return the plan of those who train: not those apart, nor those lost before."""
    return plan.model_copy(
        update={"sites": [site for site in plan.taking_part if site in alone.examples]}
    )


def _train_group(
    arm: Arm, plan: GroupPlan, grid: GroupGrid, exchange: Exchange, settings: RunSettings
) -> ArmOutcome:
    """Run the strategy on one group, then let its sites score the final model."""
    order = _order(arm, exchange, settings)
    maker = strategy_maker(settings.strategy)
    strategy = maker.make(proximal_mu=settings.proximal_mu)
    start = _initial_arrays(plan, order, grid, exchange, settings)
    result = strategy.start(
        grid=grid,
        initial_arrays=start,
        num_rounds=settings.rounds,
        timeout=settings.timeout,
        train_config=ConfigRecord(order.to_config()),
    )
    guard = {"guard_against": "alone"} if arm == "grouped" else {}
    config = _order(arm, exchange, settings, **guard).to_config()
    nodes = {site: exchange.nodes[site] for site in plan.sites}
    nodes = {site: node for site, node in nodes.items() if node not in grid.lost}
    requests = [(node, _content(config, result.arrays or start)) for node in nodes.values()]
    outcome = ArmOutcome()
    _score(outcome, nodes, ask(grid, requests, MessageType.EVALUATE, settings.timeout))
    return outcome


def _initial_arrays(
    plan: GroupPlan, order: Order, grid: GroupGrid, exchange: Exchange, settings: RunSettings
) -> ArrayRecord:
    """Return how the group starts: a seeded adapter, or the pretrained backbone of one site.

    All sites of a spec hold the same pretrained weights (the spec has their digest), so it does
    not matter which of them sends its copy.
    """
    width = HIDDEN if settings.recipe == "adapter" else exchange.spec.features
    rows = initial_rows(plan.shared_classes, width, settings.seed)
    if settings.recipe == "adapter":
        arrays = initial_adapter(exchange.spec.features, settings.seed)
        return ArrayRecord({name: Array(value) for name, value in (arrays | rows).items()})
    query = f"{MessageType.QUERY}.body"
    for site in plan.sites:
        node = exchange.nodes[site]
        requests = [(node, _content(order.to_config()))]
        reply = ask(grid, requests, query, settings.timeout).get(node)
        if reply and reply.has_content() and "arrays" in reply.content.array_records:
            body = reply.content.array_records["arrays"]
            return ArrayRecord({**body, **{name: Array(value) for name, value in rows.items()}})
    raise FedprintError(f"no site of group {plan.group} sent the backbone that it starts from")


def _content(config: Mapping[str, Any], arrays: ArrayRecord | None = None) -> RecordDict:
    records: dict[str, Any] = {"config": ConfigRecord(dict(config))}
    return RecordDict(records if arrays is None else {**records, "arrays": arrays})


def _score(outcome: ArmOutcome, nodes: Mapping[str, int], replies: Mapping[int, Message]) -> None:
    """Sort the sites' answers into scores, training sizes and guard decisions, or losses."""
    for site, node in nodes.items():
        reply = replies.get(node)
        if reply is None or reply.has_error():
            why = "did not answer in time" if reply is None else str(reply.error.reason)
            outcome.lost[site] = why
            continue
        problem = refusal(reply.content)
        record = reply.content.metric_records.get("metrics")
        if problem is not None or record is None or not _usable(record):
            outcome.lost[site] = problem[1] if problem else "sent no usable metrics"
            continue
        scores = {
            name: float(value) for name, value in record.items() if isinstance(value, (int, float))
        }
        outcome.examples[site] = int(scores.pop("num-examples", 0))
        if "keeps-group" in scores:
            outcome.keeps_group[site] = bool(scores.pop("keeps-group"))
        outcome.scores[site] = scores


def _usable(record: Mapping[str, object]) -> bool:
    """Tell whether a site's metrics hold a training size and a balanced accuracy (NaN: no data)."""
    examples, accuracy = record.get("num-examples"), record.get("test_balanced_accuracy")
    fits = isinstance(accuracy, (int, float)) and not (accuracy < 0 or accuracy > 1)
    return fits and isinstance(examples, int) and examples > 0
