"""``fedprint server``: a coordinator's folder made, sites enrolled, rotated and revoked."""

from __future__ import annotations

import io
import json
import os
import shlex
import shutil
import socket
import ssl
import stat
import subprocess
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.x509 import load_pem_x509_certificate

from fl_server.certificates import issue, make_authority, read_certificate
from fl_server.connection import Connection
from fl_server.coordinator import open_coordinator
from fl_server.processes import end_family
from fl_server.server_file import read_server_file
from fl_server.simulation import check_settings
from protocol.enrolment import load_invitation, make_enrolment
from protocol.keys import (
    generate_key,
    generate_node_key,
    key_id,
    openssh_public,
    public_pem,
    save_private_key,
    signer,
)
from protocol.trust import open_store
from tests.fl_server.bad import Run

NODE = generate_node_key  # a fresh key; one key signs and authenticates in these tests


def write_enrolment(
    path: Path, site: str, key: PrivateKeyTypes, old: PrivateKeyTypes | None = None
) -> Path:
    both = signer(key)
    data = make_enrolment(site, both, both, signer(old) if old is not None else None)
    path.write_bytes(data)
    return path


def text_files(folder: Path) -> dict[str, bytes]:
    """Return what lies in a folder, but for the app and locks."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock" and "app" not in path.relative_to(folder).parts
    }


@pytest.fixture
def folder(run: Run, tmp_path: Path) -> Path:
    """Make a coordinator's folder whose name is not easy on shells."""
    folder = tmp_path / "Köln's $HOME %n"
    done = run(
        *(
            "server",
            "init",
            folder,
            "--name",
            "Köln (West)",
            "--address",
            f"localhost:{free_port()}",
        ),
        *("--host", "127.0.0.1", "--san", "fl.example.org"),
    )
    assert done.code == 0, done.err
    return folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_init_writes_a_whole_folder(folder: Path) -> None:
    names = {path.name for path in folder.iterdir()}
    assert names >= {"server.toml", "keys", "tls", "trust", "trust.dsse.json", "nodes.json"}
    assert names >= {"flwr", "superlink.sh", "superlink.service", "app", "run.toml", "runs"}
    modes = {n: stat.S_IMODE((folder / n).stat().st_mode) for n in ("superlink.sh", "keys", "")}
    assert modes == {"superlink.sh": 0o755, "keys": 0o700, "": 0o750}
    for secret in ("keys/coordinator.pem", "tls/ca.key", "tls/server.key"):
        assert stat.S_IMODE((folder / secret).stat().st_mode) == 0o600
    assert open_coordinator(folder).name == "Köln (West)"
    assert (folder / "app" / "pyproject.toml").is_file()
    run_config = tomllib.loads((folder / "run.toml").read_text())
    assert run_config == {
        "server-dir": str(folder),
        "release": "private",
        "spec": "lite0-private",
        "epsilon": 2.0,
        "delta": 1e-5,
    }
    assert check_settings(run_config).terms.mode == "private"


def test_flower_goes_straight_to_the_superlink(folder: Path) -> None:
    config = tomllib.loads((folder / "flwr" / "config.toml").read_text())["superlink"]
    assert config["default"] == "fedprint"
    address = f"127.0.0.1:{read_server_file(folder).port}"  # not through what stands before it
    certificates = str(folder / "tls" / "ca.crt")
    assert config["fedprint"] == {"address": address, "root-certificates": certificates}


def test_the_invitation_has_all_that_a_site_needs(folder: Path) -> None:
    invitation = load_invitation(folder / "invitation.json")
    assert invitation.name == "Köln (West)"
    assert invitation.certificates == (folder / "tls" / "ca.crt").read_text()
    assert invitation.coordinators == [open_coordinator(folder).public_pem]
    assert "PRIVATE" not in (folder / "invitation.json").read_text()


