"""A coordinator's folder opens only with a trust store that is its own and the newest."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fl_server import coordinator as module
from fl_server.coordinator import CURRENT, PENDING, changing, open_coordinator
from fl_server.cosigning import complete, look_into, sign_file
from fl_server.server_file import PRIVATE_KEY, PUBLIC_KEY
from fl_server.server_folder import NewServer, init_server
from protocol.enrolment import Enrolment, make_enrolment, open_enrolment
from protocol.errors import (
    ConfigError,
    MalformedEnvelope,
    StaleStore,
    TooFewSignatures,
    UnknownKey,
)
from protocol.keys import (
    generate_key,
    generate_node_key,
    load_private_key,
    public_pem,
    save_private_key,
    signer,
)
from protocol.trust import TrustStore, sign_store


def enrolment(site: str) -> Enrolment:
    key = signer(generate_node_key())
    return open_enrolment(make_enrolment(site, key, key))


def admit(folder: Path, site: str) -> bool:
    with changing(folder) as coordinator:
        return coordinator.propose(coordinator.store.admit(enrolment(site)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a coordinator with one site."""
    init_server(tmp_path / "co", NewServer("north", "fl.example.org:8000", "0.0.0.0"))
    assert admit(tmp_path / "co", "a")
    return tmp_path / "co"


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Make a coordinator with whom another one must agree; return it and the other's key."""
    other = generate_key()
    save_private_key(tmp_path / "other.pem", other)
    (tmp_path / "other.pub.pem").write_text(public_pem(other))
    new = NewServer(
        *("pair", "localhost:8000", "127.0.0.1"),
        co_signers=[tmp_path / "other.pub.pem"],
        threshold=2,
    )
    init_server(tmp_path / "pair", new)
    return tmp_path / "pair", tmp_path / "other.pem"


def test_what_is_opened(folder: Path) -> None:
    opened = open_coordinator(folder)
    assert (opened.name, opened.store.version, opened.threshold) == ("north", 1, 1)
    assert opened.folder == folder.resolve()
    assert opened.public_pem == (folder / PUBLIC_KEY).read_text()
    assert [entry.site for entry in opened.store.entries] == ["a"]


def test_every_version_is_kept(folder: Path) -> None:
    first = (folder / CURRENT).read_bytes()
    assert admit(folder, "b")
    kept = sorted(path.name for path in (folder / "trust").iterdir())
    assert kept == ["0000.dsse.json", "0001.dsse.json", "0002.dsse.json"]
    assert (folder / "trust" / "0001.dsse.json").read_bytes() == first
    assert (folder / "trust" / "0002.dsse.json").read_bytes() == (folder / CURRENT).read_bytes()


def test_an_older_store_put_back_is_refused(folder: Path) -> None:
    assert admit(folder, "b")
    shutil.copy(folder / "trust" / "0001.dsse.json", folder / CURRENT)
    with pytest.raises(StaleStore, match=r"has version 1, but version 2 .*0002\.dsse\.json"):
        open_coordinator(folder)
    with pytest.raises(StaleStore), changing(folder):
        pass
    shutil.copy(folder / "trust" / "0002.dsse.json", folder / CURRENT)
    assert open_coordinator(folder).store.version == 2


def test_a_store_of_somebody_else_is_refused(folder: Path) -> None:
    (folder / CURRENT).write_bytes(sign_store(TrustStore.empty(), signer(generate_key())))
    with pytest.raises(UnknownKey, match="not the coordinator's key"):
        open_coordinator(folder)


