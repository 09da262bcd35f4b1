"""The trust store: versions, rotation, revocation, the coordinator's signature."""

from __future__ import annotations

import json
from datetime import datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from protocol.enrolment import Enrolment, make_enrolment, open_enrolment
from protocol.envelope import sign
from protocol.errors import (
    BadSignature,
    ConfigError,
    DataError,
    DuplicateSite,
    KeyNotValid,
    KeyRevoked,
    KeyRotated,
    MalformedEnvelope,
    StaleStore,
    TooFewSignatures,
    UnknownKey,
    UnknownNode,
    WrongSite,
)
from protocol.keys import (
    CryptoSigner,
    generate_key,
    generate_node_key,
    key_id,
    public_pem,
    signer,
    signer_pem,
)
from protocol.statement import utc_now
from protocol.trust import TrustStore, add_signature, open_store, sign_store

HOUR = timedelta(hours=1)


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
    with pytest.raises(KeyRevoked, match="was revoked: sign with the site's new key"):
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


def new_keys() -> tuple[CryptoSigner, CryptoSigner]:
    return signer(generate_key()), signer(generate_node_key())


def enrolled(site: str, signing: CryptoSigner, node: CryptoSigner, *old: CryptoSigner) -> Enrolment:
    return open_enrolment(make_enrolment(site, signing, node, *old))


def test_a_site_is_found_by_its_node() -> None:
    (signing, node), (_, stranger) = new_keys(), new_keys()
    store = TrustStore.empty().admit(enrolled("north", signing, node))
    entry = store.entry_for_node(signer_pem(node))
    assert (entry.site, entry.status) == ("north", "active")
    assert entry == store.entry_for_node(signer_pem(node).encode())
    assert store.key_for(entry.key_id, "north", utc_now()) == signing.public_key
    for unknown in (signer_pem(stranger), signer_pem(signing)):
        with pytest.raises(UnknownNode, match="is in the trust store of no site: enrol the site"):
            store.entry_for_node(unknown)
    for odd in ("", b"\xff\x00random bytes"):
        with pytest.raises(UnknownNode, match="the node has no key that fedprint can read"):
            store.entry_for_node(odd)


def test_a_revoked_site_is_still_named() -> None:
    signing, node = new_keys()
    store = TrustStore.empty().admit(enrolled("north", signing, node)).revoke_site("north")
    entry = store.entry_for_node(signer_pem(node))
    assert (store.version, entry.site, entry.status) == (2, "north", "revoked")
    with pytest.raises(KeyRevoked, match="of north was revoked") as caught:
        store.key_for(entry.key_id, entry.site, utc_now())
    assert caught.value.reason == "key-revoked"
    with pytest.raises(ConfigError, match=r"cannot revoke south: .* \(enrolled: north\)"):
        store.revoke_site("south")


@pytest.mark.parametrize("grace", [timedelta(0), HOUR])
def test_rotation_with_and_without_grace(grace: timedelta) -> None:
    (first, old_node), (second, new_node), now = new_keys(), new_keys(), utc_now()
    store = TrustStore.empty().admit(enrolled("north", first, old_node), now - HOUR)
    store = store.admit(enrolled("north", second, new_node, first), now, grace)
    before, after = store.entries_of("north")
    assert (before.status, after.status) == ("rotated", "active")
    assert before.not_after == now + grace
    assert store.key_for(second.public_key.keyid, "north", now) == second.public_key
    if grace:
        assert store.key_for(first.public_key.keyid, "north", now) == first.public_key
    with pytest.raises(KeyRotated, match="was replaced, and its time of grace ended") as caught:
        store.key_for(first.public_key.keyid, "north", now + grace)
    assert caught.value.reason == "key-rotated"
    assert store.entry_for_node(signer_pem(old_node)) == before
    assert store.entry_for_node(signer_pem(new_node)) == after


def test_grace_does_not_prolong_a_key() -> None:
    (first, node), (second, _), now = new_keys(), new_keys(), utc_now()
    store = TrustStore.empty().admit(enrolled("north", first, node), now)
    rotation = enrolled("north", second, node, first)
    rotated = store.admit(rotation, now + HOUR, timedelta(days=10_000))
    assert rotated.entries[0].not_after == store.entries[0].not_after


def test_a_site_may_keep_its_node_key() -> None:
    (first, node), (second, _) = new_keys(), new_keys()
    store = TrustStore.empty().admit(enrolled("north", first, node))
    store = store.admit(enrolled("north", second, node, first), grace=HOUR)
    assert store.entry_for_node(signer_pem(node)).key_id == second.public_key.keyid


