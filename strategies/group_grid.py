"""A grid that shows one group only, so that any stock Flower strategy runs on it unmodified."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import TypeVar

import numpy as np
from flwr.app import Message, MessageType, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from protocol.errors import ConfigError, FedprintError

T = TypeVar("T")
Prepare = Callable[[RecordDict, int, Sequence[int]], RecordDict]


class GroupGrid(Grid):
    """Flower's grid, narrowed to the nodes of one group.

    Parameters
    ----------
    grid : Grid
        The whole grid.
    group : str
        Name of the group; stamped on every message as its group id.
    nodes : sequence of int
        The group's nodes.
    prepare : callable, optional
        Gives each training message its final content, from (content, its node, all nodes of the
        round): what a site must know about who else takes part.
    turn : Lock, optional
        Held by the group's thread; given up to the other groups while it waits for replies.
    weights : mapping of int to int, optional
        What each node must claim as ``num-examples``: a mean is the sites' only with true weights.

    Notes
    -----
    A training round whose replies do not all arrive is asked again of the nodes that did answer,
    because `prepare` announced nodes that are gone. Lost nodes leave the group; `lost` says why.
    """

    def __init__(
        self,
        grid: Grid,
        group: str,
        nodes: Sequence[int],
        prepare: Prepare | None = None,
        turn: Lock | None = None,
        weights: Mapping[int, int] | None = None,
    ) -> None:
        self._grid, self.group, self._prepare = grid, group, prepare
        self._turn, self._weights = turn, weights
        self._nodes = dict.fromkeys(nodes)
        self.lost: dict[int, str] = {}

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
        """Return the group's nodes that are connected and not lost."""
        return [node for node in self._grid.get_node_ids() if node in self._nodes]

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Return the group's nodes with what Flower knows of them."""
        return [info for info in self._grid.get_nodes() if info.node_id in self._nodes]

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
        """Send to nodes of the group and wait; a broken training round is redone with the rest."""
        pending = self._stamped(messages)
        if not pending or not _trains(pending[0]):
            return self._await(pending, timeout)
        while pending:
            prepared = self._prepared(pending)
            replies = self._await(prepared, timeout)
            failed = self._failed(prepared, replies)
            if not failed:
                return replies
            for node, why in failed.items():
                self.lost[node] = why
                self._nodes.pop(node, None)
            pending = [m for m in pending if m.metadata.dst_node_id not in failed]
        raise FedprintError(f"group {self.group} has lost all its sites")

    def _await(self, messages: Sequence[Message], timeout: float | None) -> list[Message]:
        if self._turn is None:
            return list(self._grid.send_and_receive(messages, timeout=timeout))
        self._turn.release()
        try:
            return list(self._grid.send_and_receive(messages, timeout=timeout))
        finally:
            self._turn.acquire()

    def _stamped(self, messages: Iterable[Message]) -> list[Message]:
        stamped = list(messages)
        for message in stamped:
            node = message.metadata.dst_node_id
            if node not in self._nodes:
                raise ConfigError(f"node {node} is not in group {self.group}: message refused")
            message.metadata.group_id = f"{self.group}/{message.metadata.group_id}".rstrip("/")
        return stamped

    def _prepared(self, messages: Sequence[Message]) -> list[Message]:
        """Return fresh messages (one that was sent cannot be sent again), each prepared."""
        nodes = [message.metadata.dst_node_id for message in messages]
        fresh = []
        for message in messages:
            meta, content = message.metadata, message.content
            if self._prepare:
                content = self._prepare(content, meta.dst_node_id, nodes)
            fresh.append(
                Message(
                    content,
                    dst_node_id=meta.dst_node_id,
                    message_type=meta.message_type,
                    group_id=meta.group_id,
                    ttl=meta.ttl,
                )
            )
        return fresh

    def _failed(self, messages: Sequence[Message], replies: Sequence[Message]) -> dict[int, str]:
        """Return the nodes without a good reply; an error's own source id cannot be trusted."""
        answers = {reply.metadata.reply_to_message_id: reply for reply in replies}
        failed = {}
        for message in messages:
            reply = answers.get(message.metadata.message_id)
            if reply is None:
                failed[message.metadata.dst_node_id] = "did not answer in time"
            elif reply.has_error():
                failed[message.metadata.dst_node_id] = str(reply.error.reason or reply.error.code)
            elif why := _unusable(message, reply, self._weights):
                failed[message.metadata.dst_node_id] = why
        return failed


def _trains(message: Message) -> bool:
    return message.metadata.message_type.split(".")[0] == MessageType.TRAIN


def _unusable(message: Message, reply: Message, weights: Mapping[int, int] | None) -> str:
    """Say why a site's arrays cannot be averaged with the others', nothing where they can.

    They must have the names and shapes of those that were sent, and be finite: one site's NaN
    would be everybody's.
    """
    sent, back = message.content, reply.content
    expected = (weights or {}).get(message.metadata.dst_node_id)
    if len(back.array_records) != len(sent.array_records) or len(back.metric_records) != 1:
        return "sent other records than it should"
    for record, arrays in sent.array_records.items():
        replied = back.array_records.get(record)
        if replied is None or set(replied) != set(arrays):
            return "sent other arrays than it was given"
        for name, array in arrays.items():
            if tuple(replied[name].shape) != tuple(array.shape):
                return f"sent {name} in another shape"
            try:
                values = replied[name].numpy()
            except (ValueError, TypeError, EOFError):
                return f"sent {name} as something that is no array"
            if values.shape != tuple(array.shape) or values.dtype.kind != "f":
                return f"sent {name} as something that is no such array"
            if not np.isfinite(values).all():
                return f"sent {name} with values that are not finite"
    for metrics in back.metric_records.values():
        weight = metrics.get("num-examples", 1)
        if not isinstance(weight, int | float) or not 0 < weight < float("inf"):
            return "sent a number of examples that is no weight"
        if expected is not None and weight != expected:
            return f"claims {weight} training images, but claimed {expected} before"
    return ""


def per_group(
    grid: Grid,
    groups: Mapping[str, Sequence[int]],
    job: Callable[[GroupGrid, str], T],
    prepare: Callable[[str], Prepare | None] = lambda _group: None,
    weights: Mapping[int, int] | None = None,
) -> dict[str, T]:
    """Run one job a group, side by side, each on a grid of its own.

    Groups wait for their sites at the same time, but only one computes at a time: aggregation is
    short, and parsing an array's header from several threads at once can fail in CPython 3.11.

    Parameters
    ----------
    grid : Grid
        The whole grid.
    groups : mapping of str to sequence of int
        Nodes by group; no node may be in two groups.
    job : callable
        What to do with a group's grid: usually to start a stock strategy on it.
    prepare : callable
        From the group's name to the `prepare` of its grid.
    weights : mapping of int to int, optional
        See `GroupGrid`.

    Returns
    -------
    dict
        The jobs' results by group; the first error is raised after all jobs ended.

    Raises
    ------
    ConfigError
        If a node is in two groups.
    """
    nodes = [node for members in groups.values() for node in members]
    if len(set(nodes)) != len(nodes):
        raise ConfigError("a node is in two groups: each site trains in one group at a time")
    if not groups:
        return {}
    turn = Lock()

    def in_turn(name: str) -> T:
        with turn:
            return job(GroupGrid(grid, name, groups[name], prepare(name), turn, weights), name)

    with ThreadPoolExecutor(max_workers=len(groups), thread_name_prefix="group") as pool:
        futures = {name: pool.submit(in_turn, name) for name in groups}
    return {name: future.result() for name, future in futures.items()}
