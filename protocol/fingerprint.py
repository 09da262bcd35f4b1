"""The fingerprint, its file (safetensors) and its compressed form on the wire."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from protocol.errors import BadDtype, BadShape, DataError, MalformedPayload, NotFinite, TooLarge

TENSOR = "counts"
LIMIT = 64 * 1024 * 1024
"""Default limit of a fingerprint file, in bytes."""

# uint64 is left out: its upper half does not fit the int64 that everything is computed in
_INTEGERS = (np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.int64)


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """A task's binned feature distributions.

    Parameters
    ----------
    site : str
        Who holds the task.
    counts : ndarray of int, shape [m, b]
        How many views fell in each bin of each feature; noised counts may be negative.
    spec_digest : str
        Digest of the spec it was made under.
    n_images : int
        Number of images behind it.
    sigma : float
        Standard deviation of the noise in each count; 0 for a plain release.
    """

    site: str
    counts: NDArray[np.integer[Any]]
    spec_digest: str
    n_images: int
    sigma: float = 0.0

    def __post_init__(self) -> None:
        if self.counts.ndim != 2:
            raise BadShape(f"counts of {self.site} have {self.counts.ndim} dimensions instead of 2")
        if self.counts.dtype.kind not in "iu":
            raise BadDtype(f"counts of {self.site} are {self.counts.dtype} instead of integers")

    @property
    def rows(self) -> NDArray[np.float64]:
        """Histograms, float64 [m, b]; every row sums to 1.

        Negative (noised) counts are taken as 0, and a row without any count as uniform.
        """
        return histograms(self.counts)

    @property
    def shares(self) -> NDArray[np.float64]:
        """Counts as shares of the views, float64 [m, b]: unbiased, so noised ones may be negative.

        A plain release's rows add up to its views, which with replacement are the draws; the rows
        of a noised one do not, and its views are its images.
        """
        counts = self.counts.astype(np.float64)  # [m, b]
        if self.sigma > 0:
            return counts / self.n_images
        shares: NDArray[np.float64] = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1.0)
        return shares


def histograms(counts: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
    """Return counts as shares of their rows, see `Fingerprint.rows`.

    Parameters
    ----------
    counts : ndarray of int, shape [..., b]
        Of any number of features and sites.

    Returns
    -------
    numpy.ndarray
        Shape ``[..., b]``, float64.
    """
    rows: NDArray[np.float64] = np.maximum(counts, 0).astype(np.float64)  # [..., b]
    totals = rows.sum(axis=-1)  # [...]
    if not totals.all():
        rows[totals == 0] = 1.0
        totals[totals == 0] = rows.shape[-1]
    rows /= totals[..., None]
    return rows


def smallest_integer(counts: NDArray[np.integer[Any]]) -> NDArray[np.integer[Any]]:
    """Return the counts as contiguous array of the smallest integer type that holds them.

    Parameters
    ----------
    counts : ndarray of int, shape [m, b]
        Any integers, in any memory layout.

    Raises
    ------
    DataError
        When they are no integers.
    """
    if counts.dtype.kind not in "iu":
        raise DataError(f"counts must be integers, not {counts.dtype}")
    low, high = (int(counts.min()), int(counts.max())) if counts.size else (0, 0)
    for dtype in _INTEGERS:
        info = np.iinfo(dtype)
        if info.min <= low and high <= info.max:
            return np.ascontiguousarray(counts, dtype=dtype)
    raise DataError(f"counts up to {high} do not fit a signed 64-bit integer")


def counts_to_bytes(counts: NDArray[np.integer[Any]]) -> bytes:
    """Return the exact bytes of a fingerprint's safetensors file: one tensor, ``counts`` [m, b]."""
    # smallest_integer also makes the array contiguous: safetensors would write others corrupted
    return safetensors.numpy.save({TENSOR: smallest_integer(counts)})


def counts_from_bytes(
    data: bytes, shape: tuple[int, int] | None = None
) -> NDArray[np.integer[Any]]:
    """Return the counts [m, b] of a fingerprint's safetensors file.

    Parameters
    ----------
    data : bytes
        The file.
    shape : (int, int) or None
        Features m and bins b that it must have.

    Raises
    ------
    MalformedPayload
        When it is no safetensors file with the one tensor ``counts``.
    BadShape, BadDtype, NotFinite
        When the tensor is not a matrix of integers of that shape.
    """
    try:
        tensors = safetensors.numpy.load(data)
    except (SafetensorError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise MalformedPayload(f"fingerprint is not a readable safetensors file: {error}") from None
    if list(tensors) != [TENSOR]:
        raise MalformedPayload(
            f"fingerprint must hold one tensor 'counts', not {sorted(tensors)[:5]}"
        )
    counts = tensors[TENSOR]
    if counts.ndim != 2:
        raise BadShape(f"counts have shape {counts.shape}, not features x bins")
    if shape is not None and counts.shape != shape:
        raise BadShape(f"counts have shape {counts.shape}, the spec asks for {shape}")
    if counts.dtype.kind == "f" and not bool(np.isfinite(counts).all()):
        raise NotFinite("counts hold NaN or infinity")
    if counts.dtype not in [np.dtype(t) for t in _INTEGERS]:
        raise BadDtype(f"counts are {counts.dtype}, not integers of at most 64 bits with sign")
    # the one tensor ends where the file does: a view of it needs no memory beside the file's
    start = len(data) - counts.nbytes
    return np.frombuffer(data, counts.dtype, counts.size, start).reshape(counts.shape)


def pack(data: bytes) -> bytes:
    """Compress losslessly for the wire (zlib, RFC 1950).

    Counts repeat in runs of one value and hardly otherwise: matches at other distances save
    a few per cent at most and cost 10 to 30 times the time to look for.
    """
    stream = zlib.compressobj(strategy=zlib.Z_RLE)
    return stream.compress(data) + stream.flush()


def unpack(data: bytes, limit: int = LIMIT) -> bytes:
    """Undo `pack`, never inflating more than `limit` bytes.

    Raises
    ------
    TooLarge
        When the input or the result is larger than `limit`.
    MalformedPayload
        When the bytes are not one whole zlib stream.
    """
    if len(data) > limit:
        raise TooLarge(f"compressed fingerprint has {len(data)} bytes, the limit is {limit}")
    stream = zlib.decompressobj()
    try:
        result = stream.decompress(data, limit + 1)  # 0 would mean without limit
    except zlib.error as error:
        raise MalformedPayload(f"fingerprint cannot be decompressed: {error}") from None
    if len(result) > limit:
        raise TooLarge(f"fingerprint inflates to more than the limit of {limit} bytes")
    if not stream.eof or stream.unused_data:
        raise MalformedPayload("fingerprint cannot be decompressed: the stream has no proper end")
    return result
