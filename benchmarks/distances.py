"""Speed of the bKLD matrix, against this machine's matrix product and a loop over pairs.

    python benchmarks/distances.py [--fingerprints 1000] [--threads 2] [--json FILE]

Both ratios come from one run: `of_sgemm` is the time of a bare float32 product of the same shape
divided by the time of the whole matrix (entropies and normalisers included), `times_pairwise` is
the time that a scipy loop would take (from a sample of pairs) divided by the same.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import rel_entr, softmax
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from strategies.bkld import bkld_matrix

Rows = NDArray[np.float32]


def make_rows(k: int, m: int, b: int, seed: int = 0) -> Rows:
    """Return k histograms of 500 images each, float32 [k, m, b]."""
    rng = np.random.default_rng(seed)
    rows = np.zeros((k, m * b), dtype=np.float32)
    offset = np.arange(m) * b  # [m]
    for row in rows:
        centre, width = rng.uniform(0, b, m), rng.uniform(2, b / 3, m)
        values = np.clip(rng.normal(centre, width, (500, m)), 0, b - 1).astype(np.intp)  # [n, m]
        row += np.bincount((values + offset).ravel(), minlength=m * b) / 500
    return rows.reshape(k, m, b)


def fastest(call: Callable[[], object], repeats: int) -> float:
    """Return the shortest time of several calls, in seconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def pairwise(source: Rows, target: Rows) -> float:
    """One pair, as the paper writes it."""
    kl = rel_entr(target.astype(np.float64), softmax(source.astype(np.float64), axis=1))
    return float(kl.sum(axis=1).mean())


def measure(k: int, m: int, b: int, pairs: int, repeats: int) -> dict[str, object]:
    """Time everything once on the same arrays."""
    rows = make_rows(k, m, b)
    targets = rows.copy()  # two arrays: numpy halves the work of a product of one with itself
    flat, flat_targets = rows.reshape(k, m * b), targets.reshape(k, m * b)
    matrix = bkld_matrix(rows, targets)
    product_s = fastest(lambda: flat @ flat_targets.T, repeats)
    matrix_s = fastest(lambda: bkld_matrix(rows, targets), repeats)
    picks = np.random.default_rng(1).integers(0, k, (pairs, 2))
    start = time.perf_counter()
    sample = np.array([pairwise(rows[s], targets[t]) for s, t in picks])
    pair_s = (time.perf_counter() - start) / pairs
    error = float(np.abs(matrix[picks[:, 0], picks[:, 1]] - sample).max())
    return {
        "fingerprints": k,
        "features": m,
        "bins": b,
        "ratios": {
            "of_sgemm": product_s / matrix_s,
            "times_pairwise": pair_s * k * k / matrix_s,
        },
        "seconds": {"sgemm": product_s, "matrix": matrix_s, "pair": pair_s},
        "gflops_sgemm": 2 * k * k * m * b / product_s / 1e9,
        "largest_difference": error,
        "spread_within_target": float(np.median(matrix.std(axis=0))),
    }


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fingerprints", type=int, default=1000)
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--bins", type=int, default=100)
    parser.add_argument("--pairs", type=int, default=200, help="pairs of the loop to time")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=None, help="BLAS threads; default: all")
    parser.add_argument("--json", type=Path, default=None, help="write the figures here")
    args = parser.parse_args()
    with threadpool_limits(limits=args.threads, user_api="blas"):
        result = measure(args.fingerprints, args.features, args.bins, args.pairs, args.repeats)
    text = json.dumps({**result, "threads": args.threads}, indent=2)
    print(text)
    if args.json is not None:
        args.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
