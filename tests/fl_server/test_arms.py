"""The arms: who trains with whom, what is asked of the sites, and what losses cost."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from fl_server.arms import ArmOutcome, arm_groups, run_arm
from fl_server.exchange import Exchange
from fl_server.settings import Arm, RunSettings
from protocol.orders import order_from_config
from protocol.records import to_refusal
from protocol.sharing import row_name
from protocol.spec import parse_spec
from protocol.taskcard import ClassCard, TaskCard
from tests.strategies.fake_grid import Dead, FakeGrid, Node

SPEC = parse_spec(
    {
        "name": "tiny",
        "backbone": "resnet10t",
        "weights": {"source": "file:w.pth"},
        "preprocess": {"resize": 32, "crop": 28, "mean": [0.5] * 3, "std": [0.5] * 3},
        "features": 3,
        "bins": 5,
    }
)
CLASSES = {"a": "xy", "b": "yz", "c": "xy", "d": "uv", "e": "uw"}
NODES = {site: number for number, site in enumerate(CLASSES, start=11)}
EXAMPLES = {"a": 10, "b": 20, "c": 30, "d": 40, "e": 50}


class Site:
    """A site that moves every array that it may by one, and notes what it is asked."""

    def __init__(self, name: str, fails: str = "", answer: RecordDict | None = None) -> None:
        self.name, self.fails, self.answer = name, fails, answer
        self.asked: list[tuple[str, Any]] = []

    def __call__(self, message: Message) -> RecordDict:
        kind = message.metadata.message_type
        order = order_from_config(message.content.config_records["config"])
        self.asked.append((kind, order))
        if kind == self.fails:
            if self.answer is None:
                raise Dead
            return self.answer
        if kind == "query.body":
            return RecordDict({"arrays": ArrayRecord({"body.w": Array(np.zeros(2, np.float32))})})
        metrics: dict[str, Any] = {"num-examples": EXAMPLES[self.name]}
        if kind == "train":
            arrays = message.content.array_records["arrays"]
            moved = ArrayRecord({n: Array(v.numpy() + np.float32(1)) for n, v in arrays.items()})
            return RecordDict({"arrays": moved, "metrics": MetricRecord(metrics)})
        metrics |= {"test_balanced_accuracy": 0.5 if order.arm == "alone" else 0.75}
        if order.guard_against:
            metrics["keeps-group"] = int(self.name != "b")
        return RecordDict({"metrics": MetricRecord(metrics)})


def setting(**sites: Site) -> tuple[FakeGrid, Exchange, dict[str, Site]]:
    """Return a grid of sites and the exchange that came before."""
    all_sites = {name: sites.get(name, Site(name)) for name in CLASSES}
    grid = FakeGrid({NODES[name]: cast(Node, site) for name, site in all_sites.items()})
    releases = {
        name: SimpleNamespace(
            node_id=NODES[name],
            verified=SimpleNamespace(
                card=TaskCard(name="t", classes=[ClassCard(name=k) for k in keys]),
                fingerprint=SimpleNamespace(n_images=100),
            ),
        )
        for name, keys in CLASSES.items()
    }
    exchange = SimpleNamespace(run="run-1", spec=SPEC, releases=releases, nodes=NODES)
    return grid, cast(Exchange, exchange), all_sites


SETTINGS = RunSettings(rounds=2, local_epochs=3, timeout=5)
GROUPS = [["a", "b", "c"], ["d", "e"]]


def run_both(
    arm: Arm, groups: list[list[str]], settings: RunSettings = SETTINGS, **sites: Site
) -> tuple[ArmOutcome, ArmOutcome, dict[str, Site], FakeGrid]:
    """Run the arm ``alone``, then another."""
    grid, exchange, all_sites = setting(**sites)
    alone = run_arm("alone", [[s] for s in CLASSES], grid, exchange, settings)
    return alone, run_arm(arm, groups, grid, exchange, settings, alone), all_sites, grid


def test_alone_gets_the_whole_budget_in_one_message() -> None:
    grid, exchange, sites = setting()
    outcome = run_arm("alone", [[s] for s in CLASSES], grid, exchange, SETTINGS)
    assert outcome.examples == EXAMPLES
    assert outcome.scores == {s: {"test_balanced_accuracy": 0.5} for s in CLASSES}
    for site in sites.values():
        [(kind, order)] = site.asked
        assert (kind, order.arm, order.epochs) == ("train.alone", "alone", 6)
    assert [plan.expectation for plan in outcome.plans] == ["A group of one trains alone."] * 5


def test_a_grouped_arm_trains_each_group_with_its_own_factors() -> None:
    _, outcome, sites, grid = run_both("grouped", GROUPS)
    kinds = [kind for kind, _ in sites["a"].asked]
    assert kinds == ["train.alone", "train", "train", "evaluate"]
    orders = [order for kind, order in sites["a"].asked if kind == "train"]
    assert [(o.server_round, o.epochs, o.arm) for o in orders] == [
        (1, 3, "grouped"),
        (2, 3, "grouped"),
    ]
    # y is held by all three, x by a (10) and c (30); z only by b, so it stays there
    assert orders[0].factors == {row_name("x"): 60 / 40, row_name("y"): 1.0}
    assert sites["d"].asked[1][1].factors == {row_name("u"): 1.0}
    assert sites["a"].asked[-1][1].guard_against == "alone"
    assert outcome.scores == {s: {"test_balanced_accuracy": 0.75} for s in CLASSES}
    assert outcome.keeps_group == {"a": True, "b": False, "c": True, "d": True, "e": True}
    stamps = {m.metadata.group_id for m in grid.sent if m.metadata.message_type == "train"}
    assert stamps == {"grouped-1", "grouped-2"}
    sent = [m for m in grid.sent if m.metadata.message_type == "train"]
    names = {n for m in sent for n in m.content.array_records["arrays"]}
    assert row_name("z") not in names


def test_other_arms_ask_for_no_choice() -> None:
    _, outcome, sites, _ = run_both("together", [list(CLASSES)])
    assert sites["a"].asked[-1][1].guard_against == ""
    assert outcome.keeps_group == {}
    assert outcome.plans[0].taking_part == list(CLASSES)


def test_who_has_nobody_to_train_with_keeps_the_scores_of_alone() -> None:
    _, outcome, sites, _ = run_both("grouped", [["a", "d"], ["b", "c"], ["e"]])
    assert [kind for kind, _ in sites["d"].asked] == ["train.alone"]
    assert outcome.scores["d"] == outcome.scores["e"] == {"test_balanced_accuracy": 0.5}
    assert outcome.scores["b"] == {"test_balanced_accuracy": 0.75}


def test_a_site_that_dies_in_a_round_is_lost_and_the_rest_goes_on() -> None:
    _, outcome, sites, _ = run_both("grouped", GROUPS, c=Site("c", fails="train"))
    assert outcome.lost == {"c": "node is gone"}
    redone = [order for kind, order in sites["a"].asked if kind == "train"]
    assert [order.server_round for order in redone] == [1, 1, 2]
    assert redone[1].factors == {row_name("x"): 30 / 10, row_name("y"): 1.0}
    assert "c" not in outcome.scores  # its score alone must not pass for one of the group
    assert outcome.scores["a"] == {"test_balanced_accuracy": 0.75}
    assert [kind for kind, _ in sites["c"].asked] == ["train.alone", "train"]


def test_a_group_that_lost_all_its_sites_costs_no_other_group() -> None:
    lost = {s: Site(s, fails="train") for s in "de"}
    _, outcome, _, _ = run_both("grouped", GROUPS, **lost)
    assert outcome.lost == {"d": "node is gone", "e": "node is gone"}
    assert "d" not in outcome.scores
    assert outcome.scores["a"] == {"test_balanced_accuracy": 0.75}


def test_a_site_lost_alone_does_not_take_part_later() -> None:
    alone, outcome, sites, _ = run_both("grouped", GROUPS, c=Site("c", fails="train.alone"))
    assert alone.lost == {"c": "node is gone"}
    assert [kind for kind, _ in sites["c"].asked] == ["train.alone"]
    assert "c" not in outcome.scores
    assert outcome.examples.keys() == {"a", "b", "d", "e"}


def test_fine_tuning_starts_from_the_first_site_that_sends_its_backbone() -> None:
    settings = SETTINGS.model_copy(update={"recipe": "fine-tune"})
    broken = Site("a", fails="query.body", answer=to_refusal("site-error", "no weights"))
    _, outcome, sites, grid = run_both("grouped", GROUPS, settings, a=broken)
    assert [kind for kind, _ in sites["b"].asked][1] == "query.body"
    assert "query.body" not in [kind for kind, _ in sites["c"].asked]
    to_a = [m for m in grid.sent if m.metadata.dst_node_id == NODES["a"]]
    first = next(m for m in to_a if m.metadata.message_type == "train")
    arrays = first.content.array_records["arrays"]
    assert "body.w" in arrays
    assert arrays[row_name("y")].numpy().shape == (4,)
    assert outcome.lost == {}


def test_a_group_without_any_backbone_is_lost_and_says_why() -> None:
    settings = SETTINGS.model_copy(update={"recipe": "fine-tune"})
    broken = {s: Site(s, fails="query.body") for s in "de"}
    _, outcome, _, _ = run_both("grouped", GROUPS, settings, **broken)
    why = "no site of group grouped-2 sent the backbone that it starts from"
    assert outcome.lost == {"d": why, "e": why}


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (to_refusal("too-few", "not allowed"), "not allowed"),
        (RecordDict(), "sent no usable metrics"),
        (RecordDict({"metrics": MetricRecord({"num-examples": 9})}), "sent no usable metrics"),
        *(
            (
                RecordDict(
                    {"metrics": MetricRecord({"num-examples": n, "test_balanced_accuracy": x})}
                ),
                "sent no usable metrics",
            )
            for n, x in [(9, 1.5), (9, -0.1), (0, 0.5), (-3, 0.5), (2.5, 0.5), (9, [0.5])]
        ),
    ],
)
def test_an_unusable_answer_is_a_loss_and_not_the_end(answer: RecordDict, why: str) -> None:
    grid, exchange, _ = setting(a=Site("a", fails="train.alone", answer=answer))
    outcome = run_arm("alone", [[s] for s in CLASSES], grid, exchange, SETTINGS)
    assert outcome.lost == {"a": why}
    assert outcome.scores.keys() == {"b", "c", "d", "e"}


def test_a_site_without_test_data_takes_part() -> None:
    record = MetricRecord({"num-examples": 9, "test_balanced_accuracy": float("nan")})
    answer = RecordDict({"metrics": record})
    grid, exchange, _ = setting(a=Site("a", fails="train.alone", answer=answer))
    outcome = run_arm("alone", [[s] for s in CLASSES], grid, exchange, SETTINGS)
    assert outcome.examples["a"] == 9
    assert outcome.lost == {}


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.integers(0, 99))
def test_random_groups_have_the_sizes_of_the_found_ones(sizes: list[int], seed: int) -> None:
    sites = [f"s{n:02d}" for n in range(sum(sizes))]
    ends = np.cumsum(sizes)
    groups = [part.tolist() for part in np.split(np.array(sites), ends[:-1])]
    found = arm_groups("random", groups, sites, seed)
    assert [len(group) for group in found] == sizes
    assert sorted(site for group in found for site in group) == sites
    assert found == arm_groups("random", groups, sites[::-1], seed)
    assert json.dumps(found)  # plain strings, ready for the run folder


def test_the_other_arms_groups() -> None:
    assert arm_groups("alone", GROUPS, "abcde", 0) == [["a"], ["b"], ["c"], ["d"], ["e"]]
    assert arm_groups("together", GROUPS, "abcde", 0) == [["a", "b", "c", "d", "e"]]
    assert arm_groups("grouped", GROUPS, "abcde", 0) == GROUPS