def test_the_script_starts_the_superlink_with_every_option(folder: Path, tmp_path: Path) -> None:
    # a stand-in that says what it was started with, in place of Flower's command
    script = (folder / "superlink.sh").read_text().splitlines()
    stand_in = tmp_path / "bin" / "flower-superlink"
    stand_in.parent.mkdir()
    stand_in.write_text('#!/bin/sh\npwd\nenv\nprintf "%s\\n" "$@"\n')
    stand_in.chmod(0o755)
    path = next(n for n, line in enumerate(script) if line.startswith("export PATH="))
    script[path] = f'export PATH="{stand_in.parent}:$PATH"'
    (folder / "try.sh").write_text("\n".join(script))
    environment = {**os.environ, "FEDPRINT_KEY_PASSPHRASE": "sesame", "FLWR_HOME": "elsewhere"}
    said = subprocess.run(
        ["sh", folder / "try.sh"], env=environment, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert said[0] == str(folder)
    for line in (
        f"FLWR_HOME={folder / 'flwr'}",
        "FLWR_TELEMETRY_ENABLED=0",
        "FLWR_DISABLE_UPDATE_CHECK=1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL=0.25",
        "HF_HUB_OFFLINE=1",
        "NO_ALBUMENTATIONS_UPDATE=1",
        "TOKENIZERS_PARALLELISM=false",
        "FEDPRINT_KEY_PASSPHRASE=sesame",
        "--enable-supernode-auth",
        "--disable-runtime-dependency-installation",
        str(folder / "superlink.db"),
        str(folder / "tls" / "server.key"),
    ):
        assert line in said, line


def test_the_unit_is_one_that_systemd_takes(folder: Path, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    unit = shutil.copy(folder / "superlink.service", tmp_path / "fedprint-superlink.service")
    command = ["systemd-analyze", "verify", "--man=no", unit]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "fedprint-superlink" not in checked.stderr, checked.stderr
    assert checked.returncode == 0


def test_nothing_is_overwritten(folder: Path, run: Run, tmp_path: Path) -> None:
    before = text_files(folder)
    done = run("server", "init", folder, "--address", "localhost:1")
    assert done.code == 1
    assert "exists already, and nothing in it is overwritten: choose another folder" in done.error
    assert text_files(folder) == before
    (tmp_path / "file").write_text("x")
    assert "exists already" in run("server", "init", tmp_path / "file", "--address", "h:1").error
    (tmp_path / "empty").mkdir()
    assert run("server", "init", tmp_path / "empty", "--address", "h:1").code == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "--address is missing: give HOST:PORT under which sites reach you"),
        (["--address", "north"], "address 'north' is not HOST:PORT, for example"),
        (["--address", "north:0"], "address 'north:0' is not HOST:PORT"),
        (["--address", "h:1", "--name", "a/b"], "site name 'a/b' is not usable"),
        (["--address", "h:1", "--threshold", "2"], "2 must sign, but there are 1 coordinators"),
        (["--address", "h:1", "--co-signer", "none"], "public key none cannot be read"),
        (["--address", "h:1", "--cert", "x"], "--cert and --key-file belong together"),
        (["--address", "h:1", "--ca-key", "x"], "--ca-cert and --ca-key belong together"),
        (["--address", "h:1", "--cert", "x", "--key-file", "x"], "give --ca-cert, and no --ca"),
        (["--address", "h:1", "--key", "hsm:"], "--key and --public-key belong together"),
    ],
)
def test_init_refuses(run: Run, tmp_path: Path, options: list[str], said: str) -> None:
    done = run("server", "init", tmp_path / "co", *options)
    assert done.code == 1
    assert said in done.error
    assert list(tmp_path.iterdir()) == []


def test_certificates_of_the_house(run: Run, tmp_path: Path) -> None:
    house, out = make_authority("house"), tmp_path / "co"
    issue(tmp_path / "house", house, ["fl.example.org"], timedelta(days=9))
    given = [tmp_path / "house" / name for name in ("server.crt", "server.key", "ca.crt")]
    options = ["--cert", given[0], "--key-file", given[1], "--ca-cert", given[2]]
    done = run("server", "init", out, "--address", "other.org:8000", *options)
    assert "sites would refuse the certificate for other.org" in done.error
    assert not out.exists()
    done = run("server", "init", out, "--address", "fl.example.org:8000", *options)
    assert done.code == 0, done.err
    assert (out / "tls" / "server.crt").read_bytes() == given[0].read_bytes()
    assert not (out / "tls" / "ca.key").exists()
    assert (
        "has no ca.key: give the authority's"
        in run("server", "init", out, "--renew-certificate").error
    )


