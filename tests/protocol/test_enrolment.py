"""Enrolment files prove that a site holds its keys; invitations say where the coordinator is."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from protocol.enrolment import (
    ENROLMENT_TYPE,
    Enrolment,
    Invitation,
    load_invitation,
    make_enrolment,
    open_enrolment,
    write_invitation,
)
from protocol.envelope import sign
from protocol.errors import (
    BadSignature,
    ConfigError,
    MalformedEnvelope,
    MalformedStatement,
    TooFewSignatures,
    TooLarge,
    VerificationError,
)
from protocol.keys import (
    CryptoSigner,
    Signer,
    generate_key,
    generate_node_key,
    public_pem,
    signer,
    signer_pem,
)
from protocol.statement import utc_now


def signing() -> CryptoSigner:
    return signer(generate_key())


def node() -> CryptoSigner:
    return signer(generate_node_key())


def statement(key: Signer, other: Signer, **changes: object) -> Enrolment:
    values = {"site": "north", "key_pem": signer_pem(key), "node_key_pem": signer_pem(other)}
    return Enrolment.model_validate({**values, "issued": utc_now(), **changes})


def signed_by(data: bytes) -> list[str]:
    return [signature["keyid"] for signature in json.loads(data)["signatures"]]


def test_every_key_that_is_named_has_signed() -> None:
    key, flower, old = signing(), node(), signing()
    data = make_enrolment("north", key, flower)
    opened = open_enrolment(data)
    assert (opened.site, opened.replaces) == ("north", None)
    assert opened.key_pem == signer_pem(key)
    assert opened.node_key_pem == signer_pem(flower)
    assert signed_by(data) == [opened.key_id, opened.node_key_id]
    rotation = make_enrolment("north", key, flower, old)
    assert open_enrolment(rotation).replaces == old.public_key.keyid
    assert signed_by(rotation)[2:] == [old.public_key.keyid]


def test_one_key_for_both_signs_once() -> None:
    both = node()
    data = make_enrolment("north", both, both)
    assert len(signed_by(data)) == 1
    assert open_enrolment(data).key_id == open_enrolment(data).node_key_id


@pytest.mark.parametrize("what", ["node key", "signing key", "old signing key"])
def test_without_a_signature_it_is_no_proof(what: str) -> None:
    key, flower, old = signing(), node(), signing()
    box = json.loads(make_enrolment("north", key, flower, old))
    left_out = {"signing key": 0, "node key": 1, "old signing key": 2}[what]
    del box["signatures"][left_out]
    with pytest.raises(TooFewSignatures, match=f"not signed with the {what} [0-9a-f]{{12}} that"):
        open_enrolment(json.dumps(box).encode())


def test_somebody_elses_key_cannot_be_enrolled() -> None:
    thief, victim = node(), node()
    named = statement(victim, victim)
    with pytest.raises(TooFewSignatures, match="not signed with the signing key"):
        open_enrolment(sign(named, thief, ENROLMENT_TYPE))
    box = json.loads(sign(named, thief, ENROLMENT_TYPE))
    box["signatures"][0] |= {"keyid": victim.public_key.keyid, "publicKey": signer_pem(victim)}
    with pytest.raises(BadSignature):
        open_enrolment(json.dumps(box).encode())


ENROLMENT = make_enrolment("north", signing(), node())


@given(st.integers(0, len(ENROLMENT) - 1), st.integers(0, 6))
def test_a_changed_byte_changes_no_meaning(at: int, bit: int) -> None:
    spoilt = bytearray(ENROLMENT)
    spoilt[at] ^= 1 << bit
    try:
        opened = open_enrolment(bytes(spoilt))
    except VerificationError:
        return
    assert opened == open_enrolment(ENROLMENT)  # spare bits of Base64 do not matter


def test_what_is_no_enrolment() -> None:
    with pytest.raises(MalformedEnvelope, match="not a DSSE envelope"):
        open_enrolment(b"hello")
    with pytest.raises(TooLarge):
        open_enrolment(b" " * 70_000)
    key = node()
    with pytest.raises(MalformedEnvelope, match="instead of application/vnd"):
        open_enrolment(sign(statement(key, key), key))
    loop = statement(key, key, replaces=key.public_key.keyid)
    with pytest.raises(MalformedStatement, match="replaces a key by itself"):
        open_enrolment(sign(loop, key, ENROLMENT_TYPE))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: make_enrolment("../x", node(), node()), "site name '../x' is not usable"),
        (lambda: make_enrolment("a", signing(), signing()), "must be of a NIST curve, such as P-3"),
        (lambda: make_enrolment("a", (k := node()), node(), k), "a rotation needs a new signing"),
    ],
)
def test_what_cannot_be_made(make: Callable[[], bytes], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make()


def certificate() -> str:
    """Return a certificate that signs itself."""
    key, name = generate_node_key(), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ca")])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(utc_now())
        .not_valid_after(utc_now() + timedelta(days=1))
        .sign(key, SHA384())
    )
    return made.public_bytes(Encoding.PEM).decode()


@pytest.fixture
def invitation() -> Invitation:
    return Invitation(
        name="north",
        address="fl.example.org:8000",
        certificates=certificate(),
        coordinators=[public_pem(generate_key()), public_pem(generate_node_key())],
        threshold=2,
    )


def test_an_invitation_comes_back(invitation: Invitation, tmp_path: Path) -> None:
    write_invitation(tmp_path / "invitation.json", invitation)
    assert load_invitation(tmp_path / "invitation.json") == invitation


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"address": "fl.example.org"}, "address: String should match pattern"),
        ({"certificates": "hello"}, "these are no certificates in PEM form"),
        ({"coordinators": []}, "coordinators: List should have at least 1 item"),
        ({"coordinators": ["hello"]}, "this is not a public key in PEM form"),
        ({"coordinators": [public_pem(rsa.generate_private_key(65537, 2048))]}, "kind rsa"),
        ({"threshold": 3}, "3 must sign, but there are 2 coordinators"),
    ],
)
def test_what_is_no_invitation(
    invitation: Invitation, tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    path = tmp_path / "invitation.json"
    path.write_text(json.dumps({**invitation.model_dump(), **changes}))
    with pytest.raises(ConfigError, match=rf"is no invitation: .*{said}.*ask the coordinator"):
        load_invitation(path)


def test_an_invitation_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.json cannot be read: No such file"):
        load_invitation(tmp_path / "none.json")
    (tmp_path / "big").write_bytes(b" " * 70_000)
    with pytest.raises(ConfigError, match="has more than 65536 bytes: it is none"):
        load_invitation(tmp_path / "big")
