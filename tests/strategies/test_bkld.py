"""bKLD by matrix product against the formula written naively with scipy."""

import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import rel_entr, softmax

from protocol.errors import BadShape, FedprintError
from strategies.bkld import (
    bkld_matrix,
    bkld_of_counts,
    bkld_tiles,
    log_normaliser,
    negative_entropy,
)

FloatArray = NDArray[np.float64]


def naive(q: FloatArray, p: FloatArray, w: FloatArray) -> float:
    """One pair, as the paper writes it: source q, target p [m, b], weights w [m]."""
    return float(np.sum(w * rel_entr(p, softmax(q, axis=1)).sum(axis=1)) / w.sum())


def histograms(rng: np.random.Generator, k: int, m: int, b: int) -> FloatArray:
    """Random rows with many empty bins; the first row of each site has a single filled bin."""
    counts = rng.poisson(rng.choice([0.2, 2.0, 30.0], size=(k, m, 1)), size=(k, m, b))
    counts[:, 0] = 0
    counts[np.arange(k), 0, rng.integers(0, b, k)] = 7
    counts[..., 0] += counts.sum(axis=2) == 0  # no row without any count
    return np.asarray(counts / counts.sum(axis=2, keepdims=True))


shapes = st.tuples(
    st.integers(1, 6), st.integers(1, 6), st.integers(1, 9), st.integers(1, 12), st.integers(0, 999)
)


@given(shapes)
@settings(max_examples=60)
def test_three_weightings_agree_with_scipy(shape: tuple[int, int, int, int, int]) -> None:
    s, t, m, b, seed = shape
    rng = np.random.default_rng(seed)
    q, p = histograms(rng, s, m, b), histograms(rng, t, m, b)
    ws, wt = rng.uniform(0.0, 3.0, (s, m)) + 1e-3, softmax(rng.normal(size=(t, m)) * 3, axis=1)
    one = np.ones(m)
    pairs = [(i, j) for i in range(s) for j in range(t)]
    for matrix, weights in (
        (bkld_matrix(q, p), {(i, j): one for i, j in pairs}),
        (bkld_matrix(q, p, source_weights=ws), {(i, j): ws[i] for i, j in pairs}),
        (bkld_matrix(q, p, target_weights=wt), {(i, j): wt[j] for i, j in pairs}),
    ):
        expected = [[naive(q[i], p[j], weights[i, j]) for j in range(t)] for i in range(s)]
        assert matrix.dtype == np.float64
        np.testing.assert_allclose(matrix, np.reshape(expected, (s, t)), rtol=0, atol=1e-9)


