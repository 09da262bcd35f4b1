"""The trust store: versions, rotation, revocation, the coordinator's signature."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from pydantic import ValidationError

from protocol.envelope import sign
from protocol.errors import (
    BadSignature,
    ConfigError,
    DataError,
    KeyNotValid,
    MalformedEnvelope,
    StaleStore,
    UnknownKey,
    WrongSite,
)
from protocol.keys import generate_key, key_id, public_pem, signer
from protocol.statement import utc_now
from protocol.trust import TrustStore, open_store, sign_store


def pem() -> str:
    return public_pem(generate_key())


def test_every_change_is_a_new_version() -> None:
    empty, first, second = TrustStore.empty(), pem(), pem()
    store = empty.enrol("north", first)
    rotated = store.enrol("north", second).revoke(key_id(first))
    assert [s.version for s in (empty, store, rotated)] == [0, 1, 3]
    assert [entry.status for entry in rotated.entries] == ["revoked", "active"]
    assert [entry.status for entry in store.entries] == ["active"]
    now = utc_now()
    assert rotated.key_for(key_id(second), "north", now).keyid == key_id(second)
    with pytest.raises(KeyNotValid, match="was revoked: sign with the site's new key"):
        rotated.key_for(key_id(first), "north", now)


def test_whose_key_is_valid_when() -> None:
    mine, now = pem(), utc_now()
    store = TrustStore.empty().enrol("north", mine, not_after=now + timedelta(hours=1))
    with pytest.raises(UnknownKey, match="key 'nothing' of north is not in the trust store"):
        store.key_for("nothing", "north", now)
    with pytest.raises(WrongSite, match="belongs to north, not to south"):
        store.key_for(key_id(mine), "south", now)
    for when in (now - timedelta(hours=1), now + timedelta(hours=2)):
        with pytest.raises(KeyNotValid, match="UTC only: enrol a new key"):
            store.key_for(key_id(mine), "north", when)


def test_enrolling_many_at_once() -> None:
    keys = {site: pem() for site in ("a", "b", "c")}
    store = TrustStore.empty().enrol_all(keys)
    assert store.version == 1
    assert {entry.site: entry.public_key_pem for entry in store.entries} == keys
    shared = pem()
    with pytest.raises(ConfigError, match="brings the key of another site"):
        TrustStore.empty().enrol_all({"a": shared, "b": shared})


def test_what_cannot_be_enrolled() -> None:
    mine = pem()
    store = TrustStore.empty().enrol("north", mine)
    with pytest.raises(ConfigError, match="enrolled already, for north"):
        store.enrol("south", mine)
    with pytest.raises(ConfigError, match="not a public key in PEM form"):
        store.enrol("south", "hello")
    for name in ("../../etc", "", ".hidden", "a/b", "a\nb", "x" * 101, "north.binding"):
        with pytest.raises(DataError, match="is not usable"):
            store.enrol(name, pem())
    store.enrol("Klinikum Köln (West) 2", pem())
    with pytest.raises(ConfigError, match="holds no such key"):
        store.revoke("0" * 64)


def test_an_entry_whose_id_is_not_its_keys_is_refused() -> None:
    entry = TrustStore.empty().enrol("north", pem()).entries[0].model_dump()
    with pytest.raises(ValidationError, match="is not that of its public key"):
        TrustStore.model_validate(
            {"version": 1, "issued": utc_now(), "entries": [{**entry, "key_id": "0" * 64}]}
        )
    with pytest.raises(ValidationError, match="one key is enrolled twice"):
        TrustStore.model_validate({"version": 1, "issued": utc_now(), "entries": [entry, entry]})


def test_the_signed_store(any_key: PrivateKeyTypes) -> None:
    store = TrustStore.empty().enrol("north", pem())
    data = sign_store(store, signer(any_key))
    assert open_store(data, public_pem(any_key)) == store
    with pytest.raises(UnknownKey, match="not the coordinator's"):
        open_store(data, pem())
    with pytest.raises(StaleStore, match="trust store version 1 is older than version 2"):
        open_store(data, public_pem(any_key), at_least=2)
    box = json.loads(data)
    box["payload"] = json.loads(sign_store(TrustStore.empty(), signer(any_key)))["payload"]
    with pytest.raises(BadSignature):
        open_store(json.dumps(box).encode(), public_pem(any_key))
    with pytest.raises(MalformedEnvelope, match="instead of application/vnd"):
        open_store(sign(store, signer(any_key)), public_pem(any_key))
