"""What `fedprint server status` finds in a coordinator's folder."""

from __future__ import annotations

import fcntl
import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_server.connection import Connection, Node
from fl_server.metrics import prometheus_text
from fl_server.progress import Progress
from fl_server.status import RunStatus, SiteState, Status, collect
from fl_server.status_commands import _run_row, duration
from protocol.enrolment import make_enrolment
from protocol.keys import generate_node_key, signer
from tests.fl_server.bad import Run

LABEL = r'\w+="(?:[^"\\\n]|\\[\\"n])*"'
SAMPLE = re.compile(rf"fedprint_\w+(\{{{LABEL}(,{LABEL})*\}})? \S+")
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
def server(tmp_path: Path, run: Run) -> Path:
    """Make a coordinator's folder with two sites; its SuperLink is not started."""
    folder = tmp_path / "coordinator"
    made = run("server", "init", folder, "--address", "127.0.0.1:9", "--host", "127.0.0.1")
    assert made.code == 0, made.err
    for site in ("north", "south"):
        key = signer(generate_node_key())
        path = tmp_path / f"{site}.enrol.json"
        path.write_bytes(make_enrolment(site, key, key))
        assert run("server", "enrol", folder, path, "--yes", "--offline").code == 0
    return folder


def test_unreachable_superlink_is_said_and_no_error(server: Path, run: Run) -> None:
    said = run("server", "status", server)
    assert (said.code, said.err) == (0, "")
    assert "SuperLink does not answer: Connection to the SuperLink is unavailable." in said.out
    assert "north" in said.out
    assert "unknown" in said.out


def test_json_has_sites_keys_and_certificates(server: Path, run: Run, tmp_path: Path) -> None:
    run("server", "revoke", server, "south", "--yes", "--offline")
    assert run("server", "status", server, "--json", tmp_path / "status.json").code == 0
    found = Status.model_validate_json((tmp_path / "status.json").read_text())
    assert [(site.site, site.key, site.node) for site in found.sites] == [
        ("north", "active", "unknown"),
        ("south", "revoked", "unknown"),
    ]
    assert found.superlink
    year = timedelta(days=366)
    assert all(found.time < site.key_expires < found.time + year for site in found.sites)
    assert found.certificates["server"] is not None
    assert found.certificates["authority"] is not None
    assert found.runs == []


def test_no_coordinators_folder_is_an_error(run: Run, tmp_path: Path) -> None:
    said = run("server", "status", tmp_path)
    assert said.code == 1
    assert "no coordinator's folder" in said.err


@pytest.mark.parametrize("text", ["[1]", '{"north": 3}', "{", ""])
def test_damaged_books_are_an_error_of_one_line(server: Path, run: Run, text: str) -> None:
    (server / "nodes.json").write_text(text)
    for command in (["status"], ["revoke", "north", "--yes", "--offline"]):
        said = run("server", command[0], server, *command[1:])
        assert said.code == 1
        assert said.error.startswith(f"{server / 'nodes.json'} is not in order: ")
        assert said.error.endswith(
            "restore it, or delete it, and see to the nodes that it named with `flwr supernode ls`"
        )


def test_run_is_running_while_its_lock_is_held(server: Path, run: Run) -> None:
    folder = server / "runs" / "first"
    progress = Progress(folder, "17")
    progress.phase("fingerprints", ["north", "south"], deadline_s=3600)
    progress.done("north")
    with (folder / "state" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = collect(server).runs
        said = run("server", "status", server).out
    assert [(r.run, r.state, r.phase, r.done) for r in found] == [
        ("first", "running", "fingerprints", ["north"])
    ]
    assert list(found[0].waiting) == ["south"]
    assert re.search(r"south \(\d s\)", said)
    assert re.search(r"at most 59 min", said)
    assert [r.state for r in collect(server).runs] == ["interrupted"]


def test_runs_show_what_was_lost(server: Path) -> None:
    for name in ("first", "second"):
        progress = Progress(server / "runs" / name, name)
        progress.phase("train alone", ["north", "south"])
        progress.lost("south", "no-reply", "did not answer in time")
        progress.finish("finished" if name == "first" else "failed")
    (server / "runs" / "other" / "state").mkdir(parents=True)
    (server / "runs" / "other" / "state" / "status.json").write_text('{"state": 3}')
    found = collect(server).runs
    assert [(run.run, run.state) for run in found] == [("first", "finished"), ("second", "failed")]
    assert found[0].lost == {
        "south": {
            "reason": "no-reply",
            "message": "did not answer in time",
            "phase": "train alone",
        }
    }


def test_a_person_who_must_approve_is_not_a_slow_site(server: Path, run: Run) -> None:
    folder = server / "runs" / "first"
    progress = Progress(folder, "17")
    progress.phase("fingerprints", ["north", "south"])
    progress.awaits_approval("north", 3600)
    (found,) = collect(server).runs
    assert (set(found.waiting), set(found.approval)) == ({"north", "south"}, {"north"})
    waits = _run_row(found, NOW)[4].splitlines()
    assert re.fullmatch(r"north: awaits approval \(\d s\)", waits[0])
    assert re.fullmatch(r"south \(\d s\)", waits[1])
    # a run of before these were told
    path = folder / "state" / "status.json"
    old = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in old.items() if k not in ("approval", "message")}))
    assert collect(server).runs[0].approval == {}


def test_a_failed_run_says_why(server: Path) -> None:
    progress = Progress(server / "runs" / "first", "17")
    progress.phase("fingerprints", ["north", "south"])
    progress.lost("south", "no-reply")
    progress.finish("failed", "one site is left: two are needed")
    (found,) = collect(server).runs
    assert found.message == "one site is left: two are needed"
    assert _run_row(found, NOW)[5] == "one site is left: two are needed\nlost south: no-reply"


