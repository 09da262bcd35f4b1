"""Who is in a group: nodes are lost, may come back, and stay out when that is no use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from flwr.app import RecordDict

CHANCES = 3
"""So often may a node fail to answer before it stays out."""


@dataclass(frozen=True)
class Loss:
    """Why a node left a round.

    Attributes
    ----------
    node : int
        The node.
    why : str
        For people.
    for_good : bool
        True where coming back would not help: what it sent cannot be averaged.
    """

    node: int
    why: str
    for_good: bool = False


@dataclass(frozen=True)
class Round:
    """What one training round ended with.

    Attributes
    ----------
    replies : mapping of int to RecordDict
        By node, in the order in which they are averaged.
    losses : sequence of Loss
        Failures on the way, in their order.
    """

    replies: Mapping[int, RecordDict]
    losses: Sequence[Loss] = ()


class Memory(Protocol):
    """Keeps a group's rounds, so that a coordinator that was killed need not train them again."""

    def recall(self, number: int) -> Round | None:
        """Return round `number` (from 1 on) if it was kept, whole and undamaged."""

    def keep(self, number: int, ended: Round) -> None:
        """Keep a round before anything is computed from it."""


class Members:
    """The nodes of a group.

    Parameters
    ----------
    nodes : iterable of int
        All that belong to it, in the order in which their replies are averaged.

    Attributes
    ----------
    lost : dict
        Nodes that did not answer when last asked, with the reason.
    returned : dict
        Nodes that were lost and answered again later, with the last reason.
    """

    def __init__(self, nodes: Iterable[int]) -> None:
        self.nodes = list(dict.fromkeys(nodes))
        self.lost: dict[int, str] = {}
        self.returned: dict[int, str] = {}
        self._failures: Counter[int] = Counter()

    def admitted(self, among: Collection[int] | None = None) -> list[int]:
        """Return the nodes that may be asked, in the group's order."""
        return [
            node
            for node in self.nodes
            if self._failures[node] < CHANCES and (among is None or node in among)
        ]

    def lose(self, loss: Loss) -> None:
        """Note that a node failed."""
        self.lost[loss.node] = loss.why
        self.returned.pop(loss.node, None)
        self._failures[loss.node] += CHANCES if loss.for_good else 1

    def end(self, ended: Round) -> None:
        """Note who answered in the end: those lost before are back."""
        for node in ended.replies:
            if node in self.lost:
                self.returned[node] = self.lost.pop(node)