def test_an_authority_of_the_house_issues_and_keeps_its_key(run: Run, tmp_path: Path) -> None:
    house, out = make_authority("house"), tmp_path / "co"
    issue(tmp_path, house, ["x"], timedelta(days=9))
    save_private_key(tmp_path / "house.key", house.key)
    options = ["--ca-cert", tmp_path / "ca.crt", "--ca-key", tmp_path / "house.key"]
    assert run("server", "init", out, "--address", "fl.example.org:8000", *options).code == 0
    assert not (out / "tls" / "ca.key").exists()
    assert run("server", "init", out, "--renew-certificate", *options).code == 0


def test_renewal_keeps_keys_and_names(folder: Path, run: Run) -> None:
    before = text_files(folder)
    done = run("server", "init", folder, "--renew-certificate", "--validity", 30)
    assert done.code == 0, done.err
    after = text_files(folder)
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {"tls/server.crt", "tls/server.key"}
    new = load_pem_x509_certificate(after["tls/server.crt"])
    old = load_pem_x509_certificate(before["tls/server.crt"])
    assert new.not_valid_after_utc < old.not_valid_after_utc
    assert "fl.example.org" in str(read_certificate(folder / "tls" / "server.crt").extensions)


def test_upgrade_makes_app_and_scripts_anew(folder: Path, run: Run) -> None:
    before = text_files(folder)
    (folder / "app" / "old.py").write_text("")
    (folder / "superlink.sh").write_text("")
    text = (folder / "server.toml").read_text()
    (folder / "server.toml").write_text(text.replace('host = "127.0.0.1"', 'host = "0.0.0.0"'))
    assert run("server", "init", folder, "--upgrade").code == 0
    assert "--host 0.0.0.0 " in (folder / "superlink.sh").read_text()
    assert not (folder / "app" / "old.py").exists()
    after = text_files(folder)
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {"server.toml", "superlink.sh"}


def test_a_key_that_lives_elsewhere(run: Run, tmp_path: Path) -> None:
    (tmp_path / "hsm.pub.pem").write_text(public_pem(generate_node_key()))
    public = ["--public-key", tmp_path / "hsm.pub.pem"]
    done = run("server", "init", tmp_path / "co", "--address", "h:1", "--key", "x.pem", *public)
    assert "--key x.pem is no URI such as hsm:... or awskms:..." in done.error
    done = run("server", "init", tmp_path / "co", "--address", "h:1", "--key", "hsm:2", *public)
    assert "key hsm:2 cannot be used" in done.error
    assert not (tmp_path / "co").exists()


def test_enrolling_offline_says_what_is_left_to_do(folder: Path, run: Run, tmp_path: Path) -> None:
    key = NODE()
    file = write_enrolment(tmp_path / "a.enrol.json", "Zürich 1", key)
    done = run("server", "enrol", folder, file, "--yes", "--offline")
    assert done.code == 0, done.err
    assert key_id(public_pem(key)) in done.out
    assert "Zürich 1 is enrolled: trust store version 1" in done.out
    assert "supernode register" in done.out
    written = (folder / "nodes" / "Zürich 1.pub").read_text()
    assert written == openssh_public(public_pem(key)) + "\n"
    assert open_coordinator(folder).store.entry_for_node(public_pem(key)).site == "Zürich 1"
    again = run("server", "enrol", folder, file, "--yes", "--offline")
    assert "Zürich 1 is enrolled already with this key: nothing changed\n" in again.out
    assert "supernode register" in again.out
    revoked = run("server", "revoke", folder, "Zürich 1", "--yes", "--offline")
    assert "Zürich 1 is revoked: trust store version 2" in revoked.out
    assert run("server", "enrol", folder, file, "--offline").error == (
        f"key {key_id(public_pem(key))[:12]} of Zürich 1 was revoked: the site makes a new folder "
        "with fedprint site init"
    )


