"""A pool that is only read: the database itself refuses every change."""

from __future__ import annotations

from pathlib import Path

import pytest

from fl_server.pool import open_pool, schema
from fl_server.pool.store import Tally, put_all
from protocol.errors import ConfigError
from tests.fl_server.pool.conftest import NewPool
from tests.fl_server.pool.pooling import a_task, everything, filled, names


def test_it_reads_and_refuses_writes(where: str) -> None:
    with filled(where) as pool:
        before = everything(pool)
    with open_pool(where, read_only=True) as pool:
        assert len(names(pool)) == 4
        with (
            pytest.raises(ConfigError, match=r"cannot be used: .*read-?only"),
            pool.writing() as session,
        ):
            put_all(session, [a_task(9)], [], Tally())
        assert everything(pool) == before


def test_it_makes_nothing_and_updates_nothing(
    new_file: NewPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = new_file()
    with pytest.raises(ConfigError) as error:
        open_pool(where, read_only=True)
    assert (
        str(error.value) == f"there is no pool {where}: make it with fedprint pool add {where} RUN"
    )
    assert not Path(where).exists()
    filled(where).close()
    monkeypatch.setattr(schema, "check", lambda *_: False)
    with pytest.raises(ConfigError) as error:
        open_pool(where, read_only=True)
    assert str(error.value) == (
        f"{where} was written by an older fedprint: bring it up to date with fedprint pool list "
        f"{where}"
    )
