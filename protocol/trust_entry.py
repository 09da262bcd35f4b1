"""One line of the trust store: a site's keys, and whether they may be used."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, model_validator

from protocol.errors import ConfigError, KeyNotValid, KeyRevoked, KeyRotated
from protocol.keys import key_id
from protocol.names import Sha256Hex, SiteName


class TrustEntry(BaseModel):
    """One key of one site.

    Parameters
    ----------
    site : str
        Whom the key speaks for.
    key_id : str
        Id of the key, derived from it.
    public_key_pem : str
        The public key (SubjectPublicKeyInfo PEM).
    not_before, not_after : datetime
        Validity, both ends included.
    status : {"active", "rotated", "revoked"}
        A revoked key is never valid; one that was rotated is, until the end of its validity.
    node_key_pem : str or None
        The key that authenticates the site's Flower node; none in simulation.
    """

    model_config = ConfigDict(frozen=True)

    site: SiteName
    key_id: Sha256Hex
    public_key_pem: str
    not_before: AwareDatetime
    not_after: AwareDatetime
    status: Literal["active", "rotated", "revoked"] = "active"
    node_key_pem: str | None = None

    @model_validator(mode="after")
    def _id_fits_key(self) -> Self:
        try:
            derived = key_id(self.public_key_pem)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        if derived != self.key_id:
            raise ValueError(f"key id {self.key_id[:12]} is not that of its public key")
        return self

    @property
    def node_key_id(self) -> str | None:
        """Id of the node key."""
        return key_id(self.node_key_pem) if self.node_key_pem is not None else None

    def check(self, now: datetime) -> None:
        """Raise the error that says why this key may not be used now, if it may not."""
        key = f"key {self.key_id[:12]} of {self.site}"
        if self.status == "revoked":
            raise KeyRevoked(f"{key} was revoked: sign with the site's new key")
        if self.status == "rotated" and now >= self.not_after:
            raise KeyRotated(
                f"{key} was replaced, and its time of grace ended "
                f"{self.not_after:%Y-%m-%d %H:%M} UTC: sign with the site's new key"
            )
        if not self.not_before <= now <= self.not_after:
            raise KeyNotValid(
                f"{key} is valid from {self.not_before:%Y-%m-%d %H:%M} to "
                f"{self.not_after:%Y-%m-%d %H:%M} UTC only: enrol a new key"
            )

    def usable(self, now: datetime) -> bool:
        """Say whether the key is the site's present one, and valid."""
        return self.status == "active" and self.not_before <= now <= self.not_after
