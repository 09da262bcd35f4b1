"""Messages there and back, and what is wrong with the ones that are not right."""

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import Any

import pytest
from flwr.app import ConfigRecord, RecordDict

from protocol.envelope import LIMIT as ENVELOPE_LIMIT
from protocol.errors import ConfigError, DataError, MalformedMessage, MalformedPayload, TooLarge
from protocol.keys import generate_key, public_pem
from protocol.records import (
    AskedTerms,
    CheckpointMessage,
    Hello,
    ReleaseRequest,
    from_checkpoint,
    from_hello,
    from_hello_request,
    from_release_request,
    from_reply,
    hello_request,
    refusal,
    release_request,
    to_checkpoint,
    to_hello,
    to_refusal,
    to_reply,
)
from protocol.spec import Spec

from .conftest import projected_spec


def message(**values: str | bytes | int) -> RecordDict:
    return RecordDict({"fedprint": ConfigRecord({**values})})


def test_there_and_back(tiny_spec: Spec) -> None:
    pem = public_pem(generate_key())
    assert from_hello_request(hello_request("run-1")) == "run-1"
    assert from_hello(to_hello("north", pem)) == Hello("north", pem)
    plain = ReleaseRequest("run-1", "n", tiny_spec, AskedTerms(mode="plain"))
    assert from_release_request(release_request("run-1", "n", tiny_spec)) == plain
    terms = AskedTerms(mode="private", epsilon=0.5, delta=1e-7)
    asked = from_release_request(release_request("run-1", "n", projected_spec(), terms))
    assert (asked.spec, asked.terms) == (projected_spec(), terms)
    site, payload, release, binding = from_reply(
        to_reply("north", b"payload" * 100, b"release", b"binding")
    )
    assert site == "north"
    assert (payload, release, binding) == (b"payload" * 100, b"release", b"binding")


@pytest.mark.parametrize(
    ("terms", "text"),
    [
        ('{"epsilon": 0}', "epsilon: Input should be greater than or equal to 0.01"),
        ('{"epsilon": 1e9}', "epsilon: Input should be less than or equal to 100"),
        ('{"epsilon": NaN}', "epsilon: Input should be a finite number"),
        ('{"epsilon": "2"}', "epsilon: Input should be a valid number"),
        ('{"delta": 0}', "delta: Input should be greater than or equal to 0.0000"),
        ('{"delta": 0.5}', "delta: Input should be less than or equal to 0.01"),
        ('{"mode": "none"}', "mode: Input should be 'plain' or 'private'"),
        ('{"sigma": 0}', "sigma: Extra inputs are not permitted"),
        ("[]", "Input should be an object"),
        ("{", "Invalid JSON: EOF while parsing"),
    ],
)
def test_terms_that_cannot_be_asked(tiny_spec: Spec, terms: str, text: str) -> None:
    content = message(run="r", nonce="n", spec=tiny_spec.model_dump_json(), terms=terms)
    with pytest.raises(MalformedMessage) as caught:
        from_release_request(content)
    assert str(caught.value).startswith(f"unusable terms of a release: {text}")
    with pytest.raises(MalformedMessage, match="the message lacks 'terms'"):
        from_release_request(message(run="r", nonce="n", spec=tiny_spec.model_dump_json()))


SHOWN = CheckpointMessage(
    run="run-1",
    coordinator="pem",
    checkpoint=b"signed",
    entry=b"{}",
    index=3,
    inclusion=[bytes([n]) * 32 for n in range(3)],
    earlier=2,
    consistency=[b"x" * 32],
)


def test_a_checkpoint_there_and_back() -> None:
    assert from_checkpoint(to_checkpoint(SHOWN)) == SHOWN
    first = replace(SHOWN, earlier=0, consistency=[])
    assert from_checkpoint(to_checkpoint(first)) == first


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"inclusion": [b"x" * 31]}, "'inclusion' of the log has 31 bytes: it is no proof"),
        ({"consistency": [b"x" * 32] * 66}, "'consistency' of the log has 2112 bytes: it is no"),
        ({"index": -1}, "the log cannot have entries -1 and 2"),
        ({"earlier": 2**60}, "the log cannot have entries 3 and 1152921504606846976"),
        ({"index": "3"}, "the message lacks 'index'"),
        ({"run": 3}, "the message lacks 'run'"),
        (
            {"checkpoint": bytes(65537)},
            "the checkpoint has a part of 65537 bytes, the limit is 65536",
        ),
        ({"coordinator": "x" * 70000}, "the checkpoint has a part of 70000 bytes, the limit is 65"),
    ],
)
def test_malformed_checkpoints(changes: dict[str, Any], text: str) -> None:
    with pytest.raises((MalformedMessage, TooLarge)) as caught:
        from_checkpoint(to_checkpoint(replace(SHOWN, **changes)))
    assert str(caught.value).startswith(text)


def test_the_payload_is_compressed() -> None:
    record = to_reply("north", bytes(100_000), b"", b"")["fedprint"]
    assert isinstance(record, ConfigRecord)
    assert len(record["payload"]) < 1000  # type: ignore[arg-type]


def test_refusals() -> None:
    text = "policy asks for 50 images,\n this site has 30"
    assert refusal(to_refusal("too-few-images", text)) == (
        "too-few-images",
        "policy asks for 50 images, this site has 30",
    )
    assert refusal(to_reply("north", b"", b"", b"")) is None
    assert refusal(RecordDict()) is None
    long = refusal(to_refusal("x" * 9999, "y" * 9999))
    assert long is not None
    assert max(map(len, long)) <= 500


def test_a_bomb_in_a_reply_is_not_inflated() -> None:
    bomb = zlib.compress(bytes(10_000_000), 9)
    with pytest.raises(TooLarge, match="inflates to more than the limit"):
        from_reply(message(site="north", payload=bomb, release=b"", binding=b""), limit=1_000_000)
    long = bytes(ENVELOPE_LIMIT + 1)
    with pytest.raises(TooLarge, match="the envelope has"):
        from_reply(message(site="north", payload=b"", release=long, binding=b""))


def test_malformed_messages() -> None:
    for content in (
        RecordDict(),
        message(site="north", payload=b"", release=b""),
        message(site="north", payload="text", release=b"", binding=b""),
    ):
        with pytest.raises(
            MalformedMessage, match=r"the message lacks '(binding|release|payload|site)'"
        ):
            from_reply(content)
    with pytest.raises(MalformedPayload, match="cannot be decompressed"):
        from_reply(message(site="north", payload=b"junk", release=b"", binding=b""))
    with pytest.raises(MalformedMessage, match="unusable answer to the roll call: site name"):
        from_hello(message(**{"site": "../etc", "public-key": public_pem(generate_key())}))
    with pytest.raises(MalformedMessage, match="not a public key in PEM form"):
        from_hello(message(**{"site": "north", "public-key": "hello"}))
    with pytest.raises(DataError, match="is not usable"):
        to_hello("a/b", "pem")


def test_a_spec_that_many_are_asked_for_is_read_once(tiny_spec: Spec) -> None:
    first, second = (
        from_release_request(release_request("run", nonce, tiny_spec)).spec for nonce in ("a", "b")
    )
    assert first == tiny_spec
    assert first is second
    with pytest.raises(ConfigError, match="the requested spec is not a valid spec"):
        from_release_request(message(run="run", nonce="a", spec="{}", terms="{}"))
