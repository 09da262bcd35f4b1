"""Plans on Flower's real simulation engine, with sites that train: tried, signed, verified."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from fl_server.outcome_records import EXPERIMENTS
from fl_server.verify_evidence import Evidence
from fl_server.verify_run import verify_run
from protocol.experiment import Experiment
from protocol.plan import Plan
from protocol.trials import PlansFile, TrialsFile
from tests.fl_server.running import Command

pytestmark = pytest.mark.engine

SITES = ["digits-a", "digits-b", "photos-a", "photos-b"]
SHARES = '[task]\nname = "handwriting"\nshares_weights = true\n'


@pytest.fixture(scope="module")
def run(families: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run four sites in two groups; the digits let their weights travel."""
    root = tmp_path_factory.mktemp("planned")
    sites = shutil.copytree(families, root / "sites")
    (sites / "digits-a" / "site.toml").write_text(SHARES)
    (sites / "digits-b" / "site.toml").write_text(f'{SHARES}[data]\nmanifest = "labels.csv"\n')
    out = root / "run"
    command = Command(
        *("simulate", sites, "--out", out, "--run-config"),
        'rounds=2 local-epochs=2 timeout=300.0 arms="planned" shots=1',
    )
    output, errors = command.process.communicate(timeout=300)
    assert (command.process.returncode, errors) == (0, ""), output
    assert command.gone() == []
    return out


def read(run: Path, name: str) -> Any:
    return json.loads((run / name).read_text())


def test_every_shot_is_tried_by_every_site_that_can(run: Path) -> None:
    trials = TrialsFile.model_validate(read(run, "trials.json")).trials
    tried = {(t.group, t.scenario): t.tried for t in trials}
    assert len(tried) == 2 * 3
    groups = {g["name"]: g["sites"] for g in read(run, "groups.json")["groups"]}
    for (group, scenario), shots in tried.items():
        # the photos' group trains no model together, so the digits have none to start from
        assert len(shots) == int((scenario, groups[group]) != ("pretraining", SITES[:2]))
        for shot in shots:
            assert (sorted(shot.scores), shot.missing) == (groups[group], {})


def test_plans_are_of_the_groups_and_accepted(run: Path) -> None:
    file = PlansFile.model_validate(read(run, "plans.json"))
    assert [(plan.group, sorted(plan.sites)) for plan in file.plans] == [
        ("group-1", SITES[:2]),
        ("group-2", SITES[2:]),
    ]
    assert file.refused == {}
    for plan in file.plans:
        assert isinstance(plan, Plan)
        assert [choice.scenario for choice in plan.choices] == [
            *("architecture", "augmentation", "pretraining")
        ]


def test_each_site_ends_with_a_model_that_it_chose(run: Path) -> None:
    for site in read(run, "metrics.json")["sites"].values():
        assert 0 <= site["planned"] <= 1
        assert site["final"] == site[site["kept"]]


def test_the_folder_is_whole_and_tells_the_pool_of_every_trial(run: Path) -> None:
    assert verify_run(Evidence(run)).findings == []
    lines = (run / EXPERIMENTS).read_text().splitlines()
    found = [Experiment.model_validate_json(line) for line in lines]
    assert {e.scenario for e in found} == {"architecture", "augmentation", "pretraining"}
    assert len({e.target for e in found}) == len(SITES)
