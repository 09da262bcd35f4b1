"""Exact nearest fingerprints: what is asked, what is answered, and the exact distance.

A target becomes a `Question`, which sources' records are multiplied with. An `Index` finds who can
be among the k best (`strategies.contenders`); those few are ordered by their float64 distances.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from protocol.errors import ConfigError
from protocol.fingerprint import Fingerprint
from protocol.spec import Spec
from strategies.augmented import Layout, Records, decode, layout_for
from strategies.bkld import negative_entropy
from strategies.measures import feature_means, stack

TIE = 4e-15
"""Distances that differ by less are equal: the float64 sums below are good to about half of it."""

__all__ = ["Index", "Nearest", "Question", "distances", "question", "ranked"]


@dataclass(frozen=True)
class Question:
    """A target, as the vector that sources are multiplied with.

    Parameters
    ----------
    layout
        Of the sources' records.
    rows
        The target's histograms, float64 ``[m, b]``.
    entropy
        Their negative entropies, float64 ``[m]``.
    weights
        Of the features, float64 ``[m]``, sum 1; None where each source has its own.
    body, sides
        What the parts of a source are multiplied with, float64, see `strategies.augmented`.
    """

    layout: Layout
    rows: NDArray[np.float64]
    entropy: NDArray[np.float64]
    weights: NDArray[np.float64] | None
    body: NDArray[np.float64]
    sides: NDArray[np.float64]


@dataclass(frozen=True)
class Nearest:
    """The k nearest sources of a target, nearest first; ties in the order of the ids.

    Parameters
    ----------
    ids
        Of the sources.
    distances
        bKLD, float64 ``[k]``; compare within one target only.
    percentiles
        Share of all the target's candidates that are not nearer, ``[k]``; 1 is the best.
    """

    ids: list[str]
    distances: NDArray[np.float64]
    percentiles: NDArray[np.float64]


class Index(Protocol):
    """Finds contenders among the sources of a store: by numpy, torch, or faiss."""

    def contenders(
        self, asked: Sequence[Question], k: int, allowed: NDArray[np.bool_]
    ) -> list[NDArray[np.intp]]:
        """Return, for each question, positions that surely hold its k best.

        Parameters
        ----------
        asked
            Questions of one layout.
        k
            How many are wanted, at least 1.
        allowed
            Which positions count, ``[n]``.
        """


def question(target: Fingerprint, spec: Spec, measure: str) -> Question:
    """Turn a target into its question.

    Raises
    ------
    ConfigError
        If the measure cannot be retrieved.
    SpecMismatch
        If the target was made by another spec.
    """
    layout = layout_for(measure, spec)
    rows = stack([target], spec)  # [1, m, b]
    entropy = negative_entropy(rows)[0]  # [m]
    if layout.kind == "weighted":
        # the weights of a source add up to 1, so a constant moves all distances alike: centred
        sides = np.append((entropy.max() + entropy.min()) / 2 - entropy, -1.0)
        return Question(layout, rows[0], entropy, None, rows.ravel(), sides)
    if measure == "bkld-small-target":
        weights = np.asarray(softmax(feature_means(rows, spec)[0]))
    else:
        weights = np.full(layout.features, 1.0 / layout.features)
    weights = weights / weights.sum()
    body = (weights[:, None] * rows[0]).ravel()
    return Question(layout, rows[0], entropy, weights, body, -weights)


def distances(records: Records, asked: Question) -> NDArray[np.float64]:
    """Return the target's distance from k sources, ``[k]``, in float64 from the exact counts.

    Each is summed on its own, so that equal fingerprints get equal distances wherever they stand.
    """
    rows = decode(records)  # [k, m, b]
    rows *= asked.rows
    terms = asked.entropy + records["lse"] - rows.sum(axis=2)  # [k, m]
    weights = records["weights"] if asked.weights is None else asked.weights
    return np.asarray((weights * terms).sum(axis=1))


def ranked(ids: Sequence[str], exact: NDArray[np.float64], k: int, candidates: int) -> Nearest:
    """Order contenders by distance, then id, and keep k; ties share a distance.

    Parameters
    ----------
    ids, exact
        Of the contenders, which must hold the k best and whoever ties with them.
    k
        How many to keep.
    candidates
        How many sources there were in all.
    """
    if k < 1:
        raise ConfigError(f"cannot return {k} nearest tasks: ask for at least 1")
    order = np.argsort(exact, kind="stable")
    values = exact[order]
    starts = np.diff(values, prepend=-np.inf) > TIE  # [n], where a distance of its own begins
    own = np.flatnonzero(starts)[np.cumsum(starts) - 1]  # [n], how many are strictly nearer
    names = [ids[i] for i in order.tolist()]
    by_id = sorted(range(len(names)), key=lambda i: (own[i], names[i]))[:k]
    nearer = own[by_id]
    return Nearest([names[i] for i in by_id], values[nearer], 1 - nearer / max(1, candidates))
