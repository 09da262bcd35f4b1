"""Decisions by any measure, and that a run by one is verified by computing it again."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fl_server.decisions import compare, decide
from fl_server.runfolder import distances_csv
from fl_server.verify_evidence import Evidence
from fl_server.verify_results import check_distances, check_groups
from protocol.errors import ConfigError, FedprintError
from protocol.taskcard import TaskCard
from strategies.measures import get
from tests.fl_server.test_exchange_mode import Exchanged, PlainSite
from tests.strategies.measures.made_up import make_tasks

TASKS = make_tasks([0, 1, 0, 1, 2])
MEASURES = ["vdna", "p2l", "flux-moments", "fid-diagonal", "fid", "pacfl-angles", "flux", "fed"]
MEASURES += ["task2vec", "task2vec-asymmetric", "sinkhorn", "p2l-with-size"]


@pytest.mark.parametrize("measure", MEASURES)
def test_groups_follow_the_measure(measure: str) -> None:
    found = decide(TASKS, measure=measure)
    np.testing.assert_allclose(found.distances, get(measure).distances(TASKS, TASKS))
    assert [g.sites for g in found.groups.groups] == [
        ["site-0", "site-2"],
        ["site-1", "site-3"],
        ["site-4"],
    ]
    assert found.groups.sites["site-0"].partners[0].site == "site-2"
    assert f"By measure {measure}" in found.groups.sites["site-0"].reason


def test_the_bkld_family_shares_its_own_grouping() -> None:
    one, other = (
        decide(TASKS, measure=f"bkld-{name}") for name in ("small-target", "large-source")
    )
    assert one.groups == other.groups
    assert (one.distances != other.distances).any()
    assert "By measure" not in one.groups.sites["site-0"].reason


def test_cards_group_by_what_they_say() -> None:
    said = [["brain"], ["skin", "mole"], ["brain"], ["mole"], []]
    tasks = [
        replace(task, card=TaskCard(name="t", keywords=words))
        for task, words in zip(TASKS, said, strict=True)
    ]
    found = decide(tasks, measure="manual").groups
    assert [g.sites for g in found.groups] == [
        ["site-0", "site-2"],
        ["site-1", "site-3"],
        ["site-4"],
    ]


def test_a_site_that_released_too_little_is_alone_and_warned_of() -> None:
    tasks = [*TASKS[:4], replace(TASKS[4], moments=None)]
    found = decide(tasks, measure="fid")
    assert found.groups.sites["site-4"].warnings == [
        "Released no moments, which measure fid needs."
    ]
    assert np.isnan(found.distances[4]).all()
    assert np.isnan(found.distances[:, 4]).all()
    np.testing.assert_array_equal(
        found.distances[:4, :4], get("fid").distances(TASKS[:4], TASKS[:4])
    )
    with pytest.raises(ConfigError, match=r"^measure fid needs moments of every site, site-1 rel"):
        decide([TASKS[0], *[replace(task, moments=None) for task in TASKS[1:]]], measure="fid")


def test_targets_without_scores_stay_sources() -> None:
    scores = {"logme": {"site-0": 2.0, "site-1": 1.0, "site-2": 0.5}}
    tasks = [replace(TASKS[0], scores=scores), replace(TASKS[1], scores=scores), TASKS[2]]
    found = compare(get("logme"), tasks)
    np.testing.assert_array_equal(found, [[-2, -2, np.nan], [-1, -1, np.nan], [-0.5, -0.5, np.nan]])


def test_only_the_family_groups_by_data() -> None:
    decide(TASKS, truth="data")
    text = 'measure vdna groups by task only: take groups="task", or a bKLD measure'
    with pytest.raises(ConfigError, match=f"^{text}$"):
        decide(TASKS, measure="vdna", truth="data")


def test_noise_is_warned_of_where_the_measure_does_not_know_it() -> None:
    noised = [
        replace(task, fingerprint=replace(task.fingerprint, sigma=0.5))
        for task in TASKS
        if task.fingerprint is not None
    ]
    said = {
        measure: " ".join(decide(noised, measure=measure).groups.sites["site-0"].warnings)
        for measure in ("vdna", "fid", "bkld-large-source")
    }
    assert "Its counts are noised, which measure vdna takes for data." in said["vdna"]
    assert "Its counts" not in said["fid"] + said["bkld-large-source"]


def test_nobody_is_an_error() -> None:
    with pytest.raises(FedprintError, match=r"^no fingerprint is left to group; first problem:"):
        decide([])


@pytest.mark.parametrize("measure", ["vdna", "p2l-with-size"])
def test_a_run_by_another_measure_is_verified(tmp_path: Path, measure: str) -> None:
    exchanged = Exchanged(tmp_path)
    exchanged.sites = {n: PlainSite(n, tmp_path / "states") for n in exchanged.sites}
    exchanged.go(measure=measure, release="plain")
    assert "By measure" in exchanged.read("groups.json")["sites"]["site-0-0"]["reason"]
    evidence = Evidence(exchanged.out)
    assert list(check_distances(evidence)) == []
    assert list(check_groups(evidence)) == []
    names = sorted(exchanged.sites)
    (exchanged.out / "distances.csv").write_text(
        distances_csv(names, np.zeros((len(names), len(names))))
    )
    found = list(check_distances(Evidence(exchanged.out)))
    assert "the counts give" in found[0].what
