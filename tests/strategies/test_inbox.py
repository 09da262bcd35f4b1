"""The inbox, on Flower's own grid: what a node sends costs nobody else anything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict
from flwr.common.serde import message_to_proto
from flwr.proto.runtime_pb2 import PullAppMessagesResponse
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.run import Run
from flwr.superlink.grid.http_grid import HttpGrid

from strategies import inbox
from strategies.inbox import arrived, receive
from tests.strategies.fake_grid import FakeGrid

Objects = dict[str, bytes]


class Link:
    """Stands for the SuperLink: hands a reply out once, as bytes, and counts the looks."""

    def __init__(self) -> None:
        self.replies: dict[str, tuple[Message, Objects]] = {}
        self.objects: Objects = {}
        self.looks = 0
        self.fault: Exception | None = None

    def answer(self, asked: Message, reply: Message, spoil: Callable[[Objects], object]) -> None:
        """Put a reply in, its objects spoilt."""
        reply.metadata.__dict__["_message_id"] = reply.object_id
        objects = {i: o.deflate() for i, o in get_all_nested_objects(reply).items()}
        spoil(objects)
        self.replies[asked.metadata.message_id] = reply, objects

    def PullMessages(self, request: Any) -> PullAppMessagesResponse:
        self.looks += 1
        if self.fault is not None:
            raise self.fault
        found = [self.replies.pop(i) for i in request.message_ids if i in self.replies]
        for _, objects in found:
            self.objects |= objects
        return PullAppMessagesResponse(
            messages_list=[message_to_proto(reply) for reply, _ in found],
            message_object_trees=[get_object_tree(reply) for reply, _ in found],
        )

    def PullObject(self, request: Any) -> Any:
        content = self.objects[request.object_id]
        found = {"object_found": True, "object_available": True, "object_content": content}
        return type("Found", (), found)

    def ConfirmMessageReceived(self, request: Any) -> None:
        pass


class LinkedGrid(HttpGrid):
    """Flower's grid with such a SuperLink."""

    def __init__(self) -> None:
        super().__init__(token="x")
        FakeGrid({})  # sets who this process is
        self.set_run(Run.create_empty(1))
        self.link = Link()
        self._client = self.link  # type: ignore[assignment]

    def push_messages(self, messages: Any) -> list[str]:
        for message in messages:
            message.metadata.__dict__["_message_id"] = f"m{message.metadata.dst_node_id}"
        return [m.metadata.message_id for m in messages]


def content(number: int) -> RecordDict:
    """Return what a node answers."""
    array = Array(np.full(3, number, np.float32))
    return RecordDict({"arrays": ArrayRecord({"w": array}), "c": ConfigRecord({"n": number})})


def messages() -> list[Message]:
    """Return a message to each of three nodes."""
    return [Message(RecordDict(), node, "query") for node in (1, 2, 3)]


def replace_kind(kind: str, old: bytes, new: bytes) -> Callable[[Objects], None]:
    """Return what spoils all objects of a kind."""

    def spoil(objects: Objects) -> None:
        for number, data in objects.items():
            if data.startswith(kind.encode() + b" "):
                assert old in data
                objects[number] = data.replace(old, new)

    return spoil


def no_content(objects: Objects) -> None:
    """Put a chunk of an array where the content should be."""
    for number, data in objects.items():
        if data.startswith(b"RecordDict"):
            objects[number] = b"ArrayChunk  3\0abc"


def cut(kind: str) -> Callable[[Objects], None]:
    """Return what leaves only the head of all objects of a kind."""
    return lambda objects: objects.update(
        {
            i: d.partition(b"\0")[0] + b"\0\x08"
            for i, d in objects.items()
            if d.startswith(kind.encode())
        }
    )


@pytest.fixture(autouse=True)
def looking_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "POLL_SECONDS", 0.001)


