"""The group grid: stock strategies run on it unmodified, and a lost node costs one redone round."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from flwr.serverapp import strategy as stock
from flwr.serverapp.strategy import Result, Strategy
from flwr.supercore.run import Run
from numpy.typing import NDArray

from protocol.errors import ConfigError, FedprintError
from protocol.sharing import GroupPlan, row_name, scale_rows
from protocol.taskcard import ClassCard, TaskCard
from strategies import group_grid
from strategies.cotrain import plan_group, row_factors
from strategies.flower import strategy_maker
from strategies.group_grid import GroupGrid, Prepare, per_group
from strategies.members import Round
from tests.strategies.fake_grid import Dead, FakeGrid, Killed, Node, Silent, values

EXAMPLES = {1: 10, 2: 30, 3: 60, 4: 100, 5: 20, 6: 40}
TARGET = {n: np.array([n, -n], np.float32) for n in EXAMPLES}
HELD = {1: "xy", 2: "yz", 3: "z", 4: "xyz", 5: "x", 6: "z"}
Broken = Mapping[tuple[int, int], type[Exception]]


def start() -> ArrayRecord:
    """Return where every run starts."""
    names = ["body.weight", *(row_name(key) for key in "xyz")]
    return ArrayRecord({name: Array(np.zeros(2, np.float32)) for name in names})


def node(number: int, broken: Broken = {}, mu: bool = False) -> Node:  # noqa: B006
    """Return a node that walks half of the way to its own target: a step down a quadratic."""

    def train(message: Message) -> RecordDict:
        config = message.content.config_records["config"]
        if failure := broken.get((number, int(config["server-round"]))):  # type: ignore[arg-type]
            raise failure
        before = values(message.content.array_records["arrays"])
        own = {"body.weight", *(row_name(key) for key in HELD[number])}
        after = {n: v + (TARGET[number] - v) / 2 if n in own else v for n, v in before.items()}
        sent = scale_rows(before, after, json.loads(str(config.get("factors", "{}"))))
        return RecordDict(
            {
                "arrays": ArrayRecord({n: Array(v) for n, v in sent.items()}),
                "metrics": MetricRecord({"num-examples": EXAMPLES[number]}),
            }
        )

    return train


def make_grid(numbers: Sequence[int] = tuple(EXAMPLES), broken: Broken = {}) -> FakeGrid:  # noqa: B006
    """Return a grid of such nodes."""
    return FakeGrid({n: node(n, broken) for n in numbers})


def plan_for(numbers: Sequence[int]) -> GroupPlan:
    """Return the plan of a group of such nodes."""
    cards = {
        str(n): TaskCard(name="t", classes=[ClassCard(name=key) for key in HELD[n]])
        for n in numbers
    }
    return plan_group("g", cards)


def factors_for(plan: GroupPlan) -> Prepare:
    """Return what puts the factors into every training message."""

    def prepare(content: RecordDict, _node: int, nodes: Sequence[int]) -> RecordDict:
        factors = row_factors(plan, {str(n): EXAMPLES[n] for n in nodes})
        config = {**content.config_records["config"], "factors": json.dumps(factors)}
        return RecordDict(
            {"arrays": content.array_records["arrays"], "config": ConfigRecord(config)}
        )

    return prepare


def run(strategy: Strategy, grid: GroupGrid, rounds: int = 3) -> dict[str, NDArray[np.float32]]:
    """Run a strategy and return the final arrays."""
    result: Result = strategy.start(
        grid, start(), num_rounds=rounds, timeout=0.01, train_config=ConfigRecord()
    )
    return {name: array.numpy() for name, array in result.arrays.items()}


@pytest.fixture(autouse=True)
def looking_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("strategies.inbox.POLL_SECONDS", 0.001)


def fedavg() -> Strategy:
    """Return a plain FedAvg."""
    return strategy_maker("fedavg").make()


def test_only_the_group_is_seen() -> None:
    grid = make_grid()
    seen = GroupGrid(grid, "north", [2, 4, 99])
    assert list(seen.get_node_ids()) == [2, 4]
    assert [info.node_id for info in seen.get_nodes()] == [2, 4]
    assert seen.run is grid.run
    with pytest.raises(ConfigError, match=r"^a group's grid takes its run from the whole grid$"):
        seen.set_run(Run.create_empty(2))


def test_messages_to_others_are_refused_and_none_is_sent() -> None:
    grid = make_grid()
    seen = GroupGrid(grid, "north", [1, 2])
    send: list[Callable[[list[Message]], object]] = [seen.push_messages, seen.send_and_receive]
    for to_send in send:
        messages = [Message(RecordDict(), n, MessageType.TRAIN) for n in (1, 3)]
        with pytest.raises(ConfigError, match=r"^node 3 is not in group north: message refused$"):
            to_send(messages)
    assert grid.sent == []


def test_messages_carry_the_groups_name() -> None:
    grid = make_grid([1])
    seen = GroupGrid(grid, "north", [1])
    content = RecordDict({"config": ConfigRecord({"server-round": 1}), "arrays": start()})
    seen.send_and_receive([Message(content, 1, MessageType.TRAIN)])
    seen.send_and_receive([Message(content, 1, MessageType.EVALUATE, group_id="7")])
    ids = list(seen.push_messages([seen.create_message(content, MessageType.QUERY, 1, "x", 9)]))
    assert [m.metadata.group_id for m in grid.sent] == ["north", "north/7", "north/x"]
    assert [r.metadata.group_id for r in seen.pull_messages(ids)] == ["north/x"]
    assert grid.sent[-1].metadata.ttl == 9


def test_a_training_message_keeps_its_kind_and_time_to_live() -> None:
    grid = make_grid([1])
    content = RecordDict({"config": ConfigRecord({"server-round": 1}), "arrays": start()})
    message = Message(content, 1, f"{MessageType.TRAIN}.extra", ttl=77)
    GroupGrid(grid, "north", [1]).send_and_receive([message])
    assert grid.sent[0].metadata.message_type == "train.extra"
    assert grid.sent[0].metadata.ttl == 77


def test_fedavg_averages_every_row_over_its_holders() -> None:
    numbers = [1, 2, 3, 4]
    plan = plan_for(numbers)
    found = run(fedavg(), GroupGrid(make_grid(), "g", numbers, factors_for(plan)), rounds=4)
    for name in ("body.weight", *(row_name(key) for key in "xyz")):
        held = [n for n in numbers if name == "body.weight" or n in map(int, _holders(plan, name))]
        mean = np.average([TARGET[n] for n in held], axis=0, weights=[EXAMPLES[n] for n in held])
        np.testing.assert_allclose(found[name], mean * (1 - 0.5**4), rtol=1e-4)


def _holders(plan: GroupPlan, name: str) -> list[str]:
    return next(sites for key, sites in plan.holders.items() if row_name(key) == name)


def test_fedadams_pseudo_gradient_is_the_holders_mean() -> None:
    numbers = [1, 2, 3, 4]
    plan = plan_for(numbers)
    adam = stock.FedAdam(
        fraction_evaluate=0.0, eta=0.5, beta_1=0.0, beta_2=0.0, tau=1e6, min_available_nodes=1
    )
    found = run(adam, GroupGrid(make_grid(), "g", numbers, factors_for(plan)), rounds=1)
    for key, sites in plan.holders.items():
        weights = [EXAMPLES[int(s)] for s in sites]
        delta = np.average([TARGET[int(s)] / 2 for s in sites], axis=0, weights=weights)
        # Reddi et al., arXiv 2003.00295, with v = delta^2: eta * delta / (|delta| + tau)
        expected = 0.5 * delta / (np.abs(delta) + 1e6)
        np.testing.assert_allclose(found[row_name(key)], expected, rtol=1e-4)


def _private(inner: Strategy) -> Strategy:
    return stock.DifferentialPrivacyServerSideFixedClipping(inner, 0.01, 5.0, 4)


@pytest.mark.parametrize(
    "make",
    [
        *(strategy_maker(n).make for n in ("fedavg", "fedprox", "fedadam", "fedavgm", "fedyogi")),
        *(strategy_maker(n).make for n in ("fedmedian", "krum", "multikrum", "bulyan")),
        strategy_maker("fedtrimmedavg").make,
        strategy_maker("fedadagrad").make,
        lambda: _private(fedavg()),
    ],
)
def test_stock_strategies_run_unmodified_and_come_nearer(make: Callable[[], Strategy]) -> None:
    numbers = [1, 2, 3, 4]
    grid = make_grid()
    found = run(make(), GroupGrid(grid, "g", numbers), rounds=3)
    assert {m.metadata.dst_node_id for m in grid.sent} == set(numbers)
    assert len(grid.sent) == 3 * len(numbers)
    assert found["body.weight"][0] > 0.02
    assert found["body.weight"][1] < -0.02


@pytest.mark.parametrize("failure", [Dead, Silent])
@pytest.mark.parametrize("name", ["fedavg", "fedprox", "fedadam", "fedmedian"])
def test_a_round_that_lost_a_node_is_redone_with_the_rest(
    name: str, failure: type[Exception]
) -> None:
    numbers, rest = [1, 2, 3, 4], [1, 2, 3]
    plan = plan_for(numbers)
    grid = make_grid(broken={(4, r): failure for r in (1, 2, 3)})
    seen = GroupGrid(grid, "g", numbers, factors_for(plan))
    found = run(strategy_maker(name).make(), seen)

    alone = GroupGrid(make_grid(rest), "g", rest, factors_for(plan))
    expected = run(strategy_maker(name).make(), alone)
    for array, value in expected.items():
        np.testing.assert_allclose(found[array], value, rtol=1e-5, atol=1e-6)
    assert seen.lost == {4: "node is gone" if failure is Dead else "did not answer in time"}
    assert list(seen.get_node_ids()) == rest
    assert [m.metadata.dst_node_id for m in grid.sent[:4]] != [4] * 4
    assert len(grid.sent) == 3 * (4 + 3)  # it has a chance in each round, and no fourth one
    assert seen.returned == {}


@pytest.mark.parametrize("failure", [Dead, Silent])
def test_a_node_lost_in_the_second_round_changes_only_what_follows(
    failure: type[Exception],
) -> None:
    numbers, rest = [1, 2, 3, 4], [1, 2, 3]
    plan = plan_for(numbers)
    grid = make_grid(broken={(4, 2): failure, (4, 3): failure, (3, 3): failure})
    seen = GroupGrid(grid, "g", numbers, factors_for(plan))
    found = run(fedavg(), seen, rounds=3)

    expected = {name: array.numpy() for name, array in start().items()}
    for nodes in (numbers, rest, [1, 2]):
        for name in expected:
            own = nodes
            if name != "body.weight":
                own = [n for n in nodes if str(n) in _holders(plan, name)]
            aims = [TARGET[n] for n in own]
            mean = np.average(aims, axis=0, weights=[EXAMPLES[n] for n in own])
            expected[name] = expected[name] + (mean - expected[name]) / 2
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-6)
    assert sorted(seen.lost) == [3, 4]


def test_a_group_that_lost_all_its_sites_is_an_error() -> None:
    broken = {(1, 2): Dead, (2, 2): Silent}
    seen = GroupGrid(make_grid(broken=broken), "north", [1, 2])
    with pytest.raises(FedprintError, match=r"^group north has lost all its sites$"):
        run(fedavg(), seen)
    assert seen.lost == {1: "node is gone", 2: "did not answer in time"}


def test_records_besides_those_asked_for_cost_a_site_the_group() -> None:
    def spoilt(message: Message) -> RecordDict:
        content = node(2)(message)
        content["more"] = ConfigRecord({"x": b"x" * 999})
        return content

    seen = GroupGrid(FakeGrid({1: node(1), 2: spoilt, 3: node(3)}), "g", [1, 2, 3])
    run(fedavg(), seen)
    assert seen.lost == {2: "sent other records than it should"}


@pytest.mark.parametrize("failure", [Dead, Silent])
def test_a_lost_node_is_admitted_to_the_next_round(failure: type[Exception]) -> None:
    grid = make_grid([1, 2, 3], broken={(3, 1): failure})
    seen = GroupGrid(grid, "g", [1, 2, 3])
    run(fedavg(), seen)
    assert [m.metadata.dst_node_id for m in grid.sent].count(3) == 3
    assert len(grid.sent) == 3 + 2 + 3 + 3
    assert seen.lost == {}
    assert seen.returned == {3: "node is gone" if failure is Dead else "did not answer in time"}


def test_a_node_that_is_not_connected_costs_no_round() -> None:
    grid = make_grid([1, 2, 3])
    grid.offline = {2}
    seen = GroupGrid(grid, "g", [1, 2, 3])
    found = run(fedavg(), seen, rounds=1)
    rest = run(fedavg(), GroupGrid(make_grid(), "g", [1, 3]), rounds=1)
    np.testing.assert_array_equal(found["body.weight"], rest["body.weight"])
    assert len(grid.sent) == 2
    assert seen.lost == {}


def test_a_group_without_any_connected_node_is_an_error_after_a_while() -> None:
    grid = make_grid([1, 2, 3])
    grid.offline = {1, 2}
    seen = GroupGrid(grid, "north", [1, 2], patience=0.05)
    with pytest.raises(FedprintError, match=r"^no site of group north was connected for 0 s$"):
        run(fedavg(), seen)
    assert grid.sent == []


def test_a_strategy_that_waits_for_more_nodes_than_there_are_is_an_error() -> None:
    seen = GroupGrid(make_grid([1, 2]), "north", [1, 2, 3], patience=0.05)
    expected = (
        r"^the strategy of group north waits for more sites than the 2 that are connected: "
        r"lower its minimum$"
    )
    with pytest.raises(FedprintError, match=expected):
        run(stock.FedAvg(min_available_nodes=3), seen)


def test_a_node_that_leaves_while_a_strategy_counts_is_asked_all_the_same() -> None:
    grid = make_grid([1, 2, 3])
    seen = GroupGrid(grid, "g", [3, 1, 2])
    assert seen.get_node_ids() == [3, 1, 2]
    grid.offline = {1}
    assert seen.get_node_ids() == [3, 1, 2]  # a strategy waits for as many as it counted
    seen.send_and_receive([])
    assert seen.get_node_ids() == [3, 2]


def test_a_round_that_all_nodes_failed_is_redone_when_they_come_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Restarted(FakeGrid):
        """Forgets a round's messages, and shows nobody until it was asked often enough."""

        looks = 0

        def push_messages(self, messages: Any) -> Any:
            if messages and len(self.sent) == 3:  # the second round
                self.offline, self.looks = {1, 2, 3}, 5
            return super().push_messages(messages)

        def get_node_ids(self) -> Any:
            self.looks -= 1
            if self.looks == 0:
                self.offline = {2}  # one does not come back at once
            return super().get_node_ids()

    monkeypatch.setattr(group_grid, "POLL_SECONDS", 0.001)
    grid = Restarted({n: node(n) for n in (1, 2, 3)})
    seen = GroupGrid(grid, "g", [1, 2, 3], factors_for(plan_for([1, 2, 3])))
    run(fedavg(), seen)
    rounds = [m.content["config"]["server-round"] for m in grid.sent]  # type: ignore[index]
    assert [rounds.count(n) for n in (1, 2, 3)] == [3, 3 + 2, 2]
    assert seen.lost == {2: "node is gone"}
    assert seen.returned == {1: "node is gone", 3: "node is gone"}


