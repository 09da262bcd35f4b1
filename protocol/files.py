"""Writing files so that a reader sees the old content or the new one, never half of it."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel

_TOGETHER = 8
"""Files whose way to the disk is awaited at once: file systems write them in one go."""


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
    """Write many files, each as `atomic_write` would, but wait for the disk only once.

    A crash may leave some of them old and some new, never one of them half.

    Parameters
    ----------
    files : mapping of Path to bytes
        Content by target; up to some hundred, because all are open at once.

    Raises
    ------
    OSError
        When a folder cannot be written; what was not put in place leaves nothing behind.
    """
    for folder in {path.parent for path in files}:
        folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        new = {path: stack.enter_context(_Temporary(path)) for path in files}
        for path, content in files.items():
            new[path].fill(content, 0o644)
        if len(new) == 1:
            next(iter(new.values())).sync()
        elif new:
            with ThreadPoolExecutor(_TOGETHER) as pool:
                list(pool.map(_Temporary.sync, new.values()))
        for path, temporary in new.items():
            os.replace(temporary.name, path)


def append(path: Path, data: bytes) -> None:
    """Append to a file, and wait until it lies on the disk; missing parent folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


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
        publish(temporary.name, path)


class _Temporary:
    """A new file beside the one that it will become; gone at the end, unless it was renamed."""

    def __init__(self, path: Path) -> None:
        # born with mode 0600
        handle, self.name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:64]}.")
        self._file = os.fdopen(handle, "wb")

    def __enter__(self) -> _Temporary:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        with suppress(FileNotFoundError):
            os.unlink(self.name)

    def fill(self, content: bytes, mode: int) -> None:
        """Write all of it."""
        self._file.write(content)
        self._file.flush()
        os.fchmod(self._file.fileno(), mode)

    def sync(self) -> None:
        """Wait until it lies on the disk."""
        os.fsync(self._file.fileno())


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
