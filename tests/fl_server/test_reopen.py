"""A finished run folder is read back, extended and closed again; a crash costs nothing."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl_server import amend
from fl_server.amend import amended, settle
from fl_server.join import Joined, join
from fl_server.join_folder import JOINING, received_newcomers, write_joined
from fl_server.reopen import Reopened, reopen
from fl_server.settings import RunSettings
from protocol.errors import BadLog, ConfigError, FedprintError, VerificationError
from protocol.files import atomic_write
from protocol.keys import generate_key, public_pem, signer_pem
from protocol.log import check_files, read_log
from protocol.runfiles import LeftOut
from tests.fl_server.joining import MEMBERS, SETTINGS, Federation, federation, write_run


class Crash(BaseException):
    """Stands for a killed process."""


@pytest.fixture
def run() -> Federation:
    return federation()


@pytest.fixture
def folder(tmp_path: Path, run: Federation) -> Path:
    return write_run(tmp_path / "run", run)


def pem(run: Federation) -> str:
    return signer_pem(run.exchange.signer)


def take_in(run: Federation, folder: Path, *names: str) -> tuple[Reopened, Joined]:
    """Reopen, let sites join, write."""
    reopened = reopen(folder, pem(run))
    exchange = reopened.exchange(run.exchange.store, run.exchange.signer)
    exchange.left_out = [gone for gone in exchange.left_out if gone.site not in names]
    joined = join(
        run.grid,
        run.newcomers(*names),
        exchange,
        reopened.groups,
        reopened.plans,
        reopened.models,
        reopened.settings(SETTINGS),
    )
    write_joined(reopened, joined, exchange)
    return reopened, joined


def parsed(path: Path) -> Any:
    return json.loads(path.read_text())


def content(folder: Path) -> dict[str, bytes]:
    files = (p for p in folder.rglob("*") if p.is_file() and "state" not in p.parts)
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


def test_a_run_is_read_back(run: Federation, folder: Path) -> None:
    found = reopen(folder, pem(run))
    assert (found.run.run, found.spec) == ("run-1", run.exchange.spec)
    assert list(found.releases) == list(MEMBERS)
    for site, release in found.releases.items():
        before = run.exchange.releases[site]
        assert release.verified.enrolled
        assert release.verified.card == before.verified.card
        assert release.verified.key_id == before.verified.key_id
        assert (release.payload, release.envelope) == (before.payload, before.envelope)
        assert release.binding == before.binding
        np.testing.assert_array_equal(
            release.verified.fingerprint.counts, before.verified.fingerprint.counts
        )
    assert found.groups == run.decision.groups
    assert found.plans == run.outcomes["grouped"].plans
    assert list(found.models) == ["grouped-1", "grouped-2"]
    for name, arrays in run.outcomes["grouped"].models.items():
        for array, value in arrays.items():
            np.testing.assert_array_equal(found.models[name][array].numpy(), value.numpy())


def test_settings_are_the_runs_but_for_what_changes_no_result(
    run: Federation, folder: Path
) -> None:
    asked = RunSettings(mode="join", rounds=9, seed=99, timeout=7, out="elsewhere", arms=())
    found = reopen(folder, pem(run)).settings(asked)
    assert (found.rounds, found.seed, found.arms) == (2, 4, ("alone", "grouped"))
    assert (found.mode, found.timeout, found.train_timeout) == ("join", 7, 7)
    assert found.out == "elsewhere"


def test_newcomers_are_written_into_the_folder(run: Federation, folder: Path) -> None:
    before = content(folder)
    take_in(run, folder, "site-0-2", "site-3-0")
    assert check_files(folder, read_log(folder, pem(run))) == []
    groups = parsed(folder / "groups.json")
    assert groups["groups"][0]["sites"] == ["site-0-0", "site-0-1", "site-0-2"]
    assert groups["groups"][-1] == {"name": "group-4", "sites": ["site-3-0"]}
    old = json.loads(before["groups.json"])
    assert all(groups["sites"][site] == old["sites"][site] for site in MEMBERS)
    file = parsed(folder / "run.json")
    assert [entry["site"] for entry in file["sites"]] == sorted([*MEMBERS, "site-0-2", "site-3-0"])
    assert [(e["site"], e["group"]) for e in file["joined"]] == [
        ("site-0-2", "group-1"),
        ("site-3-0", "group-4"),
    ]
    assert file["left_out"] == []
    metrics, earlier = parsed(folder / "metrics.json"), json.loads(before["metrics.json"])
    assert metrics["sites"]["site-0-2"]["joined"] is True
    assert all(metrics["sites"][site] == earlier["sites"][site] for site in MEMBERS)
    assert metrics["plans"]["grouped"] == earlier["plans"]["grouped"]
    shots = parsed(folder / "recommendations.json")["sites"]
    assert shots["site-0-2"]["co-training"][0]["source"].startswith("site-0-")
    assert len((folder / "distances.csv").read_text().splitlines()) == 8
    report = (folder / "report.html").read_text()
    assert "site-0-2" in report
    assert "1 of 4 classes are held by two or more sites" in report  # as planned with the newcomer
    for name in before:
        if name.startswith(("fingerprints/", "models/")) or name == "spec.json":
            assert (folder / name).read_bytes() == before[name]
    assert not list((folder / "state").iterdir())


def test_the_log_only_grows(run: Federation, folder: Path) -> None:
    first = read_log(folder, pem(run)).lines
    take_in(run, folder, "site-0-2")
    second = read_log(folder, pem(run)).lines
    assert second[: len(first)] == first
    entries = [json.loads(line) for line in second[len(first) :]]
    assert [entry["kind"] for entry in entries] == ["release", "joined", "groups", "close"]
    assert (entries[1]["site"], entries[1]["group"]) == ("site-0-2", "group-1")
    take_in(run, folder, "site-3-0", "site-3-1")
    third = read_log(folder, pem(run)).lines
    assert third[: len(second)] == second
    reopened = reopen(folder, pem(run))
    assert sorted(reopened.releases) == sorted([*MEMBERS, "site-0-2", "site-3-0", "site-3-1"])
    assert [e["site"] for e in (reopened.run.model_extra or {})["joined"]] == [
        "site-0-2",
        "site-3-0",
        "site-3-1",
    ]
    assert [e.name for e in reopened.groups.groups if len(e.sites) == 2][-1] == "group-4"


def test_keys_and_absences_that_are_new_are_logged_once(run: Federation, folder: Path) -> None:
    reopened = reopen(folder, pem(run))
    store = run.exchange.store.enrol("late", public_pem(generate_key()))
    exchange = reopened.exchange(store, run.exchange.signer)
    exchange.left_out.append(LeftOut(site="late", reason="awaiting-approval", message="soon"))
    joined = join(
        run.grid, {}, exchange, reopened.groups, reopened.plans, reopened.models, SETTINGS
    )
    write_joined(reopened, joined, exchange)
    lines = read_log(folder, pem(run)).lines[len(reopened.log) :]
    entries = [json.loads(line) for line in lines]
    assert [(e["kind"], e.get("site")) for e in entries] == [
        ("enrolment", "late"),
        ("left out", "late"),
        ("groups", None),
        ("close", None),
    ]


def test_what_newcomers_sent_waits_aside_and_goes_when_it_is_written(
    run: Federation, folder: Path
) -> None:
    newcomers = run.newcomers("site-0-2")
    received_newcomers(folder).keep(newcomers, {"site-0-2": "n"}, run.exchange.spec)
    assert check_files(folder, read_log(folder, pem(run))) == []
    recalled = received_newcomers(folder).recall(run.exchange.store, run.exchange.spec, "run-1")
    assert list(recalled) == ["site-0-2"]
    take_in(run, folder, "site-0-2")
    assert not (folder / JOINING).exists()


@pytest.mark.parametrize("moves", range(13))
def test_a_crash_while_writing_is_mended_by_the_next_join(
    run: Federation, folder: Path, monkeypatch: pytest.MonkeyPatch, moves: int
) -> None:
    before, replace, done = content(folder), os.replace, 0

    def crashing(source: Any, target: Any) -> None:
        nonlocal done
        inside = folder / amend.PREPARING
        if not Path(source).is_relative_to(inside) or Path(source) == inside:
            if done == moves:
                raise Crash
            done += 1
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("fl_server.amend.os.replace", crashing)
        with pytest.raises(Crash):
            take_in(run, folder, "site-0-2")
    if moves <= 1:  # nothing of the new state was moved in
        assert content(folder) == before
    elif moves < 12:
        assert check_files(folder, read_log(folder, pem(run)))
    else:  # the checkpoint alone is missing
        with pytest.raises(BadLog, match="are not the"):
            read_log(folder, pem(run))
    found = reopen(folder, pem(run))
    assert ("site-0-2" in found.releases) == (moves > 0)
    assert check_files(folder, read_log(folder, pem(run))) == []
    late = "site-3-0" if moves else "site-0-2"
    take_in(run, folder, late)
    assert late in reopen(folder, pem(run)).releases


def test_an_error_while_preparing_changes_nothing(folder: Path) -> None:
    def fail() -> None:
        with amended(folder) as new:
            atomic_write(new / "run.json", "{}")
            raise ZeroDivisionError

    before = content(folder)
    with pytest.raises(ZeroDivisionError):
        fail()
    assert content(folder) == before
    assert not list((folder / "state").iterdir())
    settle(folder)
    assert content(folder) == before


def test_files_without_hard_links_are_copied(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_source: str, _target: str) -> None:
        raise OSError

    monkeypatch.setattr("fl_server.amend.os.link", refuse)
    before = content(folder)
    with amended(folder) as new:
        atomic_write(new / "run.json", "{}")
    assert content(folder) == {**before, "run.json": b"{}"}


@pytest.mark.parametrize(
    ("file", "change"), [("groups.json", "changed"), ("models/grouped-1.safetensors", "changed")]
)
def test_a_folder_that_was_changed_is_refused(
    run: Federation, folder: Path, file: str, change: str
) -> None:
    (folder / file).write_bytes((folder / file).read_bytes() + b" ")
    text = (
        f"{folder} is not as it was when its log was closed ({file}: {change}): take an "
        "unharmed copy of the run folder"
    )
    with pytest.raises(BadLog, match=f"^{re.escape(text)}$"):
        reopen(folder, pem(run))


def test_all_that_differs_is_counted(run: Federation, folder: Path) -> None:
    (folder / "groups.json").unlink()
    (folder / "models/grouped-9.safetensors").write_bytes(b"")
    with pytest.raises(BadLog, match=r"\(groups\.json: missing and 1 more\)"):
        reopen(folder, pem(run))


def test_another_coordinators_folder_is_refused(folder: Path) -> None:
    with pytest.raises(VerificationError):
        reopen(folder, public_pem(generate_key()))


def test_a_run_that_did_not_end_is_refused(run: Federation, tmp_path: Path) -> None:
    text = f"{tmp_path} holds no finished run that a site could join: run it to its end"
    with pytest.raises(ConfigError, match=f"^{re.escape(text)}$"):
        reopen(tmp_path, pem(run))
    assert issubclass(ConfigError, FedprintError)
