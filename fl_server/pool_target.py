"""Who asks a pool: one of its tasks by the digits of its id, or a release that lies in a folder."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from fl_server.pool import views
from fl_server.pool.add import ENDING, read_release
from fl_server.pool.models import SpecRow, TaskRow
from fl_server.pool.records import TaskRecord, open_release, open_spec
from protocol.errors import ConfigError
from protocol.fingerprint import Fingerprint
from protocol.names import printable
from protocol.signed import SignedFingerprint
from protocol.spec import Spec
from protocol.verify import VerifiedRelease
from strategies.neighbourhood import PoolTask

PAYLOAD = ".safetensors"


@dataclass(frozen=True)
class Target:
    """A task that asks.

    Attributes
    ----------
    task : PoolTask
        What its card says.
    fingerprint : Fingerprint
        Its release.
    spec : Spec
        What it was made under; only tasks of the same spec compare with it.
    """

    task: PoolTask
    fingerprint: Fingerprint
    spec: Spec

    def to_json(self) -> dict[str, Any]:
        """Return what tells it from others."""
        task = self.task
        return {"id": task.id, "site": task.site, "name": task.name, "spec": self.spec.name}


def read_target(session: Session, said: str | SignedFingerprint) -> Target:
    """Return the task that is meant.

    Parameters
    ----------
    session : Session
        Of the pool.
    said : str or SignedFingerprint
        First digits of an id; one of the two files of a release, its spec lies beside it; or the
        release itself.

    Raises
    ------
    ConfigError
        When there is no such task or file.
    VerificationError
        When the release is not in order.
    """
    if isinstance(said, SignedFingerprint):
        return _from_record(session, record_of(said))
    if said.endswith((ENDING, PAYLOAD)):
        return _from_files(session, Path(said))
    if not re.fullmatch(r"[0-9a-f]+", said):
        raise ConfigError(
            f"{printable(said, 80)!r} is neither the id of a task nor a release: give the first "
            f"{views.SHORTEST} digits of an id, or NAME{ENDING} with its files beside it"
        )
    found = views.find(session, said)
    row = session.get(TaskRow, found)
    if row is None:
        raise ConfigError(f"{said} is no task of the pool: see fedprint pool list")
    return _from_pool(session, row)


def released(release: VerifiedRelease, identity: str, spec: Spec) -> Target:
    """Return the task of a verified release; its identity is the SHA-256 of the payload."""
    signed = release.statement.predicate
    card = signed.task_card.model_dump(mode="json")
    name = printable(signed.task_card.name, 200)
    task = _task(identity, signed.site, name, release.key_id, signed.images, card)
    return Target(task, release.fingerprint, spec)


def record_of(given: SignedFingerprint) -> TaskRecord:
    """Verify a fingerprint as whole and valid now; nobody vouches for its key.

    Raises
    ------
    VerificationError
        When it is not in order, or has expired.
    """
    return open_release(given.payload, given.envelope, given.spec.require_ready())


def same_task(session: Session, task: PoolTask) -> list[str]:
    """Return the ids of all releases in the pool that are of one task, by id."""
    mine = (TaskRow.site == task.site, TaskRow.key_id == task.key, TaskRow.name == task.name)
    rows = session.scalars(select(TaskRow.id).where(*mine))
    return sorted({task.id, *rows})


def pool_task(row: TaskRow) -> PoolTask:
    """Return a task of the pool as advice sees it."""
    return _task(row.id, row.site, row.name, row.key_id, row.images, row.card)


def _from_pool(session: Session, row: TaskRow) -> Target:
    content = session.get_one(SpecRow, row.spec_digest).content
    spec = open_spec(content, row.spec_digest)
    return Target(pool_task(row), views.fingerprint(session, row.id), spec)


def _from_files(session: Session, path: Path) -> Target:
    stem = path.name.removesuffix(ENDING).removesuffix(PAYLOAD)
    return _from_record(session, read_release(path.with_name(f"{stem}{ENDING}")))


def _from_record(session: Session, record: TaskRecord) -> Target:
    row = session.get(TaskRow, record.id)
    if row is not None:
        return _from_pool(session, row)
    return released(record.release, record.id, record.spec)


def _task(
    identity: str, site: str, name: str, key: str, images: int, card: dict[str, Any]
) -> PoolTask:
    said = [*card.get("keywords", []), card.get("modality", ""), card.get("anatomy", "")]
    words = frozenset(word.strip().lower() for word in said) - {""}
    return PoolTask(
        identity,
        site,
        name,
        key,
        images,
        len(card.get("classes", [])),
        words,
        str(card.get("objective", "classification")),
    )
