"""What a group makes of the replies to a training round: which can be averaged, which cannot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from flwr.app import Message

from strategies.members import Loss


def answers_of(messages: Sequence[Message], replies: Sequence[Message]) -> dict[int, Message]:
    """Return the replies by the node that was asked: an error's own source cannot be trusted."""
    asked = {m.metadata.message_id: m.metadata.dst_node_id for m in messages}
    return {
        asked[reply.metadata.reply_to_message_id]: reply
        for reply in replies
        if reply.metadata.reply_to_message_id in asked
    }


def losses(
    messages: Sequence[Message], answers: Mapping[int, Message], weights: Mapping[int, int]
) -> list[Loss]:
    """Return the nodes without a good reply.

    No answer and an error are a matter of transport: such a node may come back. One whose arrays
    cannot be averaged has no second chance.
    """
    failed = []
    for message in messages:
        node = message.metadata.dst_node_id
        reply = answers.get(node)
        if reply is None:
            failed.append(Loss(node, "did not answer in time"))
        elif reply.has_error():
            failed.append(Loss(node, str(reply.error.reason or reply.error.code)))
        elif why := unusable(message, reply, weights.get(node)):
            failed.append(Loss(node, why, for_good=True))
    return failed


def unusable(message: Message, reply: Message, weight: int | None) -> str:
    """Say why a site's arrays cannot be averaged with the others', nothing where they can.

    They must have the names and shapes of those that were sent, and be finite: one site's NaN
    would be everybody's. Its weight must be the one that it claimed before.
    """
    sent, back = message.content, reply.content
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
        claimed = metrics.get("num-examples", 1)
        if not isinstance(claimed, int | float) or not 0 < claimed < float("inf"):
            return "sent a number of examples that is no weight"
        if weight is not None and claimed != weight:
            return f"claims {claimed} training images, but claimed {weight} before"
    return ""
