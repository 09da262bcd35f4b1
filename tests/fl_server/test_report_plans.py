"""The report's part on plans: the figures of trials.json and plans.json, and hostile words."""

from __future__ import annotations

import json
from pathlib import Path

from fl_server.report import write_report
from fl_server.report_data import read_run
from fl_server.report_plans import plans_headline, tried_rows
from protocol.experiment import Architecture
from protocol.files import atomic_json
from protocol.plan import Choice, Knowledge, Plan
from protocol.runfiles import MetricsFile, SiteMetrics
from protocol.trials import PlansFile, Trial, TrialsFile, Tried
from tests.fl_server.test_report import HOSTILE, SITES, make_run, make_spec

LUNGS = SITES[:2]


def add_plans(run: Path, text: str = "wide_net", *, default: bool = False) -> None:
    """Add to a run that two sites tried a network, and took it unless `default`."""
    choice = Choice(scenario="architecture", label=text, gain=0.15, error=0.05, sentence=text)
    knowledge = Knowledge(architecture=make_spec())
    before = {site: {"val_auroc": 0.5, "test_balanced_accuracy": 0.6} for site in LUNGS}
    after = {
        LUNGS[0]: {"val_auroc": 0.7, "test_balanced_accuracy": 0.5},
        LUNGS[1]: {"val_auroc": 0.6, "test_balanced_accuracy": None},
    }
    tried = Tried(
        label=text,
        detail=Architecture(name="wide_net"),
        knowledge=knowledge,
        scores=after,
        missing={"eye-1": text},
    )
    trial = Trial(
        group="group-1", scenario="architecture", baseline=before, tried=[tried], choice=choice
    )
    plan = Plan(
        run="r",
        group="group-1",
        sites=dict.fromkeys(LUNGS, "a" * 64),
        knowledge=Knowledge() if default else knowledge,
        choices=[choice],
    )
    atomic_json(run / "trials.json", TrialsFile(trials=[trial]))
    atomic_json(run / "plans.json", PlansFile(plans=[plan], refused={"lung-b": text}))


def planned(*pairs: tuple[float, float]) -> list[SiteMetrics]:
    return [SiteMetrics(grouped=before, planned=after) for before, after in pairs]


def test_rows_are_means_over_the_sites_that_have_both_scores(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    add_plans(run)
    (row,) = tried_rows(read_run(run))
    assert (row.group, row.scenario, row.label, row.sites) == (
        "group-1", "architecture", "wide_net", 2,
    )  # fmt: skip
    assert row.validation is not None
    assert abs(row.validation - 0.15) < 1e-12
    assert row.test is not None
    assert abs(row.test + 0.1) < 1e-12
    assert (row.chosen, row.missing) == (True, "eye-1: wide_net")


def test_headline_says_whether_plans_paid(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    add_plans(run)
    data = read_run(run)
    begin = "1 of 1 groups trained by a plan that changes the run's defaults: "
    at_budget = "the defaults at equal budget."
    assert plans_headline(data, planned((0.5, 0.6), (0.5, 0.62), (0.5, 0.61))) == [
        f"{begin}+11.0 points on test images, above {at_budget}"
    ]
    assert plans_headline(data, planned((0.5, 0.9), (0.5, 0.4))) == [
        f"{begin}+15.0 points on test images, not clearly above {at_budget}"
    ]
    assert plans_headline(data, planned((0.5, 0.4), (0.5, 0.4))) == [
        f"{begin}−10.0 points on test images, it did not beat {at_budget}"
    ]


def test_headline_says_when_nothing_beat_the_defaults(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    assert plans_headline(read_run(run), []) == []
    add_plans(run, default=True)
    assert plans_headline(read_run(run), []) == ["No shot beat the run's defaults in any group."]


def test_page_shows_plans_and_the_arm(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    add_plans(run)
    file = MetricsFile.model_validate(json.loads((run / "metrics.json").read_text()))
    for outcome in file.sites.values():
        outcome.planned, outcome.kept = 0.75, "planned"
    atomic_json(run / "metrics.json", file)
    page = write_report(run).read_text(encoding="utf-8")
    assert '<section id="plans">' in page
    assert "wide_net" in page
    assert "planned − grouped" in page
    assert "+15.0" in page


def test_hostile_words_stay_words(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    add_plans(run, HOSTILE)
    page = write_report(run).read_text(encoding="utf-8")
    assert "<script" not in page
    assert "<img src=x" not in page
