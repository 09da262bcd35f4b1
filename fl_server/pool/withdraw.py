"""Withdrawing a task: it leaves the pool with all that names it, and its bytes are overwritten.

So do weights that were trained on it, see `fl_server.shelf`.
"""

from __future__ import annotations

import time

from sqlalchemy import text

from fl_server.pool import session
from fl_server.pool.models import Base
from fl_server.pool.session import Pool, PoolBusy, autocommit
from fl_server.pool.store import Tally, take_out
from fl_server.pool_vectors import follow
from fl_server.shelf import clear_withdrawn


def withdraw(pool: Pool, task: str) -> Tally:
    """Remove a task, its release and every experiment in which it is target or source.

    What stays is a line that says that it was withdrawn, and keeps it from coming back. Called
    again, it only overwrites again.

    Parameters
    ----------
    pool : Pool
        Where from.
    task : str
        Id of the task.

    Raises
    ------
    PoolBusy
        When somebody still reads the old state: it is withdrawn, but its bytes are not yet
        overwritten, until this is called again.
    DataError
        When weights beside the pool are damaged, see `scrub`.
    """
    tally = Tally()
    with pool.writing() as opened:
        take_out(opened, task, tally)
    follow(pool)
    scrub(pool)
    return tally


def scrub(pool: Pool) -> None:
    """Overwrite what was deleted: rewrite the file, or the tables, without it; weights as well.

    PostgreSQL's own write-ahead log and backups are beyond this, and follow its administrator's
    rules.

    Raises
    ------
    PoolBusy
        When somebody still reads the old state.
    DataError
        When weights beside the pool do not say whose they are; all else is overwritten by then.
    """
    try:
        clear_withdrawn(pool)
    finally:
        _rewrite(pool)


def _rewrite(pool: Pool) -> None:
    with autocommit(pool) as connection:
        if connection.dialect.name != "sqlite":
            for table in Base.metadata.sorted_tables:
                connection.execute(text(f'VACUUM (FULL) "{table.name}"'))
            return
        connection.execute(text("VACUUM"))
        # SQLite waits for readers here, but not for another process that does the same
        deadline = time.monotonic() + session.BUSY_SECONDS
        while connection.execute(text("PRAGMA wal_checkpoint(TRUNCATE)")).one()[0]:
            if time.monotonic() > deadline:
                raise PoolBusy(pool.where)
            time.sleep(0.05)