def test_without_the_superlink_nothing_changes(folder: Path, run: Run, tmp_path: Path) -> None:
    file = write_enrolment(tmp_path / "a.enrol.json", "a", NODE())
    before = text_files(folder)
    done = run("server", "enrol", folder, file, "--yes")
    assert done.code == 1
    assert "a is not enrolled, and nothing was changed, because Flower did not reg" in done.error
    start = f"connection configuration; start {folder / 'superlink.sh'}, or enrol with --offline"
    assert done.error.endswith(start)
    assert text_files(folder) == before
    assert run("server", "enrol", folder, file, "--yes", "--offline").code == 0
    done = run("server", "enrol", folder, file)  # enrolled, so there is nothing to compare
    assert done.error.startswith(
        "a is enrolled already with this key, but Flower did not register its node: "
    )


def test_without_the_superlink_a_site_is_revoked_all_the_same(
    folder: Path, run: Run, tmp_path: Path
) -> None:
    file = write_enrolment(tmp_path / "a.enrol.json", "a", NODE())
    assert run("server", "enrol", folder, file, "--yes", "--offline").code == 0
    (folder / "nodes.json").write_text('{"a": "123"}')
    done = run("server", "revoke", folder, "a", "--yes")
    assert "a is revoked in the trust store, version 2, but Flower did not" in done.error
    assert "run the command again when the SuperLink runs" in done.error
    assert open_coordinator(folder).store.entries[0].status == "revoked"
    done = run("server", "revoke", folder, "a", "--yes", "--offline")
    assert "trust store version 2" in done.out
    assert "flwr supernode unregister 123 fedprint" in done.out
    assert "no such site is enrolled (enrolled: a)" in run("server", "revoke", folder, "b").error


def flower_commands(folder: Path, *nodes: str) -> list[str]:
    """Return what a person is told to type for these nodes."""
    home = f"FLWR_HOME={shlex.quote(str(folder / 'flwr'))} flwr supernode"
    words = [f"unregister {node} fedprint" for node in nodes]
    if "ID" in nodes:
        words.insert(words.index("unregister ID fedprint"), "ls fedprint")
    return [f"left to do when the SuperLink runs: {home} {word}" for word in words]


WARNING = (
    "warning: nodes.json does not say which node of Flower's is the site's: find it and unregister "
    "it, or it stays connected\n"
)


@pytest.mark.parametrize("offline", [["--offline"], []])
def test_revoking_a_site_whose_node_nobody_noted_says_so(
    folder: Path, run: Run, tmp_path: Path, offline: list[str]
) -> None:
    for site in ("a", "b"):
        file = write_enrolment(tmp_path / f"{site}.enrol.json", site, NODE())
        assert run("server", "enrol", folder, file, "--yes", "--offline").err == ""
    for _ in range(2):  # whoever asks again is told again
        done = run("server", "revoke", folder, "a", "--yes", *offline)
        assert (done.code, done.err) == (0, WARNING)
        assert done.out.splitlines() == [
            "a is revoked: trust store version 3",
            *flower_commands(folder, "ID"),
        ]
    (folder / "nodes.json").write_text('{"b": "123"}')
    for _ in range(2):
        done = run("server", "revoke", folder, "b", "--yes", "--offline")
        assert (done.code, done.err) == (0, "")
        assert done.out.splitlines()[1:] == flower_commands(folder, "123")