class Notes:
    """Keeps rounds in memory; an interrupted coordinator loses everything but these."""

    def __init__(self) -> None:
        self.rounds: dict[int, Round] = {}
        self.dies_after = 0

    def recall(self, number: int) -> Round | None:
        return self.rounds.get(number)

    def keep(self, number: int, ended: Round) -> None:
        self.rounds[number] = ended
        if number == self.dies_after:
            raise Killed


STATEFUL = ("fedavg", "fedprox", "fedadam", "fedyogi", "fedmedian", "fedavgm", "fedadagrad")


@pytest.mark.parametrize("after", [1, 2, 3, 4])
@pytest.mark.parametrize("name", STATEFUL)
def test_a_killed_coordinator_ends_with_the_very_same_arrays(name: str, after: int) -> None:
    numbers, broken = [1, 2, 3, 4], {(2, 2): Dead, (4, 3): Silent}
    plan = plan_for(numbers)

    def group(grid: FakeGrid, memory: Notes | None) -> GroupGrid:
        return GroupGrid(grid, "g", numbers, factors_for(plan), memory=memory)

    whole = group(make_grid(broken=broken), None)
    expected = run(strategy_maker(name).make(), whole, rounds=4)

    notes, first, second = Notes(), make_grid(broken=broken), make_grid(broken=broken)
    notes.dies_after = after
    with pytest.raises(Killed):
        run(strategy_maker(name).make(), group(first, notes), rounds=4)
    notes.dies_after = 0
    resumed = group(second, notes)
    found = run(strategy_maker(name).make(), resumed, rounds=4)
    for array, value in expected.items():
        np.testing.assert_array_equal(found[array], value)
    again = {m.content["config"]["server-round"] for m in second.sent}  # type: ignore[index]
    assert again == set(range(after + 1, 5))
    assert resumed.lost == whole.lost == {}
    assert resumed.returned == whole.returned == {2: "node is gone", 4: "did not answer in time"}


