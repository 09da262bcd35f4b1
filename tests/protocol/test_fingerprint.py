"""Counts survive file and wire bit for bit, and nothing inflates past its limit."""

from __future__ import annotations

import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from protocol.errors import BadDtype, BadShape, DataError, MalformedPayload, TooLarge
from protocol.fingerprint import (
    Fingerprint,
    counts_from_bytes,
    counts_to_bytes,
    pack,
    smallest_integer,
    unpack,
)

SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9)
COUNTS = hnp.arrays(np.int64, SHAPES, elements=st.integers(-(2**63), 2**63 - 1))


@given(COUNTS)
def test_round_trip_through_file_and_wire(counts: Any) -> None:
    data = counts_to_bytes(counts)
    restored = counts_from_bytes(unpack(pack(data)))
    np.testing.assert_array_equal(restored, counts)
    assert list(safetensors.numpy.load(data)) == ["counts"]


@pytest.mark.parametrize("view", [np.transpose, np.asfortranarray, lambda a: a[::-1, ::2]])
def test_any_memory_layout_is_written_as_it_reads(view: Any) -> None:
    counts = view(np.arange(24).reshape(4, 6))
    np.testing.assert_array_equal(counts_from_bytes(counts_to_bytes(counts)), counts)


@pytest.mark.parametrize(
    ("low", "high", "dtype"),
    [
        (0, 255, "uint8"),
        (0, 256, "uint16"),
        (-1, 127, "int8"),
        (-1, 128, "int16"),
        (0, 2**16, "uint32"),
        (-1, 2**31 - 1, "int32"),
        (0, 2**32, "int64"),
    ],
)
def test_smallest_integer(low: int, high: int, dtype: str) -> None:
    assert smallest_integer(np.array([[low, high]])).dtype == dtype


def test_counts_must_be_integers_that_fit() -> None:
    with pytest.raises(DataError, match="counts must be integers, not float64"):
        smallest_integer(np.zeros((2, 2)))  # type: ignore[arg-type]
    with pytest.raises(DataError, match="do not fit a signed 64-bit integer"):
        smallest_integer(np.array([[2**64 - 1]], dtype=np.uint64))


def test_a_decompression_bomb_is_not_inflated() -> None:
    bomb = zlib.compress(bytes(200_000_000), 9)
    assert len(bomb) < 200_000
    tracemalloc.start()
    with pytest.raises(TooLarge, match="inflates to more than the limit of 1000000 bytes"):
        unpack(bomb, 1_000_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000


def test_unpack_limits() -> None:
    data = bytes(1000)
    assert unpack(pack(data), 1000) == data
    with pytest.raises(TooLarge, match="inflates"):
        unpack(pack(data), 999)
    with pytest.raises(TooLarge, match="has 20 bytes, the limit is 10"):
        unpack(bytes(20), 10)


@pytest.mark.parametrize("data", [b"", b"garbage", pack(b"abc")[:-1], pack(b"abc") + b"x"])
def test_unpack_garbage(data: bytes) -> None:
    with pytest.raises(MalformedPayload, match="cannot be decompressed"):
        unpack(data)


def test_rows_sum_to_one_whatever_the_counts() -> None:
    counts = np.array([[1, 3, 0], [-2, 1, 1], [0, 0, 0], [-1, -1, -1]])
    rows = Fingerprint("a", counts, "0" * 64, 4).rows
    third = 1 / 3
    expected = [[0.25, 0.75, 0], [0, 0.5, 0.5], [third] * 3, [third] * 3]
    np.testing.assert_allclose(rows, expected)
    assert rows.dtype == np.float64


def test_shares_are_not_clipped() -> None:
    counts = np.array([[1, 3, 0], [-2, 9, 1]])
    noisy = Fingerprint("a", counts, "0" * 64, 4, sigma=3.0).shares
    np.testing.assert_array_equal(noisy, counts / 4)  # whatever the rows add up to
    drawn = np.array([[10, 30, 0], [20, 10, 10], [0, 0, 0]])
    plain = Fingerprint("a", drawn, "0" * 64, 4).shares
    np.testing.assert_array_equal(plain, [[0.25, 0.75, 0], [0.5, 0.25, 0.25], [0, 0, 0]])
    assert plain.dtype == noisy.dtype == np.float64


def test_a_fingerprint_holds_a_matrix_of_integers() -> None:
    with pytest.raises(BadShape, match="counts of a have 1 dimensions instead of 2"):
        Fingerprint("a", np.zeros(3, int), "0" * 64, 1)
    with pytest.raises(BadDtype, match="counts of a are float64 instead of integers"):
        Fingerprint("a", np.zeros((3, 3)), "0" * 64, 1)  # type: ignore[arg-type]
