"""``fedprint server dashboard`` as it is typed: what it prints, serves, refuses and leaves."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import httpx
import pytest

from fl_server.dashboard.command import _address, _names
from tests.fl_server.bad import Run
from tests.fl_server.running import Command


def test_it_serves_until_it_is_stopped(runs: Path, pool: str) -> None:
    command = Command("server", "dashboard", runs, "--pool", pool, "--port", 0, "--token")
    try:
        assert command.process.stdout is not None
        address = command.process.stdout.readline().removeprefix("dashboard: ").strip()
        assert address.startswith("http://127.0.0.1:")
        assert command.process.stdout.readline() == "stop it with Ctrl-C\n"
        with httpx.Client(follow_redirects=True, timeout=120) as client:
            home = address.partition("?")[0]
            assert client.get(home).status_code == 401
            assert client.get(address).status_code == 200
            assert "trained" in client.get(home).text
            assert client.head(home).text == ""
            assert client.get(f"{home}pool").status_code == 200
            evil = client.get(home, headers={"Host": "evil.example"})
            assert evil.status_code == 421
            assert "server" not in evil.headers
    finally:
        command.process.send_signal(signal.SIGINT)
        out, err = command.process.communicate()
    assert (command.process.returncode, out, err) == (0, "", "")
    assert command.gone() == []


def test_on_this_machine_alone_a_token_is_only_offered(runs: Path) -> None:
    command = Command("server", "dashboard", runs / "trained", "--port", 0)
    try:
        assert command.process.stdout is not None
        address = command.process.stdout.readline().removeprefix("dashboard: ").strip()
        said = command.process.stdout.readline()
        assert said == "everybody on this machine can read it: --token demands one\n"
        assert httpx.get(f"{address}run/trained/map", timeout=120).status_code == 200
    finally:
        command.process.send_signal(signal.SIGINT)
        command.process.communicate()


def test_a_port_that_is_taken(run: Run, runs: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        said = run("server", "dashboard", runs, "--port", port)
    assert (said.code, said.out) == (1, "")
    assert said.err == (
        f"fedprint: error: cannot listen on 127.0.0.1:{port}: Address already in use; "
        "choose another --port, or --port 0\n"
    )


def test_an_address_that_is_not_ours(run: Run, runs: Path) -> None:
    said = run("server", "dashboard", runs, "--host", "192.0.2.1", "--port", 0)
    assert (said.code, said.out) == (1, "")
    assert said.err == (
        "fedprint: error: cannot listen on 192.0.2.1:0: Cannot assign requested address; "
        "choose another --host\n"
    )


def test_faults_are_one_line(run: Run, runs: Path, tmp_path: Path) -> None:
    said = run("server", "dashboard", tmp_path / "none")
    assert (said.code, said.out) == (1, "")
    assert said.err == (
        f"fedprint: error: there is no folder {tmp_path / 'none'}: give a run folder or a folder "
        "of runs\n"
    )
    said = run("server", "dashboard", runs, "--pool", tmp_path / "none.db")
    assert (said.code, said.out) == (1, "")
    assert said.err.count("\n") == 1


@pytest.mark.parametrize("token", ["", "short", "with a space in it, though long", "é" * 20])
def test_weak_tokens_are_refused(run: Run, runs: Path, tmp_path: Path, token: str) -> None:
    path = tmp_path / "token"
    path.write_text(token)
    said = run("server", "dashboard", runs, "--token-file", path)
    assert (said.code, said.out) == (1, "")
    assert said.err == (
        f"fedprint: error: {path} must hold one word of 16 or more ASCII letters, digits and "
        f"signs: openssl rand -hex 32 > {path}\n"
    )
    path.unlink()
    said = run("server", "dashboard", runs, "--token-file", path)
    assert (
        said.err == f"fedprint: error: {path} cannot be read: give a text file that holds a token\n"
    )


def test_addresses_and_names() -> None:
    assert _address("127.0.0.1", 80, "") == "http://127.0.0.1:80/"
    assert _address("::1", 80, "a/b") == "http://[::1]:80/?token=a%2Fb"
    assert _address("0.0.0.0", 80, "") == f"http://{socket.gethostname()}:80/"
    assert _names("::1") == ["localhost"]
    assert socket.gethostname() in _names("0.0.0.0")
