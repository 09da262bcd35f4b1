"""What this node's own configuration says: the site's folder, key, policy and device."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from flwr.app import ConfigRecord, Context

from fl_client.policy import Policy, load_policy, local_policy
from fl_client.site import Site, opened_stamp, read_site, read_site_name, site_stamp
from fl_client.site_file import SITE_FILE, read_site_file
from fl_client.site_keys import open_signer
from fl_client.site_settings import load_site_settings
from fl_client.tracking import site_tracking
from protocol.enrolment import load_invitation
from protocol.errors import ConfigError, DataError
from protocol.keys import Signer, generate_key, is_uri, key_id, signer
from protocol.tracking import Tracking

KEY_RECORD = "fedprint.key"
INVITATION = "invitation.json"

FindFolder = Callable[[Context], Path]


def site_folder(context: Context) -> Path:
    """Find the site's folder.

    A SuperNode names its own with ``--node-config 'site="FOLDER"'``. In a simulation the run-config
    ``sites-dir`` is a folder of site folders, dealt out in the order of their names.

    Raises
    ------
    ConfigError, DataError
        If neither is given or there are fewer folders than simulated nodes.
    """
    own = context.node_config.get("site")
    if own:
        return Path(str(own)).expanduser()
    sites_dir = str(context.run_config.get("sites-dir", ""))
    partition = context.node_config.get("partition-id")
    if not sites_dir or partition is None:
        raise ConfigError(
            "no site folder: start the SuperNode with --node-config 'site=\"FOLDER\"', "
            "or a simulation with run-config sites-dir"
        )
    folders = list_site_folders(Path(sites_dir).expanduser())
    if int(partition) >= len(folders):
        raise DataError(f"{sites_dir} holds {len(folders)} site folders, fewer than nodes")
    return folders[int(partition)]


def list_site_folders(sites_dir: Path) -> list[Path]:
    """Return the site folders below `sites_dir` by name; hidden ones are not sites."""
    if not sites_dir.is_dir():
        raise DataError(f"{sites_dir} is not a folder of site folders")
    return list(_list_folders(sites_dir, sites_dir.stat().st_mtime_ns))


@functools.lru_cache(maxsize=4)
def _list_folders(sites_dir: Path, _changed: int) -> tuple[Path, ...]:
    """List once a process, again when folders come or go: each message of each site asks."""
    with os.scandir(sites_dir) as entries:
        names = [e.name for e in entries if e.is_dir() and not e.name.startswith(".")]
    return tuple(sites_dir / name for name in sorted(names))


def simulated() -> bool:
    """Tell whether this process belongs to Flower's simulation engine, whatever a config says."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def current_site(context: Context, find_folder: FindFolder = site_folder) -> Site:
    """Return the site of this node; it is read once a process, again when its files change."""
    folder = find_folder(context).resolve()
    state = context.node_config.get("state")
    key = (folder, str(state) if state else None, site_stamp(folder))
    site, opened = _read_site(*key)
    if opened != opened_stamp(site):
        _read_site.cache_clear()
        site, _ = _read_site(*key)
    return site


@functools.lru_cache(maxsize=64)
def _read_site(folder: Path, state: str | None, _changed: object) -> tuple[Site, object]:
    site = read_site(folder, state=Path(state).expanduser() if state else None)
    return site, opened_stamp(site)


def site_name(context: Context, find_folder: FindFolder = site_folder) -> str:
    """Return the name of this node's site, which may have millions of images to list."""
    return read_site_name(find_folder(context).resolve())


def site_signer(context: Context) -> Signer:
    """Return the signer of this node.

    A SuperNode names its own with ``--node-config 'key="FILE"'``, or with the URI of a hardware
    module or key service and ``public-key="FILE"`` beside it; a simulated one makes an ephemeral
    key, which Flower's context keeps for the length of the run.

    Raises
    ------
    ConfigError
        If the key that is named cannot be used.
    """
    named, public = (context.node_config.get(name) for name in ("key", "public-key"))
    if named:
        where = str(named) if is_uri(str(named)) else Path(str(named)).expanduser()
        return open_signer(where, _read_public(Path(str(public)).expanduser()) if public else None)
    if KEY_RECORD not in context.state.config_records:
        made = generate_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        context.state.config_records[KEY_RECORD] = ConfigRecord({"pem": made})
    stored = context.state.config_records[KEY_RECORD]["pem"]
    assert isinstance(stored, bytes)
    return signer(load_pem_private_key(stored, None))


def _read_public(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"public key {path} cannot be read: {error}") from error


def site_policy(context: Context) -> Policy:
    """Return the site's release policy: its own file, or in a simulation the built-in one.

    Raises
    ------
    ConfigError
        If a SuperNode, which is not simulated, names no policy file.
    """
    named = context.node_config.get("policy")
    if named:
        return load_policy(Path(str(named)).expanduser())
    if context.node_config.get("site") or not simulated():
        raise ConfigError(
            "no release policy: start the SuperNode with --node-config 'policy=\"FILE\"'"
        )
    return local_policy()


def site_recipient(context: Context) -> str:
    """Return whom this node's releases go to, as `SiteSettings.recipient` has it.

    The SuperNode was told when it started; of one that was not, ``site.toml`` has to say it. In a
    simulation nobody is named.

    Raises
    ------
    ConfigError, DataError
        If ``site.toml`` or the certificate that it names cannot be used.
    """
    told, own = (context.node_config.get(name) for name in ("recipient", "site"))
    if told or not own:
        return str(told or "")
    folder = Path(str(own)).expanduser()
    deployed = read_site_file(folder / SITE_FILE).site.superlink is not None
    return load_site_settings(folder).recipient if deployed else ""


def site_coordinators(context: Context) -> set[str]:
    """Return the ids of the keys that coordinators sign with, as the site was invited by them.

    Empty where nobody was invited: in a simulation, or with an address and a certificate only.

    Raises
    ------
    ConfigError
        If the invitation cannot be used.
    """
    own = context.node_config.get("site")
    path = Path(str(own)).expanduser() / INVITATION
    if not own or not path.is_file():
        return set()
    return {key_id(pem) for pem in load_invitation(path).coordinators}


def node_tracking(context: Context, site: Site) -> Tracking | None:
    """Return where this node's training curves go; a deployed one asks its own ``site.toml`` only.

    Raises
    ------
    DataError
        If ``site.toml`` cannot be used.
    """
    asked = context.run_config if simulated() else {}
    return site_tracking(site, read_site_file(site.folder / SITE_FILE).tracking, asked)


def device_name(context: Context) -> str | None:
    """Device that the site, or else the run, asks for; None chooses by itself."""
    name = context.node_config.get("device") or context.run_config.get("device")
    return str(name) if name else None


def node_name(context: Context) -> str:
    """Name this node in a log line, also where its site cannot be read."""
    own = context.node_config.get("site")
    if not own:
        return f"node {context.node_config.get('partition-id', context.node_id)}"
    folder = Path(str(own)).expanduser()
    try:
        return read_site_file(folder / SITE_FILE).site.name or folder.name
    except DataError:
        return folder.name