def test_who_may_not_rotate() -> None:
    (first, node), (second, _), (third, other), now = new_keys(), new_keys(), new_keys(), utc_now()
    store = TrustStore.empty().admit(enrolled("north", first, node), now)
    with pytest.raises(UnknownKey):
        store.admit(enrolled("north", second, node, third))
    with pytest.raises(WrongSite, match="belongs to north, not to south"):
        store.admit(enrolled("south", second, other, first))
    with pytest.raises(KeyRevoked):
        store.revoke_site("north").admit(enrolled("north", second, other, first))
    with pytest.raises(KeyNotValid, match="UTC only: enrol a new key"):
        store.admit(enrolled("north", second, other, first), now + timedelta(days=400))
    rotated = store.admit(enrolled("north", second, node, first), now, HOUR)
    with pytest.raises(KeyRotated, match="was replaced already: rotate the site's present key"):
        rotated.admit(enrolled("north", third, other, first), now)


def test_a_site_and_a_key_are_enrolled_once() -> None:
    (first, node), (second, other) = new_keys(), new_keys()
    both = signer(generate_node_key())
    store = TrustStore.empty().admit(enrolled("north", first, node))
    with pytest.raises(DuplicateSite, match="north is enrolled already: a new key comes with fedp"):
        store.admit(enrolled("north", second, other))
    for keys in ((first, other), (second, node), (signer(generate_key()), node)):
        with pytest.raises(DuplicateSite, match="is enrolled already, for north: have south make"):
            store.admit(enrolled("south", *keys))
    store = store.admit(enrolled("east", both, both))
    with pytest.raises(DuplicateSite, match="for east"):
        store.admit(enrolled("west", signer(generate_key()), both))
    with pytest.raises(KeyRevoked, match="of north was revoked: the site makes a new folder"):
        store.revoke_site("north").admit(enrolled("north", first, node))
    again = store.revoke_site("north").admit(enrolled("north", second, other))
    assert [entry.status for entry in again.entries_of("north")] == ["revoked", "active"]


def test_a_site_whose_keys_have_expired_enrols_again() -> None:
    (first, node), (second, other), now = new_keys(), new_keys(), utc_now()
    store = TrustStore.empty().admit(enrolled("north", first, node), now - timedelta(days=400))
    store = store.admit(enrolled("north", second, other), now)
    assert store.entry_for_node(signer_pem(other)).usable(now)


@given(st.lists(st.sampled_from(["rotate", "revoke", "enrol"]), max_size=6), st.data())
def test_at_most_one_key_of_a_site_is_present(steps: list[str], data: st.DataObject) -> None:
    signing, node = new_keys()
    now: datetime = utc_now()
    store = TrustStore.empty().admit(enrolled("north", signing, node), now)
    for step in steps:
        versions, now = store.version, now + HOUR
        try:
            if step == "revoke":
                store = store.revoke_site("north")
            else:
                fresh = new_keys()
                old = [signing] if step == "rotate" else []
                grace = data.draw(st.sampled_from([timedelta(0), HOUR / 2, 3 * HOUR]))
                store = store.admit(enrolled("north", *fresh, *old), now, grace)
                signing, node = fresh
            assert store.version == versions + 1
        except (DuplicateSite, KeyRevoked):
            assert store.version == versions
        present = [entry for entry in store.entries if entry.usable(now)]
        assert len(present) <= 1
        assert all(entry.key_id == signing.public_key.keyid for entry in present)


def test_as_many_coordinators_as_agreed_must_sign() -> None:
    one, two, three = (signer(generate_key()) for _ in range(3))
    pems = [signer_pem(key) for key in (one, two, three)]
    store = TrustStore.empty().enrol("north", pem())
    alone = sign_store(store, one)
    assert open_store(alone, pems) == open_store(alone, pems[0]) == store
    with pytest.raises(TooFewSignatures, match="signed by 1 of the 2 that must agree") as caught:
        open_store(alone, pems, 2)
    assert caught.value.reason == "too-few-signatures"
    both = add_signature(alone, three)
    assert open_store(both, pems, 2) == store
    assert both == sign_store(store, one, three)
    assert open_store(both, pems[0]) == store  # each of them can be checked alone as well
    with pytest.raises(TooFewSignatures, match="by 2 of the 3"):
        open_store(both, pems, 3)


def test_signatures_that_do_not_count() -> None:
    one, two, stranger = (signer(generate_key()) for _ in range(3))
    pems = [signer_pem(key) for key in (one, two)]
    store = TrustStore.empty()
    with pytest.raises(TooFewSignatures):
        open_store(sign_store(store, one, stranger), pems, 2)
    with pytest.raises(TooFewSignatures):  # the same one twice
        open_store(add_signature(sign_store(store, one), one), pems, 2)
    with pytest.raises(ConfigError, match="2 of 1 keys cannot sign"):
        open_store(sign_store(store, one), [pems[0], pems[0]], 2)
    box = json.loads(sign_store(store, one, two))
    box["signatures"][1]["sig"] = box["signatures"][0]["sig"]
    with pytest.raises(BadSignature, match="fewer than 2 of its signatures belong"):
        open_store(json.dumps(box).encode(), pems, 2)
    box["signatures"] = [dict(box["signatures"][0], keyid=f"{n:064x}") for n in range(40)]
    with pytest.raises(MalformedEnvelope, match="has 40 signatures instead of 1 to 32"):
        open_store(json.dumps(box).encode(), pems, 2)
