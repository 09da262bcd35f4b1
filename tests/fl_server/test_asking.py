"""Asking: every answer that is none becomes a problem with a reason, and costs its site alone."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from fl_server.asking import AT_ONCE, Problem, ask, content_of
from fl_server.backbone import only_body
from fl_server.journal import Journal
from fl_server.steps import Steps
from tests.strategies.fake_grid import Dead, FakeGrid


def answer(**values: str | int) -> RecordDict:
    """Return an answer whose record holds these values."""
    return RecordDict({"fedprint": ConfigRecord({**values})})


SCORES = MetricRecord({"num-examples": 7, "test_balanced_accuracy": 0.5})
MALFORMED = "the message lacks {!r}: do both sides run the same version?"


def broken(message: Message) -> RecordDict:
    raise KeyError("as Flower's grid does")


@pytest.mark.parametrize(
    ("refusal", "why"),
    [
        (answer(refused="x"), MALFORMED.format("message")),
        (answer(refused=5), MALFORMED.format("refused")),
    ],
)
def test_a_malformed_refusal_costs_its_site_alone(refusal: RecordDict, why: str) -> None:
    grid = FakeGrid({1: lambda _: refusal, 2: lambda _: RecordDict({"metrics": SCORES})})
    steps = Steps({"a": 1, "b": 2}, 5)
    answers = steps.ask("s", "query", dict.fromkeys("ab", RecordDict()), grid)
    assert isinstance(answers["a"], Problem)
    assert (answers["a"].reason, str(answers["a"])) == ("malformed-message", why)
    assert isinstance(answers["b"], RecordDict)


def test_what_flower_cannot_read_costs_its_site_alone() -> None:
    grid = FakeGrid({1: broken, 2: lambda _: RecordDict({"metrics": SCORES})})
    replies = ask(grid, [(1, RecordDict()), (2, RecordDict())], "query", 5)
    with pytest.raises(Problem, match=r"^sent an unreadable reply \(KeyError\)$") as problem:
        content_of(replies[1])
    assert problem.value.reason == "client-error"
    assert content_of(replies[2])["metrics"] == SCORES


def test_no_answer_and_flowers_errors_are_problems() -> None:
    def dead(message: Message) -> RecordDict:
        raise Dead

    replies = ask(FakeGrid({1: dead}), [(1, RecordDict())], "query", 5)
    for reply, reason, why in (
        (replies[1], "client-error", "node is gone"),
        (None, "no-reply", "did not answer in time"),
    ):
        with pytest.raises(Problem, match=why) as problem:
            content_of(reply)
        assert problem.value.reason == reason


class Watched(FakeGrid):
    """Knows how many of its messages were waiting at a time; answers one a look."""

    def __init__(self, nodes: int) -> None:
        super().__init__({node: lambda _: RecordDict({"metrics": SCORES}) for node in range(nodes)})
        self.waiting = self.most = 0

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        sent = list(messages)
        self.waiting += len(sent)
        self.most = max(self.most, self.waiting)
        return super().push_messages(sent)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        replies = list(super().pull_messages(message_ids))
        self.waiting -= len(replies)
        return replies


class HttpGrid(Watched):
    """As Flower calls the grid of SuperNodes."""


@pytest.mark.parametrize(("kind", "most"), [(Watched, AT_ONCE), (HttpGrid, AT_ONCE + 9)])
def test_simulated_nodes_are_asked_some_at_a_time(kind: type[Watched], most: int) -> None:
    grid = kind(AT_ONCE + 9)
    replies = ask(grid, [(node, RecordDict()) for node in grid.nodes], "query", 5)
    assert sorted(replies) == list(grid.nodes)
    assert grid.most == most


def kept(content: RecordDict, folder: Path) -> RecordDict | None:
    """Return what the journal holds of an answer."""
    journal = Journal(folder)
    steps = Steps({"a": 1}, 5, journal)
    steps.ask("s", "train", {"a": RecordDict()}, FakeGrid({1: lambda _: content}))
    return journal.recall("s", "a")


def test_only_scores_are_kept(tmp_path: Path) -> None:
    more = {"more": ConfigRecord({"x": b"x" * 9999}), "others": MetricRecord({"y": 1})}
    found = kept(RecordDict({**more, "metrics": SCORES}), tmp_path)
    assert found is not None
    assert list(found) == ["metrics"]
    assert found["metrics"] == SCORES


@pytest.mark.parametrize(
    "metrics",
    [
        MetricRecord({"num-examples": 7, "x": [1.0]}),
        MetricRecord({f"x{n}": n for n in range(65)}),
        MetricRecord({"x" * 65: 1}),
        MetricRecord({"\x1b": 1}),
    ],
)
def test_more_than_a_few_numbers_is_not_kept(metrics: MetricRecord, tmp_path: Path) -> None:
    assert kept(RecordDict({"metrics": metrics}), tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_of_a_backbone_only_its_arrays_are_kept() -> None:
    body = ArrayRecord({"body.w": Array(np.ones((2, 3), np.float32))})
    found = only_body(RecordDict({"arrays": body, "more": ConfigRecord({"x": 1})}))
    assert list(found) == ["arrays"]
    assert found["arrays"] == body


@pytest.mark.parametrize(
    ("name", "array", "why"),
    [
        ("head.w", Array(np.ones(2, np.float32)), "sent head.w which is no part of a backbone"),
        (
            "body.w",
            Array("float32", (1,) * 99, "numpy.ndarray", b""),
            "sent body.w which is no part of a backbone",
        ),
        ("body.w", Array(np.ones(2)), "sent body.w as something that is no such array"),
        (
            "body.w",
            Array("float32", (2,), "numpy.ndarray", b"x" * 2000),
            "sent body.w with more bytes than it can have",
        ),
    ],
)
def test_what_is_no_backbone_is_not_kept(name: str, array: Array, why: str) -> None:
    with pytest.raises(Problem) as problem:
        only_body(RecordDict({"arrays": ArrayRecord({name: array})}))
    assert (problem.value.reason, str(problem.value)) == ("malformed-message", why)
    with pytest.raises(Problem, match=r"^sent no backbone$"):
        only_body(RecordDict())


def test_a_backbone_that_no_journal_can_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fl_server.backbone.BYTES_LIMIT", 100)
    body = ArrayRecord({"body.w": Array(np.ones((2, 3), np.float32))})
    with pytest.raises(Problem, match=r"^sent a backbone of more than 100 bytes$"):
        only_body(RecordDict({"arrays": body}))
