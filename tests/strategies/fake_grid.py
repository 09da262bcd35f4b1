"""A grid in memory: nodes are functions from a message's content to a reply's."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping

import numpy as np
from flwr.app import ArrayRecord, Error, Message, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from numpy.typing import NDArray

Node = Callable[[Message], RecordDict]


class Dead(Exception):
    """Raised by a node that died: Flower answers for it, under a source id that is not its own."""


class Silent(Exception):
    """Raised by a node that never answers."""


class Killed(BaseException):
    """Raised when the coordinator dies: nothing of ours may catch it."""


def values(record: ArrayRecord) -> dict[str, NDArray[np.float32]]:
    """Return a record's arrays without parsing their headers.

    Real sites are other processes. These answer in a group's thread while another group computes,
    and two threads that parse headers can fail in CPython 3.11, see `strategies.group_grid`.
    """
    return {
        name: np.frombuffer(array.data[-4 * int(np.prod(array.shape)) :], np.float32).reshape(
            array.shape
        )
        for name, array in record.items()
    }


class FakeGrid(Grid):
    """Answers at once; keeps every message that was sent.

    Nodes in `offline` are not listed, and Flower answers for them. Where `lives` is set, the
    coordinator dies after so many answers; replies then trickle in one a pull.
    """

    def __init__(self, nodes: Mapping[int, Node]) -> None:
        TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
        self.nodes = dict(nodes)
        self.sent: list[Message] = []
        self.offline: set[int] = set()
        self.lives: int | None = None
        self._ids = itertools.count(1)
        self._run = Run.create_empty(1)

    def set_run(self, run: Run) -> None:
        self._run = run

    @property
    def run(self) -> Run:
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        return [node for node in self.nodes if node not in self.offline]

    def get_nodes(self) -> Iterable[NodeInfo]:
        return [NodeInfo(node_id=node) for node in self.get_node_ids()]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            assert not message.metadata.message_id, "a message was sent twice"
            message.metadata.__dict__["_message_id"] = f"m{next(self._ids)}"
            self.sent.append(message)
            ids.append(message.metadata.message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        wanted = set(message_ids)
        asked = [m for m in self.sent if m.metadata.message_id in wanted]
        replies = [self._reply(m) for m in (asked if self.lives is None else asked[:1])]
        return [reply for reply in replies if reply is not None]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        raise AssertionError("one bad reply would cost all others: they are pulled one by one")

    def _reply(self, message: Message) -> Message | None:
        if self.lives is not None:
            if self.lives <= 0:
                raise Killed
            self.lives -= 1
        try:
            if message.metadata.dst_node_id in self.offline:
                raise Dead
            return Message(self.nodes[message.metadata.dst_node_id](message), reply_to=message)
        except Silent:
            return None
        except Dead:
            reply = Message(Error(3, "node is gone"), reply_to=message)
            reply.metadata.__dict__["_src_node_id"] = 1  # as Flower's SuperLink does
            return reply
