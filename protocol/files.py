"""Writing files so that a reader sees the old content or the new one, never half of it."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import BaseModel

_TOGETHER = 8
"""Files whose way to the disk is awaited at once."""

_OPEN = 96
"""Files that are open at once: macOS lets a process have 256, sockets and all."""


def atomic_write(path: Path | str, data: bytes | str, *, mode: int = 0o644) -> None:
    """Write a file through a temporary one beside it and a rename.

    Parameters
    ----------
    path : Path or str
        Target; missing parent folders are made.
    data : bytes or str
        Content; text is written as UTF-8.
    mode : int
        Permission bits of the file.

    Raises
    ------
    OSError
        When the folder cannot be written; nothing is left behind.
    """
    _write(Path(path), data, mode, os.replace)


def atomic_writes(files: Mapping[Path, bytes]) -> None:
    """Write many files, each as `atomic_write` would, but wait for the disk once for many.

    A crash may leave some of them old and some new, never one of them half.

    Parameters
    ----------
    files : mapping of Path to bytes
        Content by target.

    Raises
    ------
    OSError
        When a folder cannot be written; what was not put in place leaves nothing behind.
    """
    for folder in {path.parent for path in files}:
        folder.mkdir(parents=True, exist_ok=True)
    rest = iter(files.items())
    while some := dict(islice(rest, _OPEN)):
        with ExitStack() as stack:
            new = [stack.enter_context(_Temporary(path)) for path in some]
            for temporary, content in zip(new, some.values(), strict=True):
                temporary.fill(content, 0o644)
            _sync(new)
            for temporary, path in zip(new, some, strict=True):
                temporary.publish(os.replace, path)


def append(path: Path, data: bytes) -> None:
    """Append to a file, and wait until it lies on the disk; missing parent folders are made.

    Raises
    ------
    OSError
        When that fails, for example on a full disk; the file is then as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab", buffering=0) as file:
        end = file.tell()
        try:
            _write_all(file.fileno(), data)
            os.fsync(file.fileno())
        except OSError:
            file.truncate(end)
            raise


def create_once(path: Path | str, data: bytes | str, *, mode: int = 0o644) -> None:
    """Like `atomic_write`, but refuse to replace: of several writers exactly one wins.

    Raises
    ------
    FileExistsError
        When the file exists already.
    OSError
        When the folder cannot be written.
    """
    _write(Path(path), data, mode, os.link)


def _write(path: Path, data: bytes | str, mode: int, publish: Callable[[str, Path], None]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with _Temporary(path) as temporary:
        temporary.fill(data.encode() if isinstance(data, str) else data, mode)
        temporary.sync()
        temporary.publish(publish, path)


class _Temporary:
    """A new file beside the one that it will become; gone at the end, unless it was published."""

    def __init__(self, path: Path) -> None:
        folder, name = os.path.split(path)
        self._name = os.path.join(folder, f".{name[:64]}.{secrets.token_hex(8)}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._handle = os.open(self._name, flags, 0o600)
        self._there = True

    def __enter__(self) -> _Temporary:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._handle)
        if self._there:
            os.unlink(self._name)

    def fill(self, content: bytes, mode: int) -> None:
        """Write all of it."""
        _write_all(self._handle, content)
        os.fchmod(self._handle, mode)

    def sync(self) -> None:
        """Wait until it lies on the disk."""
        os.fsync(self._handle)

    def publish(self, how: Callable[[str, Path], None], path: Path) -> None:
        """Give it its name, by a rename or by a link."""
        how(self._name, path)
        self._there = how is not os.replace


def _write_all(handle: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(handle, rest) :]


def _sync(files: Sequence[_Temporary]) -> None:
    """Wait until all lie on the disk: some at once, because file systems write them in one go."""

    def sync(some: Sequence[_Temporary]) -> None:
        for file in some:
            file.sync()

    if len(files) == 1:
        sync(files)
    elif files:
        with ThreadPoolExecutor(_TOGETHER) as pool:
            list(pool.map(sync, [files[start::_TOGETHER] for start in range(_TOGETHER)]))


def atomic_json(path: Path | str, value: BaseModel | Any) -> None:
    """Write a pydantic model or plain value as readable JSON, atomically.

    Parameters
    ----------
    path : Path or str
        Target file.
    value : pydantic.BaseModel or any JSON value
        Models are written by alias; NaN and infinity are refused, because JSON has neither.

    Raises
    ------
    ValueError
        When the value holds NaN or infinity.
    """
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json", by_alias=True)
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    atomic_write(path, text + "\n")


def canonical_json(value: Any) -> bytes:
    """Return the one JSON form that digests are taken of.

    Sorted keys, no white space, UTF-8, shortest float digits, neither NaN nor infinity.
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def sha256_hex(data: bytes) -> str:
    """Return the SHA-256 of some bytes as 64 lower-case hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's content, which need not fit into memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
