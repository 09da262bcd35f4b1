"""Sites that come late: placed among the groups, trained from their model, nobody else asked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from fl_server.join import Joined, join
from fl_server.journal import Journal
from fl_server.settings import RunSettings
from protocol.sharing import HIDDEN, initial_row, row_name
from protocol.taskcard import class_keys
from tests.fl_server.joining import (
    CLASSES,
    EXAMPLES,
    MEMBERS,
    SETTINGS,
    SPEC,
    Federation,
    Site,
    federation,
    node_of,
)

GROUPS = [["site-0-0", "site-0-1"], ["site-1-0", "site-1-1"], ["site-2-0"]]
LATE = ("site-0-2", "site-1-2", "site-2-1", "site-3-0", "site-3-1")


def take_in(
    run: Federation,
    names: Sequence[str] = LATE,
    settings: RunSettings = SETTINGS,
    journal: Journal | None = None,
) -> Joined:
    """Let sites join the run; forget what was asked before."""
    for site in run.sites.values():
        site.asked.clear()
    grouped = run.outcomes["grouped"]
    return join(
        run.grid,
        run.newcomers(*names),
        run.exchange,
        run.decision.groups,
        grouped.plans,
        grouped.models,
        settings,
        journal=journal,
    )


def kinds(run: Federation, name: str) -> list[str]:
    return [kind for kind, _ in run.sites[name].asked]


def test_newcomers_are_placed_and_everybody_else_stays() -> None:
    run = federation()
    assert [g.sites for g in run.decision.groups.groups] == GROUPS
    before = run.decision.groups.model_dump()
    joined = take_in(run)
    assert run.decision.groups.model_dump() == before
    groups = joined.decision.groups
    assert {g.name: g.sites for g in groups.groups} == {
        "group-1": ["site-0-0", "site-0-1", "site-0-2"],
        "group-2": ["site-1-0", "site-1-1", "site-1-2"],
        "group-3": ["site-2-0", "site-2-1"],
        "group-4": ["site-3-0", "site-3-1"],  # the second found the first
    }
    for site in MEMBERS:
        assert groups.sites[site] == run.decision.groups.sites[site]
        assert not groups.sites[site].joined
    for site in LATE:
        assert groups.sites[site].joined
        assert groups.sites[site].stability is None
        assert groups.sites[site].reason.startswith("Came later")
    assert joined.decision.names == sorted(CLASSES)
    assert joined.decision.distances.shape == (10, 10)
    old = [joined.decision.names.index(site) for site in run.decision.names]
    np.testing.assert_allclose(
        joined.decision.distances[np.ix_(old, old)], run.decision.distances, rtol=1e-12
    )


def test_nobody_but_the_newcomers_is_asked() -> None:
    run = federation()
    sent = len(run.grid.sent)
    take_in(run)
    assert {m.metadata.dst_node_id for m in run.grid.sent[sent:]} == {node_of(s) for s in LATE}
    assert all(not run.sites[site].asked for site in MEMBERS)
    assert kinds(run, "site-0-2") == ["train.alone", "train.join"]
    for site in LATE[1:]:
        assert kinds(run, site) == ["train.alone"]


def test_a_newcomer_starts_from_the_arrays_that_it_shares_with_its_group() -> None:
    run = federation()
    joined = take_in(run, ["site-0-2"])
    newcomer = run.sites["site-0-2"]
    final = run.outcomes["grouped"].models["grouped-1"]
    # y is shared by the group and held by the newcomer; x and z were one site's, q is its own
    assert set(newcomer.sent) == {"body.weight", "body.bias", row_name("y")}
    for name, value in newcomer.sent.items():
        np.testing.assert_array_equal(value, final[name].numpy())
    assert not np.array_equal(newcomer.sent[row_name("y")], initial_row("y", HIDDEN, 4))
    (_, alone), (_, order) = newcomer.asked
    assert (alone.arm, alone.epochs, alone.guard_against) == ("alone", 6, "")
    assert (order.arm, order.epochs, order.guard_against) == ("grouped", 6, "alone")
    assert (order.run, order.seed, order.server_round) == ("run-1", 4, 0)
    plan = joined.places["site-0-2"].plan
    assert plan is not None
    assert (plan.group, plan.sites) == ("grouped-1", ["site-0-0", "site-0-1", "site-0-2"])
    assert plan.shared_classes == ["y"]


def test_what_the_group_shares_but_the_newcomer_lacks_stays_with_the_group(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = federation()
    monkeypatch.setitem(CLASSES, "site-1-2", "ut")
    take_in(run, ["site-1-2"])
    assert set(run.sites["site-1-2"].sent) == {"body.weight", "body.bias", row_name("u")}


def test_why_a_site_trains_alone_is_said() -> None:
    run = federation()
    groups = take_in(run).decision.groups
    assert groups.sites["site-1-2"].reason.endswith(
        " It has no class in common with the sites that trained there, so it trains alone."
    )
    for site in ("site-2-1", "site-3-1"):
        assert groups.sites[site].reason.endswith(
            " Its group has no model to start from, so it trains alone."
        )
    assert "Alone: nobody within the cut at" in groups.sites["site-3-0"].reason


def test_metrics_of_newcomers_stand_beside_the_others() -> None:
    run = federation(site_1_2=Site("site-1-2"))
    joined = take_in(run)
    file = joined.metrics(None)
    assert file is not None
    entries = json.loads(file.model_dump_json())["sites"]
    assert sorted(entries) == sorted(LATE)
    first = entries["site-0-2"]
    assert (first["alone"], first["grouped"], first["final"]) == (0.5, 0.8, 0.8)
    assert (first["kept"], first["train_images"], first["joined"]) == ("grouped", EXAMPLES, True)
    other = entries["site-3-0"]
    assert (other["alone"], other["grouped"], other["kept"]) == (0.5, 0.5, "alone")
    again = joined.metrics(file)
    assert again is not None
    assert again.sites == file.sites
    plans = (again.model_extra or {})["plans"]["joined"]
    assert [plan["group"] for plan in plans] == 2 * [
        "grouped-1",
        "grouped-2",
        "grouped-3",
        "group-4",
    ]


def test_a_site_that_did_not_gain_keeps_its_own_model() -> None:
    run = federation(site_0_2=Site("site-0-2", keeps=False))
    file = take_in(run, ["site-0-2"]).metrics(None)
    assert file is not None
    entry = file.sites["site-0-2"]
    assert (entry.grouped, entry.final, entry.kept) == (0.8, 0.5, "alone")


@pytest.mark.parametrize(
    ("fails", "asked"),
    [("train.alone", ["train.alone"]), ("train.join", ["train.alone", "train.join"])],
)
def test_a_lost_newcomer_is_named_and_costs_no_other(fails: str, asked: list[str]) -> None:
    run = federation(site_0_2=Site("site-0-2", fails=fails))
    joined = take_in(run, ["site-0-2", "site-1-2"])
    assert joined.lost == {"site-0-2": "node is gone"}
    assert kinds(run, "site-0-2") == asked
    file = joined.metrics(None)
    assert file is not None
    assert (file.model_extra or {})["lost"] == {"joined": {"site-0-2": "node is gone"}}
    assert file.sites["site-1-2"].alone == 0.5
    if fails == "train.alone":
        assert "site-0-2" not in file.sites
    else:
        entry = file.sites["site-0-2"]
        assert (entry.alone, entry.grouped, entry.final, entry.kept) == (0.5, None, 0.5, "alone")
    # its fingerprint is verified, so it has its place; a later run may train it
    assert "site-0-2" in joined.decision.groups.groups[0].sites


def test_where_nothing_was_trained_newcomers_are_only_placed() -> None:
    run = federation()
    joined = take_in(run, ["site-0-2"], SETTINGS.model_copy(update={"arms": ()}))
    assert joined.decision.groups.groups[0].sites[-1] == "site-0-2"
    assert joined.outcomes == {}
    assert joined.metrics(None) is None
    assert not run.sites["site-0-2"].asked


def test_a_full_group_takes_nobody() -> None:
    run = federation()
    full = SETTINGS.model_copy(update={"max_group_size": 2})
    joined = take_in(run, ["site-0-2"], full)
    assert joined.places["site-0-2"].group == "group-4"
    assert "No room in group-1." in joined.decision.groups.sites["site-0-2"].reason


def test_a_robust_strategy_gives_the_body_only() -> None:
    run = federation()
    robust = SETTINGS.model_copy(update={"strategy": "krum"})
    grouped = run.outcomes["grouped"]
    plan = grouped.plans[0].model_copy(update={"shared_classes": [], "holders": {}})
    body = {n: a for n, a in grouped.models["grouped-1"].items() if n.startswith("body.")}
    grouped.models["grouped-1"] = type(grouped.models["grouped-1"])(body)
    grouped.plans[0] = plan
    take_in(run, ["site-0-2"], robust)
    assert set(run.sites["site-0-2"].sent) == {"body.weight", "body.bias"}


def test_a_join_that_was_interrupted_asks_for_nothing_twice(tmp_path: Path) -> None:
    run, journal = federation(), Journal(tmp_path)
    first = take_in(run, journal=journal)
    again = take_in(run, journal=journal)
    assert again.metrics(None) == first.metrics(None)
    assert all(not site.asked for site in run.sites.values())


def test_the_sites_of_this_test_are_what_it_says() -> None:
    run = federation()
    assert set(run.exchange.releases) == set(MEMBERS)
    assert class_keys(run.exchange.releases["site-0-0"].verified.card) == ("x", "y")
    assert SPEC.features == 48
    assert list(run.outcomes["grouped"].models) == ["grouped-1", "grouped-2"]
