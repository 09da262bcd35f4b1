"""Making a coordinator's folder, whole or not at all, and bringing one up to date."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fl_server import server_texts
from fl_server.coordinator import start_store
from fl_server.engine import assemble_app
from fl_server.handshake import try_out
from fl_server.server_file import (
    PRIVATE_KEY,
    PUBLIC_KEY,
    ServerFile,
    make_server_file,
    read_public_key,
    read_server_file,
    write_server_file,
)
from fl_server.server_tls import CertificateSource, make_certificates, write_invitation_file
from protocol.errors import ConfigError
from protocol.files import atomic_write
from protocol.keys import (
    environment_passphrase,
    generate_key,
    is_uri,
    load_signer,
    public_pem,
    save_private_key,
)


@dataclass(frozen=True)
class NewServer:
    """The choices for a new coordinator; see the options of ``fedprint server init``."""

    name: str
    address: str
    host: str
    certificates: CertificateSource = field(default_factory=CertificateSource)
    co_signers: Sequence[Path] = ()
    threshold: int = 1
    key: str = ""
    public_key: Path | None = None


def init_server(folder: Path, new: NewServer) -> ServerFile:
    """Make a coordinator's folder.

    Parameters
    ----------
    folder : Path
        Must not exist, or be empty.
    new : NewServer
        The choices.

    Raises
    ------
    ConfigError
        If the folder has anything in it or a choice cannot be used; nothing is written then.
    """
    target = folder.expanduser().resolve()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(
            f"{folder} exists already, and nothing in it is overwritten: choose another folder "
            "(--upgrade and --renew-certificate bring a coordinator's folder up to date)"
        )
    others = [read_public_key(path) for path in new.co_signers]
    settings = make_server_file(
        name=new.name,
        address=new.address,
        host=new.host,
        threshold=new.threshold,
        key=new.key or PRIVATE_KEY,
        co_signers=[f"keys/co-signer-{number}.pub.pem" for number in range(1, len(others) + 1)],
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
    try:
        _make_keys(draft, new, settings, others)
        make_certificates(draft / "tls", new.certificates, settings)
        write_server_file(draft, settings)
        atomic_write(draft / "nodes.json", "{}\n")
        render(draft, settings, target)
        start_store(draft)
        draft.chmod(0o750)
        os.replace(draft, target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return settings


def render(folder: Path, settings: ServerFile, final: Path | None = None) -> None:
    """Write all that follows from the settings: scripts, connection, invitation, app.

    Parameters
    ----------
    folder : Path
        Where to write.
    settings : ServerFile
        Of the coordinator.
    final : Path or None
        The folder's path in the files, where it will be another one.
    """
    at = final or folder
    script = server_texts.superlink_script(at, settings)
    atomic_write(folder / "superlink.sh", script, mode=0o755)
    atomic_write(folder / "superlink.service", server_texts.superlink_service(at, settings))
    atomic_write(folder / "flwr" / "config.toml", server_texts.flower_connection(at, settings))
    atomic_write(folder / "run.toml", server_texts.run_config(at))
    (folder / "runs").mkdir(exist_ok=True)
    write_invitation_file(folder, settings)
    _replace_app(folder / "app")


def upgrade(folder: Path) -> ServerFile:
    """Make the app and the rendered files anew, after an update of fedprint or of settings."""
    settings = read_server_file(folder)
    try_out(folder / "tls", settings.dialled)
    render(folder.resolve(), settings)
    return settings


def _make_keys(folder: Path, new: NewServer, settings: ServerFile, others: Sequence[str]) -> None:
    passphrase = environment_passphrase()
    (folder / "keys").mkdir(mode=0o700)
    if bool(new.key) != (new.public_key is not None):
        raise ConfigError("--key and --public-key belong together: give both, or none of them")
    if new.public_key is None:
        key = generate_key()
        save_private_key(folder / PRIVATE_KEY, key, passphrase)
        pem = public_pem(key)
    else:
        if not is_uri(new.key):
            raise ConfigError(f"--key {new.key} is no URI such as hsm:... or awskms:...")
        pem = read_public_key(new.public_key)
        load_signer(new.key, passphrase, pem)
    atomic_write(folder / PUBLIC_KEY, pem)
    for name, other in zip(settings.co_signers, others, strict=True):
        atomic_write(folder / name, other)


def _replace_app(app: Path) -> None:
    fresh = Path(tempfile.mkdtemp(dir=app.parent, prefix=".app-"))
    try:
        assemble_app(fresh / "app")
        if app.exists():
            os.replace(app, fresh / "old")
        os.replace(fresh / "app", app)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
