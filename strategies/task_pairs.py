"""What is known of a source for a target before any outcome of that target is.

Everything here comes from distances and task cards. Each kind of knowledge is one block of
columns, each distance a block of its own, and `variance_components` decides how much each counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from protocol.errors import BadShape
from strategies.bordered import Rows
from strategies.standing import normal_scores

__all__ = ["BLOCKS", "TaskPairs", "Tasks", "keyword_similarity"]

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

OWN = (
    "source",  # is the source good for everybody?
    "source by metric",
    "source by target",  # is it good for targets like this one?
)
SHARED = (
    "covariates",  # do its size and classes tell?
    "distances",  # does nearness tell?
    "covariates by metric",
    "distances by metric",
    "target",  # were the sources tried on a target better than usual?
)
BLOCKS = OWN + SHARED
# Directions of target similarity, and they matter: replayed on the 28 development tasks, mean top-1
# percentile and weightedtau are .67 and .21 without any, .66 and .21 with 2, .68 and .22 with 4,
# .70 to .72 and .22 to .23 with 6 to 16. The best of them was taken there, so it flatters.
LATENT = 8


@dataclass(frozen=True)
class Tasks:
    """The tasks of a pool, as the recommender sees them; any part may be missing.

    Parameters
    ----------
    count
        Number of tasks n; every task may be source and target.
    distances
        Shape ``[D, n, n]``: measure, source, target; lower is closer, NaN where unknown.
    covariates
        What the task cards tell in numbers, shape ``[n, c]``, for example the log number of
        images; NaN where unknown.
    similarity
        How alike two tasks are, shape ``[n, n]``; from the distances if None.
    eligible
        Which source, row, may serve which target, column, shape ``[n, n]``; all but the target
        itself if None.
    """

    count: int
    distances: Floats | None = None
    covariates: Floats | None = None
    similarity: Floats | None = None
    eligible: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        """Refuse arrays that do not fit the number of tasks."""
        n = self.count
        parts = {
            "distances": (self.distances, (None, n, n)),
            "covariates": (self.covariates, (n, None)),
            "similarity": (self.similarity, (n, n)),
            "eligible": (self.eligible, (n, n)),
        }
        for name, (array, wanted) in parts.items():
            if array is not None and not _fits(array.shape, wanted):
                raise BadShape(f"{name} have shape {array.shape}, but there are {n} tasks")

    def allowed(self) -> NDArray[np.bool_]:
        """Return which source, row, may serve which target, column."""
        itself = np.eye(self.count, dtype=bool)
        return ~itself if self.eligible is None else self.eligible & ~itself


class TaskPairs:
    """Rows of the recommender's design matrix for any (target, source, metric).

    Parameters
    ----------
    tasks
        The pool's tasks.
    metrics
        Number of metrics that share one model.

    Attributes
    ----------
    block
        Which variance each of the p columns has, shape ``[p]``: first those that are a source's
        own, one source after the other, then the shared ones, as in `strategies.bordered`.
    kind
        Which of `BLOCKS` each of the J variances belongs to, shape ``[J]``.
    consensus
        Column of the mean nearness; None without distances.
    """

    def __init__(self, tasks: Tasks, metrics: int) -> None:
        self.tasks = tasks
        self._near = nearness(tasks)
        self._card = _standardised(tasks.covariates, tasks.count)
        similarity = _closeness(self._near) if tasks.similarity is None else tasks.similarity
        self._latent = latent(similarity)
        self._contrast = (
            linalg.helmert(metrics).T * np.sqrt(metrics) if metrics > 1 else np.zeros((1, 0))
        )  # [M, M - 1], columns orthogonal, so that metrics differ around their mean
        own, shared = self._blocks(*(np.zeros(1, dtype=np.intp),) * 3)
        widths = [block.shape[1] for block in (*own, *shared)]
        kinds = np.repeat(np.arange(len(BLOCKS)), widths)
        # one distance may tell where another misleads, so they do not share a variance
        first = (np.diff(kinds, prepend=-1) > 0) | (kinds == BLOCKS.index("distances"))
        variance, width = np.cumsum(first) - 1, sum(widths[: len(OWN)])
        self.block = np.concatenate([np.tile(variance[:width], tasks.count), variance[width:]])
        self.kind = kinds[first]
        before = tasks.count * width + self._card.shape[1]
        self.consensus = before + self._near.shape[2] - 1 if self._near.size else None

    def rows(self, target: Ints, source: Ints, metric: Ints) -> Rows:
        """Return the design of equally long arrays of positions; its groups are the sources."""
        own, shared = self._blocks(target, source, metric)
        return Rows(source, np.concatenate(own, axis=1), np.concatenate(shared, axis=1))

    def _blocks(
        self, target: Ints, source: Ints, metric: Ints
    ) -> tuple[list[Floats], list[Floats]]:
        """Return the columns in the order of `OWN` and of `SHARED`."""
        card, near = self._card[source], self._near[source, target]
        by = self._contrast[metric]
        own = [np.ones((len(source), 1)), by, self._latent[target]]
        who = np.eye(self.tasks.count)[target]
        return own, [card, near, _product(card, by), _product(near, by), who]


def nearness(tasks: Tasks) -> Floats:
    """Return normal scores of nearness within each target, their mean last: ``[S, T, D + 1]``.

    An unknown distance scores 0, the middle. Without distances the last axis is empty.
    """
    n = tasks.count
    if tasks.distances is None or not len(tasks.distances):
        return np.zeros((n, n, 0))
    masked = np.where(tasks.allowed(), tasks.distances, np.nan)
    scores = np.nan_to_num(np.apply_along_axis(normal_scores, 1, -masked))  # [D, S, T]
    return np.moveaxis(np.concatenate([scores, scores.mean(axis=0, keepdims=True)]), 0, 2)


def latent(similarity: Floats, rank: int = LATENT) -> Floats:
    """Return the leading directions of a similarity, shape ``[n, rank]``, as kernel PCA does.

    The mean square length of a row is 1; a similarity that says nothing has no direction.
    """
    n = len(similarity)
    centre = np.eye(n) - 1 / n
    values, vectors = np.linalg.eigh(centre @ ((similarity + similarity.T) / 2) @ centre)
    keep = np.flatnonzero(values > 1e-9 * n)[::-1][:rank]
    directions = vectors[:, keep] * np.sqrt(values[keep])
    size = np.sqrt((directions**2).sum(axis=1).mean()) if len(keep) else 1.0
    return np.asarray(directions / size)


def keyword_similarity(keywords: Sequence[frozenset[str]]) -> Floats:
    """Return the share of keywords that two tasks have in common (Jaccard), shape ``[n, n]``."""
    words = sorted(frozenset().union(*keywords))
    has = np.array([[word in own for word in words] for own in keywords], dtype=np.float64)
    has = has.reshape(len(keywords), len(words))
    both = has @ has.T
    either = has.sum(axis=1)[:, None] + has.sum(axis=1) - both
    return np.asarray(np.divide(both, either, out=np.eye(len(keywords)), where=either > 0))


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(shape) == len(wanted) and all(
        want in (None, size) for size, want in zip(shape, wanted, strict=True)
    )


def _closeness(near: Floats) -> Floats:
    if not near.size:
        return np.zeros(near.shape[:2])
    mutual = (near[:, :, -1] + near[:, :, -1].T) / 2
    np.fill_diagonal(mutual, mutual.max(initial=0))
    return np.asarray(np.exp(mutual - mutual.max(initial=0)))


def _standardised(values: Floats | None, count: int) -> Floats:
    if values is None:
        return np.zeros((count, 0))
    known = np.isfinite(values)
    share = np.maximum(known.sum(axis=0), 1)
    centred = np.where(known, values - np.where(known, values, 0).sum(axis=0) / share, 0)
    spread = np.sqrt((centred**2).sum(axis=0) / share)
    return np.asarray(centred / np.where(spread > 0, spread, 1))


def _product(left: Floats, right: Floats) -> Floats:
    shape = len(left), left.shape[1] * right.shape[1]
    return (left[:, :, None] * right[:, None, :]).reshape(shape)
