"""Conversion to and from Flower's records: what the exchange's messages hold.

Each message has one `ConfigRecord` named ``fedprint``. What arrives is only unpacked here, under a
size limit; whether it can be believed is decided by `protocol.verify`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple, TypeVar

from flwr.app import ConfigRecord, RecordDict
from pydantic import ValidationError

from protocol.envelope import LIMIT as ENVELOPE_LIMIT
from protocol.errors import ConfigError, DataError, MalformedMessage, TooLarge, one_line
from protocol.fingerprint import LIMIT, pack, unpack
from protocol.keys import key_id
from protocol.names import check_site_name, printable
from protocol.privacy import AskedTerms as AskedTerms
from protocol.spec import Spec, parse_spec

RECORD = "fedprint"
_REASON_LIMIT = 40
_TEXT_LIMIT = 500  # of what a site says went wrong; it ends up in reports
_PART_LIMIT = 65_536  # bytes of a checkpoint or an entry of the log
_DEPTH = 65  # hashes in a proof: at most one more than the depth of the deepest tree
_MOST_ENTRIES = 2**53
_Value = TypeVar("_Value", str, bytes, int)


class Hello(NamedTuple):
    """A site's answer to the roll call: its name and its public key (PEM)."""

    site: str
    public_key: str


class ReleaseRequest(NamedTuple):
    """What the coordinator asks a site for."""

    run: str
    nonce: str
    spec: Spec
    terms: AskedTerms = AskedTerms()


class Reply(NamedTuple):
    """A site's answer: its name, safetensors bytes and two envelopes, none of them verified."""

    site: str
    payload: bytes
    release: bytes
    binding: bytes


@dataclass(frozen=True)
class CheckpointMessage:
    """What a coordinator shows a site of its log, none of it verified.

    Attributes
    ----------
    run, coordinator : str
        The run, and the coordinator's public key (PEM).
    checkpoint : bytes
        The signed checkpoint.
    entry : bytes
        The line of the log that holds the site's own release.
    index : int
        Number of that line, from 0.
    inclusion : list of bytes
        Proof that `entry` is number `index` of the checkpoint's log.
    earlier : int
        Size of the log that the site was shown before, 0 for none.
    consistency : list of bytes
        Proof that the log of size `earlier` is a prefix of the checkpoint's log.
    """

    run: str
    coordinator: str
    checkpoint: bytes
    entry: bytes
    index: int
    inclusion: list[bytes]
    earlier: int = 0
    consistency: list[bytes] = field(default_factory=list)


def hello_request(run: str) -> RecordDict:
    """Return the roll call's request."""
    return record({"run": run})


def from_hello_request(content: RecordDict) -> str:
    """Return the run's name out of the roll call's request."""
    return get(content, "run", str)


def to_hello(site: str, public_key_pem: str) -> RecordDict:
    """Return a site's answer to the roll call."""
    return record({"site": check_site_name(site), "public-key": public_key_pem})


def from_hello(content: RecordDict) -> Hello:
    """Read a site's answer to the roll call.

    Raises
    ------
    MalformedMessage
        When it is none, or the name or the key cannot be used.
    """
    site, pem = get(content, "site", str), get(content, "public-key", str)
    try:
        check_site_name(site)
        key_id(pem)
    except (ConfigError, DataError) as error:
        raise MalformedMessage(f"unusable answer to the roll call: {error}") from None
    return Hello(site, pem)


def release_request(
    run: str, nonce: str, spec: Spec, terms: AskedTerms | None = None
) -> RecordDict:
    """Return the request for a release: run, single-use nonce, the whole spec and its terms."""
    asked = (terms or AskedTerms()).model_dump_json()
    return record({"run": run, "nonce": nonce, "spec": spec.as_json, "terms": asked})


def from_release_request(content: RecordDict) -> ReleaseRequest:
    """Read the request for a release.

    Raises
    ------
    MalformedMessage, ConfigError
        When it is none, or its spec or its terms are not valid.
    """
    spec = _requested_spec(get(content, "spec", str))
    try:
        terms = AskedTerms.model_validate_json(get(content, "terms", str), strict=True)
    except ValidationError as error:
        raise MalformedMessage(f"unusable terms of a release: {one_line(error)}") from None
    return ReleaseRequest(get(content, "run", str), get(content, "nonce", str), spec, terms)


@lru_cache(maxsize=2)
def _requested_spec(text: str) -> Spec:
    """Read a spec once a process: all sites of a simulation are asked for the same."""
    return parse_spec(text, "the requested spec")


