"""Messages about descriptors: read as they were written, and nothing else."""

from __future__ import annotations

import json

import pytest
from flwr.app import ConfigRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from protocol.descriptor_records import (
    DescriptorsReply,
    DescriptorsRequest,
    Sent,
    descriptors_request,
    from_descriptors,
    from_descriptors_request,
    to_descriptors,
)
from protocol.descriptors import KINDS, parse_kinds
from protocol.errors import ConfigError, FedprintError, MalformedMessage, TooLarge
from protocol.privacy import AskedTerms
from protocol.records import RECORD, record
from tests.protocol.conftest import make_spec

REQUEST = DescriptorsRequest(
    "run-1", make_spec(), ("moments", "fisher"), AskedTerms(mode="private", epsilon=3.0)
)
REPLY = DescriptorsReply(
    {"moments": Sent(b"tensors", b"{}")}, {"fisher": ("no-noise", "site policy: fisher stay")}
)
LIMITS = {"moments": 100, "fisher": 100}


def test_request_is_read_as_it_was_written() -> None:
    assert from_descriptors_request(descriptors_request(REQUEST)) == REQUEST


def test_reply_is_read_as_it_was_written() -> None:
    assert from_descriptors(to_descriptors(REPLY), LIMITS) == REPLY


def changed(content: RecordDict, **values: str | bytes) -> RecordDict:
    found = content[RECORD]
    assert isinstance(found, ConfigRecord)
    return record({**found, **values})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "kinds", ["[]", '["moments","moments"]', '["means"]', "{}", "nonsense", '"moments"']
)
def test_request_names_each_kind_once(kinds: str) -> None:
    with pytest.raises(MalformedMessage):
        from_descriptors_request(changed(descriptors_request(REQUEST), kinds=kinds))


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"descriptors": '["moments","fisher"]'}, MalformedMessage, "other descriptors than it"),
        ({"descriptors": "[]"}, MalformedMessage, "other descriptors than it was asked for"),
        ({"descriptors": '["means"]'}, MalformedMessage, "the descriptors are malformed: "),
        ({"stayed": '{"fisher": ["a"]}'}, MalformedMessage, "the descriptors are malformed: "),
        ({"stayed": "x" * 10_000}, TooLarge, "^'stayed' of the descriptors has 10000 characters$"),
        (
            {"moments": b"x" * 101},
            TooLarge,
            "^a part of the moments has 101 bytes, the limit is 100$",
        ),
        (
            {"moments.dsse": b"x" * 70_000},
            TooLarge,
            "^a part of the moments has 70000 bytes, the limit is 65536$",
        ),
        ({"moments": "text"}, MalformedMessage, "^the message lacks 'moments'"),
    ],
)
def test_other_replies_are_refused(
    changes: dict[str, str | bytes], error: type[FedprintError], text: str
) -> None:
    with pytest.raises(error, match=text):
        from_descriptors(changed(to_descriptors(REPLY), **changes), LIMITS)


def test_what_a_site_says_is_printable_and_short() -> None:
    said = {"fisher": ("a\nb", "\x1b[31mred" + "é" * 2000)}
    found = from_descriptors(to_descriptors(DescriptorsReply({}, said)), {"fisher": 1})  # type: ignore[arg-type]
    reason, message = found.refused["fisher"]
    assert reason == "a b"
    assert message.isprintable()
    assert len(message) <= 500


@given(st.text(max_size=60), st.text(max_size=60))
def test_no_text_gets_past(kinds: str, stayed: str) -> None:
    with pytest.raises((MalformedMessage, TooLarge)):
        from_descriptors(record({"descriptors": kinds, "stayed": stayed}), LIMITS)


@given(st.lists(st.sampled_from(KINDS)))
def test_kinds_are_read_in_one_order(kinds: list[str]) -> None:
    found = parse_kinds(" , ".join(kinds), "--also")
    assert list(found) == [kind for kind in KINDS if kind in kinds]


def test_unknown_kind_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^--also: there is no descriptor 'x': take moments, "):
        parse_kinds("x", "--also")


def test_refusals_of_all_kinds_fit() -> None:
    said = {kind: ("r" * 100, "\U0001f600" * 600) for kind in KINDS}
    content = to_descriptors(DescriptorsReply({}, said))
    found = from_descriptors(content, dict.fromkeys(KINDS, 1))
    assert sorted(found.refused) == sorted(KINDS)
    assert json.dumps(found.refused)