def test_a_site_that_has_not_switched_keys_is_connected(
    server: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = [
        Node("1", "online", ""),
        Node("2", "registered", ""),
        Node("3", "online", ""),
        Node("4", "online", ""),
    ]
    monkeypatch.setattr(Connection, "nodes", lambda _: nodes)  # no SuperNode runs here
    (server / "nodes.json").write_text('{"north": "2", "south": "4"}')
    retired = [
        {"site": site, "node": node, "until": "2026-01-02T03:04:05Z"}
        for site, node in (("north", "0"), ("north", "1"), ("south", "3"))
    ]
    (server / "retired.json").write_text(json.dumps(retired))
    found = collect(server)
    assert {site.site: site.node for site in found.sites} == {
        "north": "online with its former key",
        "south": "online",
    }
    connected = re.findall(r"fedprint_site_connected\{.*", prometheus_text(found))
    assert [line[-2:] for line in connected] == [" 1", " 1"]


def test_prometheus_file_can_be_read_by_others(server: Path, run: Run, tmp_path: Path) -> None:
    target = tmp_path / "fedprint.prom"
    target.write_text("old")
    assert run("server", "status", server, "--prometheus", target).code == 0
    lines = target.read_text().splitlines()
    assert "fedprint_superlink_up 0" in lines
    assert all(line.startswith("# ") or SAMPLE.fullmatch(line) for line in lines)
    assert not any(line.startswith("fedprint_site_connected") for line in lines)  # not known
    assert target.stat().st_mode & 0o777 == 0o644
    assert [path.name for path in tmp_path.glob(".fedprint.prom*")] == []


def status(**changes: object) -> Status:
    """Return a status with nothing in it."""
    empty: dict[str, object] = {
        "coordinator": "c",
        "time": NOW,
        "store_version": 1,
        "superlink": "",
        "certificates": {"server": NOW + timedelta(days=10), "authority": None},
        "sites": [],
        "runs": [],
    }
    return Status.model_validate(empty | changes)


def test_gauges_of_sites_and_runs() -> None:
    sites = [
        SiteState(site="a", key_id="1", key="active", key_expires=NOW, node="online"),
        SiteState(site="b", key_id="2", key="expired", key_expires=NOW, node="offline"),
        SiteState(site="c", key_id="3", key="revoked", key_expires=NOW, node="unregistered"),
    ]
    since, deadline = NOW - timedelta(seconds=90), NOW + timedelta(minutes=1)
    why = {"reason": "no-reply", "message": "", "phase": "fingerprints"}
    runs = [
        RunStatus(
            run="x/1",
            state="running",
            phase="fingerprints",
            since=since,
            deadline=deadline,
            waiting={"a": 12.5},
            lost={"c": why},
        ),
        RunStatus(run="x/2", state="interrupted", phase="", since=since, waiting={"a": 99.0}),
    ]
    lines = [
        line
        for line in prometheus_text(status(sites=sites, runs=runs)).splitlines()
        if not line.startswith("#")
    ]
    assert lines == [
        "fedprint_status_time_seconds 1767323045",
        "fedprint_superlink_up 1",
        'fedprint_certificate_expiry_time_seconds{use="server"} 1768187045',
        'fedprint_site_key_expiry_time_seconds{site="a"} 1767323045',
        'fedprint_site_key_expiry_time_seconds{site="b"} 1767323045',
        'fedprint_site_connected{site="a"} 1',
        'fedprint_site_connected{site="b"} 0',
        'fedprint_run_state{run="x/1",state="running"} 1',
        'fedprint_run_state{run="x/2",state="interrupted"} 1',
        'fedprint_run_lost_sites{run="x/1"} 1',
        'fedprint_run_lost_sites{run="x/2"} 0',
        'fedprint_run_phase_seconds{run="x/1",phase="fingerprints"} 90',
        'fedprint_run_deadline_time_seconds{run="x/1"} 1767323105',
        'fedprint_run_waiting_seconds{run="x/1",site="a"} 12.5',
    ]


@given(st.text(max_size=20))
def test_labels_are_read_back_as_they_were(name: str) -> None:
    run = RunStatus(run=name, state="failed", phase="", since=NOW)
    text = prometheus_text(status(runs=[run]))
    (line,) = [x for x in text.split("\n") if x.startswith("fedprint_run_state")]
    label = line.removeprefix('fedprint_run_state{run="').removesuffix('",state="failed"} 1')
    plain = {"\\": "\\", '"': '"', "n": "\n"}
    assert re.sub(r"\\(.)", lambda found: plain[found[1]], label, flags=re.DOTALL) == name


def test_every_gauge_says_what_it_means() -> None:
    lines = prometheus_text(status()).splitlines()
    names = {line.split("{")[0].split(" ")[0] for line in lines if not line.startswith("#")}
    for kind in ("HELP", "TYPE"):
        assert {line.split(" ")[2] for line in lines if line.startswith(f"# {kind} ")} == names


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.6, "1 min 0 s"),
        (3599, "59 min 59 s"),
        (7260, "2 h 1 min"),
        (90000, "1 d 1 h"),
        (-3, "0 s"),
    ],
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_json_of_the_command_is_json(server: Path, run: Run, tmp_path: Path) -> None:
    run("server", "status", server, "--json", tmp_path / "status.json")
    content = json.loads((tmp_path / "status.json").read_text())
    assert set(content) == set(Status.model_fields)
