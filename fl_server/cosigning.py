"""Trust stores that more than one coordinator must sign."""

from __future__ import annotations

from pathlib import Path

from fl_server.coordinator import Coordinator
from protocol.envelope import open_by_several, own_keys, parse_statement
from protocol.errors import ConfigError, MalformedEnvelope, TooFewSignatures
from protocol.files import atomic_write
from protocol.keys import Signer, key_id
from protocol.trust import STORE_TYPE, TrustStore, add_signature, open_store


def look_into(data: bytes) -> tuple[TrustStore, list[str]]:
    """Return what a signed trust store says, and the ids of all keys that signed it.

    The signatures are verified with the keys that they bring along: whose keys these are, a person
    must compare.
    """
    keys = own_keys(data)
    payload, _ = open_by_several(data, keys, len(keys), STORE_TYPE)
    return parse_statement(payload, TrustStore), [key.keyid for key in keys]


def sign_file(path: Path, signer: Signer) -> int:
    """Add a signature to the trust store in a file; return how many it has then."""
    data = add_signature(path.read_bytes(), signer)
    atomic_write(path, data)
    return len(own_keys(data))


def complete(
    coordinator: Coordinator, signed: Path | None = None, signer: Signer | None = None
) -> Coordinator | None:
    """Add signatures to the version that waits, and make it current if there are enough.

    Parameters
    ----------
    coordinator : Coordinator
        Whose folder has the version that waits.
    signed : Path or None
        A copy of it that other coordinators signed.
    signer : Signer or None
        Of another coordinator whose key is at hand.

    Returns
    -------
    Coordinator or None
        With the new store; None while signatures are missing.

    Raises
    ------
    ConfigError
        When nothing waits, or the key is no coordinator's.
    VerificationError
        When the copy is of something else, or a signature is not in order.
    """
    if not coordinator.pending.exists():
        raise ConfigError(f"nothing in {coordinator.folder} waits for signatures")
    data = coordinator.pending.read_bytes()
    waiting = open_store(data, coordinator.public_pem)
    if signed is not None:
        data = signed.read_bytes()
        if open_store(data, coordinator.public_pem) != waiting:
            raise MalformedEnvelope(
                f"{signed} is not the version that waits: have {coordinator.pending} signed"
            )
    if signer is not None:
        if signer.public_key.keyid not in map(key_id, coordinator.coordinators):
            raise ConfigError(
                f"key {signer.public_key.keyid[:12]} is none of the coordinators' that "
                "server.toml names"
            )
        data = add_signature(data, signer)
    try:
        return coordinator.publish(data)
    except TooFewSignatures:
        atomic_write(coordinator.pending, data)
        return None
