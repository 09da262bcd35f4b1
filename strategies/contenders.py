r"""Who can be among the k nearest, judged by a fast product whose error is known.

The product runs in float32, which orders neighbours closer than about 1e-5 by chance. Its error
has a bound, though: summing *n* products in any order errs by at most :math:`n u \sum |z_j y_j|`
with the unit roundoff *u* (Higham, *Accuracy and Stability of Numerical Algorithms*, section 3.1).
Whoever comes within that bound of the k-th best is a *contender*, and contenders are few.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from strategies.retrieval import Question

__all__ = ["CHUNK", "contenders", "scores", "slack"]

FloatArray = NDArray[np.floating]

CHUNK = 4096
"""Products that are summed in float32 at most; sums of such sums are taken in float64."""

_U32, _U64 = 2.0**-24, 2.0**-53  # unit roundoffs
_SAFETY = 1.01  # higher orders of u, and the rounding of the bound itself


def scores(
    vectors: NDArray[np.float32], asked: Sequence[Question], *, precise: bool = False
) -> NDArray[np.float64]:
    """Multiply sources with targets, in chunks; a higher score is nearer.

    Parameters
    ----------
    vectors
        Of k sources, shape ``[k, layout.width]``.
    asked
        T questions of one layout.
    precise
        Multiply in float64: slower, with a far smaller `slack`.

    Returns
    -------
    numpy.ndarray
        Shape ``[k, T]``.
    """
    layout = asked[0].layout
    kind = np.float64 if precise else np.float32
    body: FloatArray = np.stack([q.body for q in asked], axis=1).astype(kind)  # [m b, T]
    part: FloatArray = vectors[:, layout.body].astype(kind, copy=False)  # [k, m b]
    sides = np.stack([q.sides for q in asked], axis=1)
    out: NDArray[np.float64] = vectors[:, layout.sides].astype(np.float64) @ sides  # [k, T]
    for i in range(0, len(body), CHUNK):
        out += part[:, i : i + CHUNK] @ body[i : i + CHUNK]
    return out


def slack(
    values: NDArray[np.float64], asked: Question, *, terms: int = CHUNK, precise: bool = False
) -> NDArray[np.float64]:
    """Bound how far scores may be from those of the exact fingerprints.

    Vectors and the question are rounded once each, products and sums `terms` times at most. All
    products of the bodies are positive, so their sum is the sum of their sizes.

    Parameters
    ----------
    values
        Scores of one question, ``[n]``.
    asked
        The question.
    terms
        How many products the implementation sums in float32 in a row.
    precise
        Whether `scores` was precise.

    Returns
    -------
    numpy.ndarray
        Shape ``[n]``, not negative.
    """
    largest = _largest_sides(asked)
    size = np.abs(values) + 2 * largest  # of the bodies' products, and of the sides'
    steps = 3 * _U32 + (asked.body.size * _U64 if precise else (terms + 3) * _U32)
    sums = asked.layout.width * _U64  # the float64 sums, and those of the final distances
    return np.asarray(_SAFETY * size * (steps + 4 * sums) + 1e-30)


def contenders(
    values: NDArray[np.float64],
    bound: NDArray[np.float64],
    k: int,
    allowed: NDArray[np.bool_],
) -> NDArray[np.intp]:
    """Return the positions that may be among the k best, given scores and how wrong they may be.

    At least k positions score surely as high as the k-th largest lower end; nobody whose upper
    end lies below it can be among the k best.

    Parameters
    ----------
    values, bound
        Scores and their `slack`, ``[n]``.
    k
        How many are wanted.
    allowed
        Which positions count, ``[n]``.
    """
    positions = np.flatnonzero(allowed)
    if len(positions) <= k:
        return positions
    lower = values[positions] - bound[positions]
    threshold = np.partition(lower, len(lower) - k)[len(lower) - k]
    kept: NDArray[np.intp] = positions[values[positions] + bound[positions] >= threshold]
    return kept


def _largest_sides(asked: Question) -> float:
    """Bound the sum of the sizes of the sides' products, for any source."""
    spread = np.log((asked.layout.bins - 1 + np.e) / asked.layout.bins)  # of lse(q) - log b
    if asked.weights is None:
        return float(np.abs(asked.sides[:-1]).max() + spread)
    return float(spread)
