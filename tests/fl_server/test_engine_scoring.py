"""A run that decides by how well sites' models fit each other, on Flower's real engine."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from fl_client.learner import Learner
from fl_client.models import RunModels
from fl_client.scoring import outputs
from fl_client.site import read_site
from fl_server.decisions import compare
from fl_server.report_data import read_distances
from fl_server.tasks import tasks_of_folder
from fl_server.verify_evidence import Evidence
from fl_server.verify_run import verify_run
from protocol.spec import load_spec
from strategies.measures import get
from strategies.transferability import SCORES, logme
from tests.fl_server.running import Command

pytestmark = pytest.mark.engine

SITES = ["digits-a", "digits-b", "photos-a", "photos-b"]
KEEPS = "photos-b"
"""It hands its model to nobody."""


@pytest.fixture(scope="module")
def finished(families: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a finished run's folder, and its sites."""
    root = tmp_path_factory.mktemp("scored")
    sites = shutil.copytree(families, root / "sites")
    for name in SITES:
        file = sites / name / "site.toml"
        held = file.read_text() if file.exists() else ""
        held = held if "[task]" in held else f"[task]\n{held}"
        shares = "false" if name == KEEPS else "true"
        file.write_text(held.replace("[task]", f"[task]\nshares_weights = {shares}"))
    asked = 'measure="logme" arms="alone" rounds=2 local-epochs=2 timeout=300.0'
    command = Command("simulate", sites, "--out", root / "run", "--run-config", asked)
    output, errors = command.process.communicate(timeout=300)
    assert (command.process.returncode, errors) == (0, ""), output + errors
    assert "3 models scored by 4 sites" in output
    assert output.count("training: alone") == 1
    return root / "run", sites


def test_distances_are_the_scores(finished: tuple[Path, Path]) -> None:
    run, _ = finished
    names, distances = read_distances(run / "distances.csv")
    tasks = {task.name: task for task in tasks_of_folder(run)}
    assert names == SITES == sorted(tasks)
    for column, target in enumerate(names):
        assert set(tasks[target].scores) == set(SCORES)
        signed = tasks[target].scores["logme"]
        assert set(signed) == set(SITES) - {KEEPS}
        for row, source in enumerate(names):
            np.testing.assert_equal(distances[row, column], -signed.get(source, np.nan))


def test_scores_are_what_the_models_give_at_the_target(finished: tuple[Path, Path]) -> None:
    run, sites = finished
    name = json.loads((run / "run.json").read_text())["run"]
    model = RunModels(read_site(sites / "digits-a"), name, "alone").load("model")
    target = Learner(
        read_site(sites / "photos-a"), load_spec(run / "spec.json"), "adapter", "cpu", 0
    )
    embeddings, _ = outputs(target, model)
    value = logme(embeddings, target.data.labels[target.data.splits["train"]])
    [signed] = [t.scores["logme"] for t in tasks_of_folder(run) if t.name == "photos-a"]
    assert signed["digits-a"] == pytest.approx(value, rel=1e-4)


def test_another_score_of_the_run_gives_distances_too(finished: tuple[Path, Path]) -> None:
    tasks = tasks_of_folder(finished[0])
    distances = compare(get("leep"), tasks)
    keeps = [task.name for task in tasks].index(KEEPS)
    assert np.isnan(distances[keeps]).all()
    assert (np.delete(distances, keeps, axis=0) >= 0).all()  # LEEP is a log likelihood


def test_the_run_verifies(finished: tuple[Path, Path]) -> None:
    run, _ = finished
    outcome = verify_run(Evidence(run))
    assert (outcome.findings, outcome.unfinished) == ([], [])
    assert "scores of models" in outcome.checks
    assert (run / "report.html").is_file()
