"""Writing files so that a reader sees the old content or the new one, never half of it."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel


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
    content = data.encode() if isinstance(data, str) else data
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:64]}.")
    try:
        with os.fdopen(handle, "wb") as file:  # the file is born with mode 0600
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, mode)
        publish(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


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
