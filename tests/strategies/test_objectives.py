"""Sites of different objectives are kept apart, whatever their fingerprints say."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from fl_server.arms import arm_groups
from fl_server.decisions import decide
from fl_server.placing import assigned
from fl_server.settings import RunSettings
from protocol.runfiles import GroupsFile
from protocol.taskcard import ClassCard, Objective, TaskCard
from protocol.verify import VerifiedRelease
from strategies.cotrain import plan_group
from strategies.measures import Task
from tests.strategies.measures.made_up import SPEC, make_tasks

FAMILIES = (0, 0, 0, 1, 1, 0, 0, 1)
LEARN: dict[str, Objective] = {
    f"site-{n}": "multilabel" if n in (0, 1, 5) else "ordinal" if n == 7 else "classification"
    for n in range(len(FAMILIES))
}
ORDER = ["x", "y"]
MEASURE = "otce-classes"


def card(objective: Objective, *names: str) -> TaskCard:
    classes = [ClassCard(name=name) for name in names or ORDER]
    return TaskCard(
        name="t",
        objective=objective,
        classes=classes,
        order=ORDER if objective == "ordinal" else [],
    )


TASKS = [replace(task, card=card(LEARN[task.name])) for task in make_tasks(FAMILIES)]


def sites_of(groups: GroupsFile) -> list[list[str]]:
    return [group.sites for group in groups.groups]


def test_groups_are_those_of_each_objective_alone() -> None:
    found = decide(TASKS)
    assert found.names == sorted(LEARN)
    assert found.distances.shape == (8, 8)
    assert np.isfinite(found.distances).all()  # distances know of no objective
    apart = [
        sites_of(decide([task for task in TASKS if LEARN[task.name] == objective]).groups)
        for objective in ("classification", "multilabel", "ordinal")
    ]
    assert sorted(sites_of(found.groups)) == sorted(group for part in apart for group in part)
    assert [group.name for group in found.groups.groups] == [
        "group-1",
        "group-2",
        "group-3",
        "group-4",
    ]
    assert [len(group.sites) for group in found.groups.groups] == [3, 2, 2, 1]
    for site, why in found.groups.sites.items():
        own = LEARN[site]
        assert f"Compared within its objective, {own}: sites of another are not" in why.reason
        assert {LEARN[partner.site] for partner in why.partners} <= {own}
        assert {LEARN[near.site] for near in why.nearest} <= {own}
    assert found.groups.sites["site-7"].reason == (
        "The only site: there is nobody to group it with. Compared within its objective, ordinal: "
        "sites of another are not trained with it (4 of classification, 3 of multilabel)."
    )


def test_one_objective_is_as_if_there_were_none() -> None:
    bare = [replace(task, card=None) for task in TASKS]
    same = [replace(task, card=card("multilabel")) for task in TASKS]
    assert decide(bare).groups == decide(same).groups
    assert "objective" not in decide(bare).groups.model_dump_json()


def test_bounds_on_sizes_hold_within_an_objective() -> None:
    groups = sites_of(decide(TASKS, min_size=4, max_size=4).groups)
    assert sorted(map(len, groups)) == [1, 3, 4]


def test_a_measure_of_classes_says_who_it_cannot_compare() -> None:
    """As in a run: who has another objective released no class moments."""
    lacking = [
        task if LEARN[task.name] == "classification" else replace(task, class_moments=None)
        for task in TASKS
    ]
    found = decide(lacking, measure=MEASURE)
    for site, why in found.groups.sites.items():
        if LEARN[site] == "multilabel":
            assert why.warnings == [
                f"Measure {MEASURE} needs one class an image, and its objective is multilabel: it "
                "is compared with nobody."
            ]
        elif LEARN[site] == "ordinal":  # has one class an image: it could have released them
            assert why.warnings == [f"Released no class-moments, which measure {MEASURE} needs."]
        else:
            assert not why.warnings
    alone = {group[0] for group in sites_of(found.groups) if len(group) == 1}
    assert {"site-0", "site-1", "site-5", "site-7"} <= alone


def test_no_arm_deals_different_objectives_into_one_group() -> None:
    groups = sites_of(decide(TASKS).groups)
    names = sorted(LEARN)
    together = arm_groups("together", groups, names, 0, LEARN)
    assert [{LEARN[s] for s in group} for group in together] == [
        {"classification"},
        {"multilabel"},
        {"ordinal"},
    ]
    for seed in range(5):
        dealt = arm_groups("random", groups, names, seed, LEARN)
        assert all(len({LEARN[site] for site in group}) == 1 for group in dealt)
        assert sorted(map(len, dealt)) == sorted(map(len, groups))
        assert sorted(site for group in dealt for site in group) == names
    assert arm_groups("grouped", groups, names, 0, LEARN) == groups
    assert arm_groups("alone", groups, names, 0, LEARN) == [[name] for name in names]


def test_a_plan_shares_nothing_between_objectives() -> None:
    plan = plan_group("g", {"a": card("multilabel"), "b": card("classification")}, everybody=True)
    assert (plan.trainable, plan.shared_classes, plan.taking_part) == (False, [], [])
    assert plan.expectation == (
        "Objectives differ (classification, multilabel), so nothing is trained together."
    )
    assert plan_group("g", {"a": card("multilabel"), "b": card("multilabel")}).trainable


def release(task: Task) -> VerifiedRelease:
    return cast(VerifiedRelease, SimpleNamespace(card=task.card, fingerprint=task.fingerprint))


@pytest.mark.parametrize("late", ["site-5", "site-7"])
def test_who_comes_late_joins_its_own_objective(late: str) -> None:
    early = [task for task in TASKS if task.name != late]
    groups = decide(early).groups
    placed = assigned(late, {t.name: release(t) for t in TASKS}, groups, SPEC, RunSettings())
    homes = {group.name: group.sites for group in groups.groups}
    if late == "site-5":
        assert homes[str(placed.group)] == ["site-0", "site-1"]
        assert {partner.site for partner in placed.partners} == {"site-0", "site-1"}
    else:
        assert placed.group is None
        assert placed.reason == (
            "Came later. Nobody else has its objective, ordinal, so it stays alone."
        )
        assert not placed.partners
