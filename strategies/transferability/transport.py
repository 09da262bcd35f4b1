"""Optimal transport between two weighted clouds, through POT."""

from __future__ import annotations

import numpy as np

from strategies.transferability.checks import FloatArray

_ITERATIONS = 1000
_STOP = 1e-7


def coupling(
    source_weights: FloatArray, target_weights: FloatArray, costs: FloatArray, entropy: float
) -> FloatArray:
    """Return the plan that moves one cloud onto the other at least cost, less its entropy.

    Sinkhorn's iteration is stopped after a while, because between near copies it never closes; what
    is left is rounded, so that every plan has the very weights as its marginals.

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
    """
    import ot  # pulls torch

    scale = float(source_weights @ costs @ target_weights)
    if entropy == 0 or scale == 0:
        return np.asarray(ot.emd(source_weights, target_weights, costs, numItermax=1_000_000))
    plan = ot.sinkhorn(
        source_weights,
        target_weights,
        costs / scale,
        entropy,
        method="sinkhorn_log",
        numItermax=_ITERATIONS,
        stopThr=_STOP,
        warn=False,
    )
    return rounded(np.asarray(plan), source_weights, target_weights)


def rounded(plan: FloatArray, source_weights: FloatArray, target_weights: FloatArray) -> FloatArray:
    """Return the plan nearby whose marginals are the weights.

    Altschuler et al., *Near-linear time approximation algorithms for optimal transport via Sinkhorn
    iteration* (NeurIPS 2017), algorithm 2: what is too much is scaled down, what then lacks is
    spread by the weights.

    Parameters
    ----------
    plan : ndarray, shape [n, k]
        Non-negative.
    source_weights, target_weights : ndarray, shapes [n] and [k]
        Each sums to 1.

    Returns
    -------
    ndarray, shape [n, k]
        It has moved by at most twice what the marginals were off, summed over all entries.
    """
    tiny = np.finfo(np.float64).tiny
    down = np.minimum(source_weights / np.maximum(plan.sum(axis=1), tiny), 1.0)  # [n]
    plan = plan * down[:, None]
    plan = plan * np.minimum(target_weights / np.maximum(plan.sum(axis=0), tiny), 1.0)  # [n, k]
    rows, columns = source_weights - plan.sum(axis=1), target_weights - plan.sum(axis=0)
    lacking = float(rows.sum())
    if lacking <= 0:
        return plan
    return np.asarray(plan + np.outer(rows, columns) / lacking)
