"""What a compressed DICOM frame says of its own size, which need not be what the header says."""

from __future__ import annotations

import struct
from typing import BinaryIO

from pydicom.dataset import Dataset
from pydicom.encaps import get_frame

_BEFORE_VALUE = 12
"""Bytes of tag, VR and length before an encapsulated value: it is never in implicit syntax."""

_SIZE_FOLLOWS = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
"""JPEG's and JPEG-LS's markers that start a frame."""


def encoded_size(file: BinaryIO, header: Dataset, frame: int) -> tuple[int, int] | None:
    """Return height and width of a compressed frame.

    Parameters
    ----------
    file : binary file
        The DICOM file, at its pixel data.
    header : Dataset
        What was read before.
    frame : int
        Which frame, counted from 0.

    Returns
    -------
    (int, int) or None
        None for a stream that does not say (RLE).
    """
    file.seek(_BEFORE_VALUE, 1)
    frames = int(header.get("NumberOfFrames") or 1)
    stream = get_frame(file, frame, number_of_frames=frames)
    return stream_size(stream)


def stream_size(stream: bytes) -> tuple[int, int] | None:
    """Return height and width that a JPEG, JPEG-LS or JPEG 2000 stream begins with.

    >>> stream_size(bytes.fromhex("ffd8 ffc0 000b 08 0010 0020 01 01 11 00"))
    (16, 32)
    """
    if stream[:4] == b"\xff\x4f\xff\x51":  # JPEG 2000: extent and offset of the reference grid
        right, bottom, left, top = struct.unpack(">4I", stream[8:24])
        return bottom - top, right - left
    at = 2
    while stream[:2] == b"\xff\xd8" and at + 9 <= len(stream):
        if stream[at] != 0xFF:
            return None
        marker = stream[at + 1]
        if marker == 0xFF:  # filling
            at += 1
            continue
        if marker in _SIZE_FOLLOWS:
            height, width = struct.unpack(">2H", stream[at + 5 : at + 9])
            return height, width
        at += 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
    return None