def test_who_was_lost_for_good_stays_out_of_a_resumed_run() -> None:
    def spoilt(message: Message) -> RecordDict:
        return RecordDict({"arrays": ArrayRecord(), "metrics": MetricRecord({"num-examples": 1})})

    notes, numbers = Notes(), [1, 2, 3]
    grids = [FakeGrid({1: node(1), 2: spoilt, 3: node(3)}) for _ in range(2)]
    run(fedavg(), GroupGrid(grids[0], "g", numbers, memory=notes), rounds=2)
    resumed = GroupGrid(grids[1], "g", numbers, memory=notes)
    run(fedavg(), resumed, rounds=3)
    assert resumed.lost == {2: "sent other arrays than it was given"}
    assert [m.metadata.dst_node_id for m in grids[1].sent] in ([1, 3], [3, 1])


def test_a_missing_round_makes_those_after_it_again() -> None:
    notes, numbers = Notes(), [1, 2]
    run(fedavg(), GroupGrid(make_grid(), "g", numbers, memory=notes), rounds=4)
    del notes.rounds[2]
    grid, prepare = make_grid(), factors_for(plan_for(numbers))
    run(fedavg(), GroupGrid(grid, "g", numbers, prepare, memory=notes), rounds=4)
    rounds = [m.content["config"]["server-round"] for m in grid.sent]  # type: ignore[index]
    assert sorted(rounds) == [2, 2, 3, 3, 4, 4]


