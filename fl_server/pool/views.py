"""Reading a pool: tasks, experiments, fingerprints, and who signed them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from fl_server.pool.models import (
    ExperimentRow,
    PayloadRow,
    ProvenanceRow,
    SpecRow,
    TaskRow,
    WithdrawalRow,
)
from protocol.envelope import open_envelope, own_key, parse_statement
from protocol.errors import ConfigError
from protocol.experiment import Experiment
from protocol.fingerprint import Fingerprint, counts_from_bytes
from protocol.spec import Spec, parse_spec
from protocol.statement import ReleaseStatement

SHORTEST = 6
"""Fewest digits by which an id may be named."""


def list_tasks(session: Session) -> list[dict[str, Any]]:
    """Return all tasks as JSON values, by site and id; each with its number of experiments."""
    as_target = Counter(session.scalars(select(ExperimentRow.target)))
    as_source = Counter(session.scalars(select(ExperimentRow.source)))
    vouched = set(
        session.scalars(select(ProvenanceRow.task_id).where(ProvenanceRow.vouched_by != ""))
    )
    named = session.execute(select(SpecRow.digest, SpecRow.name))
    names: dict[str, str] = {row.digest: row.name for row in named}
    return [
        {
            **_task(row),
            "spec": names[row.spec_digest],
            "vouched": row.id in vouched,
            "experiments_as_target": as_target[row.id],
            "experiments_as_source": as_source[row.id],
        }
        for row in sorted(session.scalars(select(TaskRow)), key=lambda row: (row.site, row.id))
    ]


def list_withdrawals(session: Session) -> list[dict[str, Any]]:
    """Return what was withdrawn, and when."""
    rows = session.scalars(select(WithdrawalRow).order_by(WithdrawalRow.task_id))
    return [{"task": row.task_id, "withdrawn": row.withdrawn.isoformat()} for row in rows]


def show(session: Session, identity: str) -> dict[str, Any]:
    """Return all that is known of a task or an experiment, as JSON values.

    Parameters
    ----------
    session : Session
        Of a pool.
    identity : str
        The id, or its first digits.

    Raises
    ------
    ConfigError
        When nothing, or more than one thing, is called so.
    """
    found = find(session, identity)
    task, experiment = session.get(TaskRow, found), session.get(ExperimentRow, found)
    if task is not None:
        involved = or_(ExperimentRow.target == found, ExperimentRow.source == found)
        rows = session.scalars(select(ExperimentRow).where(involved).order_by(ExperimentRow.id))
        return {
            "kind": "task",
            **_task(task),
            "card": task.card,
            "spec": session.get_one(SpecRow, task.spec_digest).name,
            "provenance": _provenance(session, ProvenanceRow.task_id == found),
            "experiments": [_experiment(row) for row in rows],
        }
    if experiment is not None:
        signed = _provenance(session, ProvenanceRow.experiment_id == found)
        return {"kind": "experiment", **_experiment(experiment), "provenance": signed}
    gone = session.get_one(WithdrawalRow, found)
    return {"kind": "withdrawal", "task": found, "withdrawn": gone.withdrawn.isoformat()}


def find(session: Session, identity: str) -> str:
    """Return the whole id of a task, experiment or withdrawal of which these are the first digits.

    Raises
    ------
    ConfigError
        When nothing, or more than one thing, is called so.
    """
    if not re.fullmatch(rf"[0-9a-f]{{{SHORTEST},64}}", identity):
        raise ConfigError(
            f"{identity!r:.80} is no id: give the first {SHORTEST} or more digits, as fedprint "
            "pool list shows them"
        )
    columns = (TaskRow.id, ExperimentRow.id, WithdrawalRow.task_id)
    found = {
        held
        for column in columns
        for held in session.scalars(select(column).where(column.startswith(identity)).limit(2))
    }
    if len(found) != 1:
        what = "nothing" if not found else "more than one thing"
        raise ConfigError(f"the pool holds {what} with the id {identity}: see fedprint pool list")
    return found.pop()


def experiments(
    session: Session, scenario: str | None = None, metric: str | None = None
) -> list[Experiment]:
    """Return the experiments, by id; those of one scenario and one metric where these are given."""
    rows = select(ExperimentRow).order_by(ExperimentRow.id)
    if scenario is not None:
        rows = rows.where(ExperimentRow.scenario == scenario)
    if metric is not None:
        rows = rows.where(ExperimentRow.metric == metric)
    return [_as_experiment(row) for row in session.scalars(rows)]


def specs(session: Session) -> list[Spec]:
    """Return the specs of which the pool has fingerprints, by digest."""
    held = select(TaskRow.spec_digest)
    rows = select(SpecRow).where(SpecRow.digest.in_(held)).order_by(SpecRow.digest)
    return [parse_spec(row.content) for row in session.scalars(rows)]


def fingerprints(session: Session, spec: Spec) -> Iterator[tuple[str, Fingerprint]]:
    """Yield id and fingerprint of every task of a spec, by id; its counts are [m, b]."""
    wanted = select(TaskRow.id).where(TaskRow.spec_digest == spec.digest).order_by(TaskRow.id)
    for identity in session.scalars(wanted).all():
        yield identity, fingerprint(session, identity)


def fingerprint(session: Session, task: str) -> Fingerprint:
    """Return the fingerprint of one task of the pool."""
    row = session.get_one(TaskRow, task)
    content = session.scalars(select(PayloadRow.content).where(PayloadRow.task_id == task)).one()
    signed = select(ProvenanceRow.envelope).where(ProvenanceRow.task_id == task)
    envelope = session.scalars(signed.order_by(ProvenanceRow.id)).all()[0]
    key = own_key(envelope)  # verified when it was added
    payload, _ = open_envelope(envelope, lambda _: key)
    sigma = parse_statement(payload, ReleaseStatement).predicate.privacy.sigma or 0.0
    return Fingerprint(row.site, counts_from_bytes(content), row.spec_digest, row.images, sigma)


def _task(row: TaskRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "site": row.site,
        "name": row.name,
        "images": row.images,
        "private": row.private,
        "key": row.key_id,
        "issued": row.issued.isoformat(),
        "expires": row.expires.isoformat(),
    }


def _experiment(row: ExperimentRow) -> dict[str, Any]:
    return {"id": row.id, **_as_experiment(row).model_dump(mode="json")}


def _as_experiment(row: ExperimentRow) -> Experiment:
    return Experiment.model_validate({name: getattr(row, name) for name in Experiment.model_fields})


def _provenance(session: Session, where: Any) -> list[dict[str, str]]:
    rows = session.scalars(select(ProvenanceRow).where(where).order_by(ProvenanceRow.id))
    return [{"key": row.key_id, "vouched_by": row.vouched_by} for row in rows]
