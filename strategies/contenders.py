r"""Who can be among the k nearest, judged by a fast product whose error is known.

The product runs in float32, which orders neighbours closer than about 1e-5 by chance. Its error
has a bound, though: summing *n* products in any order errs by at most :math:`n u \sum |z_j y_j|`
with the unit roundoff *u* (Higham, *Accuracy and Stability of Numerical Algorithms*, section 3.1).
Whoever comes within that bound of the k-th best is a *contender*, and contenders are few.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from strategies.augmented import Layout, Records, scale, sides
from strategies.retrieval import Question

__all__ = ["CHUNK", "Batch", "Factor", "Rows", "by_numpy", "contenders", "scores", "slack"]

CHUNK = 4096
"""Products that are summed in float32 at most, or those of one feature if it has more bins; sums
of such sums are taken in float64."""

_ROWS = 256  # records that are multiplied at a time: with a chunk of their counts they fill a cache
_U32, _U64 = 2.0**-24, 2.0**-53  # unit roundoffs
_SAFETY = 1.01  # higher orders of u, and the rounding of the bound itself


Rows = NDArray[np.float32] | NDArray[np.float64]
Factor = Callable[[Rows], Rows]
"""Multiplies rows of a chunk, ``[k, c]``, with the questions' part of it, ``[c, T]``."""


def by_numpy(weights: Rows) -> Factor:
    """Return the factor that numpy multiplies with."""
    return lambda rows: np.asarray(rows @ weights)


@dataclass(frozen=True)
class Batch:
    """Questions side by side, as products take them.

    Parameters
    ----------
    layout
        Of the sources' records.
    step
        Features of a chunk.
    factors
        A factor for each chunk of the bodies.
    sides
        float64 ``[m, T]`` or ``[m + 1, T]``.
    dtype
        Of the products: float64 is slower, with a far smaller `slack`.
    """

    layout: Layout
    step: int
    factors: Sequence[Factor]
    sides: NDArray[np.float64]
    dtype: np.dtype[np.float32] | np.dtype[np.float64]

    @classmethod
    def of(
        cls,
        asked: Sequence[Question],
        *,
        precise: bool = False,
        factor: Callable[[Rows], Factor] = by_numpy,
    ) -> Batch:
        """Put T questions of one layout side by side.

        Parameters
        ----------
        asked
            The questions.
        precise
            Whether to multiply in float64.
        factor
            Makes a factor of float32 or float64 weights ``[c, T]``.
        """
        layout = asked[0].layout
        dtype = np.dtype(np.float64) if precise else np.dtype(np.float32)
        body: Rows = np.empty((asked[0].body.size, len(asked)), dtype)  # [m b, T]
        for column, q in zip(body.T, asked, strict=True):
            column[:] = q.body
        step = max(1, CHUNK // layout.bins)
        parts = range(0, len(body), step * layout.bins)
        factors = [factor(body[i : i + step * layout.bins]) for i in parts]
        return cls(layout, step, factors, np.stack([q.sides for q in asked], axis=1), dtype)


def scores(records: Records, batch: Batch) -> NDArray[np.float64]:
    """Multiply sources with targets; a higher score is nearer.

    Parameters
    ----------
    records
        Of k sources, in the batch's layout.
    batch
        T questions.

    Returns
    -------
    numpy.ndarray
        Shape ``[k, T]``.
    """
    out: NDArray[np.float64] = sides(records, batch.layout) @ batch.sides  # [k, T]
    room: Rows = np.empty(_ROWS * batch.step * batch.layout.bins, batch.dtype)
    for start in range(0, len(records), _ROWS):
        part = slice(start, start + _ROWS)
        out[part] += _bodies(records[part], batch, room)
    return out


def _bodies(records: Records, batch: Batch, room: Rows) -> NDArray[np.float64]:
    """Return the part of the scores that the bodies make, ``[k, T]``."""
    counts, by = records["counts"], scale(records)  # [k, m, b], [k, m]
    even = bool((by == by[:, :1]).all())  # then the sums can be scaled instead
    out = np.zeros((len(records), batch.sides.shape[1]))
    for i, multiply in enumerate(batch.factors):
        features = slice(i * batch.step, (i + 1) * batch.step)
        chunk = counts[:, features]  # [k, f, b]
        rows = room[: chunk.size].reshape(chunk.shape)
        np.copyto(rows, chunk, casting="same_kind")
        if not even:
            rows *= by[:, features, None].astype(rows.dtype)
        out += multiply(rows.reshape(len(rows), -1))
    return out * by[:, :1] if even else out


def slack(
    values: NDArray[np.float64], asked: Question, *, terms: int = CHUNK, precise: bool = False
) -> NDArray[np.float64]:
    """Bound how far scores may be from those of the exact fingerprints.

    Scales, bodies and the question are rounded once each, products and sums `terms` times at most.
    All products of the bodies are positive, so their sum is the sum of their sizes.

    Parameters
    ----------
    values
        Scores of one question, ``[n]``.
    asked
        The question.
    terms
        How many products the implementation sums in float32 in a row; those of one feature are
        never parted.
    precise
        Whether the batch was precise.

    Returns
    -------
    numpy.ndarray
        Shape ``[n]``, not negative.
    """
    largest = _largest_sides(asked)
    size = np.abs(values) + 2 * largest  # of the bodies' products, and of the sides'
    steps = 0.0 if precise else (max(terms, asked.layout.bins) + 6) * _U32
    sums = (asked.body.size + asked.sides.size + 8) * _U64  # and those of the final distances
    return np.asarray(_SAFETY * size * (steps + 5 * sums) + 1e-30)


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
