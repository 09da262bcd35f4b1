"""A new site's folder: keys, settings, release policy and the enrolment for the coordinator."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from cryptography.x509 import load_pem_x509_certificates

from fl_client.site_asking import Asked
from fl_client.site_file import SITE_FILE, DataTable, SiteTable, TaskTable, read_site_file
from fl_client.site_keys import SIGNING_KEY, existing_signer, make_keys
from fl_client.site_settings import parse_address
from fl_client.site_texts import SPEC, policy_toml, site_toml
from protocol.enrolment import (
    Enrolment,
    Invitation,
    load_invitation,
    make_enrolment,
    open_enrolment,
)
from protocol.errors import ConfigError
from protocol.files import atomic_json, atomic_write, create_once
from protocol.keys import environment_passphrase, is_uri
from protocol.spec import Spec, list_specs

AUTHORITY = "ca.crt"
POLICY = "policy.toml"
STATE = "state"

SPEC_FILE = "spec.json"
"""The spec that the policy allows, where it is none of the shipped ones."""


@dataclass(frozen=True)
class NewSite:
    """What ``fedprint site init`` was told.

    Attributes
    ----------
    name : str
        The site's name.
    data : Path
        Folder of its images.
    superlink : str
        The coordinator's ``HOST:PORT``.
    certificates : str
        Certificates (PEM) of the authority behind the coordinator's own.
    described : (TaskTable, DataTable) or None
        Its task, and how its images are listed; by default what a ``site.toml`` in the data folder
        says.
    invitation : Invitation or None
        Kept beside the settings, for the coordinators' public keys in it.
    spec : Spec or None
        What may leave, instead of what a new site allows otherwise; kept beside the policy.
    automatic : bool
        Whether the release policy lets go without a person.
    signing_key : str or None
        A key that is there already: a file or a URI.
    public_key : Path or None
        Public half (PEM file) of a `signing_key` that is a URI.
    separate_key : bool
        Whether to sign with an own, encrypted key instead of the node's.
    device : str
        What computes.
    port : int
        Local port of Flower's processes.
    """

    name: str
    data: Path
    superlink: str
    certificates: str
    described: tuple[TaskTable, DataTable] | None = None
    invitation: Invitation | None = None
    spec: Spec | None = None
    automatic: bool = False
    signing_key: str | None = None
    public_key: Path | None = None
    separate_key: bool = False
    device: str = ""
    port: int = 0


def find_coordinator(
    invitation: Path | None, superlink: str, authority: Path | None
) -> tuple[Invitation | None, str, str]:
    """Return the coordinator's invitation, address and certificates (PEM).

    Either from the invitation, or from an address and a certificate file.

    Raises
    ------
    ConfigError
        If neither or both are given, or a file cannot be used.
    """
    if invitation is not None and not superlink and authority is None:
        invited = load_invitation(invitation)
        return invited, invited.address, invited.certificates
    if invitation is not None or not superlink or authority is None:
        raise ConfigError("give either --invitation, or both --superlink and --ca")
    try:
        pem = authority.read_text(encoding="utf-8")
        load_pem_x509_certificates(pem.encode())
    except OSError as error:
        raise ConfigError(f"certificate {authority} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(
            f"{authority} is no certificate in PEM form: ask the coordinator for ca.crt"
        ) from error
    return None, superlink, pem


def init_site(folder: Path, new: NewSite) -> Enrolment:
    """Make a site's folder, whole or not at all.

    Parameters
    ----------
    folder : Path
        It may exist, and hold images, but no site's settings, keys or policy.
    new : NewSite
        The choices.

    Returns
    -------
    Enrolment
        As it lies in ``NAME.enrol.json``.

    Raises
    ------
    ConfigError
        If the folder is a site's already or a choice cannot be used; nothing is written then.
    """
    _check(new)
    existed = folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        draft = Path(tempfile.mkdtemp(dir=folder, prefix=".fedprint-init-"))
        try:
            enrolment = _write(draft, new)
            _publish(draft, folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except BaseException:
        if not existed:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    return enrolment


def write_settings(folder: Path, name: str, asked: Asked) -> Path:
    """Write the ``site.toml`` of a site without a coordinator, and return its path.

    Raises
    ------
    ConfigError
        If there is one already.
    """
    task, data = asked.described or described_in(asked.data)
    path = folder / SITE_FILE
    try:
        create_once(path, site_toml(SiteTable(name=name), task, data))
    except FileExistsError as error:
        raise ConfigError(f"{path} is there already: edit it, or choose another folder") from error
    return path


def _check(new: NewSite) -> None:
    parse_address(new.superlink, "--superlink")
    if not new.data.is_dir():
        raise ConfigError(f"data folder {new.data} does not exist or is no folder: correct --data")
    if new.separate_key and new.signing_key:
        raise ConfigError("--separate-key makes a key, --signing-key names one: give only one")
    if new.public_key is not None and not new.signing_key:
        raise ConfigError("--public-key belongs to a --signing-key: give both")


def _write(draft: Path, new: NewSite) -> Enrolment:
    named = public = None
    separate = new.separate_key or (environment_passphrase() is not None and not new.signing_key)
    signing, node = make_keys(draft / "keys", separate)
    if new.signing_key is not None:
        signing, named = existing_signer(new.signing_key, new.public_key)
        if is_uri(named):
            public = str(Path(str(new.public_key)).expanduser().absolute())
    table = SiteTable.model_validate(
        {
            "name": new.name,
            "superlink": new.superlink,
            "signing-key": SIGNING_KEY if separate else named,
            "public-key": public,
            "state": STATE,
            "device": new.device,
            "port": new.port,
        }
    )
    atomic_write(draft / SITE_FILE, site_toml(table, *(new.described or described_in(new.data))))
    shipped = {known.digest: known.name for known in list_specs()}
    specs = [SPEC] if new.spec is None else [shipped.get(new.spec.digest, new.spec.digest)]
    atomic_write(draft / POLICY, policy_toml(new.name, automatic=new.automatic, specs=specs))
    if new.spec is not None:
        atomic_json(draft / SPEC_FILE, new.spec)
    atomic_write(draft / AUTHORITY, new.certificates)
    if new.invitation is not None:
        atomic_json(draft / "invitation.json", new.invitation)
    (draft / STATE).mkdir(mode=0o700)
    data = make_enrolment(new.name, signing, node)
    atomic_write(draft / f"{new.name}.enrol.json", data)
    return open_enrolment(data)


def described_in(data: Path) -> tuple[TaskTable, DataTable]:
    """Take over what a ``site.toml`` in the data folder says of its task and manifest."""
    described = read_site_file(data / SITE_FILE)
    root = described.data_folder(data).expanduser().absolute()
    return described.task, described.data.model_copy(update={"folder": str(root)})


def _publish(draft: Path, folder: Path) -> None:
    """Move what was made to its place, or on a failure nothing of it."""
    entries = sorted(draft.iterdir())
    for entry in entries:
        if (folder / entry.name).exists():
            raise ConfigError(
                f"{folder} is a site's folder already (it holds {entry.name}): choose another, "
                "or make new keys with `fedprint site rotate`"
            )
    moved: list[Path] = []
    try:
        for entry in entries:
            entry.rename(folder / entry.name)
            moved.append(entry)
    except BaseException:
        for entry in moved:
            (folder / entry.name).rename(entry)
        raise
