"""Replies as they arrive, looked for one at a time: what one node sends costs no other its reply.

Flower's grid builds a reply from bytes that its node chose, and raises whatever comes of that after
it has taken all replies of the same pull off the SuperLink. Those bytes also say whose message they
answer; what counts here is which one was looked for.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import httpx
from flwr.app import Error, Message, MessageType, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from protocol.names import printable

T = TypeVar("T")
OnReply = Callable[[int, Message], None]

POLL_SECONDS = 0.2
"""Longest time between two looks for replies."""

SHARE = 0.1
"""Looks follow each other after this share of the time since the question: a reply that comes soon
lies there for a tenth of the time that it took, and one that takes long costs few looks."""

LEAST_SECONDS = 0.005

AT_ONCE = 48
"""Messages that Flower's simulation engine is given at a time. It looks through all of them for
every node, and rests a tenth of a second between two looks: at a thousand nodes a message costs two
milliseconds of each, so 128 kept it from its work most of the time, and 20 were done too soon."""

SIMULATED_SECONDS = 0.02
"""Time between two looks for replies of simulated nodes. They lie in this process's memory, so each
look is for all: behind one that is late others would wait, and keep more from being asked."""

TEXT_LIMIT = 500  # of what a site says went wrong; it ends up in logs, reports and on terminals


def receive(
    grid: Grid,
    messages: Sequence[Message],
    timeout: float | None = None,
    on_reply: OnReply | None = None,
    at_once: int | None = None,
) -> dict[int, Message]:
    """Send one message a node; return the replies by the node that was asked.

    Parameters
    ----------
    grid : Grid
        Flower's grid.
    messages : sequence of Message
        What to send.
    timeout : float, optional
        Seconds to wait for all replies; for ever without.
    on_reply : callable, optional
        Given node and reply as each arrives, not only at the end.
    at_once : int, optional
        Most messages that wait for a reply at a time; all of them without. For simulated nodes:
        one that is gone would keep others from being asked.
    """
    line: deque[Message] = deque(messages)
    waiting: dict[str, int] = {}
    replies: dict[int, Message] = {}
    sent = time.monotonic()
    deadline = sent + (math.inf if timeout is None else timeout)
    while line or waiting:
        if fresh := take(line, at_once, len(waiting)):
            waiting |= push(grid, fresh)
            sent = time.monotonic()
        over = time.monotonic() >= deadline
        for node, reply in arrived(grid, waiting, every=over or at_once is not None):
            replies[node] = reply
            if on_reply is not None:
                on_reply(node, reply)
        if over:
            break
        if waiting:
            time.sleep(_pause(sent) if at_once is None else SIMULATED_SECONDS)
    return replies


def _pause(sent: float) -> float:
    """Return the seconds until the next look for replies to what was sent at a time."""
    return min(POLL_SECONDS, max(LEAST_SECONDS, SHARE * (time.monotonic() - sent)))


def take(line: deque[T], at_once: int | None, waiting: int) -> list[T]:
    """Take from the front of a line as many as may go, with so many on their way."""
    room = len(line) if at_once is None else min(len(line), at_once - waiting)
    return [line.popleft() for _ in range(room)]


def push(grid: Grid, messages: Sequence[Message]) -> dict[str, int]:
    """Send messages; return the node by message id, without those that Flower did not take."""
    taken = {str(message_id) for message_id in grid.push_messages(messages) if message_id}
    asked = {m.metadata.message_id: m.metadata.dst_node_id for m in messages}
    return {message_id: node for message_id, node in asked.items() if message_id in taken}


def arrived(grid: Grid, waiting: dict[str, T], every: bool = False) -> Iterator[tuple[T, Message]]:
    """Yield what has arrived and take it out of `waiting`, up to the first that has not.

    That one goes to the end of the line: called every `POLL_SECONDS`, the grid is asked in vain
    five times a second, however many are waited for, and not at all once all have answered.

    Parameters
    ----------
    grid : Grid
        Flower's grid.
    waiting : dict
        Whatever the caller keeps of a message, by its id.
    every : bool
        Look for every one: for the last time, or where looking costs no way through a network.
    """
    for message_id in list(waiting):
        reply = _reply_to(message_id, grid)
        if reply is not None:
            yield waiting.pop(message_id), reply
        elif not every:
            waiting[message_id] = waiting.pop(message_id)
            break


def _reply_to(message_id: str, grid: Grid) -> Message | None:
    """Return the reply to a message if there is one; an unreadable one is an error of its node."""
    try:
        reply = next(iter(grid.pull_messages([message_id])), None)
        if reply is None:
            return None
        if reply.has_error():
            reply.error = Error(reply.error.code, printable(reply.error.reason or "", TEXT_LIMIT))
    except httpx.HTTPError:  # the way to the SuperLink, of which no node can be blamed
        raise
    except Exception as error:
        why = Error(ErrorCode.UNKNOWN, f"sent an unreadable reply ({type(error).__name__})")
        reply = Message(why, reply_to=Message(RecordDict(), 0, MessageType.QUERY))
    reply.metadata.__dict__["_reply_to_message_id"] = message_id  # not what its bytes say
    return reply
