"""The trust store: which key speaks for which site, since when, until when.

A store is never changed: enrolment, rotation and revocation make the next version. The
coordinator signs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from protocol.envelope import open_envelope, parse_statement, sign
from protocol.errors import (
    ConfigError,
    KeyNotValid,
    StaleStore,
    UnknownKey,
    WrongSite,
)
from protocol.keys import CryptoSigner, SSlibKey, key_id, public_key
from protocol.names import Sha256Hex, SiteName, check_site_name
from protocol.statement import utc_now

STORE_TYPE = "application/vnd.fedprint.trust-store+json"
VALIDITY = timedelta(days=365)


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
    status : {"active", "revoked"}
        A revoked key is never valid.
    """

    model_config = ConfigDict(frozen=True)

    site: SiteName
    key_id: Sha256Hex
    public_key_pem: str
    not_before: AwareDatetime
    not_after: AwareDatetime
    status: Literal["active", "revoked"] = "active"

    @model_validator(mode="after")
    def _id_fits_key(self) -> Self:
        try:
            derived = key_id(self.public_key_pem)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        if derived != self.key_id:
            raise ValueError(f"key id {self.key_id[:12]} is not that of its public key")
        return self


class TrustStore(BaseModel):
    """All keys, in one version.

    Parameters
    ----------
    version : int
        Grows by one with every change.
    issued : datetime
        When this version was made.
    entries : list of TrustEntry
        In order of enrolment; revoked ones stay.
    """

    model_config = ConfigDict(frozen=True)

    version: int = Field(ge=0)
    issued: AwareDatetime
    entries: list[TrustEntry] = []

    @model_validator(mode="after")
    def _keys_are_distinct(self) -> Self:
        ids = [entry.key_id for entry in self.entries]
        if len(set(ids)) < len(ids):
            raise ValueError("one key is enrolled twice")
        return self

    @classmethod
    def empty(cls) -> Self:
        """Return version 0, without keys."""
        return cls(version=0, issued=utc_now(), entries=[])

    def enrol(
        self,
        site: str,
        public_key_pem: str,
        *,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
    ) -> Self:
        """Return the next version, with one more key.

        Parameters
        ----------
        site : str
            Whom the key speaks for; a site may have several, as in a rotation.
        public_key_pem : str
            The public key.
        not_before, not_after : datetime or None
            Validity; by default from now on for one year.

        Raises
        ------
        ConfigError
            When the key is unusable or enrolled already.
        DataError
            When the name is unusable.
        """
        return self._next([*self.entries, self._entry(site, public_key_pem, not_before, not_after)])

    def enrol_all(self, keys: Mapping[str, str]) -> Self:
        """Return the next version with the keys (PEM by site) of many sites."""
        new = [self._entry(site, pem, None, None) for site, pem in keys.items()]
        ids = [entry.key_id for entry in new]
        for entry in new:
            if ids.count(entry.key_id) > 1:
                raise ConfigError(f"site {entry.site} brings the key of another site: make a new")
        return self._next([*self.entries, *new])

    def revoke(self, key: str) -> Self:
        """Return the next version, in which the key of this id is revoked.

        Raises
        ------
        ConfigError
            When the store does not hold the key.
        """
        if all(entry.key_id != key for entry in self.entries):
            raise ConfigError(f"cannot revoke {key[:12]}: the trust store holds no such key")
        return self._next(
            [
                entry.model_copy(update={"status": "revoked"}) if entry.key_id == key else entry
                for entry in self.entries
            ]
        )

    def key_for(self, key: str, site: str, now: datetime) -> SSlibKey:
        """Return the public key of an id, when it speaks for the site now.

        Raises
        ------
        UnknownKey
            When the store does not hold it.
        WrongSite
            When it is another site's.
        KeyNotValid
            When it was revoked, has expired or is not valid yet.
        """
        entry = next((e for e in self.entries if e.key_id == key), None)
        short = key[:12]
        if entry is None:
            raise UnknownKey(f"key {short!r} of {site} is not in the trust store: enrol it first")
        if entry.site != site:
            raise WrongSite(f"key {short} belongs to {entry.site}, not to {site}")
        if entry.status == "revoked":
            raise KeyNotValid(f"key {short} of {site} was revoked: sign with the site's new key")
        if not entry.not_before <= now <= entry.not_after:
            raise KeyNotValid(
                f"key {short} of {site} is valid from {entry.not_before:%Y-%m-%d %H:%M} to "
                f"{entry.not_after:%Y-%m-%d %H:%M} UTC only: enrol a new key"
            )
        return public_key(entry.public_key_pem)

    def _entry(
        self, site: str, pem: str, not_before: datetime | None, not_after: datetime | None
    ) -> TrustEntry:
        known = next((e for e in self.entries if e.key_id == key_id(pem)), None)
        if known is not None:
            raise ConfigError(f"this key is enrolled already, for {known.site}: make a new one")
        start = not_before or utc_now()
        return TrustEntry(
            site=check_site_name(site),
            key_id=key_id(pem),
            public_key_pem=pem,
            not_before=start,
            not_after=not_after or start + VALIDITY,
        )

    def _next(self, entries: list[TrustEntry]) -> Self:
        return type(self)(version=self.version + 1, issued=utc_now(), entries=entries)


def sign_store(store: TrustStore, signer: CryptoSigner) -> bytes:
    """Return the store as an envelope signed by the coordinator."""
    return sign(store, signer, STORE_TYPE)


def open_store(data: bytes, coordinator_pem: str, *, at_least: int = 0) -> TrustStore:
    """Verify a signed trust store.

    Parameters
    ----------
    data : bytes
        The envelope.
    coordinator_pem : str
        The coordinator's public key, known beforehand.
    at_least : int
        The newest version seen so far: an older one is a rollback.

    Raises
    ------
    VerificationError
        When the envelope is not whole, not the coordinator's, or older than `at_least`.
    """
    coordinator = public_key(coordinator_pem)

    def find(key: str) -> SSlibKey:
        if key != coordinator.keyid:
            raise UnknownKey(f"the trust store is signed with {key[:12]!r}, not the coordinator's")
        return coordinator

    payload, _ = open_envelope(data, find, STORE_TYPE)
    store = parse_statement(payload, TrustStore)
    if store.version < at_least:
        raise StaleStore(
            f"trust store version {store.version} is older than version {at_least}, which was "
            "seen already: fetch the current one"
        )
    return store
