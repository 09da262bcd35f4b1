"""The two kinds of database, made to behave alike.

One writer at a time, on both: SQLite's write lock is taken when a transaction begins, and on
PostgreSQL an advisory lock does the same, so that transactions never have to be repeated. Readers
see the state before a write or the one after it.
"""

from __future__ import annotations

import sqlite3
import time
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from protocol.errors import ConfigError

LOCK = 0x66656470  # PostgreSQL's advisory lock of pools: any number that others do not take
_WRITES, _RAW = "fedprint_writes", "fedprint_raw"


def parse_url(where: str) -> URL:
    """Return the URL of a pool, whose driver is one that works here.

    Raises
    ------
    ConfigError
        When it is no file, and no database of a kind that pools can be kept in.
    """
    if "://" not in where:
        return URL.create("sqlite", database=where)
    try:
        url = make_url(where)
    except (ArgumentError, ValueError):
        raise ConfigError("the pool's URL cannot be read: postgresql://USER@HOST/NAME") from None
    kind = url.get_backend_name()
    if kind == "sqlite":
        return url.set(drivername="sqlite")
    if kind not in ("postgresql", "postgres"):
        raise ConfigError(
            f"a pool is a SQLite file or a PostgreSQL database, not {kind!r}: name a file, or "
            "postgresql://USER@HOST/NAME"
        )
    return url.set(drivername="postgresql+psycopg")


def is_file(url: URL) -> bool:
    """Tell whether a pool is a SQLite file."""
    return url.drivername == "sqlite"


def make_engine(url: URL, patience: int, *, read_only: bool = False) -> Engine:
    """Return SQLAlchemy's engine of a pool.

    Parameters
    ----------
    url : URL
        From `parse_url`.
    patience : int
        Seconds to wait for others.
    read_only : bool
        Whether the database itself refuses every change.

    Raises
    ------
    ConfigError
        When the driver is not installed.
    """
    try:
        if is_file(url):
            engine = create_engine(url, connect_args={"timeout": patience})
            settle = _settle_to_read if read_only else _settle
            event.listen(engine, "connect", lambda opened, _: settle(opened, patience))
        else:
            engine = create_engine(
                url.update_query_dict({"connect_timeout": "10", **url.query}),
                isolation_level="REPEATABLE READ",
                execution_options={"postgresql_readonly": read_only},
            )
            event.listen(engine, "connect", lambda opened, _: _limit(opened, patience))
    except (ImportError, NoSuchModuleError):
        raise ConfigError(
            "a pool on PostgreSQL needs its driver: pip install 'fedprint[postgres]'"
        ) from None
    event.listen(engine, "begin", _begin)
    return engine


def writing(engine: Engine) -> Engine:
    """Return the same engine, whose transactions write.

    On PostgreSQL they see what was committed while they waited for the lock, which a snapshot taken
    before would hide.
    """
    if engine.dialect.name == "sqlite":
        return engine.execution_options(**{_WRITES: True})
    return engine.execution_options(**{_WRITES: True}, isolation_level="READ COMMITTED")


def outside_transactions(engine: Engine) -> Engine:
    """Return the same engine without transactions, for what databases do in none."""
    return engine.execution_options(**{_RAW: True}, isolation_level="AUTOCOMMIT")


def _limit(connection: Any, patience: int) -> None:
    """Have PostgreSQL wait for locks no longer than SQLite does."""
    connection.execute(f"SET lock_timeout = '{patience}s'")
    connection.commit()


def _settle(connection: sqlite3.Connection, patience: int) -> None:
    """Set up a connection to SQLite; transactions are begun here and not by Python's module."""
    connection.isolation_level = None
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA secure_delete = ON")  # what is withdrawn is overwritten
    connection.execute("PRAGMA synchronous = FULL")
    deadline = time.monotonic() + patience
    while connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError:  # this one pragma waits for nobody
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _settle_to_read(connection: sqlite3.Connection, _: int) -> None:
    """Set up a connection to SQLite that changes nothing, not even how the journal is kept."""
    connection.isolation_level = None
    connection.execute("PRAGMA query_only = ON")


def _begin(connection: Connection) -> None:
    options = connection.get_execution_options()
    if options.get(_RAW, False):
        return
    writes = options.get(_WRITES, False)
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
    elif writes:
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK})")
