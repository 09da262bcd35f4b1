"""The settings of a deployed site: ``[site]`` of its ``site.toml`` with every path resolved."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from fl_client.site_file import SITE_FILE, SiteFile, SiteTable, read_site_file, resolve
from protocol.errors import ConfigError, DataError
from protocol.files import sha256_hex
from protocol.keys import is_uri
from protocol.names import check_site_name


class SiteSettings(BaseModel):
    """How a site takes part in a federation; all paths are absolute.

    Parameters
    ----------
    folder : Path
        The site's folder.
    name : str
        The site's name.
    data : Path
        Folder of its images.
    superlink : str
        The coordinator's ``HOST:PORT``.
    certificates : Path
        Certificate of the authority that vouches for the coordinator.
    key : Path
        Private key with which Flower authenticates the node.
    signing_key : Path or str
        What signs releases: a file, often `key`, or the URI of a key in hardware or a cloud.
    public_key : Path or None
        PEM file of the public half of a `signing_key` that is a URI.
    policy, state : Path
        The release policy, and the folder of what fedprint keeps at the site.
    device : str
        What computes; empty takes the first that is there.
    port : int
        Local port of Flower's processes; 0 takes a free one.
    """

    model_config = ConfigDict(frozen=True)

    folder: Path
    name: str
    data: Path
    superlink: str
    certificates: Path
    key: Path
    signing_key: Path | str
    public_key: Path | None = None
    policy: Path
    state: Path
    device: str = ""
    port: int = 0

    @property
    def enrolment(self) -> Path:
        """The file to hand to the coordinator."""
        return self.folder / f"{self.name}.enrol.json"

    @property
    def authority(self) -> str:
        """SHA-256 of the authority's certificate file.

        Raises
        ------
        ConfigError
            If it cannot be read.
        """
        try:
            return sha256_hex(self.certificates.read_bytes())
        except OSError as error:
            raise ConfigError(
                f"certificate {self.certificates} cannot be read: {error.strerror}: ask the "
                "coordinator for ca.crt again"
            ) from error

    @property
    def recipient(self) -> str:
        """Whom releases go to: the coordinator's address, and `authority`, who vouches for it."""
        return f"{self.superlink} {self.authority}"

    @property
    def public_pem(self) -> str | None:
        """Public half of a signing key that is a URI.

        Raises
        ------
        ConfigError
            If its file cannot be read.
        """
        if self.public_key is None:
            return None
        try:
            return self.public_key.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"public key {self.public_key} cannot be read: {error}") from error


def load_site_settings(folder: Path | str) -> SiteSettings:
    """Read the settings of a site's folder, as ``fedprint site init`` makes it.

    Raises
    ------
    ConfigError
        If the folder is none, or its ``site.toml`` cannot be used for a deployment.
    """
    folder = Path(folder).expanduser().absolute()
    path = folder / SITE_FILE
    if not path.is_file():
        raise ConfigError(f"{folder} holds no {SITE_FILE}: make it with `fedprint site init`")
    try:
        described = read_site_file(path)
        name = check_site_name(described.site.name or folder.resolve().name)
    except DataError as error:
        raise ConfigError(str(error)) from error
    return _settings(folder, name, described)


def _settings(folder: Path, name: str, described: SiteFile) -> SiteSettings:
    table, path = described.site, folder / SITE_FILE
    if table.superlink is None:
        raise ConfigError(f"{path}: [site] names no superlink: add the coordinator's HOST:PORT")
    parse_address(table.superlink, f"{path}: site.superlink")
    return SiteSettings(
        folder=folder,
        name=name,
        data=described.data_folder(folder),
        superlink=table.superlink,
        certificates=resolve(folder, table.certificates),
        key=resolve(folder, table.key),
        signing_key=_signing_key(folder, table, path),
        public_key=resolve(folder, table.public_key) if table.public_key else None,
        policy=resolve(folder, table.policy),
        state=described.state_folder(folder),
        device=table.device,
        port=table.port,
    )


def _signing_key(folder: Path, table: SiteTable, path: Path) -> Path | str:
    key = table.signing_key or table.key
    if not is_uri(key):
        return resolve(folder, key)
    if table.public_key is None:
        raise ConfigError(f"{path}: [site] names no public-key for {key}: add its PEM file")
    return key


def parse_address(address: str, where: str) -> tuple[str, int]:
    """Return host and port of ``HOST:PORT`` or ``[IPV6]:PORT``.

    Raises
    ------
    ConfigError
        If it has another form; begins with `where`.
    """
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    good = host and not set(host) & set("/ ") and port.isascii() and port.isdigit()
    if not good or not 0 < int(port) < 65536:
        raise ConfigError(f"{where} {address!r} is no address: write HOST:PORT, without https://")
    return host, int(port)
