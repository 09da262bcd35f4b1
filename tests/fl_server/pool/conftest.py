"""Empty pools of both kinds; every test that asks for one runs on each."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fl_server.pool.postgres import ROLE, binaries, cluster

NewPool = Callable[[], str]


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """Start PostgreSQL, or skip."""
    if binaries() is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt install postgresql)")
    pytest.importorskip("psycopg", reason="its driver is missing: pip install psycopg[binary]")
    with cluster() as url:
        yield url


@pytest.fixture
def new_postgres(postgres: str) -> NewPool:
    """Return a function that makes an empty database and returns its URL."""
    import psycopg

    def make() -> str:
        name = f"pool_{uuid.uuid4().hex}"
        server = postgres.format(name="postgres")
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} OWNER {ROLE}".encode())
        return postgres.format(name=name)

    return make


@pytest.fixture
def new_file(tmp_path: Path) -> NewPool:
    """Return a function that names a file for a pool that is not there yet."""
    return lambda: str(tmp_path / f"{uuid.uuid4().hex}.db")


@pytest.fixture(params=["sqlite", "postgresql"])
def new_pool(request: pytest.FixtureRequest) -> NewPool:
    """Return a function that names an empty pool, of either kind."""
    name = "new_file" if request.param == "sqlite" else "new_postgres"
    make: NewPool = request.getfixturevalue(name)
    return make


@pytest.fixture
def where(new_pool: NewPool) -> str:
    """Name an empty pool."""
    return new_pool()