def test_paper_size_agrees_with_scipy() -> None:
    rng = np.random.default_rng(1)
    rows = histograms(rng, 3, 512, 100)
    expected = [[naive(q, p, np.ones(512)) for p in rows] for q in rows]
    np.testing.assert_allclose(bkld_matrix(rows, rows), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", ["none", "source", "target"])
def test_single_precision_keeps_the_ranking(kind: str) -> None:
    rng = np.random.default_rng(2)
    rows = histograms(rng, 12, 128, 50)
    w = rng.uniform(0.1, 1, (12, 128)) if kind != "none" else None
    args = {f"{kind}_weights": w} if w is not None else {}
    exact = bkld_matrix(rows, rows, **args)
    single = bkld_matrix(rows.astype(np.float32), rows.astype(np.float32), **args)
    np.testing.assert_allclose(single, exact, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(single.argsort(axis=0), exact.argsort(axis=0))


def test_blocks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    q, p = histograms(rng, 7, 5, 6), histograms(rng, 9, 5, 6)
    ws, wt = rng.uniform(0.1, 1, (7, 5)), rng.uniform(0.1, 1, (9, 5))
    whole = [bkld_matrix(q, p, source_weights=ws), bkld_matrix(q, p, target_weights=wt)]
    whole.append(bkld_matrix(q, p))
    monkeypatch.setattr("strategies.bkld._CACHE_BYTES", 1)
    monkeypatch.setattr("strategies.bkld.TILE", 2)
    monkeypatch.setattr("strategies.bkld._CHUNK", 7)  # one feature of six bins
    parts = [bkld_matrix(q, p, source_weights=ws), bkld_matrix(q, p, target_weights=wt)]
    parts.append(bkld_matrix(q, p))
    for a, b in zip(parts, whole, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["none", "source", "target"])
def test_a_file_takes_the_matrix_tile_by_tile(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(6)
    rows = histograms(rng, 80, 40, 25).astype(np.float32)
    args = {f"{kind}_weights": rng.uniform(0.1, 1, (80, 40))} if kind != "none" else {}
    whole = bkld_matrix(rows, rows, **args)
    monkeypatch.setattr("strategies.bkld.TILE", 16)
    monkeypatch.setattr("strategies.bkld._CACHE_BYTES", 1)
    out = np.memmap(tmp_path / "distances", np.float32, "w+", shape=(80, 80))
    tracemalloc.start()
    for s, t, tile in bkld_tiles(rows, rows, **args):
        assert tile.shape == (16, 16)
        out[s, t] = tile
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_allclose(out, whole, rtol=0, atol=1e-6)
    # terms [k, m] of either side and their temporaries, a tile's scaled rows, and its distances
    assert peak < 6 * 80 * 40 * 8 + 2 * 16 * rows[0].nbytes + 8 * 16 * 16 * 8 + 50_000


def test_single_precision_stays_within_its_bound() -> None:
    rng = np.random.default_rng(7)
    rows = histograms(rng, 6, 512, 100)
    exact = bkld_matrix(rows, rows)
    single = bkld_matrix(rows.astype(np.float32), rows.astype(np.float32))
    product = np.einsum("smb,tmb->st", rows, rows) / 512
    # of the rounded rows and sums of at most 8,192 products; the logarithms' are below 1e-6
    assert (np.abs(single - exact) <= (8192 + 4) * 2.0**-24 * product + 1e-6).all()


@pytest.mark.parametrize("images", [12, 700, 4096])
def test_plain_counts_give_the_distances_of_their_rows(images: int) -> None:
    rng = np.random.default_rng(8)
    totals = rng.integers(images // 2, images, 7)
    totals[0] = images
    shares = rng.dirichlet(np.full(30, 0.2), size=(7, 40))
    counts = rng.multinomial(totals[:, None], shares)  # [k, m, b]
    rows = counts / totals[:, None, None]
    found = bkld_of_counts(list(counts.astype(np.int16)))
    assert found is not None
    np.testing.assert_allclose(found, bkld_matrix(rows, rows), rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    "odd",
    [[[4, 1], [3, 3]], [[5, 0], [6, -1]], [[0, 0], [0, 0]], [[4097, 0], [0, 4097]]],
)
def test_other_counts_than_plain_ones_give_no_distances(odd: list[list[int]]) -> None:
    assert bkld_of_counts([np.array([[3, 2], [1, 4]]), np.array(odd)]) is None


def test_terms_of_known_rows() -> None:
    rows = np.array([[[1.0, 0.0], [0.5, 0.5]]])
    np.testing.assert_allclose(negative_entropy(rows), [[0.0, -np.log(2)]], atol=1e-15)
    np.testing.assert_allclose(log_normaliser(rows), [[np.log(1 + np.e), 0.5 + np.log(2)]])


def test_order_of_sites_permutes_the_matrix() -> None:
    rng = np.random.default_rng(4)
    rows = histograms(rng, 8, 6, 5)
    order = rng.permutation(8)
    permuted = bkld_matrix(rows[order], rows[order])
    np.testing.assert_allclose(
        permuted, bkld_matrix(rows, rows)[np.ix_(order, order)], rtol=0, atol=1e-12
    )


def test_same_input_gives_the_same_bits() -> None:
    rows = histograms(np.random.default_rng(5), 10, 20, 30)
    np.testing.assert_array_equal(bkld_matrix(rows, rows), bkld_matrix(rows.copy(), rows.copy()))


def test_wrong_input_is_one_clear_line() -> None:
    rows = np.full((2, 3, 4), 0.25)
    cases: list[tuple[type[FedprintError], str, dict[str, object]]] = [
        (
            BadShape,
            "sources have 3 features x 4 bins, targets 3 x 2: fingerprint both with one spec",
            {"targets": np.full((2, 3, 2), 0.5)},
        ),
        (
            BadShape,
            "targets must be a float array [k, m, b], got int64 of shape (2, 3, 4)",
            {"targets": rows.astype(np.int64)},
        ),
        (
            BadShape,
            "source weights have shape (2, 2), but the fingerprints need (2, 3)",
            {"targets": rows, "source_weights": np.ones((2, 2))},
        ),
        (
            FedprintError,
            "target weights must be finite, non-negative and not all 0: check the feature means",
            {"targets": rows, "target_weights": np.zeros((2, 3))},
        ),
        (
            FedprintError,
            "weights of sources and of targets exclude each other: give one kind",
            {"targets": rows, "source_weights": np.ones((2, 3)), "target_weights": np.ones((2, 3))},
        ),
    ]
    for error, text, arguments in cases:
        with pytest.raises(error, match=f"^{re.escape(text)}$"):
            bkld_matrix(rows, **arguments)  # type: ignore[arg-type]
