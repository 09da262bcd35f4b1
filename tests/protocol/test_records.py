"""Messages there and back, and what is wrong with the ones that are not right."""

from __future__ import annotations

import zlib

import pytest
from flwr.app import ConfigRecord, RecordDict

from protocol.envelope import LIMIT as ENVELOPE_LIMIT
from protocol.errors import DataError, MalformedMessage, MalformedPayload, TooLarge
from protocol.keys import generate_key, public_pem
from protocol.records import (
    Hello,
    from_hello,
    from_hello_request,
    from_release_request,
    from_reply,
    hello_request,
    refusal,
    release_request,
    to_hello,
    to_refusal,
    to_reply,
)
from protocol.spec import Spec


def message(**values: str | bytes | int) -> RecordDict:
    return RecordDict({"fedprint": ConfigRecord({**values})})


def test_there_and_back(tiny_spec: Spec) -> None:
    pem = public_pem(generate_key())
    assert from_hello_request(hello_request("run-1")) == "run-1"
    assert from_hello(to_hello("north", pem)) == Hello("north", pem)
    assert from_release_request(release_request("run-1", "n", tiny_spec)) == (
        "run-1",
        "n",
        tiny_spec,
    )
    site, payload, release, binding = from_reply(
        to_reply("north", b"payload" * 100, b"release", b"binding")
    )
    assert site == "north"
    assert (payload, release, binding) == (b"payload" * 100, b"release", b"binding")


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
