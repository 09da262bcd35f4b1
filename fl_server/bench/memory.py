"""Peak memory of all processes that a block starts."""

from __future__ import annotations

from contextlib import suppress
from threading import Event, Thread
from types import TracebackType
from typing import Any

_EVERY_SECONDS = 2.0  # a look costs some milliseconds a process


class PeakMemory:
    """Watches the children of this process, and theirs, while a block runs.

    Pages that several processes share count once in all where the system tells (Linux: PSS), else
    in each.

    Attributes
    ----------
    peak : int
        Most bytes at any look; this process itself is left out.
    """

    def __init__(self) -> None:
        self.peak = 0
        self._over = Event()
        self._thread = Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        import psutil  # comes with the simulation engine

        own, over = psutil.Process(), False
        while not over:
            over = self._over.wait(_EVERY_SECONDS)  # the last look is at the end
            self.peak = max(self.peak, sum(map(_bytes, own.children(recursive=True))))


def _bytes(process: Any) -> int:
    """Return the memory of a process; none if it has ended or is not to be looked at."""
    import psutil

    with suppress(psutil.Error, OSError):
        try:
            return int(process.memory_full_info().pss)
        except AttributeError:  # no Linux
            return int(process.memory_info().rss)
    return 0
