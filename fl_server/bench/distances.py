"""Speed of the bKLD matrix, against this machine's matrix product and a loop over pairs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import rel_entr, softmax
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from fl_server.bench.made_up import peaks
from protocol.benchmark import Findings, Options, Ratio, in_turns, seconds
from strategies.bkld import bkld_matrix

Rows = NDArray[np.float32]


def measure(options: Options) -> Findings:
    """Time the matrix of made-up fingerprints of 512 features x 100 bins."""
    k, m, b = options.pick(2000, 100), 512, 100
    rows = make_rows(k, m, b)
    targets = rows.copy()  # two arrays: numpy halves the work of a product of one with itself
    flat, flat_targets = rows.reshape(k, m * b), targets.reshape(k, m * b)
    picks = np.random.default_rng(1).integers(0, k, (options.pick(200, 20), 2))
    with threadpool_limits(limits=options.threads, user_api="blas"):
        matrix_s, product_s = in_turns(
            lambda: bkld_matrix(rows, targets), lambda: flat @ flat_targets.T, options.turns
        )
        pair_s = seconds(lambda: [pairwise(rows[s], targets[t]) for s, t in picks]) / len(picks)
    return Findings(
        {
            "of_sgemm": Ratio.over(
                [p / s for p, s in zip(product_s, matrix_s, strict=True)],
                "float32 product of the same shape / the whole matrix",
            ),
            "over_pairwise": Ratio.over(
                [pair_s * k * k / s for s in matrix_s], "a scipy loop over the pairs / the matrix"
            ),
        },
        {
            "fingerprints": k,
            "matrix_seconds": min(matrix_s),
            "sgemm_seconds": min(product_s),
            "pair_seconds": pair_s,
            "sgemm_gflops": 2 * k * k * m * b / min(product_s) / 1e9,
        },
    )


def make_rows(k: int, m: int, b: int, seed: int = 0) -> Rows:
    """Return k histograms of 500 images each, float32 [k, m, b]."""
    rng = np.random.default_rng(seed)
    rows = np.empty((k, m, b), dtype=np.float32)
    for row in rows:
        row[:] = peaks(rng, m, b, 500) / 500
    return rows


def pairwise(source: Rows, target: Rows) -> float:
    """One pair, as the paper writes it."""
    kl = rel_entr(target.astype(np.float64), softmax(source.astype(np.float64), axis=1))
    return float(kl.sum(axis=1).mean())
