"""Conversion to and from Flower's records: the request for descriptors, and a site's answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from flwr.app import ConfigRecord, RecordDict
from pydantic import TypeAdapter, ValidationError

from protocol.descriptor_statement import ENVELOPE_LIMIT
from protocol.descriptors import KINDS, Kind
from protocol.errors import MalformedMessage, TooLarge, one_line
from protocol.names import printable
from protocol.privacy import AskedTerms
from protocol.records import RECORD, get, record
from protocol.spec import Spec, parse_spec

_KINDS = TypeAdapter(list[Kind])
_REFUSED = TypeAdapter(dict[Kind, tuple[str, str]])
_TEXT_LIMIT, _REASON_LIMIT = 500, 40


class DescriptorsRequest(NamedTuple):
    """What the coordinator asks a site for beside its fingerprint."""

    run: str
    spec: Spec
    kinds: tuple[Kind, ...]
    terms: AskedTerms = AskedTerms()


class Sent(NamedTuple):
    """One descriptor as it arrived: safetensors bytes and signed statement, not verified."""

    payload: bytes
    envelope: bytes


@dataclass(frozen=True)
class DescriptorsReply:
    """A site's answer.

    Attributes
    ----------
    sent : dict
        What it released, by kind.
    refused : dict
        Reason code and message of what it did not, by kind.
    """

    sent: dict[Kind, Sent] = field(default_factory=dict)
    refused: dict[Kind, tuple[str, str]] = field(default_factory=dict)


def descriptors_request(asked: DescriptorsRequest) -> RecordDict:
    """Return the request for descriptors."""
    return record(
        {
            "run": asked.run,
            "spec": asked.spec.model_dump_json(),
            "kinds": json.dumps(asked.kinds),
            "terms": asked.terms.model_dump_json(),
        }
    )


def from_descriptors_request(content: RecordDict) -> DescriptorsRequest:
    """Read the request for descriptors.

    Raises
    ------
    MalformedMessage, ConfigError
        When it is none, or its spec or its terms are not valid.
    """
    spec = parse_spec(get(content, "spec", str), "the requested spec")
    try:
        kinds = _KINDS.validate_json(get(content, "kinds", str), strict=True)
        terms = AskedTerms.model_validate_json(get(content, "terms", str), strict=True)
    except ValidationError as error:
        raise MalformedMessage(f"unusable request for descriptors: {one_line(error)}") from None
    if not kinds or len(set(kinds)) != len(kinds):
        raise MalformedMessage("a request for descriptors names each kind once, and at least one")
    return DescriptorsRequest(get(content, "run", str), spec, tuple(kinds), terms)


def to_descriptors(reply: DescriptorsReply) -> RecordDict:
    """Return a site's answer."""
    refused = {
        kind: (reason[:_REASON_LIMIT], text[:_TEXT_LIMIT])
        for kind, (reason, text) in reply.refused.items()
    }
    values: dict[str, str | bytes] = {"stayed": json.dumps(refused, ensure_ascii=False)}
    for kind, sent in reply.sent.items():
        values |= {kind: sent.payload, f"{kind}.dsse": sent.envelope}
    return RecordDict({RECORD: ConfigRecord({"descriptors": json.dumps([*reply.sent]), **values})})


def from_descriptors(content: RecordDict, limits: Mapping[Kind, int]) -> DescriptorsReply:
    """Read a site's answer.

    Parameters
    ----------
    content : RecordDict
        The answer.
    limits : mapping of str to int
        The kinds that were asked for, and the most bytes that each can have.

    Raises
    ------
    MalformedMessage, TooLarge
        When it is none.
    """
    try:
        kinds = _KINDS.validate_json(_text(content, "descriptors"), strict=True)
        refused = _REFUSED.validate_json(_text(content, "stayed"))
    except ValidationError as error:
        raise MalformedMessage(f"the descriptors are malformed: {one_line(error)}") from None
    if sorted([*kinds, *refused]) != sorted(limits):
        raise MalformedMessage("the site answered with other descriptors than it was asked for")
    sent = {}
    for kind in kinds:
        sent[kind] = Sent(*(get(content, name, bytes) for name in (kind, f"{kind}.dsse")))
        for part, most in zip(sent[kind], (limits[kind], ENVELOPE_LIMIT), strict=True):
            if len(part) > most:
                raise TooLarge(f"a part of the {kind} has {len(part)} bytes, the limit is {most}")
    said = {
        kind: (printable(reason, _REASON_LIMIT) or "refused", printable(text, _TEXT_LIMIT))
        for kind, (reason, text) in refused.items()
    }
    return DescriptorsReply(sent, said)


def _text(content: RecordDict, name: str) -> str:
    text = get(content, name, str)
    if len(text) > len(KINDS) * 2 * (_TEXT_LIMIT + 100):
        raise TooLarge(f"{name!r} of the descriptors has {len(text)} characters")
    return text
