"""Spoilt messages at every decoder: nothing but our own errors, within time and memory.

A short, bounded part of ``benchmarks/fuzz.py``, which counts to a million.
"""

from __future__ import annotations

import base64
import json
import random
import time
import tracemalloc
import zlib
from collections.abc import Mapping

import pytest

from benchmarks.doors import LIMIT, Door, doors
from benchmarks.fuzz import knock
from benchmarks.mutations import spoil
from protocol.errors import (
    BadDtype,
    BadLedger,
    BadLog,
    ConfigError,
    FedprintError,
    MalformedMessage,
    MalformedPayload,
    MalformedStatement,
    TooLarge,
)
from protocol.fingerprint import counts_from_bytes, unpack
from protocol.spec import parse_spec

SECONDS = 12.0
MEGABYTES = 200.0


@pytest.fixture(scope="module")
def all_doors(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Door]:
    return doors(tmp_path_factory.mktemp("doors"))


def test_whole_messages_are_read(all_doors: Mapping[str, Door]) -> None:
    for name, door in all_doors.items():
        if name.startswith("signed floats"):
            with pytest.raises(BadDtype, match="counts are float64"):
                door.read(door.message)
        else:
            door.read(door.message)


def test_spoilt_messages_raise_nothing_but_our_own_errors(all_doors: Mapping[str, Door]) -> None:
    seed = random.SystemRandom().randrange(2**32)  # another part of the space each time
    knock(all_doors, 10 * len(all_doors), seed=0)  # imports and pools are there
    tally = knock(all_doors, 10**9, seed, until=time.monotonic() + SECONDS)
    assert not tally.crashes, "\n".join(f"seed {seed}: {k}\n{v}" for k, v in tally.crashes.items())
    assert tally.outcomes.total() > 20 * len(all_doors)
    assert len(tally.outcomes) > 12, "the messages do not get past the first check"
    assert tally.outcomes["accepted"] < 0.5 * tally.outcomes.total()
    assert tally.grown < MEGABYTES
    assert tally.slowest[0] < 10, tally.slowest


def test_what_long_runs_found_stays_mended(all_doors: Mapping[str, Door]) -> None:
    def changed(name: str, old: bytes, new: bytes) -> bytes:
        message = all_doors[name].message
        assert isinstance(message, bytes)
        assert old in message
        return message.replace(old, new, 1)

    order = {**dict(all_doors["order"].message), "factors": '{"\udc9f": 1.5}'}
    cases: dict[str, tuple[object, type[FedprintError]]] = {
        "order": (order, MalformedMessage),
        "signed log": (changed("signed log", b'"files"', b'"flies"'), BadLog),
        "signed statement (private)": (
            changed(
                "signed statement (private)",
                b'"contribution_cap":1',
                b'"contribution_cap":1' + b"0" * 400,
            ),
            MalformedStatement,
        ),
        "sealed ledger": (changed("sealed ledger", b'"cap":1', b'"cap":1' + b"0" * 400), BadLedger),
    }
    for name, (message, error) in cases.items():
        with pytest.raises(error):
            all_doors[name].read(message)
    with pytest.raises(ConfigError, match="these are no certificates in PEM form"):
        all_doors["invitation"].read(with_version_ten(all_doors["invitation"].message))


def with_version_ten(message: object) -> bytes:
    """Return an invitation with a certificate of a version that X.509 does not have."""
    assert isinstance(message, bytes)
    whole = json.loads(message)
    lines = whole["certificates"].splitlines()
    der = base64.b64decode("".join(lines[1:-1]))
    spoilt = base64.encodebytes(der.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x0a", 1))
    whole["certificates"] = "\n".join([lines[0], spoilt.decode().strip(), lines[-1], ""])
    return json.dumps(whole).encode()


def test_the_same_seed_spoils_alike() -> None:
    message = json.dumps({"a": [1, 2.5, "x"], "b": {"c": None}}).encode()
    first, second = (
        [spoil(message, [b"other"], random.Random(seed)) for seed in range(200)] for _ in range(2)
    )
    assert first == second
    assert len(set(first)) > 150


def test_bombs_take_no_memory() -> None:
    bomb = zlib.compress(bytes(200 * LIMIT), 9)
    header = (
        b'{"counts":{"dtype":"I64","shape":[1000000,1000000],"data_offsets":[0,8000000000000]}}'
    )
    vast = len(header).to_bytes(8, "little") + header + bytes(8)
    deep = b'{"name":' + b"[" * 200_000 + b"]" * 200_000 + b"}"
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge, match="inflates to more than the limit"):
            unpack(bomb, LIMIT)
        with pytest.raises(MalformedPayload, match="not a readable safetensors file"):
            counts_from_bytes(vast)
        with pytest.raises(FedprintError, match="is not a valid spec"):
            parse_spec(deep)
        assert tracemalloc.get_traced_memory()[1] < 16 * LIMIT
    finally:
        tracemalloc.stop()
