"""The tasks of a pool that are nearest to one, from the fingerprint store of its spec."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from fl_server.pool.models import TaskRow
from fl_server.pool.session import Pool
from fl_server.pool_search import make_index, top_k
from fl_server.pool_target import Target
from fl_server.pool_vectors import open_store
from protocol.errors import ConfigError

MEASURE = "bkld-large-source"
"""Default distance: weighted by the source, it finds other sites of one task where an unweighted
product prefers whoever has narrow histograms, whatever the target."""
SMALL = 2**28
"""Bytes of a store below which looking for a GPU takes longer than the search."""


@dataclass(frozen=True)
class Near:
    """The nearest tasks of a target, nearest first.

    Attributes
    ----------
    ids : list of str
        Of the tasks.
    distances, percentiles : list of float
        As in `strategies.retrieval.Nearest`.
    candidates : int
        How many tasks the target was compared with.
    """

    ids: list[str]
    distances: list[float]
    percentiles: list[float]
    candidates: int

    @property
    def places(self) -> dict[str, int]:
        """How many tasks are nearer, plus 1, by id."""
        shares = zip(self.ids, self.percentiles, strict=True)
        return {task: round((1 - share) * self.candidates) + 1 for task, share in shares}


def find_near(
    pool: Pool,
    target: Target,
    k: int,
    measure: str,
    *,
    exclude: Collection[str],
    device: str = "auto",
) -> Near:
    """Return the k nearest tasks of a target.

    Parameters
    ----------
    pool : Pool
        Where to look.
    target : Target
        Who asks.
    k : int
        How many at most.
    measure : str
        One of `strategies.augmented.MEASURES`.
    exclude : collection of str
        Ids that are no candidates.
    device : str
        See `fl_server.pool_search.make_index`.

    Raises
    ------
    ConfigError
        When the measure or the device cannot be used.
    """
    with open_store(pool, target.spec, measure) as store:
        small = store.nbytes < SMALL
        index = make_index(store, "cpu" if device == "auto" and small else device)
        if not len(store):
            return Near([], [], [], 0)
        found = top_k(store, target.fingerprint, k, measure, exclude=exclude, index=index)
        here = store.entries.position
        candidates = len(here) - sum(task in here for task in set(exclude))
    return Near(found.ids, found.distances.tolist(), found.percentiles.tolist(), candidates)


def described(pool: Pool, near: Near) -> list[dict[str, Any]]:
    """Return the nearest tasks with their cards, as JSON values.

    Whoever was withdrawn since they were looked for is left out.
    """
    places, rows = near.places, []
    with pool.reading() as session:
        for task, distance, share in zip(near.ids, near.distances, near.percentiles, strict=True):
            row = session.get(TaskRow, task)
            if row is not None:
                rows.append(
                    {
                        "id": task,
                        "site": row.site,
                        "name": row.name,
                        "place": places[task],
                        "distance": distance,
                        "percentile": share,
                        "images": row.images,
                        "private": row.private,
                        "card": row.card,
                    }
                )
    return rows


def require_somebody(pool: Pool, candidates: int, spec: str) -> None:
    """Refuse a pool in which nobody compares with a target.

    Raises
    ------
    ConfigError
        If there are no candidates.
    """
    if not candidates:
        raise ConfigError(
            f"{pool.where} holds no other task of spec {spec}: add some with fedprint pool add"
        )
