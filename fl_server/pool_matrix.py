"""A float32 matrix in a file that grows: rows by block, memory-mapped, or single ones copied."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

BLOCK_BYTES = 64 * 2**20
"""Bytes that are worked on at a time, and bound of what is built of them in memory."""

_AHEAD = 2**20  # bytes that the system is asked to read at a time: it may do no more of a request


def half_of_memory() -> int:
    """Return half of the machine's memory in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


class MappedMatrix:
    """The rows that are published; what lies behind them in the file is nobody's business.

    Pages of a mapping are the file's own cache, which the system takes back when memory is short.
    Mapping them anew costs as much as reading them, or twice that, so a matrix stays mapped
    between queries unless told otherwise.

    Parameters
    ----------
    path : Path or str
        The file; it may be deleted later, as long as this object lives.
    width : int
        Values of a row.
    mapped : int or None
        Bytes that may stay mapped; a larger matrix is mapped and unmapped block by block, because
        one that does not fit into memory is read from the disk anew, page by page, at every query.
        None: half of the machine's memory.
    """

    def __init__(self, path: os.PathLike[str] | str, width: int, mapped: int | None = None) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)
        self.width, self.row_bytes = width, 4 * width
        self._limit = half_of_memory() if mapped is None else mapped
        self._whole: NDArray[np.float32] | None = None

    def close(self) -> None:
        """Give the file back; rows that are still referred to stay mapped."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor, self._whole = -1, None

    def holds(self, rows: int) -> bool:
        """Return whether the file is long enough for so many rows."""
        return os.fstat(self._descriptor).st_size >= rows * self.row_bytes

    def blocks(
        self, rows: int, first: int = 0, limit: int = BLOCK_BYTES
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Go through rows, a block at a time.

        Parameters
        ----------
        rows : int
            How many there are.
        first : int
            Where to begin.
        limit : int
            Bytes of a block.

        Yields
        ------
        int, ndarray
            Index of the first row, and read-only rows ``[k, width]``.
        """
        step = max(1, limit // self.row_bytes)
        keep = rows * self.row_bytes <= self._limit
        if keep and rows and (self._whole is None or len(self._whole) < rows):
            self._whole = self._map(0, rows)
        for start in range(first, rows, step):
            stop = min(start + step, rows)
            if keep and self._whole is not None:
                yield start, self._whole[start:stop]
            else:
                self._whole = None
                self._read_ahead(start, stop)
                yield start, self._map(start, stop)

    def row(self, index: int) -> bytes:
        """Return the bytes of a row."""
        return os.pread(self._descriptor, self.row_bytes, index * self.row_bytes)

    def _read_ahead(self, start: int, stop: int) -> None:
        """Have rows read in order: products go column by column, which reads page by page."""
        if hasattr(os, "posix_fadvise"):  # not on macOS
            for offset in range(start * self.row_bytes, stop * self.row_bytes, _AHEAD):
                os.posix_fadvise(self._descriptor, offset, _AHEAD, os.POSIX_FADV_WILLNEED)

    def _map(self, start: int, stop: int) -> NDArray[np.float32]:
        """Map rows; the mapping lives as long as the array."""
        skip = start * self.row_bytes % mmap.ALLOCATIONGRANULARITY
        length = (stop - start) * self.row_bytes
        offset = start * self.row_bytes - skip
        view = mmap.mmap(self._descriptor, skip + length, prot=mmap.PROT_READ, offset=offset)
        rows = np.frombuffer(view, np.float32, (stop - start) * self.width, skip)
        return rows.reshape(stop - start, self.width)
