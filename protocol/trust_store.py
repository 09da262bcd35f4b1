"""The trust store: which keys speak for which site, since when, until when.

A store is never changed: enrolment, rotation and revocation make the next version.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import cached_property
from typing import Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from protocol.enrolment import Enrolment
from protocol.errors import (
    ConfigError,
    DuplicateSite,
    KeyRevoked,
    KeyRotated,
    UnknownKey,
    UnknownNode,
    WrongSite,
)
from protocol.keys import SSlibKey, key_id, public_key
from protocol.names import check_site_name
from protocol.statement import utc_now
from protocol.trust_entry import TrustEntry

VALIDITY = timedelta(days=365)


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
        times = Counter(entry.key_id for entry in new)
        for entry in new:
            if times[entry.key_id] > 1:
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

    def revoke_site(self, site: str) -> Self:
        """Return the next version, in which every key of the site is revoked.

        Raises
        ------
        ConfigError
            When the store does not hold the site.
        """
        if not self.entries_of(site):
            known = ", ".join(sorted({entry.site for entry in self.entries})) or "none"
            raise ConfigError(f"cannot revoke {site}: no such site is enrolled (enrolled: {known})")
        return self._next(
            [
                entry.model_copy(update={"status": "revoked"}) if entry.site == site else entry
                for entry in self.entries
            ]
        )

    @cached_property
    def _by_key(self) -> dict[str, TrustEntry]:
        return {entry.key_id: entry for entry in self.entries}

    @cached_property
    def _by_site(self) -> dict[str, list[TrustEntry]]:
        found = defaultdict(list)
        for entry in self.entries:
            found[entry.site].append(entry)
        return dict(found)

    @cached_property
    def _by_node(self) -> dict[str, TrustEntry]:
        """The newest entry of each node key."""
        known = ((entry.node_key_id, entry) for entry in self.entries)
        return {key: entry for key, entry in known if key is not None}

    def entries_of(self, site: str) -> list[TrustEntry]:
        """Return the entries of a site, oldest first."""
        return list(self._by_site.get(site, ()))

    def admit(
        self, enrolment: Enrolment, now: datetime | None = None, grace: timedelta = timedelta(0)
    ) -> Self:
        """Return the next version, with the keys of an enrolment.

        Parameters
        ----------
        enrolment : Enrolment
            Verified, see `protocol.enrolment.open_enrolment`.
        now : datetime or None
            From when on the keys are valid.
        grace : timedelta
            In a rotation, how long the keys before stay valid.

        Raises
        ------
        DuplicateSite
            When the site or one of its keys is enrolled already.
        VerificationError
            When a key was revoked (`KeyRevoked`), or a rotation replaces a key that is not the
            site's present one.
        """
        at, site = now or utc_now(), enrolment.site
        entries = list(self.entries)
        if enrolment.replaces is not None:
            old = self._replaced(enrolment, at)
            until = min(old.not_after, at + grace)
            gone = old.model_copy(update={"status": "rotated", "not_after": until})
            entries[entries.index(old)] = gone
        elif any(entry.usable(at) for entry in self.entries_of(site)):
            raise DuplicateSite(
                f"{site} is enrolled already: a new key comes with fedprint site rotate, or after "
                "fedprint server revoke"
            )
        self._check_new(enrolment)
        keys = {"node_key_pem": enrolment.node_key_pem}
        new = self._entry(site, enrolment.key_pem, at, None).model_copy(update=keys)
        return self._next(
            [*entries, new.model_copy(update={"node_key_pem": enrolment.node_key_pem})]
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
            When it was revoked (`KeyRevoked`) or rotated away (`KeyRotated`), has expired or is
            not valid yet.
        """
        entry, short = self._by_key.get(key), key[:12]
        if entry is None:
            raise UnknownKey(f"key {short!r} of {site} is not in the trust store: enrol it first")
        if entry.site != site:
            raise WrongSite(f"key {short} belongs to {entry.site}, not to {site}")
        entry.check(now)
        return public_key(entry.public_key_pem)

    def entry_for_node(self, node_pem: str | bytes) -> TrustEntry:
        """Return the newest entry with this Flower node key, whatever its status.

        Parameters
        ----------
        node_pem : str or bytes
            The node's public key (PEM), as Flower authenticated it.

        Raises
        ------
        UnknownNode
            When no site has it.
        """
        try:
            wanted = key_id(node_pem.decode() if isinstance(node_pem, bytes) else node_pem)
        except (ConfigError, UnicodeDecodeError):
            raise UnknownNode(
                "the node has no key that fedprint can read: register the key of a SuperNode with "
                "fedprint server enrol"
            ) from None
        if wanted not in self._by_node:
            raise UnknownNode(
                f"node key {wanted[:12]} is in the trust store of no site: enrol the site first"
            )
        return self._by_node[wanted]

    def _replaced(self, enrolment: Enrolment, now: datetime) -> TrustEntry:
        """Return the entry that a rotation replaces, when its key may still say so."""
        key, site = str(enrolment.replaces), enrolment.site
        self.key_for(key, site, now)
        old = self._by_key[key]
        if old.status == "rotated":
            raise KeyRotated(
                f"key {key[:12]} of {site} was replaced already: rotate the site's present key"
            )
        return old

    def _check_new(self, enrolment: Enrolment) -> None:
        """Refuse keys that are in the store, in either role; a site may keep its node key."""
        for entry in self.entries:
            kept = (
                enrolment.replaces == entry.key_id
                and enrolment.node_key_id == entry.node_key_id != entry.key_id
            )
            theirs = {entry.key_id} if kept else {entry.key_id, entry.node_key_id}
            for key in (enrolment.key_id, enrolment.node_key_id):
                if key in theirs and entry.status == "revoked":
                    raise KeyRevoked(
                        f"key {key[:12]} of {entry.site} was revoked: the site makes a new folder "
                        "with fedprint site init"
                    )
                if key in theirs:
                    raise DuplicateSite(
                        f"key {key[:12]} is enrolled already, for {entry.site}: have "
                        f"{enrolment.site} make new keys"
                    )

    def _entry(
        self, site: str, pem: str, not_before: datetime | None, not_after: datetime | None
    ) -> TrustEntry:
        known = self._by_key.get(key_id(pem))
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
