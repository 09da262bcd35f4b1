"""Packed arrays on the disk instead of in memory: unpacked to a nameless file, and mapped."""

from __future__ import annotations

import shutil
import tempfile
from math import prod
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

_AT_ONCE = 1 << 20


class Stream(Protocol):
    """What bytes are read from."""

    def read(self, size: int, /) -> bytes:
        """Return at most so many bytes; none at the end."""


def spill(
    packed: Stream, dtype: np.dtype[np.generic], shape: tuple[int, ...], order: Literal["C", "F"]
) -> NDArray[np.generic]:
    """Copy an array from a stream to a nameless temporary file; return it memory-mapped.

    The file is gone with the array. No more is unpacked than the array takes.

    Parameters
    ----------
    packed : file object
        Stands where the array begins.
    dtype : numpy.dtype
        Of its values.
    shape : tuple of int
        Its shape; no side is 0.
    order : str
        ``"F"`` when the first index changes fastest.

    Raises
    ------
    ValueError
        If the disk has no room for it, or the stream ends early.
    """
    rest = prod(shape) * dtype.itemsize
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if rest > free:
        raise ValueError(f"it takes {rest} bytes, {tempfile.gettempdir()} has {free} free")
    with tempfile.TemporaryFile() as file:  # the map keeps its own handle
        while rest:
            block = packed.read(min(_AT_ONCE, rest))
            if not block:
                raise ValueError(f"{rest} bytes are missing at its end")
            file.write(block)
            rest -= len(block)
        file.flush()
        return np.memmap(file, dtype, "r", shape=shape, order=order)
