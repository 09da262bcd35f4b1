"""The pool's tables: each thing once, one state at a time, the same on both databases."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text

from fl_server.pool import open_pool, schema
from fl_server.pool.models import Base
from fl_server.pool.store import Tally, put_all, put_task
from fl_server.pool.views import experiments, find, fingerprints, list_tasks, show, specs
from protocol.errors import ConfigError
from protocol.experiment import Experiment
from protocol.keys import generate_key
from protocol.taskcard import ClassCard, TaskCard
from tests.fl_server.pool.conftest import NewPool
from tests.fl_server.pool.pooling import (
    SPEC,
    a_task,
    body,
    counts_of,
    everything,
    experiment,
    filled,
    measured,
    names,
    task_id,
)
from tests.fl_server.running import ROOT


def test_what_was_put_in_comes_out(where: str) -> None:
    with filled(where) as pool, pool.reading() as session:
        assert [task["id"] for task in list_tasks(session)] == [task_id(n) for n in range(4)]
        shown = show(session, task_id(1)[:10])
        assert (shown["site"], shown["images"], shown["private"]) == ("site-1", 41, False)
        assert {each["id"] for each in shown["experiments"]} == {
            experiment(0, 1).id,
            experiment(1, 2).id,
        }
        wanted = sorted((experiment(n, n + 1) for n in range(3)), key=lambda e: e.id)
        assert experiments(session) == wanted  # times and every float to the last digit
        assert experiments(session, "co-training", "auroc") == []
        assert [spec.digest for spec in specs(session)] == [SPEC.digest]
        held = dict(fingerprints(session, SPEC))
        assert all((held[task_id(n)].counts == counts_of(n)).all() for n in range(4))


def test_both_databases_give_the_same_answers(
    new_file: NewPool, new_postgres: NewPool, tmp_path: Path
) -> None:
    texts = TaskCard(name="nul \0 and é ́ 脳", classes=[ClassCard(name="x\0"), ClassCard(name="Ä")])
    tasks = [a_task(1), a_task(5, card=texts), a_task(2, site="Zürich"), a_task(3, site="äa")]
    tried = [
        measured(experiment(1, 5, performance=0.1 + 0.2, baseline=None, seed=2**63 - 1)),
        measured(experiment(5, None, performance=5e-324, hyperparameters={"a": None, "b": True})),
        measured(experiment(2, 3, performance=-1.7976931348623157e308, run="Läuf 1")),
    ]
    said = []
    for where in (new_file(), new_postgres()):
        with open_pool(where, create=True) as pool:
            with pool.writing() as session:
                put_all(session, tasks, tried, Tally())
            said.append((everything(pool), body(pool, tmp_path)))
    assert said[0] == said[1]


def test_adding_twice_changes_nothing(where: str, tmp_path: Path) -> None:
    with filled(where) as pool:
        before, exported = everything(pool), body(pool, tmp_path)
    with filled(where) as pool:
        assert (everything(pool), body(pool, tmp_path)) == (before, exported)


def test_a_copied_release_does_not_displace_the_first(where: str) -> None:
    with open_pool(where, create=True) as pool:
        tally = Tally()
        with pool.writing() as session:
            put_task(session, a_task(1), tally)
            put_task(session, a_task(1, key=generate_key()), tally)
            put_task(session, a_task(1, site="thief"), tally)
        assert names(pool) == ["site-1"]
    assert tally.counts == {"tasks added": 1, "tasks under another key": 2}
    assert tally.notes[1].startswith(
        f"task {task_id(1)[:12]} of site-1 came again, signed as thief"
    )


def test_an_experiment_needs_its_tasks(where: str) -> None:
    with open_pool(where, create=True) as pool:
        tally = Tally()
        with pool.writing() as session:
            put_all(session, [a_task(1)], [measured(experiment(1, 2))], tally)
    assert tally.counts == {"tasks added": 1, "experiments without their tasks": 1}


def test_a_block_that_raises_leaves_nothing(where: str) -> None:
    with filled(where) as pool:

        def fail() -> None:
            with pool.writing() as session:
                put_task(session, a_task(9), Tally())
                raise InterruptedError

        with pytest.raises(InterruptedError):
            fail()
        assert len(names(pool)) == 4


def test_a_reader_sees_one_state(where: str) -> None:
    with filled(where) as pool, pool.reading() as session:
        assert len(list_tasks(session)) == 4
        with filled(where, range(6)) as other:
            assert len(names(other)) == 6
        assert len(list_tasks(session)) == 4


WRITER = """
import sys
from tests.fl_server.pool.pooling import a_task
from fl_server.pool import open_pool
from fl_server.pool.store import Tally, put_task
where, first = sys.argv[1], int(sys.argv[2])
with open_pool(where, create=True) as pool:
    for number in range(first, first + 50):
        with pool.writing() as session:
            put_task(session, a_task(number), Tally())
