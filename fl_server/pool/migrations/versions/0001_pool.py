"""Specs, tasks with their payloads, experiments, provenance, withdrawals."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

DIGEST = sa.String(64)
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "specs",
        sa.Column("digest", DIGEST, primary_key=True),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("content", sa.Text, nullable=False),
    )
    op.create_table(
        "tasks",
        sa.Column("id", DIGEST, primary_key=True),
        sa.Column("site", sa.String(200), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("card", sa.JSON, nullable=False),
        sa.Column("spec_digest", DIGEST, sa.ForeignKey("specs.digest"), nullable=False),
        sa.Column("images", sa.BigInteger, nullable=False),
        sa.Column("private", sa.Boolean, nullable=False),
        sa.Column("key_id", DIGEST, nullable=False),
        sa.Column("issued", TIME, nullable=False),
        sa.Column("expires", TIME, nullable=False),
        sa.Column("added", TIME, nullable=False),
    )
    op.create_index("ix_tasks_spec_digest", "tasks", ["spec_digest"])
    op.create_table(
        "payloads",
        _task("task_id", primary_key=True),
        sa.Column("content", sa.LargeBinary, nullable=False),
    )
    _experiments()
    _provenance()
    op.create_table(
        "withdrawals",
        sa.Column("task_id", DIGEST, primary_key=True),
        sa.Column("withdrawn", TIME, nullable=False),
    )


def _experiments() -> None:
    op.create_table(
        "experiments",
        sa.Column("id", DIGEST, primary_key=True),
        sa.Column("scenario", sa.String(20), nullable=False),
        _task("target", nullable=False),
        _task("source"),
        sa.Column("detail", sa.JSON, nullable=False),
        sa.Column("hyperparameters", sa.JSON, nullable=False),
        sa.Column("seed", sa.BigInteger),
        sa.Column("metric", sa.String(100), nullable=False),
        sa.Column("performance", sa.Double, nullable=False),
        sa.Column("baseline", sa.Double),
        sa.Column("run", sa.String(200), nullable=False),
        sa.Column("recorded", TIME, nullable=False),
        sa.Column("added", TIME, nullable=False),
    )
    op.create_index("ix_experiments_target", "experiments", ["target"])
    op.create_index("ix_experiments_source", "experiments", ["source"])
    op.create_index("ix_experiments_outcome", "experiments", ["scenario", "metric"])


def _provenance() -> None:
    experiment = sa.ForeignKey("experiments.id", ondelete="CASCADE")
    op.create_table(
        "provenance",
        sa.Column("id", DIGEST, primary_key=True),
        _task("task_id"),
        sa.Column("experiment_id", DIGEST, experiment),
        sa.Column("key_id", DIGEST, nullable=False),
        sa.Column("vouched_by", sa.String(64), nullable=False),
        sa.Column("envelope", sa.LargeBinary, nullable=False),
        sa.CheckConstraint("(task_id IS NULL) <> (experiment_id IS NULL)", name="ck_one_subject"),
    )
    op.create_index("ix_provenance_task_id", "provenance", ["task_id"])
    op.create_index("ix_provenance_experiment_id", "provenance", ["experiment_id"])


def _task(name: str, *, primary_key: bool = False, nullable: bool = True) -> sa.Column[str]:
    return sa.Column(
        name,
        DIGEST,
        sa.ForeignKey("tasks.id", ondelete="CASCADE"),
        primary_key=primary_key,
        nullable=nullable and not primary_key,
    )


def downgrade() -> None:
    """Drop the tables."""
    for name in ("withdrawals", "provenance", "experiments", "payloads", "tasks", "specs"):
        op.drop_table(name)
