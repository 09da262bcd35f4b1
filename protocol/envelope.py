"""The DSSE envelope: bytes and a signature over exactly these bytes.

Nothing is canonicalised, and nothing inside is parsed before the signature is verified. See
https://github.com/secure-systems-lab/dsse.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TypeAlias, TypeVar

from pydantic import BaseModel, ValidationError
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError as SSlibVerificationError

from protocol.errors import (
    BadSignature,
    ConfigError,
    MalformedEnvelope,
    MalformedStatement,
    TooLarge,
    one_line,
)
from protocol.files import canonical_json
from protocol.keys import CryptoSigner, SSlibKey, key_pem, public_key

IN_TOTO = "application/vnd.in-toto+json"
LIMIT = 16 * 1024 * 1024
"""Most bytes that an envelope may have; a release with a card of many classes has a few kB."""

PUBLIC_KEY = "publicKey"
"""Field beside each signature with the signer's public key, for checks without a trust store."""

KeyFinder: TypeAlias = Callable[[str], SSlibKey]
Model = TypeVar("Model", bound=BaseModel)


def sign(statement: BaseModel, signer: CryptoSigner, payload_type: str = IN_TOTO) -> bytes:
    """Sign a statement.

    Parameters
    ----------
    statement : pydantic.BaseModel
        What is signed; serialised once, and these bytes travel.
    signer : CryptoSigner
        See `protocol.keys.signer`.
    payload_type : str
        Media type of the statement.

    Returns
    -------
    bytes
        The envelope as JSON.
    """
    payload = canonical_json(statement.model_dump(mode="json", by_alias=True))
    envelope = Envelope(payload, payload_type, {})
    signature = envelope.sign(signer)
    signature.unrecognized_fields[PUBLIC_KEY] = key_pem(signer.public_key)
    return canonical_json(envelope.to_dict())


def open_envelope(
    data: bytes, find_key: KeyFinder, payload_type: str = IN_TOTO, limit: int = LIMIT
) -> tuple[bytes, str]:
    """Verify an envelope and return what was signed.

    Parameters
    ----------
    data : bytes
        The envelope.
    find_key : callable
        Returns the public key of a key id, or raises the `VerificationError` that says why that
        key cannot be accepted.
    payload_type : str
        The media type that the content must have.
    limit : int
        Most bytes accepted.

    Returns
    -------
    payload : bytes
        The signed bytes.
    key_id : str
        Id of the key that signed them.

    Raises
    ------
    TooLarge, MalformedEnvelope, BadSignature
        And whatever `find_key` raises.
    """
    envelope = _parse(data, payload_type, limit)
    (key_id,) = envelope.signatures
    key = find_key(key_id)
    try:
        envelope.verify([key], threshold=1)
    except SSlibVerificationError:
        raise BadSignature(
            f"the signature is not one of key {key_id[:12]} over this content: it was changed "
            "on its way or signed with another key"
        ) from None
    return envelope.payload, key_id


def own_key(data: bytes, limit: int = LIMIT) -> SSlibKey:
    """Return the public key that an envelope brings along.

    It shows that the content is whole, not who signed it: whoever changes the content can bring
    another key. Use a trust store for that.

    Raises
    ------
    TooLarge, MalformedEnvelope
        When there is no envelope, no key, or a key that does not fit its id.
    """
    ((key_id, signature),) = _parse(data, None, limit).signatures.items()
    try:
        key = public_key(str(signature.unrecognized_fields.get(PUBLIC_KEY, "")))
    except ConfigError:
        raise MalformedEnvelope("the envelope does not bring its public key along") from None
    if key.keyid != key_id:
        raise MalformedEnvelope("the envelope brings another public key than the one it names")
    return key


def parse_statement(payload: bytes, model: type[Model]) -> Model:
    """Parse verified bytes as a statement.

    Raises
    ------
    MalformedStatement
        When they are not one.
    """
    try:
        return model.model_validate_json(payload)
    except ValidationError as error:
        raise MalformedStatement(
            f"the signed content is no valid {model.__name__}: {one_line(error)}"
        ) from None


def _parse(data: bytes, payload_type: str | None, limit: int) -> Envelope:
    if len(data) > limit:
        raise TooLarge(f"the envelope has {len(data)} bytes, the limit is {limit}")
    try:
        envelope = Envelope.from_dict(json.loads(data))
        ids = list(envelope.signatures)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise MalformedEnvelope("these bytes are not a DSSE envelope") from None
    if len(ids) != 1 or not isinstance(ids[0], str):
        raise MalformedEnvelope(f"the envelope has {len(ids)} signatures instead of one")
    found = envelope.payload_type
    if not isinstance(found, str) or (payload_type is not None and found != payload_type):
        raise MalformedEnvelope(f"the envelope holds {found!r:.80} instead of {payload_type}")
    return envelope
