"""The trainings that are compared: every site alone, all together, random groups, found groups.

All arms run on the same budget (rounds x local epochs), through the same client code and the same
stock strategy; they differ in who trains with whom, and in nothing else.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from flwr.serverapp import Grid
from strategies.cotrain import GroupPlan, initial_arrays, plan_group
from strategies.group_grid import GroupGrid, per_group

from fl_server.exchange import Exchange, ask
from fl_server.settings import Arm, RunSettings

log = logging.getLogger("fedprint")

ALONE: Arm = "alone"


@dataclass
class ArmOutcome:
    """What one arm ended with.

    Attributes
    ----------
    plans : list of GroupPlan
        One a group, with what the group shared and what it could expect.
    metrics : dict
        Per site: balanced accuracy and AUROC on validation and test data.
    lost : dict
        Sites that stopped answering, with the reason.
    seconds : float
        Wall time of the arm.
    """

    plans: list[GroupPlan] = field(default_factory=list)
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
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
) -> ArmOutcome:
    """Train one arm and evaluate every site's model on its own validation and test data.

    A site that trains with nobody, because its group is itself or has no class in common, is not
    trained again: its model is that of the arm ``alone``.

    Parameters
    ----------
    arm : str
        Name of the arm; private rows and models are kept apart by it at the sites.
    groups : sequence of sequences of str
        Who trains with whom.
    grid, exchange, settings
        The run.
    """
    started = time.monotonic()
    outcome = ArmOutcome()
    cards = {site: release.verified.card for site, release in exchange.releases.items()}
    for number, members in enumerate(groups):
        card_of = {site: cards[site] for site in members}
        outcome.plans.append(plan_group(f"{arm}-{number + 1}", card_of, settings.strategy))
    if arm == ALONE:
        _train_alone(outcome, grid, exchange, settings)
    else:
        jobs = {plan.group: plan for plan in outcome.plans if plan.trainable}
        nodes = {name: [exchange.nodes[s] for s in plan.sites] for name, plan in jobs.items()}

        def train(group: GroupGrid, name: str) -> ArmOutcome:
            return _train_group(arm, jobs[name], group, exchange, settings)

        for result in per_group(grid, nodes, train).values():
            outcome.metrics |= result.metrics
            outcome.lost |= result.lost
    outcome.seconds = time.monotonic() - started
    return outcome


def _base_config(arm: Arm, exchange: Exchange, settings: RunSettings) -> dict[str, object]:
    """Return what every training and evaluation message of an arm says."""
    return {
        "run": exchange.run,
        "arm": arm,
        "spec": exchange.spec.model_dump_json(),
        "recipe": settings.recipe,
        "epochs": settings.local_epochs,
        "batch-size": settings.batch_size,
        "learning-rate": settings.learning_rate,
        "proximal-mu": settings.proximal_mu,
        "seed": settings.seed,
    }


def _train_alone(
    outcome: ArmOutcome, grid: Grid, exchange: Exchange, settings: RunSettings
) -> None:
    """Let every site train by itself with the whole budget, in one message."""
    config = _base_config(ALONE, exchange, settings)
    config["epochs"] = settings.rounds * settings.local_epochs
    plans = {plan.sites[0]: plan for plan in outcome.plans}
    requests = []
    for site, node in exchange.nodes.items():
        plan = plans[site]
        arrays = initial_arrays(plan, exchange.spec.features, settings.seed, settings.recipe)
        message = {**config, "plan": plan.model_dump_json()}
        requests.append(
            (
                node,
                RecordDict(
                    {"arrays": ArrayRecord(numpy_ndarrays=arrays), "config": ConfigRecord(message)}
                ),
            )
        )
    _evaluated(outcome, exchange, ask(grid, requests, "train.alone", settings.timeout))