def to_reply(site: str, payload: bytes, release: bytes, binding: bytes) -> RecordDict:
    """Return a site's answer; the payload is compressed losslessly."""
    values = {"payload": pack(payload), "release": release, "binding": binding}
    return record({"site": check_site_name(site), **values})


def from_reply(content: RecordDict, limit: int = LIMIT) -> Reply:
    """Read a site's answer, never inflating more than `limit` bytes.

    Raises
    ------
    MalformedMessage, MalformedPayload, TooLarge
        When it is none.
    """
    site = get(content, "site", str)[:_TEXT_LIMIT]
    envelopes = [get(content, name, bytes) for name in ("release", "binding")]
    for envelope in envelopes:
        if len(envelope) > ENVELOPE_LIMIT:
            raise TooLarge(f"the envelope has {len(envelope)} bytes, the limit is {ENVELOPE_LIMIT}")
    return Reply(site, unpack(get(content, "payload", bytes), limit), *envelopes)


def to_checkpoint(message: CheckpointMessage) -> RecordDict:
    """Return the message that shows a site the log: checkpoint, its own entry, two proofs."""
    values = vars(message) | {
        "inclusion": b"".join(message.inclusion),
        "consistency": b"".join(message.consistency),
    }
    return record(values)


def from_checkpoint(content: RecordDict) -> CheckpointMessage:
    """Read what a coordinator shows of its log; nothing of it is verified here.

    Raises
    ------
    MalformedMessage, TooLarge
        When it is none.
    """
    texts = [get(content, name, str) for name in ("run", "coordinator")]
    checkpoint, entry = (get(content, name, bytes) for name in ("checkpoint", "entry"))
    for text in (checkpoint, entry, *texts):
        if len(text) > _PART_LIMIT:
            raise TooLarge(
                f"the checkpoint has a part of {len(text)} bytes, the limit is {_PART_LIMIT}"
            )
    index, earlier = (get(content, name, int) for name in ("index", "earlier"))
    if not (0 <= index < _MOST_ENTRIES and 0 <= earlier < _MOST_ENTRIES):
        raise MalformedMessage(f"the log cannot have entries {index} and {earlier}")
    inclusion, consistency = (_hashes(content, name) for name in ("inclusion", "consistency"))
    return CheckpointMessage(
        run=texts[0],
        coordinator=texts[1],
        checkpoint=checkpoint,
        entry=entry,
        index=index,
        earlier=earlier,
        inclusion=inclusion,
        consistency=consistency,
    )


def to_kept(size: int) -> RecordDict:
    """Return a site's answer to a checkpoint: size of the newest log that it keeps of the run."""
    return record({"kept": size})


def from_kept(content: RecordDict) -> int:
    """Read a site's answer to a checkpoint.

    Raises
    ------
    MalformedMessage
        When it is none.
    """
    size = get(content, "kept", int)
    if not 0 < size < _MOST_ENTRIES:
        raise MalformedMessage(f"no log has {size} entries")
    return size


def to_refusal(reason: str, message: str) -> RecordDict:
    """Return a site's answer that it cannot or may not do what was asked."""
    return record({"refused": reason, "message": message})


def refusal(content: RecordDict) -> tuple[str, str] | None:
    """Return reason code and message of a refusal, or None when the answer is none."""
    record = content.get(RECORD)
    if not isinstance(record, ConfigRecord) or "refused" not in record:
        return None
    reason = re.sub(r"[^a-z0-9-]", "", get(content, "refused", str)[:_REASON_LIMIT].lower())
    return reason or "refused", printable(get(content, "message", str), _TEXT_LIMIT)


def _hashes(content: RecordDict, name: str) -> list[bytes]:
    """Return a proof: SHA-256 hashes one after the other, as many as a tree is deep at most."""
    joined = get(content, name, bytes)
    if len(joined) % 32 or len(joined) > _DEPTH * 32:
        raise MalformedMessage(f"{name!r} of the log has {len(joined)} bytes: it is no proof")
    return [joined[start : start + 32] for start in range(0, len(joined), 32)]


def record(values: Mapping[str, str | bytes | int]) -> RecordDict:
    """Return a message of fedprint's one record."""
    return RecordDict({RECORD: ConfigRecord({**values})})


def get(content: RecordDict, name: str, kind: type[_Value]) -> _Value:
    """Return a value of fedprint's record.

    Raises
    ------
    MalformedMessage
        When it is missing or of another kind.
    """
    record = content.get(RECORD)
    value = record.get(name) if isinstance(record, ConfigRecord) else None
    if not isinstance(value, kind):
        raise MalformedMessage(f"the message lacks {name!r}: do both sides run the same version?")
    return value
