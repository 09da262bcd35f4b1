"""The trust store as it travels: signed by its coordinator, or by as many as have to agree."""

from __future__ import annotations

from collections.abc import Sequence

from protocol import envelope
from protocol.errors import StaleStore, TooFewSignatures, UnknownKey
from protocol.keys import Signer, public_key

# named again, so that the other rooms find all of trust in one place
from protocol.trust_entry import TrustEntry as TrustEntry
from protocol.trust_store import TrustStore as TrustStore

STORE_TYPE = "application/vnd.fedprint.trust-store+json"


def sign_store(store: TrustStore, signer: Signer, *others: Signer) -> bytes:
    """Return the store as an envelope signed by the coordinator, and by others who agree."""
    return envelope.sign(store, signer, STORE_TYPE, also=others)


def add_signature(data: bytes, signer: Signer) -> bytes:
    """Return a signed store with one more coordinator's signature; see `sign_store`."""
    return envelope.add_signature(data, signer, STORE_TYPE)


def open_store(
    data: bytes, coordinators: str | Sequence[str], threshold: int = 1, at_least: int = 0
) -> TrustStore:
    """Verify a signed trust store.

    Parameters
    ----------
    data : bytes
        The envelope.
    coordinators : str or sequence of str
        The public keys (PEM) of the coordinators, known beforehand.
    threshold : int
        How many of them must have signed.
    at_least : int
        The newest version seen so far: an older one is a rollback.

    Raises
    ------
    VerificationError
        When the envelope is not whole, not signed by enough of the coordinators, or older than
        `at_least`.
    """
    pems = [coordinators] if isinstance(coordinators, str) else coordinators
    try:
        payload, _ = envelope.open_by_several(
            data, [public_key(pem) for pem in pems], threshold, STORE_TYPE
        )
    except UnknownKey:
        signed = ", ".join(key.keyid[:12] for key in envelope.own_keys(data))
        raise UnknownKey(
            f"the trust store is signed with {signed}, not the coordinator's key"
        ) from None
    except TooFewSignatures as error:
        raise TooFewSignatures(f"the trust store is {error} (fedprint server sign)") from None
    store = envelope.parse_statement(payload, TrustStore)
    if store.version < at_least:
        raise StaleStore(
            f"trust store version {store.version} is older than version {at_least}, which was "
            "seen already: fetch the current one"
        )
    return store
