"""Progress on anything longer than two seconds: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

QUIET_SECONDS = 2.0
LINE_SECONDS = 10.0


@contextmanager
def show_progress(label: str, total: int, unit: str = "images") -> Iterator[Callable[[int], None]]:
    """Show how far something is, on standard error.

    Parameters
    ----------
    label : str
        What is being done.
    total : int
        How many units there are.
    unit : str
        What is counted; the rate is shown as ``unit/s``.

    Yields
    ------
    callable
        Takes the number of units done since the last call.
    """
    if sys.stderr.isatty():
        with _bar(label, total, unit) as advance:
            yield advance
    else:
        yield _Lines(label, total, unit).advance


@contextmanager
def _bar(label: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text(f"{speed:.0f} {unit}/s" if speed else "")

    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(label, total=total)
        yield lambda count: progress.advance(task, count)


class _Lines:
    """One line every ten seconds, the first after two."""

    def __init__(self, label: str, total: int, unit: str) -> None:
        self._label, self._total, self._unit = label, total, unit
        self._done = 0
        self._started = time.monotonic()
        self._next = self._started + QUIET_SECONDS

    def advance(self, count: int) -> None:
        self._done += count
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + LINE_SECONDS
        rate = self._done / (now - self._started)
        print(
            f"{self._label}: {self._done} of {self._total} {self._unit}, {rate:.0f} {self._unit}/s",
            file=sys.stderr,
            flush=True,
        )
