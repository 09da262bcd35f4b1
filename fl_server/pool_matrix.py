"""Records in a file that grows: by block, memory-mapped, or single ones copied."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK_BYTES = 64 * 2**20
"""Bytes that are worked on at a time, and bound of what is built of them in memory."""

_AHEAD = 2**20  # bytes that the system is asked to read at a time: it may do no more of a request


def half_of_memory() -> int:
    """Return half of the machine's memory in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


class MappedMatrix:
    """The records that are published; what lies behind them in the file is nobody's business.

    Pages of a mapping are the file's own cache, which the system takes back when memory is short.
    Mapping them anew costs as much as reading them, or twice that, so a matrix stays mapped
    between queries unless told otherwise.

    Parameters
    ----------
    path : Path or str
        The file; it may be deleted later, as long as this object lives.
    record : numpy.dtype
        Of a record.
    mapped : int or None
        Bytes that may stay mapped; a larger matrix is mapped and unmapped block by block, because
        one that does not fit into memory is read from the disk anew, page by page, at every query.
        None: half of the machine's memory.
    """

    def __init__(
        self, path: os.PathLike[str] | str, record: np.dtype[Any], mapped: int | None = None
    ) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)
        self.record = record
        self._limit = half_of_memory() if mapped is None else mapped
        self._whole: NDArray[Any] | None = None

    def close(self) -> None:
        """Give the file back; records that are still referred to stay mapped."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor, self._whole = -1, None

    def holds(self, number: int) -> bool:
        """Return whether the file is long enough for so many records."""
        return os.fstat(self._descriptor).st_size >= number * self.record.itemsize

    def blocks(
        self, number: int, first: int = 0, limit: int = BLOCK_BYTES
    ) -> Iterator[tuple[int, NDArray[Any]]]:
        """Go through records, a block at a time.

        Parameters
        ----------
        number : int
            How many there are.
        first : int
            Where to begin.
        limit : int
            Bytes of a block.

        Yields
        ------
        int, ndarray
            Index of the first record, and read-only records ``[k]``.
        """
        step = max(1, limit // self.record.itemsize)
        keep = number * self.record.itemsize <= self._limit
        if keep and number and (self._whole is None or len(self._whole) < number):
            self._whole = self._map(0, number)
        for start in range(first, number, step):
            stop = min(start + step, number)
            if keep and self._whole is not None:
                yield start, self._whole[start:stop]
            else:
                self._whole = None
                self._read_ahead(start, stop)
                yield start, self._map(start, stop)

    def one(self, index: int) -> bytes:
        """Return the bytes of a record."""
        size = self.record.itemsize
        return os.pread(self._descriptor, size, index * size)

    def _read_ahead(self, start: int, stop: int) -> None:
        """Have records read in order: products go column by column, which reads page by page."""
        if hasattr(os, "posix_fadvise"):  # not on macOS
            size = self.record.itemsize
            for offset in range(start * size, stop * size, _AHEAD):
                os.posix_fadvise(self._descriptor, offset, _AHEAD, os.POSIX_FADV_WILLNEED)

    def _map(self, start: int, stop: int) -> NDArray[Any]:
        """Map records; the mapping lives as long as the array."""
        size = self.record.itemsize
        skip = start * size % mmap.ALLOCATIONGRANULARITY
        length, offset = (stop - start) * size, start * size - skip
        view = mmap.mmap(self._descriptor, skip + length, prot=mmap.PROT_READ, offset=offset)
        return np.frombuffer(view, self.record, stop - start, skip)