def test_a_strategy_that_samples_gets_the_replies_that_it_got() -> None:
    def make() -> Strategy:
        return stock.FedAvg(0.5, 0.0, 1, 0, 1)

    notes, numbers = Notes(), [1, 2, 3, 4]
    expected = run(make(), GroupGrid(make_grid(), "g", numbers, memory=notes))
    grid = make_grid()
    found = run(make(), GroupGrid(grid, "g", numbers, memory=notes))
    assert grid.sent == []
    np.testing.assert_array_equal(found["body.weight"], expected["body.weight"])


def test_replies_are_averaged_in_the_groups_order_whoever_comes_first() -> None:
    class Shuffled(FakeGrid):
        def push_messages(self, messages: Any) -> Any:
            return super().push_messages(list(messages)[::-1])

    seen = GroupGrid(Shuffled({n: node(n) for n in EXAMPLES}), "g", [5, 2, 4, 1])
    content = RecordDict({"config": ConfigRecord({"server-round": 1}), "arrays": start()})
    replies = seen.send_and_receive([Message(content, n, MessageType.TRAIN) for n in (1, 2, 4, 5)])
    assert [reply.metadata.src_node_id for reply in replies] == [5, 2, 4, 1]


def test_other_groups_compute_while_one_stands_aside() -> None:
    turn = threading.Lock()
    seen = GroupGrid(make_grid(), "g", [1], turn=turn)
    with turn:
        with seen.aside():
            assert turn.acquire(blocking=False)
            turn.release()
        assert turn.locked()


