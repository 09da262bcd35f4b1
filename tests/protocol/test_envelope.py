"""The envelope is a plain DSSE envelope: others can open it, and it refuses what it must."""

from __future__ import annotations

import json
from base64 import b64decode

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from hypothesis import given
from hypothesis import strategies as st

from protocol.envelope import IN_TOTO, is_canonical, open_envelope, own_key, parse_statement, sign
from protocol.errors import MalformedEnvelope, MalformedStatement, VerificationError
from protocol.keys import generate_key, key_id, public_key, public_pem, signer
from protocol.taskcard import TaskCard

CARD = TaskCard(name="Gewebe – мозг")
HASHES = {256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}


def test_the_signature_is_over_dsses_own_encoding(any_key: PrivateKeyTypes) -> None:
    box = json.loads(sign(CARD, signer(any_key)))
    payload, (signature,) = b64decode(box["payload"]), box["signatures"]
    text = f"DSSEv1 {len(IN_TOTO)} {IN_TOTO} {len(payload)} ".encode() + payload
    key = load_pem_public_key(public_pem(any_key).encode())
    how = [ECDSA(HASHES[key.key_size])] if isinstance(key, EllipticCurvePublicKey) else []
    key.verify(b64decode(signature["sig"]), text, *how)  # type: ignore[union-attr, call-arg]
    assert box["payloadType"] == IN_TOTO
    assert signature["keyid"] == key_id(public_pem(any_key))
    assert signature["publicKey"] == public_pem(any_key)


def test_what_was_signed_comes_back(any_key: PrivateKeyTypes) -> None:
    data = sign(CARD, signer(any_key))
    payload, key = open_envelope(data, lambda _: public_key(public_pem(any_key)))
    assert parse_statement(payload, TaskCard) == CARD
    assert key == own_key(data).keyid == key_id(public_pem(any_key))


def test_nothing_is_parsed_before_the_key_is_accepted() -> None:
    asked: list[str] = []

    def find(key: str) -> None:
        asked.append(key)
        raise LookupError

    key = generate_key()
    with pytest.raises(LookupError):
        open_envelope(sign(CARD, signer(key)), find)  # type: ignore[arg-type]
    assert asked == [key_id(public_pem(key))]


def test_an_envelope_without_its_key() -> None:
    box = json.loads(sign(CARD, signer(generate_key())))
    del box["signatures"][0]["publicKey"]
    with pytest.raises(MalformedEnvelope, match="does not bring its public key along"):
        own_key(json.dumps(box).encode())


def test_a_statement_of_another_kind_is_named() -> None:
    with pytest.raises(MalformedStatement, match=r"no valid TaskCard: name: Field required"):
        parse_statement(b"{}", TaskCard)
    with pytest.raises(MalformedStatement, match=r"no valid TaskCard: Invalid JSON"):
        parse_statement(b"\xff", TaskCard)


ENVELOPE = sign(CARD, signer(generate_key()))


def is_as_signed(data: bytes) -> bool:
    """Say whether an envelope opens with the key that it names, and is as it was written."""
    try:
        open_envelope(data, lambda _: own_key(ENVELOPE))
        return is_canonical(data)
    except VerificationError:
        return False


@given(at=st.integers(0, len(ENVELOPE) - 1), put=st.binary(max_size=3), cut=st.integers(0, 2))
def test_no_byte_of_an_envelope_can_be_changed(at: int, put: bytes, cut: int) -> None:
    other = ENVELOPE[:at] + put + ENVELOPE[at + cut :]
    assert is_as_signed(other) == (other == ENVELOPE)


def test_what_a_signature_does_not_cover_is_found_nevertheless(any_key: PrivateKeyTypes) -> None:
    data = sign(CARD, signer(any_key))
    assert is_canonical(data)
    box = json.loads(data)
    box["signatures"][0]["publicKey"] += "\n"
    for other in (data + b" ", json.dumps(box).encode(), data.replace(b'{"p', b'{"a":1,"p', 1)):
        open_envelope(other, lambda _: own_key(data))
        assert not is_canonical(other)
