"""Asking nodes on a Flower grid, and what their answers are worth."""

from __future__ import annotations

from collections.abc import Iterable

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from protocol.errors import FedprintError, VerificationError
from protocol.records import refusal
from strategies.inbox import (
    AT_ONCE,
    LEAST_SECONDS,
    POLL_SECONDS,
    SIMULATED_SECONDS,
    OnReply,
    arrived,
    push,
    receive,
    take,
)

__all__ = [
    "AT_ONCE",
    "LEAST_SECONDS",
    "POLL_SECONDS",
    "SIMULATED_SECONDS",
    "Problem",
    "arrived",
    "ask",
    "content_of",
    "is_deployment",
    "push",
    "take",
]


class Problem(VerificationError):
    """What kept a site from answering, with the reason code that the site or Flower gave."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason  # type: ignore[misc]


def is_deployment(grid: Grid) -> bool:
    """Tell whether the nodes behind a grid are SuperNodes, not simulated ones."""
    return type(grid).__name__ == "HttpGrid"


def ask(
    grid: Grid,
    requests: Iterable[tuple[int, RecordDict]],
    message_type: str,
    timeout: float,
    on_reply: OnReply | None = None,
) -> dict[int, Message]:
    """Send one message a node; return the replies by the node that was asked.

    Simulated nodes are asked some at a time, see `strategies.inbox.AT_ONCE`; SuperNodes all at
    once, because one that is gone must not keep the others waiting.

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
    at_once = None if is_deployment(grid) else AT_ONCE
    return receive(grid, messages, timeout, on_reply, at_once)


def content_of(reply: Message | None) -> RecordDict:
    """Return what a site answered.

    Raises
    ------
    Problem
        With the reason that the site gives, or ``no-reply``, ``client-error`` or
        ``malformed-message``.
    """
    if reply is None:
        raise Problem("no-reply", "did not answer in time")
    if reply.has_error():
        raise Problem("client-error", reply.error.reason or f"error {reply.error.code}")
    try:
        problem = refusal(reply.content)
    except FedprintError as error:
        raise Problem(str(getattr(error, "reason", "error")), str(error)) from None
    if problem is not None:
        raise Problem(*problem)
    return reply.content
