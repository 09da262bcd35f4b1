"""Which tasks a fingerprint store holds: a file of fixed-size entries that only grows.

An entry is what publishes a vector, so it is written after the vector is on the disk. It ends with
a checksum: an entry that a crash left half-written ends the file, and the next writer replaces it.
"""

from __future__ import annotations

import os
import re
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field

from protocol.errors import ConfigError

ADDED, WITHDRAWN = b"+", b"-"
_ENTRY = struct.Struct("<c3x32sI")  # what happened, the task's id, checksum of its vector
_CHECK = struct.Struct("<I")
SIZE = _ENTRY.size + _CHECK.size
_ID = re.compile(r"[0-9a-f]{64}")


@dataclass
class Entries:
    """The tasks by position; a withdrawn one keeps its position until the store is compacted.

    Attributes
    ----------
    ids, checksums : list
        Of every position; the checksum is the CRC-32 of the vector.
    alive : list of bool
        Whether the task at a position was not withdrawn.
    position : dict of str to int
        Of the tasks that are there.
    read : int
        Bytes of the file that are sound.
    """

    ids: list[str] = field(default_factory=list)
    checksums: list[int] = field(default_factory=list)
    alive: list[bool] = field(default_factory=list)
    position: dict[str, int] = field(default_factory=dict)
    read: int = 0

    def follow(self, descriptor: int) -> bool:
        """Read what was appended since; return whether there was any."""
        before = self.read
        data = os.pread(descriptor, max(0, os.fstat(descriptor).st_size - before), before)
        for start in range(0, len(data) - SIZE + 1, SIZE):
            entry = data[start : start + SIZE]
            body, (check,) = entry[: _ENTRY.size], _CHECK.unpack(entry[_ENTRY.size :])
            if checksum(body) != check:
                break
            self._take(*_ENTRY.unpack(body))
            self.read += SIZE
        return self.read > before

    def _take(self, kind: bytes, raw: bytes, checksum: int) -> None:
        task = raw.hex()
        if kind == ADDED:
            self.position[task] = len(self.ids)
            self.ids.append(task)
            self.checksums.append(checksum)
            self.alive.append(True)
        elif task in self.position:
            self.alive[self.position.pop(task)] = False


def pack(kind: bytes, tasks: Iterable[tuple[str, int]]) -> bytes:
    """Return the entries of some tasks and the checksums of their vectors."""
    bodies = [_ENTRY.pack(kind, bytes.fromhex(task), checksum) for task, checksum in tasks]
    return b"".join(body + _CHECK.pack(checksum(body)) for body in bodies)


def checksum(vector: bytes) -> int:
    """Return the CRC-32 of a vector's bytes: it finds damage, it is no proof against malice."""
    return zlib.crc32(vector)


def check_id(task: str) -> str:
    """Return the id itself.

    Raises
    ------
    ConfigError
        When it is not a SHA-256 in hexadecimal digits.
    """
    if not _ID.fullmatch(task):
        raise ConfigError(
            f"{task!r} is no id of a task: give the SHA-256 of its release, 64 hexadecimal digits"
        )
    return task