def test_a_rotation_whose_old_node_nobody_noted_says_so(
    folder: Path, run: Run, tmp_path: Path
) -> None:
    first, second, third = NODE(), NODE(), NODE()
    file = write_enrolment(tmp_path / "1.json", "a", first)
    for _ in range(2):  # enrolled twice, it is the same node
        assert run("server", "enrol", folder, file, "--yes", "--offline").err == ""
    file = write_enrolment(tmp_path / "2.json", "a", second, first)
    done = run("server", "enrol", folder, file, "--yes", "--offline")
    assert (done.code, done.err) == (0, WARNING)
    assert done.out.splitlines()[-2:] == flower_commands(folder, "ID")
    (folder / "nodes.json").write_text('{"a": "123"}')
    file = write_enrolment(tmp_path / "3.json", "a", third, second)
    done = run("server", "enrol", folder, file, "--yes", "--offline")
    assert (done.code, done.err) == (0, "")
    assert "supernode unregister" not in done.out, "the next sweep does that"
    # the node with the third key was registered by hand, and its id not noted
    done = run("server", "revoke", folder, "a", "--yes", "--offline")
    assert done.err == WARNING
    assert done.out.splitlines()[1:] == flower_commands(folder, "123", "ID")


def test_nobody_is_enrolled_unasked(
    folder: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_enrolment(tmp_path / "a.enrol.json", "a", NODE())
    before = text_files(folder)
    for answer in ("", "n\n"):
        monkeypatch.setattr("sys.stdin", io.StringIO(answer))
        done = run("server", "enrol", folder, file, "--offline")
        assert done.code == 1
        assert "Did the site read out the same key ids?" in done.out
        assert "nothing was changed: compare the key ids first" in done.err
    assert text_files(folder) == before
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert run("server", "enrol", folder, file, "--offline").code == 0


def test_nobody_telephones_for_what_cannot_be_enrolled(
    folder: Path, run: Run, tmp_path: Path
) -> None:
    file = write_enrolment(tmp_path / "a.enrol.json", "a", NODE())
    done = run("server", "enrol", tmp_path, file)
    assert done.error.startswith(f"{tmp_path} is no coordinator's folder")
    assert done.out == ""
    assert run("server", "enrol", folder, file, "--yes", "--offline").code == 0
    other = write_enrolment(tmp_path / "b.enrol.json", "a", NODE())
    done = run("server", "enrol", folder, other)
    assert done.error.startswith("a is enrolled already: a new key comes with fedprint site rotate")
    assert done.out == ""


def test_nobody_is_revoked_unasked(
    folder: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = NODE()
    file = write_enrolment(tmp_path / "a.enrol.json", "a", key)
    assert run("server", "enrol", folder, file, "--yes", "--offline").code == 0
    before = text_files(folder)
    for answer in ("", "n\n"):
        monkeypatch.setattr("sys.stdin", io.StringIO(answer))
        done = run("server", "revoke", folder, "a", "--offline")
        assert f"Revoke a (key {key_id(public_pem(key))[:12]}) for ever?" in done.out
        assert done.code == 1
        assert done.err.strip().endswith(
            "nothing was revoked: it is final for the keys of a: say yes, or give --yes"
        )
    assert text_files(folder) == before
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert run("server", "revoke", folder, "a", "--offline").code == 0
    again = run("server", "revoke", folder, "a", "--offline")
    assert again.code == 0, "nothing final is left to ask about"


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("empty", b"", "these bytes are not a DSSE envelope"),
        ("large", b" " * 100_000, "it has more than 65536 bytes"),
        ("invitation.json", None, "these bytes are not a DSSE envelope"),
        ("trust.dsse.json", None, ""),
    ],
)
def test_what_is_no_enrolment(
    folder: Path, run: Run, name: str, content: bytes | None, why: str
) -> None:
    file = folder / name
    if content is not None:
        file.write_bytes(content)
    error = run("server", "enrol", folder, file, "--yes").error
    assert error.startswith(f"{file} is no enrolment ({why}")
    hint = "): take the NAME.enrol.json or NAME.rotation.json that the site sent"
    assert error.endswith(hint)


def test_an_enrolment_that_is_not_there(folder: Path, run: Run, tmp_path: Path) -> None:
    hint = "give the file that the site sent"
    error = run("server", "enrol", folder, tmp_path / "none", "--yes").error
    assert error == f"{tmp_path / 'none'}: No such file or directory: {hint}"
    error = run("server", "enrol", folder, tmp_path, "--yes").error
    assert error == f"{tmp_path}: Is a directory: {hint}"


