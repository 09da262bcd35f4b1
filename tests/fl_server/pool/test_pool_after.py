"""A closed run goes into its pool; what goes wrong then costs a warning and not the run."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from fl_server.pool import open_pool
from fl_server.pool.views import experiments, list_tasks, show
from fl_server.pool_after import add_to_pool, check_pool, located
from fl_server.server_app import _authority
from fl_server.server_folder import NewServer, init_server
from fl_server.settings import RunSettings
from fl_server.shelf import shelved
from fl_server.simulation import check_settings
from protocol import cli
from protocol.errors import ConfigError
from protocol.keys import generate_key, signer
from tests.fl_server import joining
from tests.fl_server.advised import sharing_run, written
from tests.fl_server.joining import MEMBERS, Federation
from tests.strategies.fake_grid import FakeGrid


def asking(pool: Path | str, **changes: object) -> RunSettings:
    asked = joining.SETTINGS.model_dump() | {"release": "plain", "pool": str(pool)}
    return RunSettings.model_validate(asked | changes)


@pytest.fixture(scope="module")
def run() -> Federation:
    return sharing_run()


@pytest.fixture
def folder(run: Federation, tmp_path: Path) -> Path:
    return written(tmp_path / "run", run)


def test_a_run_is_added_and_signed_with_the_coordinators_key(
    run: Federation, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pool = tmp_path / "pool.db"
    with caplog.at_level(logging.INFO, logger="fedprint"):
        add_to_pool(asking(pool), folder, run.exchange.signer)
    assert f"pool {pool}: experiments added: 4, tasks added: 5, weights added: 2" in caplog.messages
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]
    with open_pool(pool) as opened:
        with opened.reading() as session:
            assert [task["site"] for task in list_tasks(session)] == list(MEMBERS)
            first = experiments(session)[0].id
            signed = show(session, first)["provenance"]
        assert len(shelved(opened)) == 2
    key = run.exchange.signer.public_key.keyid
    assert signed == [{"key": key, "vouched_by": key}]


def test_without_a_pool_nothing_happens(run: Federation, folder: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    add_to_pool(asking(""), folder, run.exchange.signer)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_failure_is_a_warning_with_the_command_that_mends_it(
    run: Federation, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pool = tmp_path / "my pool.db"
    pool.write_text("no database at all, but long enough to be taken for one" * 20)
    add_to_pool(asking(pool), folder, run.exchange.signer)
    (said,) = caplog.messages
    assert said == (
        f"the run is not in the pool {pool}: {pool} is no pool, and no database at all: name "
        f"another; to add it: fedprint pool add '{pool}' {folder}"
    )


def test_a_run_that_is_not_in_order_is_not_added(
    run: Federation, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "groups.json").write_text("{}")
    add_to_pool(asking(tmp_path / "pool.db"), folder, signer(generate_key()))
    (said,) = caplog.messages
    assert said.startswith(f"the run is not in the pool {tmp_path / 'pool.db'}: {folder} is not in")
    assert not (tmp_path / "pool.db").exists()


def test_the_command_of_a_deployment_names_its_key(
    folder: Path, run: Federation, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = tmp_path / "server"
    server.mkdir()
    (server / "server.toml").write_text('name = "c"\naddress = "localhost:9000"\n')
    url = "postgresql://user:secret@127.0.0.1:1/pool"
    add_to_pool(asking(url, server_dir=str(server)), folder, run.exchange.signer)
    (said,) = caplog.messages
    assert "secret" not in said
    shown = "postgresql://user:***@127.0.0.1:1/pool"
    key = server / "keys" / "coordinator.pem"
    assert said.endswith(f"to add it: fedprint pool add '{shown}' {folder} --key {key}")


def test_a_pool_that_cannot_be_used_stops_a_run_before_it_begins(tmp_path: Path) -> None:
    check_pool(asking(""))
    check_pool(asking(tmp_path / "pool.db"))
    assert (tmp_path / "pool.db").exists()
    with pytest.raises(ConfigError, match=r"is a folder: name a file for the pool"):
        check_pool(asking(tmp_path))
    with pytest.raises(ConfigError, match=r"^folder .*/nope does not exist: make it first$"):
        check_pool(asking(tmp_path / "nope" / "pool.db"))
    assert not (tmp_path / "nope").exists()


def test_simulate_says_so_before_anything_is_started(
    sites: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli.main(["simulate", str(sites), "--out", str(tmp_path / "out"), "--pool", str(sites)])
    wanted = f"{sites} is a folder: name a file for the pool, such as {sites / 'pool'}"
    assert wanted in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--pool", "{out}"], "{out} is a folder: name a file for the pool"),
        (["--pool", "{out}/nope/pool.db"], "folder {out}/nope does not exist: make it first"),
        (["--pool", "mysql://db/pool"], "a pool is a SQLite file or a PostgreSQL database"),
        (["--run-config", "pool='{out}'"], "{out} is a folder: name a file for the pool"),
        (["--run-config", "shots=0"], "shots"),
    ],
)
def test_the_demo_says_so_before_it_writes_its_sites(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [word.format(out=tmp_path) for word in words]
    with pytest.raises(SystemExit):
        cli.main(["demo", "--out", str(tmp_path / "demo"), *asked])
    shown = capsys.readouterr()
    assert shown.out == ""
    assert said.format(out=tmp_path) in shown.err
    assert not (tmp_path / "demo").exists()


def test_a_simulation_finds_its_pool_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert check_settings({"pool": "pool.db"}).pool == str(tmp_path / "pool.db")
    url = "postgresql://user@db/pool"
    assert check_settings({"pool": url}).pool == url
    assert check_settings({}).pool == ""


@pytest.mark.parametrize(
    ("pool", "found"),
    [
        ("", ""),
        ("pool.db", "FOLDER/pool.db"),
        ("pools/ours.db", "FOLDER/pools/ours.db"),
        ("/srv/pool.db", "/srv/pool.db"),
        ("postgresql://fl@db/pool", "postgresql://fl@db/pool"),
    ],
)
def test_a_relative_pool_counts_from_its_folder(pool: str, found: str, tmp_path: Path) -> None:
    assert located(pool, tmp_path) == found.replace("FOLDER", str(tmp_path))


def test_a_pool_of_the_user_is_in_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert located("~/pool.db", tmp_path) == str(tmp_path / "home" / "pool.db")


def test_paths_of_a_deployment_count_from_the_coordinators_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    init_server(tmp_path / "fl", NewServer("fl", "127.0.0.1:8000", "127.0.0.1"))
    monkeypatch.chdir(tmp_path)
    asked = asking("pool.db", server_dir="fl", out="runs/first")
    settings, coordinator = _authority(asked, FakeGrid({}))
    folder = tmp_path.resolve() / "fl"
    assert (settings.pool, settings.out) == (f"{folder}/pool.db", f"{folder}/runs/first")
    assert coordinator is not None
    assert (settings.server_dir, coordinator.folder) == (str(folder), folder)
