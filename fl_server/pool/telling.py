"""Progress on anything longer than two seconds: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

QUIET_SECONDS = 2.0
LINE_SECONDS = 10.0

Item = TypeVar("Item")


def told(items: Iterable[Item], label: str, total: int, what: str = "records") -> Iterator[Item]:
    """Yield the items and show on standard error how far that is."""
    if not sys.stderr.isatty():
        yield from _lines(items, label, total, what)
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        yield from progress.track(items, total=total, description=label)


def _lines(items: Iterable[Item], label: str, total: int, what: str) -> Iterator[Item]:
    due = time.monotonic() + QUIET_SECONDS
    for done, item in enumerate(items, 1):
        yield item
        if time.monotonic() >= due:
            due = time.monotonic() + LINE_SECONDS
            print(f"{label}: {done} of {total} {what}", file=sys.stderr, flush=True)
