"""The tasks that advice for one target is about, as their cards and fingerprints tell them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from protocol.errors import BadShape
from strategies.task_pairs import Tasks, keyword_similarity

__all__ = ["Neighbourhood", "PoolTask"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class PoolTask:
    """A task as advice sees it.

    Parameters
    ----------
    id
        SHA-256 of its release.
    site, name, key
        Whose it is, how its card calls it, and the id of the key that signed it.
    images, classes
        How many.
    words
        Keywords of its card.
    objective
        What is learnt: none trains together with a task of another.
    """

    id: str
    site: str
    name: str = ""
    key: str = ""
    images: int = 0
    classes: int = 0
    words: frozenset[str] = frozenset()
    objective: str = "classification"

    def is_same(self, other: PoolTask) -> bool:
        """Tell whether two releases are of one task: neither advises the other."""
        mine, theirs = (self.site, self.key, self.name), (other.site, other.key, other.name)
        return self.id == other.id or mine == theirs


@dataclass(frozen=True)
class Neighbourhood:
    """The tasks that advice is about.

    Parameters
    ----------
    tasks
        n tasks, the target among them.
    target
        Position of the one that asks.
    distances
        Shape ``[n, n]``, row = source, column = target; NaN where fingerprints do not compare.
    places
        How many tasks of the pool are nearer to the target, plus 1; by id, where it is known.
    candidates
        How many tasks of the pool were compared with the target.
    """

    tasks: Sequence[PoolTask]
    target: int
    distances: Floats
    places: Mapping[str, int]
    candidates: int

    def __post_init__(self) -> None:
        """Refuse distances that do not fit the tasks."""
        n = len(self.tasks)
        if self.distances.shape != (n, n):
            raise BadShape(f"distances have shape {self.distances.shape}, but there are {n} tasks")

    def eligible(self) -> NDArray[np.bool_]:
        """Return who may be a source, row, for whom, column, ``[n, n]``."""
        return np.array([[not s.is_same(t) for t in self.tasks] for s in self.tasks], dtype=bool)

    def known(self) -> Tasks:
        """Return what the recommender may know of the tasks."""
        size = np.array([[task.images, task.classes] for task in self.tasks], dtype=np.float64)
        said = all(task.words for task in self.tasks)
        return Tasks(
            len(self.tasks),
            self.distances[None] if np.isfinite(self.distances).any() else None,
            np.log1p(size),
            keyword_similarity([task.words for task in self.tasks]) if said else None,
            self.eligible(),
        )
