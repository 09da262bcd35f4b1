"""What a site and its coordinator hand each other before the first run: two small files.

The coordinator's *invitation* says where it is and by which keys it is known. The site's
*enrolment* names the site's keys and is signed by each of them, which proves that the site holds
them. Neither says who made it: people compare the key ids over another channel.
"""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from cryptography.x509 import InvalidVersion, load_pem_x509_certificates
from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from protocol.envelope import open_by_several, own_keys, parse_statement, sign
from protocol.errors import (
    ConfigError,
    MalformedStatement,
    TooFewSignatures,
    one_line,
)
from protocol.files import atomic_json
from protocol.keys import Signer, key_id, signer_pem
from protocol.names import Sha256Hex, SiteName
from protocol.statement import utc_now

ENROLMENT_TYPE = "application/vnd.fedprint.enrolment+json"
LIMIT = 64 * 1024
"""Most bytes that an enrolment or an invitation may have."""


class Enrolment(BaseModel):
    """A site's keys, as the site names them.

    Parameters
    ----------
    site : str
        Whose keys.
    key_pem : str
        The key that signs what the site releases.
    node_key_pem : str
        The NIST curve key that authenticates the site's Flower node; it may be the same.
    issued : datetime
        When the file was made.
    replaces : str or None
        In a rotation the id of the signing key before, which has signed too.
    """

    model_config = ConfigDict(frozen=True)

    site: SiteName
    key_pem: str
    node_key_pem: str
    issued: AwareDatetime
    replaces: Sha256Hex | None = None

    @field_validator("key_pem", "node_key_pem")
    @classmethod
    def _are_keys(cls, pem: str) -> str:
        return _checked_key(pem)

    @field_validator("node_key_pem")
    @classmethod
    def _node_key_is_ec(cls, pem: str) -> str:
        if not isinstance(load_pem_public_key(pem.encode()), ec.EllipticCurvePublicKey):
            raise ValueError("Flower's node key must be of a NIST curve, such as P-384")
        return pem

    @property
    def key_id(self) -> str:
        """Id of the signing key."""
        return key_id(self.key_pem)

    @property
    def node_key_id(self) -> str:
        """Id of the node key."""
        return key_id(self.node_key_pem)


def make_enrolment(site: str, signing: Signer, node: Signer, old: Signer | None = None) -> bytes:
    """Return a site's enrolment, signed by every key that it names.

    Parameters
    ----------
    site : str
        The site's name.
    signing, node : Signer
        The keys that it will use; the same one twice is fine.
    old : Signer or None
        In a rotation the signing key before.

    Raises
    ------
    ConfigError
        When a key cannot be used so, or the new signing key is the old one.
    """
    replaces = old.public_key.keyid if old is not None else None
    if replaces == signing.public_key.keyid:
        raise ConfigError("a rotation needs a new signing key: make one")
    try:
        enrolment = Enrolment(
            site=site,
            key_pem=signer_pem(signing),
            node_key_pem=signer_pem(node),
            issued=utc_now(),
            replaces=replaces,
        )
    except ValidationError as error:
        raise ConfigError(f"this site cannot enrol: {one_line(error)}") from None
    also = [node] if old is None else [node, old]
    return sign(enrolment, signing, ENROLMENT_TYPE, also=also)


def open_enrolment(data: bytes) -> Enrolment:
    """Verify an enrolment: whole, and signed by every key that it names.

    Raises
    ------
    VerificationError
        When it is not; a rotation that the old key did not sign is refused too.
    """
    keys = {key.keyid: key for key in own_keys(data, LIMIT)}
    payload, _ = open_by_several(data, keys.values(), len(keys), ENROLMENT_TYPE, LIMIT)
    enrolment = parse_statement(payload, Enrolment)
    if enrolment.replaces == enrolment.key_id:
        raise MalformedStatement("the enrolment replaces a key by itself: make a new key")
    for what, needed in (
        ("signing key", enrolment.key_id),
        ("node key", enrolment.node_key_id),
        ("old signing key", enrolment.replaces),
    ):
        if needed is not None and needed not in keys:
            raise TooFewSignatures(
                f"the enrolment of {enrolment.site} is not signed with the {what} {needed[:12]} "
                "that it names: have the site make the file again"
            )
    return enrolment


class Invitation(BaseModel):
    """What a site needs to know of its coordinator; public, and not signed.

    Parameters
    ----------
    name : str
        The coordinator's name.
    address : str
        ``HOST:PORT`` of its SuperLink.
    certificates : str
        The certificates (PEM) under which the SuperLink's own was issued.
    coordinators : list of str
        Public keys (PEM) of all coordinators, the inviting one first.
    threshold : int
        How many of them must sign a trust store.
    """

    model_config = ConfigDict(frozen=True)

    name: str = Field(max_length=200)
    address: str = Field(pattern=r"^[^\s:/]+:\d{1,5}$|^\[[0-9a-fA-F:.]+\]:\d{1,5}$")
    certificates: str
    coordinators: list[str] = Field(min_length=1, max_length=32)
    threshold: int = Field(default=1, ge=1)

    @field_validator("certificates")
    @classmethod
    def _are_certificates(cls, pem: str) -> str:
        try:
            load_pem_x509_certificates(pem.encode())
        except (ValueError, InvalidVersion):  # the latter is no ValueError
            raise ValueError("these are no certificates in PEM form") from None
        return pem

    @field_validator("coordinators")
    @classmethod
    def _are_keys(cls, pems: list[str]) -> list[str]:
        return [_checked_key(pem) for pem in pems]

    @model_validator(mode="after")
    def _enough_can_sign(self) -> Invitation:
        able = len({key_id(pem) for pem in self.coordinators})
        if self.threshold > able:
            raise ValueError(f"{self.threshold} must sign, but there are {able} coordinators")
        return self


def load_invitation(path: Path | str) -> Invitation:
    """Read a coordinator's invitation.

    Raises
    ------
    ConfigError
        When the file cannot be read or is none.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"invitation {path} cannot be read: {error.strerror}") from error
    try:
        if len(data) > LIMIT:
            raise ConfigError(f"invitation {path} has more than {LIMIT} bytes: it is none")
        return Invitation.model_validate_json(data)
    except ValidationError as error:
        raise ConfigError(
            f"{path} is no invitation: {one_line(error)}; ask the coordinator for invitation.json"
        ) from None


def write_invitation(path: Path | str, invitation: Invitation) -> None:
    """Write an invitation as readable JSON."""
    atomic_json(path, invitation)


def _checked_key(pem: str) -> str:
    try:
        key_id(pem)
    except ConfigError as error:
        raise ValueError(str(error)) from None
    return pem
