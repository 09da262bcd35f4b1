"""Conversion to and from Flower's records: what the exchange's messages hold.

Each message has one `ConfigRecord` named ``fedprint``. What arrives is only unpacked here, under a
size limit; whether it can be believed is decided by `protocol.verify`.
"""

from __future__ import annotations

import re
from typing import NamedTuple, TypeVar

from flwr.app import ConfigRecord, RecordDict

from protocol.envelope import LIMIT as ENVELOPE_LIMIT
from protocol.errors import ConfigError, DataError, MalformedMessage, TooLarge
from protocol.fingerprint import LIMIT, pack, unpack
from protocol.keys import key_id
from protocol.names import check_site_name, printable
from protocol.spec import Spec, parse_spec

RECORD = "fedprint"
_REASON_LIMIT = 40
_TEXT_LIMIT = 500  # of what a site says went wrong; it ends up in reports
_Value = TypeVar("_Value", str, bytes)


class Hello(NamedTuple):
    """A site's answer to the roll call: its name and its public key (PEM)."""

    site: str
    public_key: str


class ReleaseRequest(NamedTuple):
    """What the coordinator asks a site for."""

    run: str
    nonce: str
    spec: Spec


class Reply(NamedTuple):
    """A site's answer: its name, safetensors bytes and two envelopes, none of them verified."""

    site: str
    payload: bytes
    release: bytes
    binding: bytes


def hello_request(run: str) -> RecordDict:
    """Return the roll call's request."""
    return _record({"run": run})


def from_hello_request(content: RecordDict) -> str:
    """Return the run's name out of the roll call's request."""
    return _get(content, "run", str)


def to_hello(site: str, public_key_pem: str) -> RecordDict:
    """Return a site's answer to the roll call."""
    return _record({"site": check_site_name(site), "public-key": public_key_pem})


def from_hello(content: RecordDict) -> Hello:
    """Read a site's answer to the roll call.

    Raises
    ------
    MalformedMessage
        When it is none, or the name or the key cannot be used.
    """
    site, pem = _get(content, "site", str), _get(content, "public-key", str)
    try:
        check_site_name(site)
        key_id(pem)
    except (ConfigError, DataError) as error:
        raise MalformedMessage(f"unusable answer to the roll call: {error}") from None
    return Hello(site, pem)


def release_request(run: str, nonce: str, spec: Spec) -> RecordDict:
    """Return the request for a release: run, single-use nonce and the whole spec."""
    return _record({"run": run, "nonce": nonce, "spec": spec.model_dump_json()})


def from_release_request(content: RecordDict) -> ReleaseRequest:
    """Read the request for a release.

    Raises
    ------
    MalformedMessage, ConfigError
        When it is none, or its spec is not valid.
    """
    spec = parse_spec(_get(content, "spec", str), "the requested spec")
    return ReleaseRequest(_get(content, "run", str), _get(content, "nonce", str), spec)


def to_reply(site: str, payload: bytes, release: bytes, binding: bytes) -> RecordDict:
    """Return a site's answer; the payload is compressed losslessly."""
    values = {"payload": pack(payload), "release": release, "binding": binding}
    return _record({"site": check_site_name(site), **values})


def from_reply(content: RecordDict, limit: int = LIMIT) -> Reply:
    """Read a site's answer, never inflating more than `limit` bytes.

    Raises
    ------
    MalformedMessage, MalformedPayload, TooLarge
        When it is none.
    """
    site = _get(content, "site", str)[:_TEXT_LIMIT]
    envelopes = [_get(content, name, bytes) for name in ("release", "binding")]
    for envelope in envelopes:
        if len(envelope) > ENVELOPE_LIMIT:
            raise TooLarge(f"the envelope has {len(envelope)} bytes, the limit is {ENVELOPE_LIMIT}")
    return Reply(site, unpack(_get(content, "payload", bytes), limit), *envelopes)


def to_refusal(reason: str, message: str) -> RecordDict:
    """Return a site's answer that it cannot or may not do what was asked."""
    return _record({"refused": reason, "message": message})


def refusal(content: RecordDict) -> tuple[str, str] | None:
    """Return reason code and message of a refusal, or None when the answer is none."""
    record = content.get(RECORD)
    if not isinstance(record, ConfigRecord) or "refused" not in record:
        return None
    reason = re.sub(r"[^a-z0-9-]", "", _get(content, "refused", str)[:_REASON_LIMIT].lower())
    return reason or "refused", printable(_get(content, "message", str), _TEXT_LIMIT)


def _record(values: dict[str, str | bytes]) -> RecordDict:
    return RecordDict({RECORD: ConfigRecord({**values})})


def _get(content: RecordDict, name: str, kind: type[_Value]) -> _Value:
    record = content.get(RECORD)
    value = record.get(name) if isinstance(record, ConfigRecord) else None
    if not isinstance(value, kind):
        raise MalformedMessage(f"the message lacks {name!r}: do both sides run the same version?")
    return value
