"""Merging another pool of one's own: its records are verified, its word on who vouches is kept."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from fl_server.pool.models import (
    ExperimentRow,
    PayloadRow,
    ProvenanceRow,
    SpecRow,
    TaskRow,
    WithdrawalRow,
)
from fl_server.pool.records import open_experiment, open_release, open_spec
from fl_server.pool.run_weights import Trained, put_weights
from fl_server.pool.session import Pool
from fl_server.pool.store import Tally, put_experiment, put_task, take_out
from fl_server.pool.telling import told
from fl_server.pool.withdraw import scrub
from fl_server.pool_vectors import follow
from fl_server.shelf import all_or_nothing, shelved
from protocol.errors import ConfigError, Expired


def merge_pool(pool: Pool, other: Pool) -> Tally:
    """Add what another pool has, and take out what was withdrawn from it.

    Parameters
    ----------
    pool : Pool
        Is changed, in one transaction.
    other : Pool
        Is read only.

    Raises
    ------
    ConfigError
        When they are the same pool.
    VerificationError
        When anything in the other pool is not in order; the pool stays as it was.
    DataError
        When weights on the other's shelf are damaged; the same.
    """
    if pool.engine.url == other.engine.url:
        raise ConfigError(f"{pool.where} cannot be merged with itself: name two pools")
    tally = Tally()
    with other.reading() as source, pool.writing() as session, all_or_nothing(pool):
        for task in source.scalars(select(WithdrawalRow.task_id).order_by(WithdrawalRow.task_id)):
            take_out(session, task, tally)
        total = source.scalar(select(func.count()).select_from(ProvenanceRow)) or 0
        for row in told(_signed(source), "merge", total):
            _put(source, session, row, tally)
        for each in shelved(other):
            put_weights(pool, session, Trained(each.load(), each.about), tally)
    follow(pool)
    if tally.withdrawn:
        scrub(pool)
    return tally


def _signed(source: Session) -> Iterator[ProvenanceRow]:
    """Yield who signed what: tasks before experiments, in order of their ids."""
    for table, owner in (
        (TaskRow, ProvenanceRow.task_id),
        (ExperimentRow, ProvenanceRow.experiment_id),
    ):
        for identity in source.scalars(select(table.id).order_by(table.id)).all():
            rows = select(ProvenanceRow).where(owner == identity).order_by(ProvenanceRow.id)
            yield from source.scalars(rows).all()


def _put(source: Session, session: Session, row: ProvenanceRow, tally: Tally) -> None:
    if row.task_id is None:
        put_experiment(session, open_experiment(row.envelope, vouched_by=row.vouched_by), tally)
        return
    digest = source.scalars(select(TaskRow.spec_digest).where(TaskRow.id == row.task_id)).one()
    content = source.scalars(select(SpecRow.content).where(SpecRow.digest == digest)).one()
    payload = source.scalars(
        select(PayloadRow.content).where(PayloadRow.task_id == row.task_id)
    ).one()
    spec = open_spec(content, digest)
    try:
        record = open_release(payload, row.envelope, spec, vouched_by=row.vouched_by)
    except Expired as error:
        tally.count("tasks expired", str(error))
        return
    put_task(session, record, tally)
