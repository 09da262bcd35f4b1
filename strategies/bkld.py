r"""Binned Kullback-Leibler divergence (bKLD) between fingerprints, as one matrix product.

Godau et al., *Beyond Knowledge Silos* (https://arxiv.org/abs/2412.08763), compare a target's rows
:math:`p_i` with a source's rows :math:`q_i` over :math:`m` features of :math:`b` bins:

.. math:: d(S, T) = \frac{\sum_i w_i \, KL(p_i \,\|\, softmax(q_i))}{\sum_i w_i}

Since :math:`\log softmax(q) = q - lse(q)` and :math:`\sum_b p_{ib} = 1`,

.. math:: \sum_i w_i KL_i = \sum_i w_i \left( \sum_b p_{ib} \log p_{ib} + lse(q_i) \right)
                          - \langle w \cdot p, q \rangle

where only the last term mixes source and target: it is one GEMM for all pairs.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlogy

from protocol.errors import BadShape, FedprintError
from strategies.whole_numbers import Counts, feature_gram, row_total, terms_at_once

__all__ = [
    "TILE",
    "bkld_matrix",
    "bkld_of_counts",
    "bkld_tiles",
    "log_normaliser",
    "negative_entropy",
]

FloatArray = NDArray[np.floating]

TILE = 4096
"""Sources and targets whose distances are computed at a time."""

_CHUNK = 8192  # products that are summed in the arrays' own precision; such sums are in float64
_CACHE_BYTES = 1 << 20  # temporaries of the terms: small enough for a cache


def bkld_matrix(
    sources: FloatArray,
    targets: FloatArray,
    source_weights: FloatArray | None = None,
    target_weights: FloatArray | None = None,
) -> NDArray[np.float64]:
    r"""Distance of every target from every source.

    Products run in the precision of the arrays, and sums of more than 8,192 of them in float64.
    float32 halves time and memory and moves distances by about 1e-7, far below the differences
    between tasks (about 1e-3); at worst, with :math:`u = 2^{-24}`, by :math:`8200 u` times
    :math:`\langle w \cdot p, q \rangle`, which is below 1.

    Parameters
    ----------
    sources
        Rows of the S sources, shape ``[S, m, b]``, each row summing to 1.
    targets
        Rows of the T targets, shape ``[T, m, b]``, each row non-negative and summing to 1.
    source_weights
        Weight of each feature by source, shape ``[S, m]``.
    target_weights
        Weight of each feature by target, shape ``[T, m]``. Give one kind of weights at most;
        without any, all features count alike.

    Returns
    -------
    numpy.ndarray
        Shape ``[S, T]``, natural logarithm, float64; lower is closer. The diagonal of a square
        matrix is not 0: softmax flattens the source.

    Raises
    ------
    BadShape
        If shapes do not fit together.
    FedprintError
        If both kinds of weights are given, or weights are negative or sum to 0.

    Examples
    --------
    >>> rows = np.array([[[1.0, 0.0]], [[0.5, 0.5]]])
    >>> bkld_matrix(rows, rows).round(4)
    array([[0.3133, 0.1201],
           [0.6931, 0.    ]])
    """
    out = np.empty((len(sources), len(targets)))
    for s, t, tile in bkld_tiles(sources, targets, source_weights, target_weights):
        out[s, t] = tile
    return out


def bkld_of_counts(counts: Sequence[Counts]) -> NDArray[np.float64] | None:
    """Distance of every site from every other, out of plain counts: all features alike.

    The same as `bkld_matrix` of their rows to some 1e-15, in a third of the time: products of
    counts are summed without rounding, and logarithms looked up.

    Parameters
    ----------
    counts
        Of k sites, each of shape ``[m, b]``.

    Returns
    -------
    numpy.ndarray or None
        Shape ``[k, k]``; None where rows of a site do not add up to one number, as those of noised
        counts, or to more than 4,096.
    """
    totals = [row_total(each) for each in counts]
    largest = max(totals, default=0)
    if not all(totals) or not terms_at_once(largest):
        return None
    m, n = len(counts[0]), np.array(totals, dtype=np.float64)  # [k]
    own = np.empty((2, len(counts)))  # mean of sum p log p, and of the normaliser
    for site, (each, total) in enumerate(zip(counts, totals, strict=True)):
        share = np.arange(total + 1) / total
        own[0, site] = np.bincount(each.ravel(), minlength=total + 1) @ xlogy(share, share) / m
        own[1, site] = np.log(np.exp(share)[each].sum(axis=1)).mean()
    return np.asarray(
        own[1][:, None] + own[0] - feature_gram(counts, largest) / (n[:, None] * n) / m
    )


def bkld_tiles(
    sources: FloatArray,
    targets: FloatArray,
    source_weights: FloatArray | None = None,
    target_weights: FloatArray | None = None,
) -> Iterator[tuple[slice, slice, NDArray[np.float64]]]:
    """Go through the distances tile by tile, for more than memory holds.

    Beside the arrays, which may be mapped files, memory holds the terms of each feature and a tile
    of `TILE` by `TILE` distances, whatever the number of fingerprints.

    Parameters
    ----------
    sources, targets, source_weights, target_weights
        As of `bkld_matrix`, which also says what is raised: here with the first tile.

    Yields
    ------
    slice, slice, ndarray
        Which sources, which targets, and their distances, float64 ``[s, t]``.
    """
    _check_rows(sources, targets)
    if source_weights is not None and target_weights is not None:
        raise FedprintError("weights of sources and of targets exclude each other: give one kind")
    ws, wt = _weights(sources, targets, source_weights, target_weights)
    self_term = negative_entropy(targets)  # [T, m]
    flat_term = log_normaliser(sources)  # [S, m]
    for s in _steps(len(sources), TILE):
        for t in _steps(len(targets), TILE):
            w_s, w_t = (w if w is None else w[part] for w, part in ((ws, s), (wt, t)))
            tile = _cross(sources[s], targets[t], w_s, w_t)  # [s, t]
            np.subtract(_constants(flat_term[s], self_term[t], w_s, w_t), tile, out=tile)
            yield s, t, tile


def _weights(
    sources: FloatArray,
    targets: FloatArray,
    of_sources: FloatArray | None,
    of_targets: FloatArray | None,
) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None]:
    """Return the weights of sources [S, m] and of targets [T, m]; one kind at most is there."""
    if of_sources is not None:
        return _normalised(of_sources, sources, "source"), None
    if of_targets is not None:
        return None, _normalised(of_targets, targets, "target")
    return None, None


def _constants(
    flat_term: NDArray[np.float64],
    self_term: NDArray[np.float64],
    of_sources: NDArray[np.float64] | None,
    of_targets: NDArray[np.float64] | None,
) -> NDArray[np.float64]:
    """Return what the distances of a tile have besides the products, [s, t]."""
    if of_sources is not None:
        own = np.einsum("sm,sm->s", of_sources, flat_term)  # [s]
        return np.asarray(of_sources @ self_term.T + own[:, None])
    if of_targets is not None:
        own = np.einsum("tm,tm->t", of_targets, self_term)  # [t]
        return np.asarray(flat_term @ of_targets.T + own)
    return np.asarray(flat_term.mean(axis=1)[:, None] + self_term.mean(axis=1))


def _cross(
    sources: FloatArray,
    targets: FloatArray,
    of_sources: NDArray[np.float64] | None,
    of_targets: NDArray[np.float64] | None,
) -> NDArray[np.float64]:
    """Return the weighted products of a tile, [s, t]: a chunk of features at a time."""
    out = np.zeros((len(sources), len(targets)))
    features, bins = sources.shape[1:]
    step = features if sources.dtype == np.float64 else max(1, _CHUNK // bins)
    if of_sources is not None or of_targets is not None:
        step = min(step, max(1, _CHUNK // bins))  # so that what is scaled stays small
    for part in _steps(features, step):
        out += _columns(sources, part, of_sources) @ _columns(targets, part, of_targets).T
    if of_sources is None and of_targets is None:
        out /= features
    return out


def _columns(rows: FloatArray, part: slice, weights: NDArray[np.float64] | None) -> FloatArray:
    """Return some features of rows [k, m, b] times their weights [k, m], as [k, f * b]."""
    if weights is not None:
        return _flat(rows[:, part] * weights[:, part, None].astype(rows.dtype))
    bins = rows.shape[2]  # columns of a larger array: BLAS takes them without a copy
    return _flat(rows)[:, part.start * bins : part.stop * bins]


def negative_entropy(rows: FloatArray) -> NDArray[np.float64]:
    r"""Return :math:`\sum_b p \log p` of each row, with :math:`0 \log 0 = 0`.

    Parameters
    ----------
    rows
        Shape ``[k, m, b]``, non-negative.

    Returns
    -------
    numpy.ndarray
        Shape ``[k, m]``, float64, natural logarithm.
    """
    out = np.empty(rows.shape[:2])
    tiny = np.finfo(rows.dtype).tiny  # an empty bin becomes 0 * log(tiny) = 0
    for part in _blocks(rows, _CACHE_BYTES):
        p = rows[part]
        out[part] = np.einsum("kmb,kmb->km", p, np.log(np.maximum(p, tiny)))
    return out


def log_normaliser(rows: FloatArray) -> NDArray[np.float64]:
    r"""Return :math:`lse(q) = \log \sum_b \exp q` of each row, the softmax's denominator.

    Rows lie within [0, 1] (a noised release strays a little), so nothing can overflow.

    Parameters
    ----------
    rows
        Shape ``[k, m, b]``.

    Returns
    -------
    numpy.ndarray
        Shape ``[k, m]``, float64.
    """
    out = np.empty(rows.shape[:2])
    for part in _blocks(rows, _CACHE_BYTES):
        out[part] = np.exp(rows[part]).sum(axis=2)
    return np.asarray(np.log(out))


def _blocks(rows: FloatArray, size: int) -> Iterator[slice]:
    return _steps(len(rows), max(1, size // max(1, rows[:1].nbytes)))


def _steps(stop: int, step: int) -> Iterator[slice]:
    return (slice(i, min(i + step, stop)) for i in range(0, stop, step))


def _flat(rows: FloatArray) -> FloatArray:
    return rows.reshape(len(rows), rows.shape[1] * rows.shape[2])  # [k, m * b]


def _normalised(weights: FloatArray, rows: FloatArray, kind: str) -> NDArray[np.float64]:
    """Check weights [k, m] and scale them to sum 1 over the features."""
    w = np.asarray(weights, dtype=np.float64)
    if w.shape != rows.shape[:2]:
        raise BadShape(
            f"{kind} weights have shape {w.shape}, but the fingerprints need {rows.shape[:2]}"
        )
    total = w.sum(axis=1, keepdims=True)
    if not np.isfinite(total).all() or (w < 0).any() or (total == 0).any():
        raise FedprintError(
            f"{kind} weights must be finite, non-negative and not all 0: check the feature means"
        )
    return np.asarray(w / total)


def _check_rows(sources: FloatArray, targets: FloatArray) -> None:
    for kind, rows in (("sources", sources), ("targets", targets)):
        if rows.ndim != 3 or not np.issubdtype(rows.dtype, np.floating):
            raise BadShape(
                f"{kind} must be a float array [k, m, b], got {rows.dtype} of shape {rows.shape}"
            )
    if sources.shape[1:] != targets.shape[1:]:
        raise BadShape(
            f"sources have {sources.shape[1]} features x {sources.shape[2]} bins, targets "
            f"{targets.shape[1]} x {targets.shape[2]}: fingerprint both with one spec"
        )
