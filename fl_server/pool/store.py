"""Putting verified records into the tables, each once, in the transaction of the caller."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from fl_server.pool.models import (
    ExperimentRow,
    PayloadRow,
    ProvenanceRow,
    SpecRow,
    TaskRow,
    WithdrawalRow,
)
from fl_server.pool.records import ExperimentRecord, TaskRecord
from protocol.files import canonical_json, sha256_hex
from protocol.names import printable
from protocol.spec import Spec
from protocol.statement import utc_now

MOST_NOTES = 20


@dataclass
class Tally:
    """What an addition came to.

    Attributes
    ----------
    counts : Counter
        By what happened, such as ``"tasks added"``.
    notes : list of str
        Why something was left out, the first few.
    """

    counts: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def count(self, what: str, note: str = "") -> None:
        """Count one more, and note why."""
        self.counts[what] += 1
        if note and len(self.notes) < MOST_NOTES:
            self.notes.append(printable(note, 300))

    @property
    def withdrawn(self) -> bool:
        """Whether something was taken out, so that its bytes must be overwritten."""
        return self.counts["withdrawn"] > 0

    def to_json(self) -> dict[str, Any]:
        """Return the counts and notes as JSON values."""
        return {"counts": dict(sorted(self.counts.items())), "notes": self.notes}


def put_spec(session: Session, spec: Spec) -> None:
    """Add a spec."""
    if session.get(SpecRow, spec.digest) is None:
        content = canonical_json(spec.model_dump(mode="json")).decode()
        row = SpecRow(digest=spec.digest, name=printable(spec.name, 200), content=content)
        session.add(row)
        session.flush()


def put_task(session: Session, record: TaskRecord, tally: Tally) -> None:
    """Add a task, unless it is there or was withdrawn.

    Whoever comes later with the same payload under another key has copied it: the first stands.
    """
    if is_withdrawn(session, record.id):
        tally.count("tasks withdrawn before", f"task {record.id[:12]} was withdrawn: left out")
        return
    row = session.get(TaskRow, record.id)
    signed = record.release.statement.predicate
    if row is not None and (row.key_id, row.site) != (record.release.key_id, signed.site):
        tally.count(
            "tasks under another key",
            f"task {record.id[:12]} of {row.site} came again, signed as {signed.site} with key "
            f"{record.release.key_id[:12]}: left out",
        )
        return
    if row is None:
        put_spec(session, record.spec)
        session.add(_task_row(record))
        session.flush()
        session.add(PayloadRow(task_id=record.id, content=record.payload))
    tally.count("tasks known" if row is not None else "tasks added")
    key, vouched = record.release.key_id, record.vouched_by
    _put_provenance(session, record.id, key, vouched, record.envelope, task_id=record.id)


def put_experiment(session: Session, record: ExperimentRecord, tally: Tally) -> None:
    """Add an experiment whose tasks are in the pool, unless it is there."""
    experiment = record.experiment
    named = {experiment.target, experiment.source} - {None}
    held = session.scalars(select(TaskRow.id).where(TaskRow.id.in_(named))).all()
    if len(held) < len(named):
        tally.count("experiments without their tasks")
        return
    identity = experiment.id
    known = session.get(ExperimentRow, identity) is not None
    if not known:
        values = experiment.model_dump(mode="json", exclude={"recorded"})
        times = {"recorded": experiment.recorded, "added": utc_now()}
        session.add(ExperimentRow(id=identity, **values, **times))
        session.flush()
    tally.count("experiments known" if known else "experiments added")
    key, vouched = record.key_id, record.vouched_by
    _put_provenance(session, identity, key, vouched, record.envelope, experiment_id=identity)


def put_all(
    session: Session,
    tasks: Iterable[TaskRecord],
    experiments: Iterable[ExperimentRecord],
    tally: Tally,
) -> None:
    """Add tasks, and then the experiments on them."""
    for task in tasks:
        put_task(session, task, tally)
    for experiment in experiments:
        put_experiment(session, experiment, tally)


def take_out(session: Session, task: str, tally: Tally) -> None:
    """Remove a task with all that is known of it, and keep that it was withdrawn.

    A task that never was here is kept out from now on.
    """
    if is_withdrawn(session, task):
        tally.count("withdrawn before")
        return
    involved = (ExperimentRow.target == task) | (ExperimentRow.source == task)
    # rows that name the task go with it (ON DELETE CASCADE); counted here, for people
    gone = session.scalars(select(ExperimentRow.id).where(involved)).all()
    tally.counts["experiments removed"] += len(gone)
    session.execute(delete(TaskRow).where(TaskRow.id == task))
    session.add(WithdrawalRow(task_id=task, withdrawn=utc_now()))
    session.flush()
    session.expire_all()  # what the database took along
    tally.count("withdrawn")


def is_withdrawn(session: Session, task: str) -> bool:
    """Tell whether a task was withdrawn."""
    return session.get(WithdrawalRow, task) is not None


def _task_row(record: TaskRecord) -> TaskRow:
    signed = record.release.statement.predicate
    return TaskRow(
        id=record.id,
        site=signed.site,
        name=printable(signed.task_card.name, 200),
        card=signed.task_card.model_dump(mode="json"),
        spec_digest=record.spec.digest,
        images=signed.images,
        private=signed.privacy.mode == "private",
        key_id=record.release.key_id,
        issued=signed.issued,
        expires=signed.expires,
        added=utc_now(),
    )


def _put_provenance(
    session: Session, subject: str, key: str, vouched_by: str, envelope: bytes, **owner: str
) -> None:
    """Add who signed; once a key and voucher, because some kinds of key never sign alike twice."""
    identity = sha256_hex(f"{subject} {key} {vouched_by}".encode())
    if session.get(ProvenanceRow, identity) is None:
        row = ProvenanceRow(
            id=identity, key_id=key, vouched_by=vouched_by, envelope=envelope, **owner
        )
        session.add(row)
        session.flush()