def test_a_second_coordinator_must_sign(run: Run, tmp_path: Path) -> None:
    other, folder = generate_key(), tmp_path / "co"
    save_private_key(tmp_path / "other.pem", other)
    (tmp_path / "other.pub.pem").write_text(public_pem(other))
    sharing = ["--co-signer", tmp_path / "other.pub.pem", "--threshold", 2]
    assert run("server", "init", folder, "--address", "h:1", *sharing).code == 0
    file = write_enrolment(tmp_path / "a.enrol.json", "a", NODE())
    done = run("server", "enrol", folder, file, "--yes", "--offline")
    assert "trust store version 1, once other coordinators have signed" in done.out
    assert "still waits for other coordinators" in run("server", "sign", folder).out
    copy = shutil.copy(folder / "pending.dsse.json", tmp_path / "copy.json")
    assert "give your --key and nothing else" in run("server", "sign", copy).error
    done = run("server", "sign", copy, "--key", tmp_path / "other.pem", "--yes")
    assert "copy.json has 2 signatures now" in " ".join(done.out.split())
    done = run("server", "sign", folder, copy)
    assert done.out == "trust store version 1 is current\n"
    pems = load_invitation(folder / "invitation.json").coordinators
    store = open_store((folder / "trust.dsse.json").read_bytes(), pems, 2)
    assert [entry.site for entry in store.entries] == ["a"]


@pytest.fixture
def superlink(folder: Path) -> Iterator[Connection]:
    """Run the coordinator's superlink.sh."""
    with (folder / "superlink.log").open("w") as log:
        process = subprocess.Popen(
            [folder / "superlink.sh"], stdout=log, stderr=log, start_new_session=True
        )
    try:
        await_health(folder)
        yield Connection(folder / "flwr")
    finally:
        end_family(process)


def await_health(folder: Path) -> None:
    address = tomllib.loads((folder / "server.toml").read_text())["address"]
    trusted = ssl.create_default_context(cafile=str(folder / "tls" / "ca.crt"))
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(f"https://{address}/health", timeout=2, context=trusted):
                return
        except (urllib.error.URLError, OSError):
            assert time.monotonic() < deadline, (folder / "superlink.log").read_text()
            time.sleep(0.2)


@pytest.mark.engine
def test_flower_knows_who_is_enrolled(
    folder: Path, run: Run, tmp_path: Path, superlink: Connection
) -> None:
    def nodes() -> dict[str, str]:
        return json.loads((folder / "nodes.json").read_text())  # type: ignore[no-any-return]

    def statuses() -> dict[str, str]:
        return {node.node_id: node.status for node in superlink.nodes()}

    first, second, third = NODE(), NODE(), NODE()
    file = write_enrolment(tmp_path / "a.enrol.json", "a", first)
    assert run("server", "enrol", folder, file, "--yes").code == 0
    one = nodes()["a"]
    assert statuses() == {one: "registered"}

    # enrolled twice, and even with the books lost, it is the same node
    (folder / "nodes.json").write_text("{}")
    assert f"Flower knows its node as {one}" in run("server", "enrol", folder, file, "--yes").out

    # a rotation without grace shuts the old node out at once, one with grace does not
    file = write_enrolment(tmp_path / "b.enrol.json", "a", second, first)
    done = run("server", "enrol", folder, file, "--yes")
    assert f"Flower has unregistered node {one}" in done.out
    two = nodes()["a"]
    assert statuses() == {one: "unregistered", two: "registered"}
    file = write_enrolment(tmp_path / "c.enrol.json", "a", third, second)
    assert run("server", "enrol", folder, file, "--yes", "--grace", 2).code == 0
    three = nodes()["a"]
    assert statuses() == {one: "unregistered", two: "registered", three: "registered"}

    done = run("server", "revoke", folder, "a", "--yes")
    assert done.out.startswith("a is revoked: trust store version 4")
    assert set(statuses().values()) == {"unregistered"}
    assert nodes() == {}