def test_an_evaluation_is_not_asked_again() -> None:
    def refuse(_message: Message) -> RecordDict:
        raise Dead

    grid = FakeGrid({1: refuse})
    seen = GroupGrid(grid, "g", [1])
    replies = list(seen.send_and_receive([Message(RecordDict(), 1, MessageType.EVALUATE)]))
    assert [reply.has_error() for reply in replies] == [True]
    assert len(grid.sent) == 1
    assert not seen.lost
    assert list(seen.send_and_receive([])) == []


def test_groups_run_side_by_side() -> None:
    meet = threading.Barrier(2, timeout=20)

    class MeetingGrid(type(make_grid())):  # type: ignore[misc]
        def push_messages(self, messages: object) -> object:
            meet.wait()  # passes only if both groups wait for their sites at once
            return super().push_messages(messages)

    def job(seen: GroupGrid, name: str) -> tuple[str, list[int]]:
        found = run(fedavg(), seen, rounds=2)
        assert found["body.weight"].shape == (2,)
        return name, list(seen.get_node_ids())

    groups = {"north": [1, 2, 3], "south": [4, 5]}
    asked: list[str] = []

    def prepare(group: str) -> None:
        asked.append(group)

    grid = make_grid()
    grid.__class__ = MeetingGrid
    found = per_group(grid, groups, job, prepare)
    assert found == {"north": ("north", [1, 2, 3]), "south": ("south", [4, 5])}
    assert sorted(asked) == ["north", "south"]


