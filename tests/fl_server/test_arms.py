"""The arms: who trains with whom, what is asked of the sites, and what losses cost."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from fl_server.arms import ArmOutcome, arm_groups, run_arm
from fl_server.exchange import Exchange
from fl_server.journal import Journal
from fl_server.progress import EVENTS, Progress, read_status
from fl_server.settings import Arm, RunSettings
from protocol.files import atomic_write
from protocol.orders import order_from_config
from protocol.records import to_refusal
from protocol.sharing import row_name
from protocol.spec import parse_spec
from protocol.taskcard import ClassCard, TaskCard
from tests.strategies.fake_grid import Dead, FakeGrid, Killed, Node, values

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
            moved = ArrayRecord({n: Array(v + np.float32(1)) for n, v in values(arrays).items()})
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
                statement=SimpleNamespace(predicate=SimpleNamespace(images=100, held=None)),
            ),
        )
        for name, keys in CLASSES.items()
    }
    exchange = SimpleNamespace(run="run-1", spec=SPEC, releases=releases, nodes=dict(NODES))
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
    assert [order.server_round for order in redone] == [1, 1, 2, 2]  # c has a chance in each
    assert redone[1].factors == {row_name("x"): 30 / 10, row_name("y"): 1.0}
    assert "c" not in outcome.scores  # its score alone must not pass for one of the group
    assert outcome.scores["a"] == {"test_balanced_accuracy": 0.75}
    assert [kind for kind, _ in sites["c"].asked] == ["train.alone", "train", "train"]


def test_a_site_that_missed_a_round_comes_back() -> None:
    class Restarted(Site):
        def __call__(self, message: Message) -> RecordDict:
            kinds = [kind for kind, _ in self.asked]
            self.fails = "train" if kinds == ["train.alone"] else ""
            return super().__call__(message)

    _, outcome, sites, _ = run_both("grouped", GROUPS, c=Restarted("c"))
    assert outcome.lost == {}
    assert outcome.returned == {"c": "node is gone"}
    assert outcome.scores["c"] == {"test_balanced_accuracy": 0.75}
    kinds = [kind for kind, _ in sites["c"].asked]
    assert kinds == ["train.alone", "train", "train", "evaluate"]


def test_sites_without_connection_are_lost_by_name_and_their_group_goes_on() -> None:
    grid, exchange, sites = setting()
    grid.offline = {NODES["c"]}
    alone = run_arm("alone", [[s] for s in CLASSES], grid, exchange, SETTINGS)
    assert alone.lost == {"c": "node is gone"}
    grid.offline = {NODES["d"]}  # since then
    outcome = run_arm("grouped", GROUPS, grid, exchange, SETTINGS, alone)
    assert outcome.lost == {"d": "node is gone"}
    assert sites["c"].asked == []
    assert outcome.scores.keys() == {"a", "b", "e"}


def test_a_group_without_any_connection_is_lost_and_costs_no_other() -> None:
    settings = RunSettings(rounds=2, timeout=0.05)
    grid, exchange, _ = setting()
    alone = run_arm("alone", [[s] for s in CLASSES], grid, exchange, settings)
    grid.offline = {NODES["d"], NODES["e"]}
    outcome = run_arm("grouped", GROUPS, grid, exchange, settings, alone)
    why = "no site of group grouped-2 was connected for 0 s"
    assert outcome.lost == {"d": why, "e": why}
    assert outcome.scores.keys() == {"a", "b", "c"}


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


FINE_TUNE = SETTINGS.model_copy(update={"recipe": "fine-tune"})


def body(*values: float, name: str = "body.w") -> RecordDict:
    """Return a backbone."""
    return RecordDict({"arrays": ArrayRecord({name: Array(np.array(values, np.float32))})})


def started_from(grid: FakeGrid, site: str) -> ArrayRecord:
    """Return what a site was sent first to train on."""
    sent = (m for m in grid.sent if m.metadata.dst_node_id == NODES[site])
    first = next(m for m in sent if m.metadata.message_type == "train")
    return first.content.array_records["arrays"]


def test_fine_tuning_starts_from_a_backbone_that_two_sites_send_alike() -> None:
    _, outcome, sites, grid = run_both("grouped", GROUPS, FINE_TUNE)
    assert [kind for kind, _ in sites["b"].asked][1] == "query.body"
    assert "query.body" not in [kind for kind, _ in sites["c"].asked]  # two said the same
    arrays = started_from(grid, "a")
    np.testing.assert_array_equal(arrays["body.w"].numpy(), [0, 0])
    assert arrays[row_name("y")].numpy().shape == (4,)
    assert outcome.lost == {}


@pytest.mark.parametrize(
    "answer",
    [
        to_refusal("site-error", "no weights"),
        RecordDict({"fedprint": ConfigRecord({"refused": "x"})}),
        body(1, 2),
        body(0, np.nan),
        body(0, 0, 0),
        body(0, 0, name="body.v"),
        body(0, 0, name="head.w"),
    ],
)
def test_one_sites_backbone_is_not_everybodys_start(answer: RecordDict) -> None:
    bad = Site("a", fails="query.body", answer=answer)
    _, outcome, _, grid = run_both("grouped", GROUPS, FINE_TUNE, a=bad)
    arrays = started_from(grid, "a")
    assert [name for name in arrays if not name.startswith("head.")] == ["body.w"]
    np.testing.assert_array_equal(arrays["body.w"].numpy(), [0, 0])
    assert outcome.lost == {}


def test_a_group_whose_sites_do_not_agree_on_a_backbone_is_lost_and_says_who_sent_what() -> None:
    bad = {
        "a": Site("a", fails="query.body", answer=body(1, 2)),
        "c": Site("c", fails="query.body", answer=body(0, np.inf)),
        **{s: Site(s, fails="query.body") for s in "de"},
    }
    _, outcome, _, _ = run_both("grouped", GROUPS, FINE_TUNE, **bad)
    why = {
        1: "a (sent one of its own), b (sent one of its own), "
        "c (sent body.w with values that are not finite)",
        2: "d (node is gone), e (node is gone)",
    }
    text = "no two sites of grouped-{} sent the same backbone to start from: {}"
    groups = {1: "abc", 2: "de"}
    assert outcome.lost == {s: text.format(n, why[n]) for n, sites in groups.items() for s in sites}


def test_an_outcome_of_other_sites_is_not_taken_for_that_of_these(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    grid, exchange, _ = setting()
    releases, nodes = dict(exchange.releases), dict(exchange.nodes)
    for site in "abc":
        del exchange.releases[site], exchange.nodes[site]
    run_arm("alone", [["d"], ["e"]], grid, exchange, SETTINGS, journal=journal)
    exchange.releases.update(releases)
    exchange.nodes.update(nodes)
    again = run_arm("alone", [[s] for s in CLASSES], grid, exchange, SETTINGS, journal=journal)
    assert again.scores.keys() == set(CLASSES)


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


def everything(
    grid: FakeGrid, exchange: Exchange, settings: RunSettings, journal: Journal | None
) -> dict[str, ArmOutcome]:
    """Run the arms as a coordinator does."""
    alone = run_arm("alone", [[s] for s in CLASSES], grid, exchange, settings, journal=journal)
    grouped = run_arm("grouped", GROUPS, grid, exchange, settings, alone, journal=journal)
    return {"alone": alone, "grouped": grouped}


def told(outcomes: dict[str, ArmOutcome]) -> str:
    """Return all that outcomes say but the time, to the last bit of their models."""
    for outcome in outcomes.values():
        outcome.seconds = 0.0
        outcome.models = dict(sorted(outcome.models.items()))
    fields = [{k: v for k, v in vars(o).items() if isinstance(v, dict)} for o in outcomes.values()]
    return repr([{k: sorted(v.items()) for k, v in values.items()} for values in fields])


def asked_of(sites: dict[str, Site]) -> Counter[tuple[str, str, int]]:
    """Count what each site was asked."""
    return Counter(
        (name, kind, order.server_round)
        for name, site in sites.items()
        for kind, order in site.asked
    )


@pytest.mark.parametrize("recipe", ["adapter", "fine-tune"])
@pytest.mark.parametrize("strategy", ["fedavg", "fedadam"])
def test_killed_after_any_message_a_run_goes_on_and_ends_alike(
    strategy: str, recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("strategies.inbox.POLL_SECONDS", 0)
    settings = RunSettings(rounds=2, timeout=60, strategy=strategy, recipe=recipe)
    grid, exchange, sites = setting()
    expected, whole = told(everything(grid, exchange, settings, None)), asked_of(sites)
    total = sum(whole.values())
    assert total == 5 + 2 * 5 + 5 + (4 if recipe == "fine-tune" else 0)
    for lives in range(total):
        journal = Journal(tmp_path / str(lives))
        grid, exchange, sites = setting()
        grid.lives = lives
        with pytest.raises(Killed):
            everything(grid, exchange, settings, journal)
        answered = asked_of(sites)
        assert sum(answered.values()) == lives

        # started again, and the SuperLink too, which has given the nodes new ids
        numbers = {site: number + 100 for site, number in NODES.items()}
        grid = FakeGrid({numbers[name]: cast(Node, site) for name, site in sites.items()})
        exchange.nodes.update(numbers)
        again = Journal(tmp_path / str(lives))
        assert told(everything(grid, exchange, settings, again)) == expected
        asked = asked_of(sites)
        assert asked.keys() == whole.keys()
        twice = {key for key, times in asked.items() if times > 1}
        assert all(kind == "train" and asked[site, kind, r] == 2 for site, kind, r in twice)
        for group in GROUPS:  # of each group no more than the round that was interrupted
            assert len({r for site, _, r in twice if site in group}) <= 1

        # everything has ended: nobody is asked at all, and no reply is left behind
        grid, *_ = setting()
        assert told(everything(grid, exchange, settings, again)) == expected
        assert grid.sent == []
        left = sorted(path.name for path in again.folder.iterdir())
        assert left == ["outcome-alone.bin", "outcome-grouped.bin"]


@pytest.mark.parametrize("written", [False, True], ids=["before", "after"])
def test_killed_at_any_write_a_run_goes_on_and_ends_alike(
    written: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("strategies.inbox.POLL_SECONDS", 0)
    settings = RunSettings(rounds=2, timeout=5, strategy="fedyogi")
    writes = 0

    def dying_write(path: Path, data: bytes, *, mode: int) -> None:
        nonlocal writes
        writes -= 1
        if written or writes:
            atomic_write(path, data, mode=mode)
        if writes <= 0:
            raise Killed

    grid, exchange, _ = setting()
    expected = told(everything(grid, exchange, settings, None))
    for number in range(1, 5 + 1 + 2 * 2 + 5 + 2):
        journal = Journal(tmp_path / str(number))
        grid, exchange, sites = setting()
        with monkeypatch.context() as patch:
            patch.setattr("fl_server.journal.atomic_write", dying_write)
            writes = number
            with pytest.raises(Killed):
                everything(grid, exchange, settings, journal)
        assert told(everything(grid, exchange, settings, journal)) == expected
        asked = asked_of(sites)
        # what was on its way to the disk when the coordinator died is asked again, at most
        assert max(asked.values()) <= 2
        assert len({(kind, r) for (_, kind, r), times in asked.items() if times > 1}) <= 2


@pytest.mark.parametrize(
    "answer", [None, to_refusal("awaiting-approval", "not yet")], ids=["error", "refusal"]
)
def test_a_site_that_refused_is_asked_again_by_a_run_that_goes_on(
    answer: RecordDict | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("strategies.inbox.POLL_SECONDS", 0)
    grid, exchange, sites = setting(a=Site("a", fails="train.alone", answer=answer))
    grid.lives = 3
    with pytest.raises(Killed):
        everything(grid, exchange, SETTINGS, Journal(tmp_path))
    grid.lives, sites["a"].fails = None, ""
    found = everything(grid, exchange, SETTINGS, Journal(tmp_path))["alone"]
    assert found.lost == {}
    counts = {name: [k for k, _ in s.asked].count("train.alone") for name, s in sites.items()}
    assert counts == {"a": 2, "b": 1, "c": 1, "d": 1, "e": 1}


def test_models_of_the_found_groups_are_kept_and_of_no_other(tmp_path: Path) -> None:
    alone, outcome, _, _ = run_both("grouped", GROUPS)
    assert alone.models == {}
    assert outcome.models.keys() == {"grouped-1", "grouped-2"}
    assert row_name("y") in outcome.models["grouped-1"]
    assert run_both("together", [list(CLASSES)])[1].models == {}


def test_progress_is_told_who_is_done_and_who_was_lost(tmp_path: Path) -> None:
    progress = Progress(tmp_path, "run-1")
    dead = {"b": Site("b", fails="train.alone"), "c": Site("c", fails="train")}
    grid, exchange, _ = setting(**dead)
    journal = Journal(tmp_path / "journal")
    alone = run_arm(
        *("alone", [[s] for s in CLASSES], grid, exchange, SETTINGS),
        journal=journal,
        progress=progress,
    )
    status = read_status(tmp_path)
    assert status is not None
    assert (status["phase"], status["done"], status["waiting"]) == ("train alone", [*"acde"], {})
    assert status["lost"]["b"]["message"] == "node is gone"
    run_arm("grouped", GROUPS, grid, exchange, SETTINGS, alone, journal=journal, progress=progress)
    status = read_status(tmp_path)
    assert status is not None
    assert (status["phase"], sorted(status["done"])) == ("train grouped", ["a", "d", "e"])
    assert status["lost"]["c"] == {
        "reason": "no-reply",
        "message": "node is gone",
        "phase": "train grouped",
    }
    events = [json.loads(line) for line in (tmp_path / EVENTS).read_text().splitlines()]
    rounds = [(e["group"], e["round"], e["sites"]) for e in events if e["event"] == "round"]
    assert sorted(rounds) == [
        ("grouped-1", 1, ["a"]),
        ("grouped-1", 2, ["a"]),
        ("grouped-2", 1, ["d", "e"]),
        ("grouped-2", 2, ["d", "e"]),
    ]


@pytest.mark.parametrize(
    ("images", "held", "lost"), [(9, None, True), (9, 9, True), (5, 100, False)]
)
def test_a_site_trains_on_no_more_images_than_it_signed_for(
    images: int, held: int | None, lost: bool
) -> None:
    """Of a private release few images are counted; it signs how many it holds beside."""
    grid, exchange, _ = setting()
    stated = exchange.releases["a"].verified.statement.predicate
    stated.images, stated.held = images, held  # type: ignore[misc]
    alone = run_arm("alone", [[s] for s in CLASSES], grid, exchange, SETTINGS)
    why = f"claims {EXAMPLES['a']} training images, but signed for {held or images} images"
    assert alone.lost == ({"a": why} if lost else {})
