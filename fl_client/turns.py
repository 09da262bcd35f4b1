"""One request at a time at a site: who asks twice is not computed for twice."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fl_client.history import must_be_written

LOCK = "gate.lock"


@contextmanager
def turn(state: Path) -> Iterator[None]:
    """Wait until no other process is at the gate of this site; a turn ends with its process.

    Raises
    ------
    PolicyError
        With reason ``not-recorded`` if the state folder cannot be written.
    """
    with must_be_written():
        state.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(state / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if os.name == "posix":  # not on Windows, where a simulation still runs
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
