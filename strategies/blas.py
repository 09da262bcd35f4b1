"""BLAS on one thread while threads of our own work: its own would wait for each other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]


class _Single:
    """The limit is one of the whole process, so blocks in several threads share it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._inside = 0
        self._limit: Any = None
        self._whole = 1

    @contextmanager
    def __call__(self) -> Iterator[int]:
        """Enter a block in which BLAS uses one thread; give how many it had before.

        Who leaves last lifts the limit. Each block for itself would put back what it found, and of
        two that overlap the later one found a single thread.
        """
        with self._lock:
            if not self._inside:
                blas = ThreadpoolController().select(user_api="blas")
                self._whole = max((one["num_threads"] for one in blas.info()), default=1)
                self._limit = blas.limit(limits=1)
            self._inside += 1
            whole = self._whole
        try:
            yield whole
        finally:
            with self._lock:
                self._inside -= 1
                if not self._inside:
                    self._limit.restore_original_limits()


single_blas = _Single()
