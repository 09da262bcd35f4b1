"""Ways to spoil a message: at its bytes, in its JSON, in the fields of its record."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Fields = Mapping[str, Any]
Message = bytes | Fields
LONGEST = 1 << 20
"""Most bytes of a spoilt message: what memory it takes is then the decoders' doing."""

SCALARS: tuple[Any, ...] = (
    None, True, False, 0, -1, 2**31, 2**53 + 1, 2**63, -(2**63) - 1, 10**400, 0.5, -0.0, 1e308,
    5e-324, float("nan"), float("inf"), float("-inf"), "", "\0", "\ud800", "\u202e\u0007", "é" * 99,
    "a" * 70_000, "0" * 64, "NaN", "1e999", "../../etc/passwd", "2026-02-30T00:00:00Z",
    "9999-12-31T23:59:59-23:59", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
    [], {}, [[]], {"": {}}, [None] * 2_000,
)  # fmt: skip
"""Values that parsers stumble over, put in the place of any value."""

# of these only what a Flower config record can hold
_FIELD_VALUES: tuple[Any, ...] = (
    *(v for v in SCALARS if isinstance(v, float | str) or (isinstance(v, int) and abs(v) < 2**63)),
    b"", b"\0" * 1000, [1, 2], ["a"], [b"a"], [0.5],
)  # fmt: skip
_WORDS = (
    b"\x00",
    b"\xff" * 8,
    b"\x7f\xff\xff\xff",
    b"\x80",
    b'"',
    b"{",
    b"[",
    b"\\ud800",
    b"-",
    b"1e999",
)


def spoil(message: Message, others: Sequence[Message], rng: random.Random) -> Message:
    """Return the message with one to three faults.

    Parameters
    ----------
    message : bytes or mapping
        A whole one; a mapping stands for the fields of a record.
    others : sequence
        More messages, of any kind, to splice with.
    rng : random.Random
        Decides everything.
    """
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if isinstance(message, bytes):
            message = _spoil_bytes(message, [o for o in others if isinstance(o, bytes)], rng)
        else:
            message = _spoil_fields(dict(message), others, rng)
        if isinstance(message, bytes) and len(message) > LONGEST:
            message = message[:LONGEST]
    return message


def _spoil_fields(fields: dict[str, Any], others: Sequence[Message], rng: random.Random) -> Fields:
    if not fields:
        return {"site": rng.choice(_FIELD_VALUES)}
    name = rng.choice(sorted(fields))
    value, how = fields[name], rng.random()
    if how < 0.1:
        del fields[name]
    elif how < 0.2:
        fields[name] = rng.choice(_FIELD_VALUES)
    elif how < 0.25:
        fields[name] = fields[rng.choice(sorted(fields))]
    elif isinstance(value, bytes):
        fields[name] = _spoil_bytes(value, [o for o in others if isinstance(o, bytes)], rng)
    elif isinstance(value, str):
        spoilt = _spoil_bytes(value.encode(errors="surrogatepass"), [], rng)
        fields[name] = spoilt.decode(errors=rng.choice(("replace", "surrogateescape")))
    else:
        fields[name] = rng.choice(_FIELD_VALUES)
    return fields


def _spoil_bytes(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    if data[:1] in (b"{", b"[") and rng.random() < 0.7:
        spoilt = _spoil_json(data, rng)
        if spoilt is not None:
            return spoilt
    return rng.choice(_BYTE_WAYS)(data, others, rng)


def _flip(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    changed = bytearray(data or b"\0")
    for _ in range(rng.choice((1, 1, 2, 8))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _drop(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    start = rng.randrange(len(data) + 1)
    return data[:start] + data[start + rng.choice((1, 2, 8, 64)) :]


def _repeat(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    start = rng.randrange(len(data) + 1)
    piece = data[start : start + rng.choice((1, 8, 64, 512))]
    return data[:start] + piece * rng.choice((2, 3, 50)) + data[start:]


def _insert(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    start = rng.randrange(len(data) + 1)
    word = rng.choice((*_WORDS, rng.randbytes(rng.randrange(1, 32))))
    return data[:start] + word + data[start + rng.choice((0, len(word))) :]


def _splice(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    other = rng.choice(others) if others else data
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :]


def _deep(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    depth = rng.choice((100, 1_000, 20_000))
    opening, closing = rng.choice(((b"[", b"]"), (b'{"a":', b"}")))
    start = rng.randrange(len(data) + 1) if rng.random() < 0.5 else 0
    return data[:start] + opening * depth + b"0" + closing * depth + data[start:]


_BYTE_WAYS: tuple[Callable[[bytes, Sequence[bytes], random.Random], bytes], ...] = (
    _flip, _flip, _cut, _drop, _repeat, _insert, _splice, _deep,
)  # fmt: skip


def _spoil_json(data: bytes, rng: random.Random) -> bytes | None:
    """Change one value of a JSON text, or remove, rename or double one key."""
    try:
        root = json.loads(data)
        places = list(_places(root))
    except (ValueError, RecursionError):
        return None
    if not places:
        return None
    holder, key = rng.choice(places)
    how = rng.random()
    if how < 0.6 or isinstance(holder, list):
        holder[key] = _hostile(holder[key], rng)
    elif how < 0.75:
        del holder[key]
    elif how < 0.9:
        holder[rng.choice((key + "x", "__proto__", "", "\ud800"))] = holder.pop(key)
    else:
        return _doubled(root, key, rng)
    return json.dumps(root, ensure_ascii=True).encode()


def _hostile(value: Any, rng: random.Random) -> Any:
    """Return a value near the right one, or one that has nothing to do with it."""
    if rng.random() < 0.6 or isinstance(value, bool) or value is None:
        return rng.choice(SCALARS)
    if isinstance(value, int | float):
        return rng.choice(
            (-value, value + 1, value * 2, value * 0.5 if abs(value) < 1e300 else 0, [value])
        )
    if isinstance(value, str):
        return _spoil_bytes(value.encode(errors="replace"), [], rng).decode(errors="replace")
    if isinstance(value, list):
        return rng.choice((value[:-1], value * 2, value[::-1], [value], value[:1] * 500))
    return rng.choice(([value], {**value, "more": 1}, list(value)))


def _doubled(root: Any, key: str, rng: random.Random) -> bytes:
    """Return the text with one key twice, which JSON leaves open what it means."""
    text = json.dumps(root, ensure_ascii=True)
    again = f"{json.dumps(key)}: {json.dumps(rng.choice(SCALARS[:-1]))}, "
    return text.replace(f"{json.dumps(key)}:", again + f"{json.dumps(key)}:", 1).encode()


def _places(root: Any) -> list[tuple[Any, Any]]:
    """Return every (container, key or index) below a value."""
    found, todo = [], [root]
    while todo:
        holder = todo.pop()
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))[:50]
        for key in keys:
            found.append((holder, key))
            if isinstance(holder[key], dict | list):
                todo.append(holder[key])
    return found
