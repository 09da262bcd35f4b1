"""The coordinator's settings, ``server.toml``: who it is, where, and who signs with it."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from protocol.errors import ConfigError, one_line
from protocol.files import atomic_write
from protocol.keys import Signer, environment_passphrase, is_uri, key_id, load_signer
from protocol.names import SiteName

SERVER_FILE = "server.toml"
PRIVATE_KEY, PUBLIC_KEY = "keys/coordinator.pem", "keys/coordinator.pub.pem"
EVERYWHERE = ("0.0.0.0", "::")
_TEXT = """\
# A coordinator of fedprint, made by `fedprint server init`. Paths count from this folder.
name = {name}
address = {address}  # where sites and `flwr run` reach the SuperLink
host = {host}  # where the SuperLink listens; `fedprint server init DIR --upgrade` applies it
key = {key}  # signs trust stores and logs: a file, or a URI such as "hsm:..." or "awskms:..."
threshold = {threshold}  # so many of the coordinators must sign a trust store
co-signers = {co_signers}  # public keys of the other coordinators
"""


class ServerFile(BaseModel):
    """Content of ``server.toml``.

    Parameters
    ----------
    name : str
        The coordinator's name, shown to sites.
    address : str
        ``HOST:PORT`` as sites dial it.
    host : str
        Address on which the SuperLink listens.
    key : str
        Signing key: a file, counted from the folder, or a URI.
    threshold : int
        How many coordinators must sign a trust store.
    co_signers : list of str
        Files with the other coordinators' public keys.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=lambda name: name.replace("_", "-"),
        validate_by_name=True,
    )

    name: SiteName
    address: str
    host: str = EVERYWHERE[0]
    key: str = PRIVATE_KEY
    threshold: int = Field(default=1, ge=1)
    co_signers: list[str] = []

    @field_validator("address")
    @classmethod
    def _has_host_and_port(cls, address: str) -> str:
        split_address(address)
        return address

    @model_validator(mode="after")
    def _enough_can_sign(self) -> ServerFile:
        if self.threshold > 1 + len(self.co_signers):
            raise ValueError(
                f"{self.threshold} must sign, but there are {1 + len(self.co_signers)} "
                "coordinators: name the others with --co-signer"
            )
        return self

    @property
    def port(self) -> int:
        """Port of the SuperLink."""
        return split_address(self.address)[1]

    @property
    def dialled(self) -> list[str]:
        """Hosts under which the SuperLink is dialled: the sites', and that of its own processes."""
        local = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return list(dict.fromkeys([split_address(self.address)[0], local]))

    def signer(self, folder: Path) -> Signer:
        """Return the signer of the coordinator's key; a passphrase comes from the environment."""
        pem = read_public_key(folder / PUBLIC_KEY)
        where = self.key if is_uri(self.key) else folder / self.key
        return load_signer(where, environment_passphrase(), pem)

    def coordinators(self, folder: Path) -> list[str]:
        """Return the public keys (PEM) of all coordinators, this one first."""
        return [read_public_key(folder / name) for name in (PUBLIC_KEY, *self.co_signers)]


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of ``HOST:PORT``, the host of IPv6 without its brackets.

    Raises
    ------
    ValueError
        When it is no such address.
    """
    found = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([^\s:/\[\]]+)):(\d{1,5})", address)
    if found is None or not 0 < int(found[3]) < 65536:
        raise ValueError(f"address {address!r} is not HOST:PORT, for example fl.example.org:8000")
    return found[1] or found[2], int(found[3])


def make_server_file(**values: object) -> ServerFile:
    """Return settings made of options.

    Raises
    ------
    ConfigError
        When one cannot be used.
    """
    try:
        return ServerFile.model_validate(values)
    except ValidationError as error:
        raise ConfigError(one_line(error)) from None


def read_server_file(folder: Path) -> ServerFile:
    """Read the settings of a coordinator's folder.

    Raises
    ------
    ConfigError
        When the folder is no coordinator's, or the file is not in order.
    """
    path = folder / SERVER_FILE
    try:
        return ServerFile.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ConfigError(
            f"{folder} is no coordinator's folder (it has no {SERVER_FILE}): make one with "
            "fedprint server init"
        ) from None
    except ValidationError as error:
        raise ConfigError(f"{path}: {one_line(error)}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not a TOML file: {error}") from None


def write_server_file(folder: Path, settings: ServerFile) -> None:
    """Write ``server.toml``, with a comment on each line."""
    values = {key: quoted(value) for key, value in settings.model_dump().items()}
    atomic_write(folder / SERVER_FILE, _TEXT.format(**values))


def quoted(value: object) -> str:
    """Return text, a number or a list of texts as TOML writes it."""
    return json.dumps(value, ensure_ascii=False)  # TOML has no surrogates for what lies beyond


def read_public_key(path: Path) -> str:
    """Return a public key file's text.

    Raises
    ------
    ConfigError
        When it cannot be read or holds no public key.
    """
    try:
        pem = path.read_text()
        key_id(pem)
    except OSError as error:
        raise ConfigError(f"public key {path} cannot be read: {error.strerror}") from error
    except (ConfigError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from None
    return pem
