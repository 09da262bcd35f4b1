"""Where an audit asks the gate: a fresh state folder, of which nothing stays.

It holds exact features. So it lies in the site's own state folder, nobody but its owner can open
it, and it goes however the audit ends; what a killed audit left goes when the next one starts.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fl_client.turns import turn

SCRATCH = Path("audit", "scratch")
_ENDING = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)
)  # Ctrl-C raises by itself
_CACHES = ("features", "data.json", "counted.json")


@contextmanager
def fresh_state(state: Path) -> Iterator[Path]:
    """Yield a state folder without a past, which knows the features that `state` has.

    One at a time; other audits of the site wait.
    """
    root = state / SCRATCH
    with turn(root), _ends_orderly():
        sweep(root)
        try:
            folder = Path(tempfile.mkdtemp(dir=root))  # mode 0700
            _take_caches(state, folder)
            yield folder
        finally:
            sweep(root)


def sweep(root: Path) -> None:
    """Remove every fresh state; whoever calls this has the turn."""
    for folder in root.iterdir():
        if folder.is_dir():
            shutil.rmtree(folder)


@contextmanager
def _ends_orderly() -> Iterator[None]:
    """Let a signal to end raise, so that whoever holds something lets go of it; only the first."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, _: Any) -> None:
        for other in (*_ENDING, signal.SIGINT):
            signal.signal(other, signal.SIG_IGN)
        sys.exit(128 + number)

    before = {number: signal.signal(number, end) for number in _ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _take_caches(state: Path, folder: Path) -> None:
    """Take the site's features along, so that no image is opened again."""
    for name in _CACHES:
        if (state / name).is_dir():
            shutil.copytree(state / name, folder / name, copy_function=_link)
        elif (state / name).is_file():
            _link(str(state / name), str(folder / name))


def _link(source: str, target: str) -> None:
    """Link a file, which nobody changes in place; copy it where the disk cannot link."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
