"""Fingerprinting as a plugin: one line adds it to any Flower ClientApp.

from fl_client.plugin import add_fingerprinting
add_fingerprinting(app)
"""

from __future__ import annotations

import functools
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fl_client.policy import Policy, gate, load_policy, local_policy
from fl_client.release import make_binding, make_release
from fl_client.site import Site, read_site
from protocol.errors import ConfigError, DataError, FedprintError
from protocol.keys import generate_key, load_private_key, public_pem
from protocol.records import ReleaseRequest, from_release_request, to_hello, to_refusal, to_reply

log = logging.getLogger("fedprint")

KEY_RECORD = "fedprint.key"

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
    return sorted(p for p in sites_dir.iterdir() if p.is_dir() and not p.name.startswith("."))


def add_fingerprinting(
    app: ClientApp, find_folder: FindFolder = site_folder, *, keep_features: bool = False
) -> ClientApp:
    """Let a ClientApp answer fedprint's roll call and release its signed fingerprint.

    Parameters
    ----------
    app : ClientApp
        Any app of the Message API; its own functions stay as they are.
    find_folder : callable
        From Flower's context to the site's folder of labelled images.
    keep_features : bool
        Keep the features in the site's state folder, for co-training that starts from them.
        Otherwise nothing is written at the site: its folder may be read-only, and an app's own
        reader finds in it what it always found.

    Returns
    -------
    ClientApp
        The same app, now with ``query.hello`` and ``query.fingerprint``.
    """

    @app.query("hello")
    @answering
    def hello(_message: Message, context: Context) -> RecordDict:
        site = current_site(context, find_folder)
        return to_hello(site.name, public_pem(signing_key(context)))

    @app.query("fingerprint")
    @answering
    def fingerprint(message: Message, context: Context) -> RecordDict:
        request = from_release_request(message.content)
        site = current_site(context, find_folder)
        key, policy, device = signing_key(context), site_policy(context), device_name(context)
        return to_reply(*answer_request(site, request, key, policy, device, keep_features))

    return app


def answering(
    answer: Callable[[Message, Context], RecordDict],
) -> Callable[[Message, Context], Message]:
    """Turn an expected error into a reply that names its reason, instead of a lost node."""

    @functools.wraps(answer)
    def wrapped(message: Message, context: Context) -> Message:
        try:
            content = answer(message, context)
        except FedprintError as error:
            log.error("refused: %s", error)
            content = to_refusal(str(getattr(error, "reason", "site-error")), _outside(error))
        return Message(content, reply_to=message)

    return wrapped


def _outside(error: FedprintError) -> str:
    """Return what the coordinator may read: file names and subject ids stay at the site."""
    if isinstance(error, DataError) and not simulated():
        return "the site's data cannot be used as they are: the site's own log says why"
    return str(error)


def simulated() -> bool:
    """Tell whether this process belongs to Flower's simulation engine, whatever a config says."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def current_site(context: Context, find_folder: FindFolder = site_folder) -> Site:
    """Return the site of this node; it is read once a process, again when its files change."""
    folder = find_folder(context).resolve()
    state = context.node_config.get("state")
    return _read_site(folder, str(state) if state else None, _fingerprint_of_files(folder))


@functools.lru_cache(maxsize=64)
def _read_site(folder: Path, state: str | None, _changed: object) -> Site:
    return read_site(folder, state=Path(state) if state else None)


def _fingerprint_of_files(folder: Path) -> object:
    """Stamp of the two files that describe a site; images are digested by the feature cache."""
    names = ("site.toml", "labels.csv")
    return tuple(
        (folder / name).stat().st_mtime_ns if (folder / name).exists() else 0 for name in names
    )


def signing_key(context: Context) -> PrivateKeyTypes:
    """Return the key that signs for this node.

    A SuperNode names its own with ``--node-config 'key="FILE"'``; a simulated one makes an
    ephemeral key, which Flower's context keeps for the length of the run.
    """
    named = context.node_config.get("key")
    if named:
        passphrase = os.environ.get("FEDPRINT_KEY_PASSPHRASE")
        return load_private_key(
            Path(str(named)).expanduser(), passphrase.encode() if passphrase else None
        )
    if KEY_RECORD not in context.state.config_records:
        made = generate_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        context.state.config_records[KEY_RECORD] = ConfigRecord({"pem": made})
    pem = context.state.config_records[KEY_RECORD]["pem"]
    assert isinstance(pem, bytes)
    return load_pem_private_key(pem, None)


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


def device_name(context: Context) -> str | None:
    """Device that the site, or else the run, asks for; None chooses by itself."""
    name = context.node_config.get("device") or context.run_config.get("device")
    return str(name) if name else None


def answer_request(
    site: Site,
    request: ReleaseRequest,
    key: PrivateKeyTypes,
    policy: Policy,
    device: str | None,
    keep_features: bool = False,
) -> tuple[bytes, bytes, bytes]:
    """Pass a request through the site's gate, then fingerprint, sign and bind.

    Returns
    -------
    payload, release, binding : bytes
        The safetensors file and the two envelopes.

    Raises
    ------
    PolicyError
        If the site's policy does not permit it; no image is opened then.
    """
    from fl_client.extract import extract
    from fl_client.features import cached_features

    gate(policy, request.spec, site)
    if keep_features:
        _, counts = cached_features(site, request.spec, device)
    else:
        extracted = extract(site.images, request.spec.require_ready(), device=device)
        assert extracted.counts is not None
        counts = extracted.counts
    payload, release = make_release(site, counts, request.spec, key, policy)
    return payload, release, make_binding(site.name, release, request.run, request.nonce, key)
