"""Opening a pool: a SQLite file, or a PostgreSQL database by its URL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from fl_server.pool import schema
from fl_server.pool.engine import is_file, make_engine, outside_transactions, parse_url, writing
from protocol.errors import ConfigError, FedprintError
from protocol.names import printable

BUSY_SECONDS = 60
"""How long to wait for another process."""
LOCK_TIMEOUT = "55P03"  # PostgreSQL's code for having waited in vain


class PoolBusy(FedprintError):
    """Another process works on the pool and does not come to an end.

    Parameters
    ----------
    where : str
        The pool.
    """

    def __init__(self, where: str) -> None:
        super().__init__(f"{where} is being used by another process: try again when it is done")


class Pool:
    """An opened pool.

    Parameters
    ----------
    engine : Engine
        Of SQLAlchemy, on tables of the right version.
    where : str
        The file or URL, without a password, for people.
    """

    def __init__(self, engine: Engine, where: str) -> None:
        self.engine, self.where = engine, where

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """Give one state of the pool to read, whatever others write meanwhile."""
        with _said(self.where), Session(self.engine, autoflush=False) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """Give the pool to change: all of it when the block ends, nothing when it raises."""
        with _said(self.where), Session(writing(self.engine), autoflush=False) as session:
            yield session
            session.commit()

    def close(self) -> None:
        """Close the connections."""
        self.engine.dispose()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def check_place(where: str | Path) -> None:
    """See that a pool is or can be in a place, and make nothing.

    Parameters
    ----------
    where : str or Path
        A SQLite file, or a URL.

    Raises
    ------
    ConfigError
        When it is a file in a folder that does not exist, a folder, or a URL of no pool.
    """
    url = parse_url(str(where))
    if is_file(url):
        _check_file(Path(url.database or ""), create=True)


def open_pool(where: str | Path, *, create: bool = False, read_only: bool = False) -> Pool:
    """Open a pool, and bring its tables up to date unless it is only to be read.

    Parameters
    ----------
    where : str or Path
        A SQLite file, or a URL such as ``postgresql://user@host/database``.
    create : bool
        Whether to make the file and the tables where there are none; a file's folder must be there.
    read_only : bool
        Whether the database is to refuse every change; its tables must then be up to date.

    Raises
    ------
    ConfigError
        When there is no pool, or it cannot be opened or was written by a newer fedprint.
    """
    url = parse_url(str(where))
    name = url.database or "" if is_file(url) else url.render_as_string()
    if is_file(url):
        _check_file(Path(name), create)
    with _said(name):
        pool = Pool(make_engine(url, BUSY_SECONDS, read_only=read_only), name)
        try:
            _prepare(pool, create, read_only)
        except BaseException:
            pool.close()
            raise
    return pool


@contextmanager
def autocommit(pool: Pool) -> Iterator[Connection]:
    """Give a connection without a transaction, for what databases do in none."""
    with _said(pool.where), outside_transactions(pool.engine).connect() as connection:
        yield connection


def _check_file(path: Path, create: bool) -> None:
    if path.is_dir():
        raise ConfigError(f"{path} is a folder: name a file for the pool, such as {path / 'pool'}")
    if not path.exists() and not create:
        raise ConfigError(f"there is no pool {path}: make it with fedprint pool add {path} RUN")
    if not path.parent.is_dir():
        raise ConfigError(f"folder {path.parent} does not exist: make it first")


def _prepare(pool: Pool, create: bool, read_only: bool) -> None:
    with pool.engine.begin() as connection:
        if schema.check(connection, pool.where):
            return
        if schema.current(connection) is None and not create:
            raise ConfigError(
                f"there is no pool in {pool.where} yet: make it with fedprint pool add"
            )
    if read_only:
        raise ConfigError(
            f"{pool.where} was written by an older fedprint: bring it up to date with fedprint "
            f"pool list {pool.where}"
        )
    with writing(pool.engine).begin() as connection:
        if not schema.check(connection, pool.where):  # nobody else was first
            schema.upgrade(connection)


@contextmanager
def _said(where: str) -> Iterator[None]:
    """Say in one line what a database complains of."""
    try:
        yield
    except DBAPIError as error:
        said = printable(str(error.orig).split("\n")[0], 300)
        locked = getattr(error.orig, "sqlstate", None) == LOCK_TIMEOUT
        if locked or "database is locked" in said:
            raise PoolBusy(where) from error
        if "file is not a database" in said:
            raise ConfigError(f"{where} is no pool, and no database at all: name another") from None
        raise ConfigError(f"the pool {where} cannot be used: {said}") from error
