"""Optimal transport between two weighted clouds, through POT."""

from __future__ import annotations

import numpy as np

from protocol.errors import DataError
from strategies.transferability.checks import FloatArray

_ITERATIONS = 20_000
_STOP = 1e-9
_CLOSED = 1e-4
"""How far the marginals of a plan may be from the weights, summed over all points."""


def coupling(
    source_weights: FloatArray, target_weights: FloatArray, costs: FloatArray, entropy: float
) -> FloatArray:
    """Return the plan that moves one cloud onto the other at least cost, less its entropy.

    Parameters
    ----------
    source_weights, target_weights : ndarray, shapes [n] and [k]
        Positive; each sums to 1.
    costs : ndarray, shape [n, k]
        Of moving one unit, not negative.
    entropy : float
        Weight of the entropic term as a share of the mean cost, so that it has no unit (Cuturi,
        NeurIPS 2013); 0 solves the linear program exactly.

    Returns
    -------
    ndarray, shape [n, k]
        Non-negative, sums to 1.

    Raises
    ------
    DataError
        If the iteration does not close on the weights.
    """
    import ot  # pulls torch

    scale = float(source_weights @ costs @ target_weights)
    if entropy == 0 or scale == 0:
        return np.asarray(ot.emd(source_weights, target_weights, costs, numItermax=1_000_000))
    plan = np.asarray(
        ot.sinkhorn(
            source_weights,
            target_weights,
            costs / scale,
            entropy,
            method="sinkhorn_log",
            numItermax=_ITERATIONS,
            stopThr=_STOP,
            warn=False,
        )
    )  # [n, k]
    off = np.abs(plan.sum(axis=1) - source_weights).sum()
    off += np.abs(plan.sum(axis=0) - target_weights).sum()
    if not off < _CLOSED:
        raise DataError(
            f"transport with entropy {entropy:g} did not converge: take a larger entropy, or 0"
        )
    return plan
