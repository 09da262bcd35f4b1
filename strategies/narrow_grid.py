"""A grid narrowed to some nodes: it shows no others and sends nothing to them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from threading import Lock

from flwr.app import Message, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from protocol.errors import ConfigError
from strategies.inbox import receive
from strategies.members import Members


class NarrowGrid(Grid):
    """Flower's grid, narrowed to the nodes of one group.

    Parameters
    ----------
    grid : Grid
        The whole grid.
    group : str
        Name of the group; stamped on every message as its group id.
    nodes : sequence of int
        The group's nodes.
    turn : Lock, optional
        Held by the group's thread; given up to the other groups while it waits for replies.
    """

    def __init__(
        self, grid: Grid, group: str, nodes: Sequence[int], turn: Lock | None = None
    ) -> None:
        self._grid, self.group, self._turn = grid, group, turn
        self._members = Members(nodes)

    def set_run(self, run: Run) -> None:
        """Refuse: the run is the whole grid's."""
        raise ConfigError("a group's grid takes its run from the whole grid")

    @property
    def run(self) -> Run:
        """The run of the whole grid."""
        return self._grid.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Make a message as the whole grid does."""
        return self._grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        """Return the group's nodes that are connected and admitted."""
        return self._members.admitted(set(self._grid.get_node_ids()))

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Return the group's nodes with what Flower knows of them."""
        admitted = self._members.admitted()
        return [info for info in self._grid.get_nodes() if info.node_id in admitted]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send to nodes of the group.

        Raises
        ------
        ConfigError
            If a message is for a node outside the group; none is sent then.
        """
        return self._grid.push_messages(self._stamped(messages))

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Collect replies."""
        return self._grid.pull_messages(message_ids)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send to nodes of the group and wait."""
        return list(self._await(self._stamped(messages), timeout).values())

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Let the other groups compute while this one waits."""
        if self._turn is None:
            yield
            return
        self._turn.release()
        try:
            yield
        finally:
            self._turn.acquire()

    def _await(self, messages: Sequence[Message], timeout: float | None) -> dict[int, Message]:
        """Return the replies by the node that was asked."""
        with self.aside():
            return receive(self._grid, messages, timeout)

    def _stamped(self, messages: Iterable[Message]) -> list[Message]:
        stamped = list(messages)
        for message in stamped:
            node = message.metadata.dst_node_id
            if node not in self._members.nodes:
                raise ConfigError(f"node {node} is not in group {self.group}: message refused")
            message.metadata.group_id = f"{self.group}/{message.metadata.group_id}".rstrip("/")
        return stamped
