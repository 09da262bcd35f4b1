"""Where the SuperLink's certificate comes from, its renewal, and what sites are told of it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from fl_server.certificates import (
    CA_CERT,
    CA_KEY,
    CERT,
    KEY,
    Authority,
    hosts_of,
    issue,
    load_authority,
    make_authority,
    read_certificate,
)
from fl_server.handshake import try_out
from fl_server.server_file import ServerFile, read_server_file
from protocol.enrolment import Invitation, write_invitation
from protocol.errors import ConfigError
from protocol.files import atomic_write
from protocol.keys import environment_passphrase, save_private_key

CERTIFICATE_VALIDITY = 397
"""Days; browsers and many houses' rules allow no more."""


@dataclass(frozen=True)
class CertificateSource:
    """Where the SuperLink's certificate comes from.

    Parameters
    ----------
    ca_cert, ca_key : Path or None
        An authority to issue with; without either, one is made.
    cert, key : Path or None
        A certificate of the house, whose authority is `ca_cert`.
    names : sequence of str
        Further names and addresses of the server.
    days : int
        How long a new certificate is valid.
    """

    ca_cert: Path | None = None
    ca_key: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    names: Sequence[str] = ()
    days: int = CERTIFICATE_VALIDITY

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            raise ConfigError("--cert and --key-file belong together: give both")
        if self.cert is not None and (self.ca_cert is None or self.ca_key is not None):
            raise ConfigError("with --cert and --key-file give --ca-cert, and no --ca-key")
        if self.cert is None and (self.ca_cert is None) != (self.ca_key is None):
            raise ConfigError(
                "--ca-cert and --ca-key belong together: give both, or --cert as well"
            )
        if self.cert is not None and self.names:
            raise ConfigError("--san is for certificates made here, not for one given with --cert")


def make_certificates(
    tls: Path, source: CertificateSource, settings: ServerFile, old: Path | None = None
) -> None:
    """Write the three TLS files, and the authority's key if it is made here; try them out."""
    if source.cert is not None and source.key is not None and source.ca_cert is not None:
        for path, name in ((source.cert, CERT), (source.key, KEY), (source.ca_cert, CA_CERT)):
            read = _read(path)
            atomic_write(tls / name, read, mode=0o600 if name == KEY else 0o644)
    else:
        kept = hosts_of(read_certificate(old / CERT)) if old is not None else []
        hosts = [*settings.dialled, *source.names, *([] if source.names else kept)]
        issue(tls, _authority(tls, source, settings, old), hosts, timedelta(days=source.days))
    try_out(tls, settings.dialled)


def _authority(
    tls: Path, source: CertificateSource, settings: ServerFile, old: Path | None
) -> Authority:
    passphrase = environment_passphrase()
    if source.ca_cert is not None and source.ca_key is not None:
        return load_authority(source.ca_cert, source.ca_key, passphrase)
    if old is not None:
        return load_authority(old / CA_CERT, old / CA_KEY, passphrase)
    authority = make_authority(settings.name)
    save_private_key(tls / CA_KEY, authority.key, passphrase)
    return authority


def renew_certificate(folder: Path, source: CertificateSource) -> ServerFile:
    """Put a new certificate of the server in place of the old one; keys of people stay.

    Raises
    ------
    ConfigError
        If the folder has no authority's key and none is given, or sites would refuse the result;
        the old certificate stays then.
    """
    settings = read_server_file(folder)
    tls = folder / "tls"
    if source.cert is None and source.ca_cert is None and not (tls / CA_KEY).exists():
        raise ConfigError(
            f"{tls} has no {CA_KEY}: give the authority's (--ca-cert, --ca-key) or a new "
            "certificate of its owner's (--ca-cert, --cert, --key-file)"
        )
    draft = Path(tempfile.mkdtemp(dir=folder, prefix=".tls-"))
    try:
        make_certificates(draft, source, settings, tls)
        for name in (CA_CERT, KEY, CERT):
            os.replace(draft / name, tls / name)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    write_invitation_file(folder, settings)
    return settings


def write_invitation_file(folder: Path, settings: ServerFile) -> None:
    """Write ``invitation.json``, all that a site needs to know of the coordinator."""
    invitation = Invitation(
        name=settings.name,
        address=settings.address,
        certificates=_read(folder / "tls" / CA_CERT).decode(),
        coordinators=settings.coordinators(folder),
        threshold=settings.threshold,
    )
    write_invitation(folder / "invitation.json", invitation)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
