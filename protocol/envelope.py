"""The DSSE envelope: bytes and the signatures over exactly these bytes.

Nothing is canonicalised, and nothing inside is parsed before the signature is verified. See
https://github.com/secure-systems-lab/dsse.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import TypeAlias, TypeVar

from pydantic import BaseModel, ValidationError
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError as SSlibVerificationError
from securesystemslib.signer import Signature  # type: ignore[attr-defined]

from protocol.errors import (
    BadSignature,
    ConfigError,
    FedprintError,
    MalformedEnvelope,
    MalformedStatement,
    TooFewSignatures,
    TooLarge,
    UnknownKey,
    one_line,
)
from protocol.files import canonical_json
from protocol.keys import Signer, SSlibKey, key_pem, public_key

IN_TOTO = "application/vnd.in-toto+json"
LIMIT = 16 * 1024 * 1024
"""Most bytes that an envelope may have; a release with a card of many classes has a few kB."""

MOST_SIGNATURES = 32
"""Most signatures that an envelope may carry."""

PUBLIC_KEY = "publicKey"
"""Field beside each signature with the signer's public key, for checks without a trust store."""

KeyFinder: TypeAlias = Callable[[str], SSlibKey]
Model = TypeVar("Model", bound=BaseModel)


def sign(
    statement: BaseModel,
    signer: Signer,
    payload_type: str = IN_TOTO,
    *,
    also: Iterable[Signer] = (),
) -> bytes:
    """Sign a statement.

    Parameters
    ----------
    statement : pydantic.BaseModel
        What is signed; serialised once, and these bytes travel.
    signer : Signer
        See `protocol.keys.load_signer`.
    payload_type : str
        Media type of the statement.
    also : iterable of Signer
        Who signs the same bytes too; a key that comes twice signs once.

    Returns
    -------
    bytes
        The envelope as JSON.

    Raises
    ------
    ConfigError
        When a key cannot sign, for example because its hardware module is gone.
    """
    payload = canonical_json(statement.model_dump(mode="json", by_alias=True))
    envelope = Envelope(payload, payload_type, {})
    for each in (signer, *also):
        _add(envelope, each)
    return canonical_json(envelope.to_dict())


def add_signature(data: bytes, signer: Signer, payload_type: str | None = None) -> bytes:
    """Return the envelope with one more signature over the same bytes.

    Nothing is verified here: whoever signs has looked at the content before.

    Raises
    ------
    TooLarge, MalformedEnvelope
        When the data is no envelope.
    ConfigError
        When the key cannot sign.
    """
    envelope = _parse(data, payload_type, LIMIT, MOST_SIGNATURES)
    _add(envelope, signer)
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


def open_by_several(
    data: bytes,
    keys: Iterable[SSlibKey],
    threshold: int,
    payload_type: str = IN_TOTO,
    limit: int = LIMIT,
) -> tuple[bytes, list[str]]:
    """Verify an envelope that several may have signed, and return what was signed.

    Parameters
    ----------
    data : bytes
        The envelope.
    keys : iterable of SSlibKey
        Whose signatures count.
    threshold : int
        How many of them must have signed.
    payload_type, limit
        As in `open_envelope`.

    Returns
    -------
    payload : bytes
        The signed bytes.
    key_ids : list of str
        The keys whose signatures were verified: `threshold` of them.

    Raises
    ------
    TooLarge, MalformedEnvelope, UnknownKey, TooFewSignatures, BadSignature
    """
    known = {key.keyid: key for key in keys}
    if not 1 <= threshold <= len(known):
        raise ConfigError(f"{threshold} of {len(known)} keys cannot sign: name keys and threshold")
    envelope = _parse(data, payload_type, limit, MOST_SIGNATURES)
    present = [known[key] for key in envelope.signatures if key in known]
    if not present:
        first = next(iter(envelope.signatures))
        raise UnknownKey(f"signed with {first[:12]!r}, which is none of the keys that count here")
    if len(present) < threshold:
        raise TooFewSignatures(
            f"signed by {len(present)} of the {threshold} that must agree: have another one sign it"
        )
    try:
        verified = envelope.verify([*present], threshold)
    except SSlibVerificationError:
        raise BadSignature(
            f"fewer than {threshold} of its signatures belong to this content: it was changed on "
            "its way or signed with another key"
        ) from None
    return envelope.payload, list(verified)


def is_canonical(data: bytes, limit: int = LIMIT) -> bool:
    """Tell whether an envelope is, byte for byte, the one that `sign` would have written.

    A signature covers the payload, not the JSON around it: white space, the bits that Base64 does
    not use and the public key that lies beside a signature can be changed without breaking it.

    Raises
    ------
    TooLarge, MalformedEnvelope
        When the data is no envelope, or brings no key along.
    """
    envelope = _parse(data, None, limit, MOST_SIGNATURES)
    for key_id, signature in envelope.signatures.items():
        signature.unrecognized_fields = {PUBLIC_KEY: key_pem(_own(key_id, signature))}
    return canonical_json(envelope.to_dict()) == data


def own_keys(data: bytes, limit: int = LIMIT) -> list[SSlibKey]:
    """Return the public keys that an envelope brings along, one a signature; see `own_key`."""
    return [
        _own(key_id, signature)
        for key_id, signature in _parse(data, None, limit, MOST_SIGNATURES).signatures.items()
    ]


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
    return _own(key_id, signature)


def _own(key_id: str, signature: Signature) -> SSlibKey:
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


def _add(envelope: Envelope, signer: Signer) -> None:
    try:
        signature = envelope.sign(signer)
    except FedprintError:
        raise
    except Exception as error:  # a hardware module or a key service raises what its library raises
        raise ConfigError(
            f"key {signer.public_key.keyid[:12]} cannot sign ({type(error).__name__}: {error}): "
            "see that its module or service can be reached"
        ) from error
    signature.unrecognized_fields[PUBLIC_KEY] = key_pem(signer.public_key)


def _parse(data: bytes, payload_type: str | None, limit: int, most: int = 1) -> Envelope:
    if len(data) > limit:
        raise TooLarge(f"the envelope has {len(data)} bytes, the limit is {limit}")
    try:
        envelope = Envelope.from_dict(json.loads(data))
        ids = list(envelope.signatures)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise MalformedEnvelope("these bytes are not a DSSE envelope") from None
    if not 1 <= len(ids) <= most or not all(isinstance(key, str) for key in ids):
        wanted = "one" if most == 1 else f"1 to {most}"
        raise MalformedEnvelope(f"the envelope has {len(ids)} signatures instead of {wanted}")
    found = envelope.payload_type
    if not isinstance(found, str) or (payload_type is not None and found != payload_type):
        raise MalformedEnvelope(f"the envelope holds {found!r:.80} instead of {payload_type}")
    return envelope
