from __future__ import annotations

import fcntl
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fixtures_deployed import deployed
from fixtures_tls import Authority, serving
from flwr.common.config import parse_config_args
from hypothesis import given
from hypothesis import strategies as st

from fl_client import supernode
from fl_client.child import run_child
from fl_client.site_lock import LOCK, only_one
from fl_client.site_settings import SiteSettings
from fl_client.supernode import (
    free_port,
    knock,
    node_config,
    require_free,
    require_usable,
    shown_command,
    start_site,
    supernode_command,
    supernode_environment,
)
from protocol.cli import main
from protocol.errors import ConfigError, SiteError
from protocol.files import sha256_hex
from protocol.keys import PASSPHRASE, generate_key, public_pem


@pytest.fixture
def north(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SiteSettings:
    monkeypatch.delenv(PASSPHRASE, raising=False)
    return deployed(tmp_path / "north")


# what is run


def test_the_command_line(north: SiteSettings) -> None:
    folder = north.folder
    assert supernode_command(north, 9100) == [
        "flower-supernode",
        "--superlink",
        "127.0.0.1:9",
        "--root-certificates",
        f"{folder}/ca.crt",
        "--auth-supernode-private-key",
        f"{folder}/keys/node",
        "--host",
        "127.0.0.1",
        "--port",
        "9100",
        "--node-config",
        f'site="{folder}" key="{folder}/keys/node" policy="{folder}/policy.toml" '
        f'state="{folder}/state" device="" recipient="{north.recipient}"',
    ]


def test_flower_reads_the_node_config_as_it_is_meant(north: SiteSettings, tmp_path: Path) -> None:
    (tmp_path / "hsm.pem").write_text(public_pem(generate_key()))
    settings = north.model_copy(
        update={
            "folder": Path("/srv/St. Mary's site=1"),
            "signing_key": "hsm:2?label=a key",
            "public_key": tmp_path / "hsm.pem",
            "policy": Path('/srv/the "policy".toml'),
            "state": Path("/srv/back\\slash"),
            "device": "cuda:1",
        }
    )
    assert parse_config_args([node_config(settings)]) == {
        "site": "/srv/St. Mary's site=1",
        "key": "hsm:2?label=a key",
        "public-key": str(tmp_path / "hsm.pem"),
        "policy": '/srv/the "policy".toml',
        "state": "/srv/back\\slash",
        "device": "cuda:1",
        "recipient": f"{north.superlink} {sha256_hex(north.certificates.read_bytes())}",
    }
    for path in ('/srv/it\'s "so"', "/srv/two\nlines"):
        with pytest.raises(ConfigError, match="cannot be told to Flower"):
            node_config(settings.model_copy(update={"folder": Path(path)}))


@given(st.text(min_size=1))
def test_whatever_flower_can_be_told_arrives(value: str) -> None:
    settings = SiteSettings(
        folder=Path("/srv/site"),
        name="north",
        data=Path("/data"),
        superlink="host:1",
        certificates=Path(__file__),
        key=Path("/node"),
        signing_key=f"hsm:{value}",
        policy=Path("/policy.toml"),
        state=Path("/state"),
        device="",
    )
    try:
        told = node_config(settings)
    except ConfigError:
        assert not value.isprintable() or set(value) & {'"', "\\"}
    else:
        assert parse_config_args([told])["key"] == f"hsm:{value}"


def test_the_environment_is_offline_and_silent(
    north: SiteSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin")
    monkeypatch.setenv(PASSPHRASE, "of another key")
    environment = supernode_environment(north)
    wanted = {
        "FLWR_HOME": str(north.state / "flwr"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.25",
        "HF_HUB_OFFLINE": "1",
        "NO_ALBUMENTATIONS_UPDATE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PATH": f"{Path(sys.executable).parent}:/usr/bin",
    }
    assert wanted.items() <= environment.items()
    assert PASSPHRASE not in environment


def test_the_passphrase_goes_where_it_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PASSPHRASE, "secret")
    settings = deployed(tmp_path / "north")
    assert supernode_environment(settings)[PASSPHRASE] == "secret"
    assert "secret" not in shown_command(settings)


def test_a_dry_run_starts_nothing(north: SiteSettings, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["site", "start", str(north.folder), "--dry-run"])
    assert ended.value.code == 0
    words = shlex.split(capsys.readouterr().out)
    assert words[0] == "env"
    assert f"FLWR_HOME={north.state}/flwr" in words
    command = words[words.index("flower-supernode") :]
    port = int(command[command.index("--port") + 1])
    assert command == supernode_command(north, port)
    assert list(north.state.iterdir()) == []


def test_a_free_port_and_a_chosen_one(north: SiteSettings) -> None:
    assert 1023 < free_port() < 65536
    assert "--port 9111" in shown_command(north.model_copy(update={"port": 9111}))


# what stands before it


def test_a_site_runs_once(north: SiteSettings) -> None:
    with only_one(north), pytest.raises(SiteError) as caught:
        start_site(north)
    assert caught.value.reason == "already-running"
    assert str(caught.value) == (
        f"site north is running already (process {os.getpid()}): stop it first"
    )
    with only_one(north):  # it was let go
        pass


def test_keys_and_policy_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSPHRASE, "secret")
    settings = deployed(tmp_path / "north")
    require_usable(settings)
    monkeypatch.delenv(PASSPHRASE)
    with pytest.raises(ConfigError, match=r"signing\.pem cannot be opened"):
        start_site(settings)
    settings.policy.write_text("x = ")
    with pytest.raises(ConfigError, match=r"policy\.toml is not TOML"):
        start_site(settings)


def test_a_certificate_that_cannot_be_trusted_ends_it_at_once(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    other = Authority(tmp_path / "other")
    for pair, reason in (
        (authority.issue("old", days=-1), "certificate-expired"),
        (other.issue("foreign"), "wrong-ca"),
        (authority.issue("elsewhere", address="10.0.0.1"), "certificate-name"),
    ):
        with serving(*pair) as superlink:
            settings = deployed(tmp_path / reason, superlink)
            with pytest.raises(SiteError) as caught:
                start_site(settings, tell=pytest.fail)
        assert caught.value.reason == reason
        assert str(caught.value).startswith(f"{reason}: the certificate of {superlink}")


def test_a_coordinator_that_is_not_there_yet_is_waited_for(north: SiteSettings) -> None:
    told: list[str] = []
    knock(north, told.append)
    assert len(told) == 1
    assert told[0].startswith("fedprint | 127.0.0.1:9 cannot be reached (Connection refused)")
    assert told[0].endswith("; waiting for it")


# how it ends


def fake_supernode(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put a flower-supernode first on the path, for how it ends and what it says."""
    folder.mkdir(exist_ok=True)
    (folder / "flower-supernode").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "flower-supernode").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(folder / "python"))


@pytest.mark.parametrize("status", [1, 49])  # of Flower 1.41, and 305 modulo 256
def test_a_key_that_is_not_enrolled(
    north: SiteSettings,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    status: int,
) -> None:
    script = f"echo 'Exit Code: 305'; echo '[code: 2004] no such node' >&2; exit {status}"
    fake_supernode(north.folder / "bin", monkeypatch, script)
    with pytest.raises(SystemExit) as ended:
        main(["site", "start", str(north.folder)])
    assert ended.value.code == 1
    shown = capfd.readouterr()
    assert "Exit Code: 305\n[code: 2004] no such node\n" in shown.out
    assert shown.err == (
        "fedprint: error: not-registered: 127.0.0.1:9 does not know the key of site north, or no "
        f"longer: hand {north.enrolment} to the coordinator, who enrols it with `fedprint server "
        "enrol`\n"
    )


def test_another_failure_of_flower(north: SiteSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_supernode(north.folder / "bin", monkeypatch, "exit 3")
    with pytest.raises(SiteError) as caught:
        start_site(north)
    assert caught.value.reason == "supernode-failed"
    assert str(caught.value) == ("flower-supernode ended with exit code 3: its lines above say why")
    fake_supernode(north.folder / "bin", monkeypatch, "exit 0")
    with pytest.raises(SiteError, match="ended by itself; if nobody here stopped it") as caught:
        start_site(north)
    assert caught.value.reason == "not-registered"
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(SiteError, match="flower-supernode is missing"):
        start_site(north)


def test_it_is_told_everything(
    north: SiteSettings, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    fake_supernode(
        north.folder / "bin", monkeypatch, 'echo "$FLWR_HOME"; for a; do echo "$a"; done'
    )
    with pytest.raises(SiteError, match="ended by itself"):
        start_site(north.model_copy(update={"port": 9100}))
    lines = capfd.readouterr().out.splitlines()
    assert lines[-13:] == [str(north.state / "flwr"), *supernode_command(north, 9100)[1:]]
    assert (north.state / "flwr").is_dir()


# a child and its family

CHILD = """
import subprocess, sys, time
grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print("grandchild", grandchild.pid, flush=True)
time.sleep({seconds})
"""


def ended(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    status = Path(f"/proc/{process}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z"


def test_what_a_child_started_ends_with_it() -> None:
    seen: list[str] = []
    command = [sys.executable, "-c", CHILD.format(seconds=0)]
    end = run_child(command, os.environ, seen.append)
    assert (end.status, end.stopped_by) == (0, None)
    assert ended(int(seen[0].split()[1]))


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130), (signal.SIGHUP, 0)]
)
def test_a_signal_ends_the_whole_family(
    north: SiteSettings, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, status: int
) -> None:
    script = f"exec {shlex.quote(sys.executable)} -c {shlex.quote(CHILD.format(seconds=60))}"
    fake_supernode(north.folder / "bin", monkeypatch, script)
    monkeypatch.undo()
    start = (
        f"import sys; from protocol.cli import main; executable = sys.executable; "
        f"sys.executable = {str(north.folder / 'bin' / 'python')!r}; main(sys.argv[1:])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", start, "site", "start", str(north.folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as site:
        assert site.stdout is not None
        line = next(line for line in site.stdout if line.startswith("grandchild"))
        with pytest.raises(SiteError, match="site north is running already"):
            start_site(north)
        site.send_signal(number)
        assert site.wait(timeout=20) == status
    assert ended(int(line.split()[1]))
    with only_one(north):
        pass


def test_an_orphan_keeps_the_lock(north: SiteSettings) -> None:
    north.state.mkdir(exist_ok=True)
    with only_one(north) as lock:
        orphan = subprocess.Popen(
            [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[lock]
        )
    with pytest.raises(SiteError), only_one(north):
        pass
    orphan.communicate(b"\n", timeout=20)
    with only_one(north), (north.state / LOCK).open() as again, pytest.raises(BlockingIOError):
        fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_child_that_does_not_listen_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fl_client.child.PATIENCE", 0.2)
    deaf = "import os,signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    deaf += "os.kill(os.getppid(), signal.SIGTERM); time.sleep(60)"
    began = time.monotonic()
    end = run_child([sys.executable, "-c", deaf], os.environ, lambda _: None)
    assert time.monotonic() - began < 10
    assert (end.status, end.stopped_by) == (-signal.SIGKILL, signal.SIGTERM)


def test_a_signal_that_comes_while_the_child_starts_ends_it() -> None:
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    started: list[int] = []

    def stop(process: int) -> None:
        started.append(process)
        os.kill(os.getpid(), signal.SIGTERM)

    end = run_child(command, os.environ, lambda _: None, started=stop)
    assert (end.status, end.stopped_by) == (-signal.SIGTERM, signal.SIGTERM)
    assert ended(started[0])


def test_the_node_before_may_still_be_connected(
    north: SiteSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flower refuses the SuperNode that follows one that was killed, until it misses the other."""
    monkeypatch.setattr(supernode, "RETRY_SECONDS", 0.1)
    script = "echo 'SuperNode ID: 5'; exit 0"
    fake_supernode(north.folder / "bin", monkeypatch, script)
    with pytest.raises(SiteError, match="ended by itself"):
        start_site(north)
    script = "cd {0}; [ -e again ] && exit 0; touch again; echo '[code: 2004]'; exit 1"
    fake_supernode(north.folder / "bin", monkeypatch, script.format(north.folder))
    told: list[str] = []
    with pytest.raises(SiteError, match="ended by itself"):
        start_site(north, told.append)
    assert re.fullmatch(
        r"fedprint \| refused: trying again until \d\d:\d\d, because a SuperLink misses one that "
        "was killed only after a minute; if this site was revoked, ask the coordinator",
        told[-1],
    )


def test_a_port_in_use_is_named(north: SiteSettings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigError) as caught:
            start_site(north.model_copy(update={"port": port}))
    assert str(caught.value) == (
        f"port {port} of this machine is in use: set port = 0 in site.toml"
    )
    require_free(port)
    require_free(0)
