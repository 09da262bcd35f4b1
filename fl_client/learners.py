"""Learners kept between the messages of one process: data and features are loaded once a process.

In a simulation a process answers for many sites, round after round, so what is kept is bounded. In
a deployment each message has a process of its own, and finds features in the site's state folder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from fl_client.data_digest import known_digest
from fl_client.site import Site
from protocol.orders import Order

if TYPE_CHECKING:
    from fl_client.learner import Learner

MOST_BYTES = 2**29
"""Most memory that the data of kept learners take, in one process."""

Key = tuple[str, bool]
Belongs = tuple[object, ...]


class Learners:
    """The learners of a process; those that were used longest ago go first.

    Of a site there is one of the run's own knowledge and the last one of another: a site trains
    with one knowledge after the other.

    Parameters
    ----------
    most_bytes : int
        Most memory of all data together; the learner in use stays, whatever its size.
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most = most_bytes
        self._kept: dict[Key, tuple[Belongs, Learner]] = {}  # by last use

    def __iter__(self) -> Iterator[Learner]:
        """Yield what is kept, by last use."""
        return (learner for _, learner in self._kept.values())

    def clear(self) -> None:
        """Forget all."""
        self._kept.clear()

    def of(
        self, site: Site, order: Order, device: str | None, make: Callable[[], Learner]
    ) -> Learner:
        """Return a site's learner for an order; a kept one only where nothing has changed.

        Parameters
        ----------
        site : Site
            As it is now. One that was read anew, because its files changed, has no learner yet,
            and neither has one with other bytes or another order of images.
        order : Order
            What to train by.
        device : str or None
            Where to compute.
        make : callable
            Makes the learner that is not kept.

        Raises
        ------
        DataError
            If an image of the site cannot be found or read.
        """
        key = str(site.folder), order.knowledge.is_default
        what = (order.spec.digest, order.recipe, device, order.seed, order.knowledge.digest)
        belongs = (*what, known_digest(site))
        kept = self._kept.pop(key, None)
        if kept is None or kept[0] != belongs or kept[1].site is not site:
            kept = belongs, make()
        self._kept[key] = kept
        self._shrink()
        return kept[1]

    def _shrink(self) -> None:
        held = sum(learner.bytes for learner in self)
        for key in list(self._kept)[:-1]:
            if held <= self._most:
                break
            held -= self._kept.pop(key)[1].bytes