def test_a_folder_that_lacks_something(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is no coordinator's folder .*: make one with fedprint"):
        open_coordinator(tmp_path)
    text = (folder / "server.toml").read_text()
    for change, said in (
        (("threshold = 1", "threshold = 2"), "2 must sign, but there are 1 coordinators"),
        (('address = "fl.example.org:8000"', 'address = "x"'), "address 'x' is not HOST:PORT"),
        (("name =", "nome ="), "name: Field required"),
        (("name =", "name"), "is not a TOML file"),
    ):
        (folder / "server.toml").write_text(text.replace(*change))
        with pytest.raises(ConfigError, match=rf"server\.toml.*{said}"):
            open_coordinator(folder)
    (folder / "server.toml").write_text(text)
    (folder / CURRENT).unlink()
    with pytest.raises(ConfigError, match=r"has lost its trust\.dsse\.json: copy the newest"):
        open_coordinator(folder)
    save_private_key(folder / PRIVATE_KEY, generate_key())
    with pytest.raises(ConfigError, match="is not the private half of the public key"):
        open_coordinator(folder)


@pytest.mark.parametrize("name", [CURRENT, ".lock", PENDING])
def test_a_file_that_may_not_be_touched_is_named(folder: Path, name: str) -> None:
    path = folder / name
    path.unlink(missing_ok=True)
    path.mkdir()  # root, who may run these tests, may read every file
    with pytest.raises(ConfigError) as caught, changing(folder):
        pass
    said = {".lock": "written", PENDING: "read", CURRENT: "read"}[name]
    assert str(caught.value) == (
        f"{path} cannot be {said} (Is a directory): run this as the user whose folder it is, or "
        "correct its permissions"
    )
    if name == CURRENT:
        with pytest.raises(ConfigError, match=r"trust\.dsse\.json cannot be read"):
            open_coordinator(folder)


def test_an_encrypted_key_opens_with_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDPRINT_KEY_PASSPHRASE", "open sesame")
    init_server(tmp_path / "co", NewServer("north", "localhost:8000", "127.0.0.1"))
    for name in (PRIVATE_KEY, "tls/ca.key"):
        assert (tmp_path / "co" / name).read_text().startswith("-----BEGIN ENCRYPTED")
    assert open_coordinator(tmp_path / "co").store.version == 0
    monkeypatch.delenv("FEDPRINT_KEY_PASSPHRASE")
    with pytest.raises(ConfigError, match="give the right one in FEDPRINT_KEY_PASSPHRASE"):
        open_coordinator(tmp_path / "co")


def test_one_command_at_a_time(folder: Path) -> None:
    with (
        changing(folder),
        pytest.raises(ConfigError, match="another command is changing"),
        changing(folder),
    ):
        pass
    with changing(folder):
        pass


def test_a_crash_between_the_two_files_is_mended(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(module, "atomic_write", lambda *_: (_ for _ in ()).throw(OSError("full")))
        with pytest.raises(OSError, match="full"):
            admit(folder, "b")
    with pytest.raises(StaleStore, match=r"copy (.*)0002\.dsse\.json over it"):
        open_coordinator(folder)
    shutil.copy(folder / "trust" / "0002.dsse.json", folder / CURRENT)
    assert open_coordinator(folder).store.version == 2


def test_two_coordinators_agree(pair: tuple[Path, Path], tmp_path: Path) -> None:
    folder, key = pair
    with pytest.raises(TooFewSignatures, match=r"waits for signatures: have pending\.dsse\.json"):
        open_coordinator(folder)
    assert not admit(folder, "a")  # builds on the version that waits
    copy = shutil.copy(folder / PENDING, tmp_path / "copy.json")
    store, keys = look_into(copy.read_bytes())
    assert ([entry.site for entry in store.entries], len(keys)) == (["a"], 1)
    assert sign_file(copy, signer(load_private_key(key))) == 2
    with changing(folder) as coordinator:
        assert complete(coordinator) is None
        done = complete(coordinator, copy)
    assert done is not None
    assert open_coordinator(folder).store == done.store == store
    assert not (folder / PENDING).exists()


def test_what_does_not_complete_a_store(pair: tuple[Path, Path], tmp_path: Path) -> None:
    folder, key = pair
    other = signer(load_private_key(key))
    outdated = shutil.copy(folder / PENDING, tmp_path / "copy.json")
    sign_file(outdated, other)
    assert not admit(folder, "a")
    with changing(folder) as coordinator:
        with pytest.raises(MalformedEnvelope, match=r"copy\.json is not the version that waits"):
            complete(coordinator, outdated)
        stranger = signer(generate_key())
        with pytest.raises(ConfigError, match="is none of the coordinators' that"):
            complete(coordinator, signer=stranger)
        done = complete(coordinator, signer=other)
        assert done is not None
        with pytest.raises(ConfigError, match="waits for signatures"):
            complete(done)
    assert not admit(folder, "b")
    assert [entry.site for entry in open_coordinator(folder).store.entries] == ["a"]
    with changing(folder) as coordinator:
        assert [entry.site for entry in coordinator.store.entries] == ["a", "b"]