def test_the_first_error_is_raised_after_all_groups_ended() -> None:
    ended = []

    def job(_seen: GroupGrid, name: str) -> None:
        if name == "a":
            raise FedprintError("a broke")
        ended.append(name)

    with pytest.raises(FedprintError, match=r"^a broke$"):
        per_group(make_grid(), {"a": [1], "b": [2]}, job)
    assert ended == ["b"]


def test_a_node_in_two_groups_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"^a node is in two groups: each site trains in one group at a time$"
    ):
        per_group(make_grid(), {"a": [1, 2], "b": [2]}, lambda _grid, _name: None)


def test_no_groups_no_work() -> None:
    assert per_group(make_grid(), {}, lambda _grid, _name: None) == {}


NO_ARRAY = "sent body.weight as something that is no array"
NO_SUCH = "sent body.weight as something that is no such array"
CLAIM = "{'descr': '<f4', 'fortran_order': False, 'shape': (%d,)}"


def file(data: bytes, dtype: str = "float32", stype: str = "numpy.ndarray") -> Array:
    """Return an array of two numbers whose bytes are these."""
    return Array(dtype, (2,), stype, data)


def head(text: str) -> bytes:
    """Return the head of a file of numpy's."""
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def archive() -> bytes:
    """Return an archive of numpy's."""
    buffer = BytesIO()
    np.savez(buffer, np.zeros(2, np.float32))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda a, m: a.pop("body.weight"), "sent other arrays than it was given"),
        (lambda a, m: a.update(extra=a["body.weight"]), "sent other arrays than it was given"),
        (
            lambda a, m: a.update({"body.weight": Array(np.zeros(3, np.float32))}),
            "sent body.weight in another shape",
        ),
        (
            lambda a, m: a.update({"body.weight": Array(np.array([1, np.nan], np.float32))}),
            "sent body.weight with values that are not finite",
        ),
        (
            lambda a, m: a.update({"body.weight": Array(np.array(["a", "b"]))}),
            "sent body.weight as something that is no such array",
        ),
        (
            lambda a, m: a.update({"body.weight": Array("float32", (2,), "numpy.ndarray", b"x")}),
            "sent body.weight as something that is no array",
        ),
        (lambda a, m: a.update({"body.weight": file(b"PK\x03\x04")}), NO_ARRAY),
        (lambda a, m: a.update({"body.weight": file(archive())}), NO_ARRAY),
        (lambda a, m: a.update({"body.weight": file(head("{'descr': ("))}), NO_ARRAY),
        (lambda a, m: a.update({"body.weight": file(head("-" * 900 + "1"))}), NO_ARRAY),
        (lambda a, m: a.update({"body.weight": file(head(CLAIM % 2**45))}), NO_SUCH),
        (lambda a, m: a.update({"body.weight": file(head(CLAIM % 2**70))}), NO_SUCH),
        (
            lambda a, m: a.update({"body.weight": file(head(CLAIM % 2) + b"x" * 9999)}),
            "sent body.weight with more bytes than it can have",
        ),
        (lambda a, m: a.update({"body.weight": file(head(CLAIM % 2) + b"x" * 9)}), NO_SUCH),
        (lambda a, m: a.update({"body.weight": Array(np.zeros(2, np.float64))}), NO_SUCH),
        (lambda a, m: a.update({"body.weight": file(b"", "float32", "torch")}), NO_SUCH),
        (lambda a, m: m.update(x=1.0), "sent other metrics than the others"),
        (lambda a, m: m.pop("num-examples"), "sent other metrics than the others"),
        (
            lambda a, m: m.update({"num-examples": -5}),
            "sent a number of examples that is no weight",
        ),
        (
            lambda a, m: m.update({"num-examples": float("nan")}),
            "sent a number of examples that is no weight",
        ),
    ],
)
def test_a_reply_that_cannot_be_averaged_costs_its_site_the_group(
    spoil: Callable[[ArrayRecord, MetricRecord], object], why: str
) -> None:
    good = node(2)

    def spoilt(message: Message) -> RecordDict:
        content = good(message)
        spoil(content.array_records["arrays"], content.metric_records["metrics"])
        return content

    nodes = {1: node(1), 2: spoilt, 3: node(3)}
    seen = GroupGrid(FakeGrid(nodes), "g", [1, 2, 3])
    found = run(fedavg(), seen)
    rest = run(fedavg(), GroupGrid(make_grid([1, 3]), "g", [1, 3]))
    assert seen.lost == {2: why}
    np.testing.assert_array_equal(found["body.weight"], rest["body.weight"])
