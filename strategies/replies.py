"""What a group makes of the replies to a training round: which can be averaged, which cannot."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from io import BytesIO

import numpy as np
from flwr.app import Array, Message
from flwr.common.constant import SType
from numpy.lib.format import read_array_header_1_0, read_magic

from strategies.members import Loss

EXAMPLES = "num-examples"
HEAD_LIMIT = 1000  # bytes; of a few dimensions it is 128


def losses(
    messages: Sequence[Message], answers: Mapping[int, Message], weights: Mapping[int, int]
) -> list[Loss]:
    """Return the nodes without a good reply.

    No answer and an error are a matter of transport: such a node may come back. One whose arrays
    cannot be averaged has no second chance; nor has one with other metrics than most, because a
    strategy refuses all replies of a round if their keys differ.
    """
    failed: list[Loss] = []
    metrics: dict[int, frozenset[str]] = {}
    for message in messages:
        node = message.metadata.dst_node_id
        reply = answers.get(node)
        if reply is None:
            failed.append(Loss(node, "did not answer in time"))
        elif reply.has_error():
            failed.append(Loss(node, str(reply.error.reason or reply.error.code)))
        elif why := unusable(message, reply, weights.get(node)):
            failed.append(Loss(node, why, for_good=True))
        else:
            [record] = reply.content.metric_records.values()
            metrics[node] = frozenset(record)
    usual = Counter(metrics.values()).most_common(1)
    odd = [node for node, keys in metrics.items() if keys != usual[0][0]]
    return failed + [Loss(node, "sent other metrics than the others", True) for node in odd]


def unusable(message: Message, reply: Message, weight: int | None) -> str:
    """Say why a site's arrays cannot be averaged with the others', nothing where they can.

    They must have the names and shapes of those that were sent, and be finite: one site's NaN
    would be everybody's. Where a site has claimed a weight before, it must be that one, and no
    other metric may be there; what an app of somebody else's measures besides is its own affair.
    """
    sent, back = message.content, reply.content
    found = list(back.metric_records.values())
    if len(found) != 1 or len(back) != len(sent.array_records) + 1:
        return "sent other records than it should"
    metrics = found[0]
    for record, arrays in sent.array_records.items():
        replied = back.array_records.get(record)
        if replied is None or set(replied) != set(arrays):
            return "sent other arrays than it was given"
        for name, array in arrays.items():
            # some strategies send float64; sites compute in float32
            if why := flaw(replied[name], array.shape, {"float32", array.dtype}):
                return f"sent {name} {why}"
    claimed = metrics.get(EXAMPLES, 1 if weight is None else 0)
    if not isinstance(claimed, int | float) or not 0 < claimed < float("inf"):
        return "sent a number of examples that is no weight"
    if weight is not None and len(metrics) != 1:
        return "sent other metrics than it should"
    if weight is not None and claimed != weight:
        return f"claims {claimed} training images, but claimed {weight} before"
    return ""


def flaw(array: Array, shape: Sequence[int], dtypes: Collection[str]) -> str:
    """Say why an array is not one of this shape and of one of these types, with finite values.

    Its bytes are a site's. numpy's reader opens archives too, and allocates whatever the head of a
    file claims: the head is read alone, and the rest only if it is as long as it must be.
    """
    if why := mislabelled(array, shape, dtypes):
        return why
    try:
        file = BytesIO(array.data)
        if read_magic(file) != (1, 0):
            return "as something that is no array"
        found, _, dtype = read_array_header_1_0(file, max_header_size=HEAD_LIMIT)
        length = file.tell() + math.prod(found) * dtype.itemsize
        labels = (tuple(array.shape), array.dtype, len(array.data))
        if (found, str(dtype), length) != labels:
            return "as something that is no such array"
        finite = bool(np.isfinite(array.numpy()).all())
    except Exception:  # numpy's reader raises whatever comes of such bytes
        return "as something that is no array"
    return "" if finite else "with values that are not finite"


def mislabelled(array: Array, shape: Sequence[int], dtypes: Collection[str]) -> str:
    """Say why an array cannot be such a one, from its labels and its length alone."""
    if tuple(array.shape) != tuple(shape):
        return "in another shape"
    if array.stype != SType.NUMPY or array.dtype not in dtypes:
        return "as something that is no such array"
    if len(array.data) > math.prod(shape) * np.dtype(array.dtype).itemsize + HEAD_LIMIT:
        return "with more bytes than it can have"
    return ""
