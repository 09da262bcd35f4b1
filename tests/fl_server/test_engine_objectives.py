"""Sites with several labels, one class and a grade in one run, on Flower's real engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fl_server.verify_evidence import Evidence
from fl_server.verify_run import verify_run
from tests.fl_server.running import Command
from tests.objectives import write_graded, write_one, write_several

pytestmark = pytest.mark.engine

SEVERAL = ["many-a", "many-b", "many-c"]
GROUPS = [SEVERAL, ["grade-a", "grade-b"], ["one-a", "one-b"]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("objectives")
    for number, site in enumerate(SEVERAL):
        held = ("even", "loop") if site == "many-c" else ()
        write_several(root / "sites" / site, 100 * number, 60, held)
    for number, name in enumerate("ab"):
        write_one(root / "sites" / f"one-{name}", 300 + 100 * number, 40)
        write_graded(root / "sites" / f"grade-{name}", 500 + 100 * number, 40)
    shared = root / "sites" / "one-a" / "site.toml"
    shared.write_text(shared.read_text().replace("[task]", "[task]\nshares_weights = true"))
    asked = 'arms="alone,together,random,grouped" rounds=2 local-epochs=2 scores=true timeout=300.0'
    command = Command("simulate", root / "sites", "--out", root / "run", "--run-config", asked)
    output, errors = command.process.communicate(timeout=300)
    assert (command.process.returncode, errors) == (0, ""), output + errors
    assert "many-a has no part in scores of models: its objective is multilabel" in output
    assert "1 models scored by 4 sites" in output
    return root / "run"


def read(run: Path, name: str) -> Any:
    return json.loads((run / name).read_text())


def test_each_objective_has_its_own_groups(run: Path) -> None:
    groups = read(run, "groups.json")
    assert [group["sites"] for group in groups["groups"]] == GROUPS
    shots = read(run, "recommendations.json")["sites"]["many-a"]["co-training"]
    assert {shot["source"] for shot in shots} == {"many-b", "many-c"}


def test_no_arm_trains_objectives_together(run: Path) -> None:
    plans = read(run, "metrics.json")["plans"]
    assert [plan["sites"] for plan in plans["grouped"]] == GROUPS
    for arm in ("together", "random"):
        assert sorted(plan["sites"] for plan in plans[arm]) == sorted(GROUPS)
    several = next(plan for plan in plans["grouped"] if plan["sites"] == SEVERAL)
    assert several["holders"] == {"even": SEVERAL, "loop": SEVERAL, "over 4": SEVERAL[:2]}


def test_every_arm_scores_as_its_objective_has_it(run: Path) -> None:
    for site, outcome in read(run, "metrics.json")["sites"].items():
        own = {"many": "average_precision", "grade": "quadratic_kappa"}.get(site.split("-")[0])
        assert outcome["final"] is not None
        for arm in ("alone", "together", "random", "grouped"):
            scores = outcome["scores"][arm]
            beside = {name.removeprefix("test_") for name in scores if name.startswith("test_")}
            assert own is None or own in beside
            assert ("average_precision" in beside) == (own == "average_precision")
            assert {"balanced_accuracy", "auroc", "loss"} <= beside


def test_the_run_verifies_and_the_report_says_what_is_learnt(run: Path) -> None:
    assert not verify_run(Evidence(run)).findings
    text = (run / "report.html").read_text()
    assert "Objective: multilabel." in text
    assert "Mean average precision: alone 0." in text
    assert "Objective: ordinal." in text
    assert "Quadratic weighted kappa: alone" in text
