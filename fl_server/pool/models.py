"""The tables of the pool.

All that was signed lies in ``provenance.envelope`` and ``payloads.content``; the other columns say
the same again, for the database to search.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    Index,
    LargeBinary,
    String,
    Text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

DIGEST = String(64)


class UtcTime(TypeDecorator[datetime]):
    """A time with its zone, kept in UTC; SQLite itself knows no zones."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return what is stored."""
        return value.astimezone(UTC) if value is not None else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return what was stored, in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """Of all tables."""


def _task(**options: Any) -> Mapped[Any]:
    """Return a column that names a task and goes with it."""
    return mapped_column(DIGEST, ForeignKey("tasks.id", ondelete="CASCADE"), **options)


class SpecRow(Base):
    """A spec that fingerprints of the pool were made under."""

    __tablename__ = "specs"

    digest: Mapped[str] = mapped_column(DIGEST, primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    content: Mapped[str] = mapped_column(Text)


class TaskRow(Base):
    """A task: its public card, and what its signed release says; `id` is that of its payload."""

    __tablename__ = "tasks"

    id: Mapped[str] = mapped_column(DIGEST, primary_key=True)
    site: Mapped[str] = mapped_column(String(200))
    name: Mapped[str] = mapped_column(String(200))
    card: Mapped[dict[str, Any]] = mapped_column(JSON)
    spec_digest: Mapped[str] = mapped_column(DIGEST, ForeignKey("specs.digest"), index=True)
    images: Mapped[int] = mapped_column(BigInteger)
    private: Mapped[bool]
    key_id: Mapped[str] = mapped_column(DIGEST)
    issued: Mapped[datetime] = mapped_column(UtcTime)
    expires: Mapped[datetime] = mapped_column(UtcTime)
    added: Mapped[datetime] = mapped_column(UtcTime)


class PayloadRow(Base):
    """The exact bytes of a task's release, apart from what is listed."""

    __tablename__ = "payloads"

    task_id: Mapped[str] = _task(primary_key=True)
    content: Mapped[bytes] = mapped_column(LargeBinary)


class ExperimentRow(Base):
    """An experiment; see `protocol.experiment.Experiment`."""

    __tablename__ = "experiments"
    __table_args__ = (Index("ix_experiments_outcome", "scenario", "metric"),)

    id: Mapped[str] = mapped_column(DIGEST, primary_key=True)
    scenario: Mapped[str] = mapped_column(String(20))
    target: Mapped[str] = _task(index=True)
    source: Mapped[str | None] = _task(index=True, nullable=True)
    detail: Mapped[dict[str, Any]] = mapped_column(JSON)
    hyperparameters: Mapped[dict[str, Any]] = mapped_column(JSON)
    seed: Mapped[int | None] = mapped_column(BigInteger)
    metric: Mapped[str] = mapped_column(String(100))
    performance: Mapped[float] = mapped_column(Double)
    baseline: Mapped[float | None] = mapped_column(Double)
    run: Mapped[str] = mapped_column(String(200))
    recorded: Mapped[datetime] = mapped_column(UtcTime)
    added: Mapped[datetime] = mapped_column(UtcTime)


class ProvenanceRow(Base):
    """Who signed a task or an experiment, and whose word it is that the key is right.

    `vouched_by` is the id of the coordinator's key whose trust store held the site's key, or of
    the key that signed the file it came in; empty where nobody vouches.
    """

    __tablename__ = "provenance"
    __table_args__ = (
        CheckConstraint("(task_id IS NULL) <> (experiment_id IS NULL)", name="ck_one_subject"),
    )

    id: Mapped[str] = mapped_column(DIGEST, primary_key=True)
    task_id: Mapped[str | None] = _task(index=True, nullable=True)
    experiment_id: Mapped[str | None] = mapped_column(
        DIGEST, ForeignKey("experiments.id", ondelete="CASCADE"), index=True
    )
    key_id: Mapped[str] = mapped_column(DIGEST)
    vouched_by: Mapped[str] = mapped_column(String(64))
    envelope: Mapped[bytes] = mapped_column(LargeBinary)


class WithdrawalRow(Base):
    """That a task was withdrawn; all else about it is gone."""

    __tablename__ = "withdrawals"

    task_id: Mapped[str] = mapped_column(DIGEST, primary_key=True)
    withdrawn: Mapped[datetime] = mapped_column(UtcTime)
