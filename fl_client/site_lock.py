"""One SuperNode a site's folder: a lock that ends with the process that holds it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from fl_client.site_settings import SiteSettings
from protocol.errors import SiteError

LOCK = "supernode.lock"


@contextmanager
def only_one(settings: SiteSettings) -> Iterator[int]:
    """Hold the lock of a site's state folder.

    A child process that inherits the descriptor holds it too, also when its parent was killed.

    Yields
    ------
    int
        The lock's file descriptor.

    Raises
    ------
    SiteError
        With reason ``already-running`` if another process holds it.
    """
    settings.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(settings.state / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            raise SiteError(
                f"site {settings.name} is running already (process {holder}): stop it first",
                "already-running",
            ) from None
        note_holder(descriptor, os.getpid())
        yield descriptor
    finally:
        os.close(descriptor)


def note_holder(descriptor: int, process: int) -> None:
    """Write down which process holds the lock."""
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{process}\n".encode(), 0)
