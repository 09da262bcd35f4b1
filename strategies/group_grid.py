"""A grid that shows one group only, so that any stock Flower strategy runs on it unmodified."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import TypeVar

from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid

from protocol.errors import ConfigError, FedprintError
from strategies.members import Loss, Memory, Round
from strategies.narrow_grid import NarrowGrid
from strategies.replies import losses

T = TypeVar("T")
Prepare = Callable[[RecordDict, int, Sequence[int]], RecordDict]

POLL_SECONDS = 1.0
PATIENCE_SECONDS = 1800.0


class GroupGrid(NarrowGrid):
    """Flower's grid, narrowed to the nodes of one group.

    Parameters
    ----------
    grid : Grid
        The whole grid.
    group : str
        Name of the group; stamped on every message as its group id.
    nodes : sequence of int
        The group's nodes; replies are handed on in this order, so that a sum of floats does not
        depend on who answered first.
    prepare : callable, optional
        Gives each training message its final content, from (content, its node, all nodes of the
        round): what a site must know about who else takes part.
    turn : Lock, optional
        Held by the group's thread; given up to the other groups while it waits for replies.
    weights : mapping of int to int, optional
        What each node must claim as ``num-examples``: a mean is the sites' only with true weights.
    memory : Memory, optional
        Keeps every training round. As long as it holds the next one, nothing is sent: the strategy
        gets that round's nodes and replies, and so comes to the state that it was in.
    patience : float
        Seconds to wait for a first node of the group to be connected.

    Notes
    -----
    A training round whose replies do not all arrive is asked again of the nodes that did answer,
    because `prepare` announced nodes that are gone. A node that did not answer is admitted to the
    next round again if it is connected by then, `members.CHANCES` times; one whose reply cannot be
    averaged leaves for good. `lost` says who is out and why, `returned` who came back.
    """

    def __init__(
        self,
        grid: Grid,
        group: str,
        nodes: Sequence[int],
        prepare: Prepare | None = None,
        turn: Lock | None = None,
        weights: Mapping[int, int] | None = None,
        memory: Memory | None = None,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        super().__init__(grid, group, nodes, turn)
        self._prepare, self._weights = prepare, weights or {}
        self._memory, self._patience = memory, patience
        self._ended = 0  # training rounds
        self._next: Round | None = None
        self._replaying = memory is not None
        self._shown: set[int] = set()
        self._shown_since: float | None = None

    @property
    def lost(self) -> dict[int, str]:
        """Nodes that did not answer when last asked, with the reason."""
        return self._members.lost

    @property
    def returned(self) -> dict[int, str]:
        """Nodes that were lost and answered again later, with the reason of their last loss."""
        return self._members.returned

    def get_node_ids(self) -> Iterable[int]:
        """Return the group's nodes that are connected and admitted; wait until there is one.

        Until the next messages are sent the list only grows: a strategy counts the nodes, then
        waits for as many, and would wait for ever for one that left in between.

        Raises
        ------
        FedprintError
            If no node was connected, or not as many as the strategy waits for, within the patience.
        """
        if kept := self._recalled():
            return list(kept.replies)
        connected = self._connected()
        now = time.monotonic()
        if self._shown_since is None:
            self._shown, self._shown_since = set(), now
        elif now - self._shown_since > self._patience:
            raise FedprintError(
                f"the strategy of group {self.group} waits for more sites than the "
                f"{len(connected)} that are connected: lower its minimum"
            )
        self._shown.update(connected)
        return self._members.admitted(self._shown)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send to nodes of the group and wait; a broken training round is redone with the rest."""
        pending = self._stamped(messages)
        self._shown_since = None
        if not pending or pending[0].metadata.message_type.split(".")[0] != MessageType.TRAIN:
            return list(self._await(pending, timeout).values())
        kept = self._recalled()
        if kept:
            for loss in kept.losses:
                self._members.lose(loss)
            ended, replies = kept, _replayed(pending, kept)
        else:
            ended, replies = self._round(pending, timeout)
        self._members.end(ended)
        self._ended += 1
        self._next = None
        return replies

    def _recalled(self) -> Round | None:
        """Return the next round if it is kept; once one is missing, all that follow are made."""
        if self._memory and self._replaying and not self._next:
            self._next = self._memory.recall(self._ended + 1)
            if not self._next:
                self._replaying = False
        return self._next

    def _round(
        self, messages: Sequence[Message], timeout: float | None
    ) -> tuple[Round, list[Message]]:
        """Train one round until all that are asked answer."""
        failures: list[Loss] = []
        pending = list(messages)
        while True:
            prepared = self._prepared(pending)
            answers = self._await(prepared, timeout)
            failed = losses(prepared, answers, self._weights)
            if not failed:
                break
            for loss in failed:
                self._members.lose(loss)
            failures += failed
            gone = {loss.node for loss in failed}
            pending = [m for m in pending if m.metadata.dst_node_id not in gone]
            if not pending:  # all at once: more likely the network's fault than theirs
                back = self._connected(m.metadata.dst_node_id for m in messages)
                pending = [m for m in messages if m.metadata.dst_node_id in back]
        replies = {node: answers[node] for node in self._members.nodes if node in answers}
        ended = Round({node: reply.content for node, reply in replies.items()}, failures)
        if self._memory:
            self._memory.keep(self._ended + 1, ended)
        return ended, list(replies.values())

    def _connected(self, among: Iterable[int] | None = None) -> list[int]:
        """Return the admitted nodes that are connected, waiting until there is one."""
        wanted = self._members.nodes if among is None else set(among)
        deadline = time.monotonic() + self._patience
        while True:
            admitted = self._members.admitted(wanted)
            if not admitted:
                raise FedprintError(f"group {self.group} has lost all its sites")
            with self.aside():
                online = set(self._grid.get_node_ids())
            if connected := [node for node in admitted if node in online]:
                return connected
            if time.monotonic() >= deadline:
                raise FedprintError(
                    f"no site of group {self.group} was connected for {self._patience:.0f} s"
                )
            with self.aside():
                time.sleep(min(POLL_SECONDS, self._patience))

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


def _replayed(messages: Sequence[Message], kept: Round) -> list[Message]:
    """Return a kept round as replies, though a strategy that samples might not have asked all."""
    first, to = messages[0], {m.metadata.dst_node_id: m for m in messages}
    kind = first.metadata.message_type
    return [
        Message(content, reply_to=to.get(node) or Message(RecordDict(), node, kind))
        for node, content in kept.replies.items()
    ]


def per_group(
    grid: Grid,
    groups: Mapping[str, Sequence[int]],
    job: Callable[[GroupGrid, str], T],
    prepare: Callable[[str], Prepare | None] = lambda _group: None,
    weights: Mapping[int, int] | None = None,
    memory: Callable[[str], Memory | None] = lambda _group: None,
    patience: float = PATIENCE_SECONDS,
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
    memory : callable
        From the group's name to the `memory` of its grid.
    patience : float
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
            group_grid = GroupGrid(
                *(grid, name, groups[name], prepare(name), turn, weights, memory(name), patience)
            )
            return job(group_grid, name)

    with ThreadPoolExecutor(max_workers=len(groups), thread_name_prefix="group") as pool:
        futures = {name: pool.submit(in_turn, name) for name in groups}
    return {name: future.result() for name, future in futures.items()}