@pytest.mark.parametrize(
    ("spoil", "name"),
    [
        (replace_kind("RecordDict", b"RecordDict", b"Nonsense"), "KeyError"),
        (replace_kind("Message", b"Message", b"RecordDict"), "UnicodeDecodeError"),
        (cut("RecordDict"), "JSONDecodeError"),
        (cut("Message"), "DecodeError"),
        (replace_kind("ArrayRecord", b'"w"', b'1"w'), "JSONDecodeError"),
        (replace_kind("Array", b'"shape": [3]', b'"shape": "3"'), "TypeError"),
        (no_content, "MessageInitializationError"),
        (lambda objects: objects.update({i: b"" for i in objects}), "ValueError"),
    ],
)
def test_a_malformed_object_is_its_nodes_loss_alone(
    spoil: Callable[[Objects], None], name: str
) -> None:
    grid, asked = LinkedGrid(), messages()
    grid.push_messages(asked)
    for message in asked:
        node = message.metadata.dst_node_id
        reply = Message(content(node), reply_to=message)
        grid.link.answer(message, reply, spoil if node == 2 else lambda _objects: None)
    replies = receive(grid, asked, 5)
    assert {node for node, reply in replies.items() if not reply.has_error()} == {1, 3}
    assert replies[3].content["c"]["n"] == 3  # type: ignore[index]
    assert replies[2].error.reason == f"sent an unreadable reply ({name})"
    assert [r.metadata.reply_to_message_id for r in replies.values()] == ["m1", "m2", "m3"]
    assert grid.link.looks == 3


def test_a_reply_is_to_the_message_it_was_looked_for_whatever_it_says() -> None:
    grid, asked = LinkedGrid(), messages()
    grid.push_messages(asked)
    for message, claimed in zip(asked, (asked[0], asked[0], asked[2]), strict=True):
        reply = Message(content(message.metadata.dst_node_id), reply_to=claimed)
        grid.link.answer(message, reply, lambda _objects: None)
    replies = receive(grid, asked, 5)
    assert {n: r.content["c"]["n"] for n, r in replies.items()} == {1: 1, 2: 2, 3: 3}  # type: ignore[index]
    assert [r.metadata.reply_to_message_id for r in replies.values()] == ["m1", "m2", "m3"]


def test_a_superlink_out_of_reach_is_no_nodes_fault() -> None:
    grid = LinkedGrid()
    grid.link.fault = httpx.ConnectError("refused")
    with pytest.raises(httpx.ConnectError):
        receive(grid, messages(), 5)


def test_one_look_in_vain_a_time_and_each_in_turn() -> None:
    grid, asked = LinkedGrid(), messages()
    grid.push_messages(asked)
    waiting = {f"m{node}": node for node in (1, 2, 3)}
    assert list(arrived(grid, waiting)) == []
    assert (list(waiting), grid.link.looks) == (["m2", "m3", "m1"], 1)
    for message in asked[1:]:
        grid.link.answer(message, Message(content(0), reply_to=message), lambda _objects: None)
    assert [node for node, _ in arrived(grid, waiting)] == [2, 3]
    assert (list(waiting), grid.link.looks) == (["m1"], 4)


def test_when_time_is_up_every_message_is_looked_for_once_more() -> None:
    grid, asked = LinkedGrid(), messages()
    grid.push_messages(asked)
    grid.link.answer(asked[2], Message(content(3), reply_to=asked[2]), lambda _objects: None)
    assert list(receive(grid, asked, 0)) == [3]
    assert grid.link.looks == 3


def test_what_a_node_says_went_wrong_is_one_line_of_bounded_length() -> None:
    grid, asked = LinkedGrid(), messages()[:1]
    grid.push_messages(asked)
    error = Error(2, "bad\n\x1b[31m" + "x" * 10_000)
    grid.link.answer(asked[0], Message(error, reply_to=asked[0]), lambda _objects: None)
    reason = receive(grid, asked, 5)[1].error.reason
    assert reason == "bad ?[31m" + "x" * 490 + "…"


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize(
    ("takes", "late", "looks"), [(0.02, 0.005, 5), (1.0, 0.1, 45), (60, 0.2, 360)]
)
def test_a_reply_waits_a_tenth_of_the_time_it_took_at_most(
    takes: float, late: float, looks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid, asked, clock = LinkedGrid(), messages()[:1], Clock()
    monkeypatch.setattr(inbox, "time", clock)
    monkeypatch.setattr(inbox, "POLL_SECONDS", 0.2)
    grid.push_messages(asked)
    grid.link.answer(asked[0], Message(RecordDict(), reply_to=asked[0]), lambda _objects: None)
    reply, pull = grid.link.replies.copy(), grid.link.PullMessages

    def when_ready(request: Any) -> PullAppMessagesResponse:
        grid.link.replies = reply if clock.now >= takes else {}
        return pull(request)

    monkeypatch.setattr(grid.link, "PullMessages", when_ready)
    assert len(receive(grid, asked, 100)) == 1
    assert takes <= clock.now <= takes + late + 1e-9
    assert grid.link.looks <= looks
