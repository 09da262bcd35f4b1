"""Keys of a knowledge pool: who signs what is added, and whose word is taken."""

from __future__ import annotations

from pathlib import Path

from fl_server.runstate import KEY, own_signer
from protocol.errors import ConfigError
from protocol.keys import (
    Signer,
    environment_passphrase,
    key_pem,
    load_signer,
    public_key,
    signer,
    user_key,
)


def signer_of(key: str, public: Path | None = None, run: Path | None = None) -> Signer:
    """Return who signs: the named key, the one that lies with the run, or the user's own.

    Raises
    ------
    ConfigError
        If the key cannot be opened.
    """
    if key:
        return load_signer(key, environment_passphrase(), pem_of(public))
    if run is not None and (run / KEY).is_file():
        return own_signer(run)
    return signer(user_key())


def pem_of(path: Path | None) -> str | None:
    """Return a public key that a file holds.

    Raises
    ------
    ConfigError
        If it holds none.
    """
    if path is None:
        return None
    if not path.is_file() or path.stat().st_size > 65536:
        raise ConfigError(f"{path} is no public key: give a PEM file")
    try:
        return key_pem(public_key(path.read_text(encoding="utf-8")))
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is no public key: give a PEM file") from None
