"""The fingerprint stores of a pool: made when first needed, and kept in step with its database.

Beside a SQLite file they lie in ``FILE.prints``; for a PostgreSQL pool in the user's cache folder.
They hold nothing of their own: a folder that was deleted is made again.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import select

from fl_server.pool import views
from fl_server.pool.engine import is_file
from fl_server.pool.models import TaskRow
from fl_server.pool.session import Pool
from fl_server.pool.telling import told
from fl_server.pool_header import HEADER
from fl_server.pool_store import FingerprintStore
from fl_server.pool_writing import compact, create, renew, synchronise
from protocol.errors import FedprintError
from protocol.files import sha256_hex
from protocol.fingerprint import Fingerprint
from protocol.spec import Spec
from strategies.augmented import encode, layout_for


def folder_of(pool: Pool) -> Path:
    """Return where the stores of a pool lie."""
    url = pool.engine.url
    if is_file(url):
        return Path(f"{url.database}.prints")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "fedprint" / "pools" / name_of(pool)


def name_of(pool: Pool) -> str:
    """Return a folder's name for a pool that is no file: it depends on its URL alone."""
    return sha256_hex(pool.engine.url.set(password=None).render_as_string().encode())[:16]


def open_store(pool: Pool, spec: Spec, measure: str) -> FingerprintStore:
    """Return the store of a spec that serves a measure, with all tasks that the pool holds now.

    Raises
    ------
    ConfigError
        When the measure cannot be retrieved, or the store is damaged.
    """
    kind, root = layout_for(measure, spec.require_ready()).kind, folder_of(pool)
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _alone(root):
        store = create(root / f"{spec.digest[:16]}-{kind}", spec, measure)
        _catch_up(pool, store)
    return store


def follow(pool: Pool) -> None:
    """Bring the stores that were made into step with a pool that was changed.

    What was withdrawn is overwritten; who only reads the pool never has to wait for that.
    """
    root = folder_of(pool)
    if not root.is_dir():
        return
    with _alone(root):
        for header in sorted(root.glob(f"*/{HEADER}")):
            with renew(header.parent) as store:
                _catch_up(pool, store)


def retrievable(fingerprint: Fingerprint, spec: Spec, measure: str) -> bool:
    """Tell whether a fingerprint can be compared: one with absurd counts must not stop all."""
    try:
        encode([fingerprint], spec, layout_for(measure, spec))
    except FedprintError:
        return False
    return True


def _catch_up(pool: Pool, store: FingerprintStore) -> None:
    measure = "bkld-large-source" if store.layout.kind == "weighted" else "bkld-large-unweighted"
    with pool.reading() as session:

        def load(task: str) -> Fingerprint | None:
            found = views.fingerprint(session, task)
            return found if retrievable(found, store.spec, measure) else None

        held = session.scalars(select(TaskRow.id).where(TaskRow.spec_digest == store.spec.digest))
        synchronise(store, held.all(), load, lambda missing: told(missing, "index", len(missing)))
    if store.size > 2 * len(store):
        compact(store)


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Wait for other processes, before the pool is read: so nobody goes back to an older state."""
    descriptor = os.open(root / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
