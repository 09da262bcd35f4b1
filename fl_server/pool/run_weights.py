"""Weights that go on a pool's shelf: of a run, those that every site behind them agreed to."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import safetensors.numpy
from pydantic import ValidationError
from safetensors import SafetensorError
from sqlalchemy import select
from sqlalchemy.orm import Session

from fl_server.pool.models import TaskRow
from fl_server.pool.session import Pool
from fl_server.pool.store import Tally
from fl_server.shelf import About, put
from fl_server.verify_evidence import Broken, Evidence
from protocol.names import printable
from protocol.plan import Plan
from protocol.runfiles import MetricsFile
from protocol.sharing import Arrays, GroupPlan
from protocol.trials import PlansFile
from protocol.weights import body_of

ARMS = ("grouped", "planned")
"""Arms whose models a run folder keeps."""
PLANS = "plans.json"


class Trained(NamedTuple):
    """The body of a group's model, and what it is."""

    body: Arrays
    about: About


def trained_weights(evidence: Evidence, ids: Mapping[str, str]) -> Iterator[Trained]:
    """Yield the bodies of a verified run's models whose sites all share their weights.

    Parameters
    ----------
    evidence : Evidence
        The run folder, verified.
    ids : mapping of str to str
        Task of each site; where one is missing, nothing that it had a part in is handed on.
    """
    if not (evidence.run / "metrics.json").exists():  # an exchange, without training
        return
    said = evidence.model("metrics.json", MetricsFile).model_extra or {}
    for arm in ARMS:
        for group in group_plans(said, arm):
            name = f"models/{group.group}.safetensors"
            if not (evidence.run / name).exists() or not _agreed(evidence, group, ids):
                continue
            plan = _plan_of(evidence, group) if arm == "planned" else None
            yield Trained(_body(evidence, name), _about(evidence, group, ids, plan))


def put_weights(pool: Pool, session: Session, weights: Trained, tally: Tally) -> None:
    """Put weights on a pool's shelf, unless one of the tasks behind them is not in the pool.

    The session writes, so that nobody withdraws a task between the look and the file.
    """
    held = select(TaskRow.id).where(TaskRow.id.in_(weights.about.sources))
    if len(session.scalars(held).all()) < len(weights.about.sources):
        tally.count("weights without their tasks")
        return
    new = put(pool, weights.body, weights.about)
    tally.count("weights added" if new else "weights known")


def group_plans(said: Mapping[str, Any], arm: str) -> list[GroupPlan]:
    """Return who trained together in an arm, from what else metrics.json says."""
    try:
        plans = [GroupPlan.model_validate(plan) for plan in said.get("plans", {}).get(arm, [])]
    except (ValidationError, AttributeError, TypeError):
        raise Broken("metrics.json", "does not say properly who trained together") from None
    for plan in plans:
        if not re.fullmatch(rf"{arm}-\d{{1,6}}", plan.group):  # it becomes part of a path
            raise Broken("metrics.json", f"names a group {printable(plan.group, 80)}")
    return plans


def _agreed(evidence: Evidence, group: GroupPlan, ids: Mapping[str, str]) -> bool:
    """Tell whether all sites of a group signed that their weights may be handed on."""
    return all(
        site in ids and evidence.release(site).statement.predicate.task_card.shares_weights
        for site in group.sites
    )


def _about(
    evidence: Evidence, group: GroupPlan, ids: Mapping[str, str], plan: Plan | None
) -> About:
    """Say what a model is; whose images made its start, made it."""
    knowledge = plan.knowledge if plan else None
    network = (knowledge.architecture if knowledge else None) or evidence.spec
    start = knowledge.start.sources if knowledge and knowledge.start else []
    return About(
        architecture=network.backbone,
        recipe=evidence.settings.recipe,
        sources=sorted({*start, *(ids[site] for site in group.taking_part)}),
        run=evidence.run_file.run,
    )


def _plan_of(evidence: Evidence, group: GroupPlan) -> Plan:
    """Return the plan by which a group was trained: that of its sites."""
    for plan in evidence.model(PLANS, PlansFile).plans:
        if {*group.sites} <= plan.sites.keys():
            return plan
    raise Broken(PLANS, f"has no plan of {group.group}")


def _body(evidence: Evidence, name: str) -> Arrays:
    try:
        return body_of(safetensors.numpy.load(evidence.read(name)))
    except (SafetensorError, ValueError) as error:
        raise Broken(name, f"is no model: {error}") from None
