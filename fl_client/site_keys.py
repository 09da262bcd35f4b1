"""The keys of a site: Flower's node key, and where wanted a separate one that signs."""

from __future__ import annotations

from pathlib import Path

from protocol.errors import ConfigError
from protocol.keys import (
    PASSPHRASE,
    Signer,
    environment_passphrase,
    generate_key,
    generate_node_key,
    is_uri,
    load_private_key,
    load_signer,
    save_node_key,
    save_private_key,
)

NODE_KEY = "keys/node"
SIGNING_KEY = "keys/signing.pem"


def make_keys(folder: Path, separate: bool) -> tuple[Signer, Signer]:
    """Make a node key, and a separate encrypted signing key where wanted.

    Returns
    -------
    signing, node : Signer
        The same twice where the node's key signs.

    Raises
    ------
    ConfigError
        If a separate key is wanted and no passphrase given.
    """
    passphrase = environment_passphrase()
    if separate and passphrase is None:
        raise ConfigError(f"a separate signing key needs a passphrase: set {PASSPHRASE}")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / Path(NODE_KEY).name
    save_node_key(path, generate_node_key())
    node = load_signer(path)
    if not separate:
        return node, node
    path = folder / Path(SIGNING_KEY).name
    save_private_key(path, generate_key(), passphrase)
    return load_signer(path, passphrase), node


def existing_signer(key: str, public_key: Path | None) -> tuple[Signer, str]:
    """Return the signer of a key that is there already, and how ``site.toml`` names it.

    Raises
    ------
    ConfigError
        If it cannot be used, or is a URI without its public half.
    """
    try:
        public = public_key.read_text(encoding="utf-8") if public_key is not None else None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"public key {public_key} cannot be read: {error}") from error
    if is_uri(key):
        return open_signer(key, public), key
    path = Path(key).expanduser().absolute()
    return open_signer(path, public), str(path)


def open_signer(key: Path | str, public_pem: str | None = None) -> Signer:
    """Return the signer of a site's signing key, with the passphrase only where it takes one.

    Raises
    ------
    ConfigError
        If it cannot be opened.
    """
    secret = environment_passphrase() if needs_passphrase(key) else None
    return load_signer(key, secret, public_pem)


def needs_passphrase(key: Path | str) -> bool:
    """Tell whether a signing key may ask for a passphrase: an encrypted file, or a URI."""
    if is_uri(key):
        return True
    try:
        load_private_key(key)
    except ConfigError:
        return True
    return False