"""


def test_two_writers_at_once_lose_nothing(where: str) -> None:
    """They also make the tables at once; the ranges overlap."""
    started = [
        subprocess.Popen([sys.executable, "-c", WRITER, where, str(first)], cwd=ROOT)
        for first in (0, 40)
    ]
    assert [process.wait(120) for process in started] == [0, 0]
    with open_pool(where) as pool:
        assert len(names(pool)) == 90


def test_the_steps_lead_to_the_tables_of_the_models(where: str) -> None:
    with open_pool(where, create=True) as pool, pool.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_a_newer_pool_is_refused(where: str) -> None:
    with filled(where) as pool, pool.writing() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(ConfigError) as caught:
        open_pool(where)
    assert str(caught.value).endswith(
        f"was written by a newer fedprint (tables of version 9999, this one knows "
        f"{schema.newest()}): update fedprint"
    )


def test_what_is_no_pool_is_refused(new_file: NewPool, tmp_path: Path) -> None:
    missing = new_file()
    with pytest.raises(ConfigError, match=re.escape(f"there is no pool {missing}: make it with")):
        open_pool(missing)
    (tmp_path / "text").write_text("no database, but long enough to be looked at\n" * 40)
    with pytest.raises(ConfigError, match="is no pool, and no database at all: name another"):
        open_pool(tmp_path / "text", create=True)
    with sqlite3.connect(tmp_path / "other") as connection:
        connection.execute("CREATE TABLE patients (name TEXT)")
    with pytest.raises(ConfigError, match="is no pool: it holds the table 'patients'"):
        open_pool(tmp_path / "other", create=True)
    with pytest.raises(ConfigError, match="is a folder: name a file for the pool"):
        open_pool(tmp_path)
    with pytest.raises(ConfigError, match="not 'mysql': name a file, or postgresql://USER@HOST"):
        open_pool("mysql://root@db/pool")
    with pytest.raises(ConfigError) as caught:
        open_pool("postgresql://me:geheim@127.0.0.1:1/pool")
    assert "geheim" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_empty_database_is_no_pool_yet(where: str) -> None:
    if "://" in where:
        with pytest.raises(ConfigError, match="yet: make it with fedprint pool add"):
            open_pool(where)
        open_pool(where, create=True).close()
        open_pool(where).close()


def test_ids_are_found_by_their_first_digits(where: str) -> None:
    with filled(where) as pool, pool.reading() as session:
        assert find(session, task_id(2)[:6]) == task_id(2)
        with pytest.raises(ConfigError, match="the pool holds nothing with the id 00000000"):
            find(session, "00000000")
        with pytest.raises(ConfigError, match="'12345' is no id: give the first 6 or more digits"):
            find(session, "12345")


def test_the_model_of_a_row_is_the_experiment(where: str) -> None:
    tried = experiment(1, None, baseline=None, hyperparameters={"a": 1, "b": 1.5, "c": True})
    with open_pool(where, create=True) as pool:
        with pool.writing() as session:
            put_all(session, [a_task(1)], [measured(tried)], Tally())
        with pool.reading() as session:
            (found,) = experiments(session)
    assert found == tried
    assert found.id == tried.id
    assert Experiment.model_validate_json(tried.model_dump_json()).id == tried.id


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ConfigError, match=re.escape("pip install 'fedprint[postgres]'")):
        open_pool("postgresql://me@127.0.0.1:1/pool")


def test_a_name_with_spaces_is_one_site(where: str) -> None:
    with open_pool(where, create=True) as pool:
        tally = Tally()
        for _ in range(2):
            with pool.writing() as session:
                put_task(session, a_task(1, site="St.  Mary's"), tally)
    assert tally.counts == {"tasks added": 1, "tasks known": 1}
