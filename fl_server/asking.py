"""Asking nodes on a Flower grid, and what their answers are worth."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from protocol.errors import VerificationError
from protocol.records import refusal

POLL_SECONDS = 0.2
OnReply = Callable[[int, Message], None]


class Problem(VerificationError):
    """What kept a site from answering, with the reason code that the site or Flower gave."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason  # type: ignore[misc]


def ask(
    grid: Grid,
    requests: Iterable[tuple[int, RecordDict]],
    message_type: str,
    timeout: float,
    on_reply: OnReply | None = None,
) -> dict[int, Message]:
    """Send one message a node; return the replies by the node that was asked.

    A node that died answers with an error whose source is not its own id, so replies are
    matched by the message that they answer.

    Parameters
    ----------
    grid : Grid
        Flower's grid.
    requests : iterable of (int, RecordDict)
        Node and content.
    message_type : str
        Flower's.
    timeout : float
        Seconds to wait for all replies.
    on_reply : callable, optional
        Given node and reply as each arrives, not only at the end.
    """
    messages = [
        Message(content, dst_node_id=node, message_type=message_type) for node, content in requests
    ]
    if on_reply is not None:
        return _watched(grid, messages, timeout, on_reply)
    replies = grid.send_and_receive(messages, timeout=timeout)
    asked = {m.metadata.message_id: m.metadata.dst_node_id for m in messages}
    return {
        asked[reply.metadata.reply_to_message_id]: reply
        for reply in replies
        if reply.metadata.reply_to_message_id in asked
    }


def _watched(
    grid: Grid, messages: Sequence[Message], timeout: float, on_reply: OnReply
) -> dict[int, Message]:
    """Send and wait as the grid does, but hand on every reply as it arrives."""
    waiting = push(grid, messages)
    replies: dict[int, Message] = {}
    deadline = time.monotonic() + timeout
    while waiting:
        for reply in grid.pull_messages(list(waiting)):
            node = waiting.pop(reply.metadata.reply_to_message_id, None)
            if node is not None:
                replies[node] = reply
                on_reply(node, reply)
        if time.monotonic() > deadline:
            break
        if waiting:
            time.sleep(POLL_SECONDS)
    return replies


def push(grid: Grid, messages: Sequence[Message]) -> dict[str, int]:
    """Send messages; return the node by message id, without those that Flower did not take."""
    taken = {str(message_id) for message_id in grid.push_messages(messages) if message_id}
    asked = {m.metadata.message_id: m.metadata.dst_node_id for m in messages}
    return {message_id: node for message_id, node in asked.items() if message_id in taken}


def content_of(reply: Message | None) -> RecordDict:
    """Return what a site answered.

    Raises
    ------
    Problem
        With the reason that the site gives, or ``no-reply`` or ``client-error``.
    """
    if reply is None:
        raise Problem("no-reply", "did not answer in time")
    if reply.has_error():
        raise Problem("client-error", reply.error.reason or f"error {reply.error.code}")
    problem = refusal(reply.content)
    if problem is not None:
        raise Problem(*problem)
    return reply.content
