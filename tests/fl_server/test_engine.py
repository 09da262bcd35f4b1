"""The main job on Flower's real simulation engine: what it leaves, and what it stops."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from safetensors.numpy import load_file

from protocol.log import check_files, read_log
from tests.fl_server.running import ROOT, Command

pytestmark = pytest.mark.engine

GOOD = ["digits-a", "digits-b", "photos-a", "photos-b"]


@dataclass(frozen=True)
class Finished:
    """A finished run: its folder, what was printed, what still ran afterwards."""

    folder: Path
    code: int
    output: str
    errors: str
    left_running: list[str]

    def json(self, name: str) -> dict:  # type: ignore[type-arg]
        """Read a JSON file of the run."""
        return json.loads((self.folder / name).read_text())


@pytest.fixture(scope="session")
def finished(families: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Run four good sites, one with a corrupt image and one with a single class."""
    root = tmp_path_factory.mktemp("engine") / "Kliniken in Köln"
    root.mkdir()
    sites = shutil.copytree(families, root / "sites")
    broken = shutil.copytree(families / "digits-a", sites / "broken")
    (broken / "digit 3" / "004.png").write_bytes(b"\x89PNG\r\n\x1a\nnot a picture")
    shutil.copytree(families / "photos-b" / "roof", sites / "only-roofs" / "roof")
    out = root / "run"
    settings = "rounds=2 local-epochs=2 timeout=300.0"
    command = Command("simulate", sites, "--out", out, "--run-config", settings, workers=2)
    output, errors = command.process.communicate(timeout=300)
    return Finished(out, command.process.returncode, output, errors, command.gone())


def test_run_ends_well_and_leaves_no_process(finished: Finished) -> None:
    assert (finished.code, finished.errors) == (0, "")
    assert finished.left_running == []
    assert finished.output.splitlines()[-1] == f"report: {finished.folder / 'report.html'}"


def test_broken_site_is_reported_and_left_out(finished: Finished) -> None:
    run = finished.json("run.json")
    assert [(gone["site"], gone["reason"]) for gone in run["left_out"]] == [
        ("broken", "site-error")
    ]
    assert "004.png cannot be read" in run["left_out"][0]["message"]
    assert "left out: broken (site-error)" in finished.output
    assert [site["site"] for site in run["sites"]] == [*GOOD[:2], "only-roofs", *GOOD[2:]]


def test_site_of_one_class_is_fingerprinted_but_not_trained(finished: Finished) -> None:
    metrics = finished.json("metrics.json")
    assert sorted(metrics["sites"]) == GOOD
    assert metrics["lost"]["alone"] == {
        "only-roofs": "site only-roofs holds one class only: training needs at least two"
    }


def test_groups_are_the_families(finished: Finished) -> None:
    groups = [set(group["sites"]) & set(GOOD) for group in finished.json("groups.json")["groups"]]
    assert sorted(map(sorted, filter(None, groups))) == [GOOD[:2], GOOD[2:]]


def test_every_arm_is_measured(finished: Finished) -> None:
    for site in finished.json("metrics.json")["sites"].values():
        values = [site[arm] for arm in ("alone", "together", "random", "grouped", "final")]
        assert all(0 <= value <= 1 for value in values)
        assert site["kept"] in ("alone", "grouped")
        assert site["final"] == site[site["kept"]]


def test_distances_are_a_table_with_names_on_both_sides(finished: Finished) -> None:
    with (finished.folder / "distances.csv").open(newline="") as file:
        header, *rows = list(csv.reader(file))
    names = [site["site"] for site in finished.json("run.json")["sites"]]
    assert header[1:] == [row[0] for row in rows] == names
    assert np.isfinite(np.array([row[1:] for row in rows], dtype=float)).all()


def test_fingerprints_hold_one_integer_tensor(finished: Finished) -> None:
    spec = finished.json("spec.json")
    for site in finished.json("run.json")["sites"]:
        tensors = load_file(finished.folder / "fingerprints" / f"{site['site']}.safetensors")
        assert list(tensors) == ["counts"]
        counts = tensors["counts"]
        assert counts.shape == (spec["features"], spec["bins"])
        assert counts.dtype.kind in "iu"
        assert (counts.sum(axis=1, dtype=int) == site["images"]).all()


@pytest.mark.parametrize("name", ["run", "spec", "groups", "recommendations", "metrics"])
def test_files_fit_the_published_schemas(finished: Finished, name: str) -> None:
    schema = json.loads((ROOT / "docs" / "schemas" / f"{name}.json").read_text())
    jsonschema.validate(finished.json(f"{name}.json"), schema)


def test_log_covers_every_file(finished: Finished, tmp_path: Path) -> None:
    log = read_log(finished.folder, (finished.folder / "coordinator.pub.pem").read_text())
    assert check_files(finished.folder, log) == []
    copy = shutil.copytree(finished.folder, tmp_path / "copy")
    (copy / "groups.json").write_text("{}")
    assert check_files(copy, log) == ["groups.json: changed"]


def check_run(folder: Path) -> subprocess.CompletedProcess[str]:
    """Check a run folder with the script of docs/, in which nothing of fedprint can be imported."""
    script = [sys.executable, "-I", str(ROOT / "docs" / "check_run.py"), str(folder)]
    return subprocess.run(script, capture_output=True, text=True, check=False, cwd=folder.parent)


def test_signatures_can_be_checked_without_fedprint(finished: Finished, tmp_path: Path) -> None:
    checked = check_run(finished.folder)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert [line.partition(":")[0] for line in checked.stdout.splitlines()] == [
        site["site"] for site in finished.json("run.json")["sites"]
    ]
    copy = shutil.copytree(finished.folder, tmp_path / "copy")
    prints = copy / "fingerprints"
    shutil.copy(prints / "digits-b.safetensors", prints / "digits-a.safetensors")
    assert check_run(copy).returncode != 0


@pytest.mark.parametrize("command", ["distances", "groups", "report"])
def test_commands_read_the_run_folder(finished: Finished, tmp_path: Path, command: str) -> None:
    copy = shutil.copytree(finished.folder, tmp_path / "copy")
    done = Command(command, copy)
    _, errors = done.process.communicate(timeout=120)
    assert (done.process.returncode, errors) == (0, "")


@pytest.mark.parametrize(
    ("signals", "code", "said"),
    [
        ([signal.SIGINT, signal.SIGINT], 130, "fedprint: error: interrupted\n"),  # impatient
        ([signal.SIGTERM], 143, ""),
    ],
)
def test_stopping_ends_everything_and_leaves_nothing(
    families: Path, tmp_path: Path, signals: list[signal.Signals], code: int, said: str
) -> None:
    out = tmp_path / "run"
    command = Command("simulate", families, "--out", out, "--run-config", "rounds=50")
    assert command.process.stdout is not None
    for line in command.process.stdout:
        if "exchanging fingerprints" in line:
            break
    assert len(command.left_running()) > 3
    for sent in signals:
        command.process.send_signal(sent)
        time.sleep(0.5)
    _, errors = command.process.communicate(timeout=60)
    assert (command.process.returncode, errors) == (code, said)
    assert command.gone() == []
    assert not out.exists()
