"""The commands that list and take measures, and one that comes from another package."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon

from fl_server.decisions import compare
from fl_server.measure_commands import distances, groups, measures
from fl_server.tasks import tasks_of_folder
from protocol.errors import BadShape, ConfigError, FedprintError, NotFinite
from strategies.measures import LargeUnweighted, Measure, available, get, register
from tests.fl_server.running import ROOT
from tests.fl_server.test_exchange_mode import Exchanged, PlainSite
from tests.strategies.measures.made_up import make_tasks

PAGE = (ROOT / "docs" / "reference" / "measures.md").read_text()
ADDED = (ROOT / "docs" / "how-to" / "measure.md").read_text()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    exchanged = Exchanged(tmp_path_factory.mktemp("exchanged"))
    exchanged.sites = {n: PlainSite(n, exchanged.folder / "states") for n in exchanged.sites}
    exchanged.go(release="plain")
    return exchanged.out


def test_all_measures_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measures(tmp_path / "measures.json")
    listed = json.loads((tmp_path / "measures.json").read_text())["measures"]
    assert [entry["name"] for entry in listed] == available()
    fid = next(entry for entry in listed if entry["name"] == "fid")
    assert fid == {
        "name": "fid",
        "needs": ["moments"],
        "privacy": "shareable with noise",
        "direction": "lower",
        "source": "Heusel et al., NeurIPS 2017",
        "description": "Fréchet distance of Gaussians with the features' means and covariances",
    }
    assert "task2vec-asymmetric" in capsys.readouterr().out


def test_the_page_names_every_measure_and_what_it_needs() -> None:
    table = PAGE.split("## All of them")[1].split("Only what a measure needs")[0]
    rows = [line.split("|")[1:5] for line in table.splitlines() if line.startswith("| `")]
    said = {
        name: (needs.strip(), privacy.strip(), better.strip())
        for names, needs, privacy, better in rows
        for name in re.findall(r"`([^`]+)`", names)
    }
    assert said == {
        name: (", ".join(sorted(m.needs, reverse=True)), m.privacy, m.direction)
        for name in available()
        for m in [get(name)]
    }


@pytest.mark.parametrize("name", [n for n in available() if get(n).needs <= {"fingerprint"}])
def test_distances_by_any_measure(run: Path, tmp_path: Path, name: str) -> None:
    distances(run, name, None, tmp_path / "d.json")
    found = json.loads((tmp_path / "d.json").read_text())
    tasks = tasks_of_folder(run)
    np.testing.assert_allclose(found["distances"], get(name).distances(tasks, tasks))
    assert found["sites"] == [task.name for task in tasks]


def test_what_nobody_can_say_is_null(run: Path, tmp_path: Path) -> None:
    distances(run, "properties", tmp_path / "d.csv", tmp_path / "d.json")
    assert json.loads((tmp_path / "d.json").read_text())["distances"][0][1] is None
    assert (tmp_path / "d.csv").read_text().splitlines()[1].endswith(",nan")


def test_what_a_folder_lacks_is_said(run: Path) -> None:
    text = (
        "measure fid needs moments of every site, site-0-0 released none: run with run-config "
        'descriptors="moments", or fedprint fingerprint --also moments'
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(text)}$"):
        distances(run, "fid")
    with pytest.raises(ConfigError, match=f"^{re.escape(text)}$"):
        groups(run, "fid")


def test_who_is_not_compared_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    tasks = make_tasks([0, 1, 2])
    tasks[2] = replace(tasks[2], moments=None)
    monkeypatch.setattr("fl_server.api.tasks_of_folder", lambda _folder: tasks)
    distances(tmp_path, "fid", tmp_path / "d.csv")
    assert capsys.readouterr().err == "not compared: site-2 released no moments\n"
    assert (tmp_path / "d.csv").read_text().splitlines()[3] == "site-2,nan,nan,nan"


def test_groups_by_another_measure(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    groups(run, "vdna", None, 1, 0, 2, json_out=tmp_path / "g.json")
    found = json.loads((tmp_path / "g.json").read_text())
    names = [group["sites"] for group in found["groups"]]
    assert names == [["site-0-0", "site-0-1"], ["site-1-0", "site-1-1"], ["site-2-0"]]
    assert len(found["sites"]["site-0-0"]["partners"]) == 2
    assert "groups by vdna" in capsys.readouterr().out


class Odd(Measure):
    name = "odd"

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def matrix(self, sources, targets):  # type: ignore[no-untyped-def]
        return self.values


def test_what_a_measure_returns_is_checked() -> None:
    tasks = make_tasks([0, 1])
    text = "measure odd returned shape (2,) for 2 sources and 2 targets: mend it"
    with pytest.raises(BadShape, match=f"^{re.escape(text)}$"):
        Odd(np.zeros(2)).distances(tasks, tasks)
    text = "measure odd returned infinity: it must be NaN where nothing can be said"
    with pytest.raises(NotFinite, match=f"^{text}$"):
        Odd(np.full((2, 2), np.inf)).distances(tasks, tasks)
    with pytest.raises(NotFinite, match=r"^measure odd returned values above 1e\+100: scale them$"):
        Odd(np.full((2, 2), -1e308)).distances(tasks, tasks)
    text = "measure odd failed (TypeError: it returned complex128 instead of numbers): mend it"
    with pytest.raises(FedprintError, match=f"^{re.escape(text)}$"):
        Odd(np.zeros((2, 2), complex)).distances(tasks, tasks)


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("name", "../../etc/odd"),
        ("name", 5),
        ("direction", "up"),
        ("needs", "moments"),
        ("needs", frozenset({"genome"})),
        ("privacy", "none"),
        ("source", None),
        ("description", None),
        ("apart", -1.0),
        ("apart", np.nan),
    ],
)
def test_a_measure_that_says_nothing_usable_is_not_registered(attribute: str, value: Any) -> None:
    text = f"measure Claims has an unusable {attribute}: see strategies.measures.Measure"
    with pytest.raises(ConfigError, match=f"^{re.escape(text)}$"):
        register(type("Claims", (Odd,), {attribute: value}))
    assert "claims" not in available()


def test_a_measure_that_fails_says_so_in_one_line() -> None:
    class Failing(Odd):
        def matrix(self, sources, targets):  # type: ignore[no-untyped-def]
            raise ValueError("a\nb")

    tasks = make_tasks([0, 1])
    text = "measure odd failed (ValueError: a b): mend it"
    with pytest.raises(FedprintError, match=f"^{re.escape(text)}$"):
        compare(Failing(np.zeros(2)), tasks)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the page's package for nobody but these tests; return where."""
    folder = tmp_path_factory.mktemp("package")
    for language, name in (("python", "jensen_shannon.py"), ("toml", "pyproject.toml")):
        block = re.search(rf"```{language}\n(.+?)```", ADDED, re.DOTALL)
        assert block is not None
        (folder / name).write_text(block.group(1))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    target = folder / "installed"
    subprocess.run([*pip, "--no-build-isolation", "--target", target, folder], check=True)
    return target


def fedprint(package: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(ROOT), str(package)]))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "protocol.cli", *map(str, arguments)],
        env=environment, cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_measure_of_another_package(run: Path, package: Path, tmp_path: Path) -> None:
    listed = fedprint(package, "measures", "--json", tmp_path / "m.json")
    assert listed.returncode == 0, listed.stderr
    own = [
        entry
        for entry in json.loads((tmp_path / "m.json").read_text())["measures"]
        if entry["name"] == "jensen-shannon"
    ]
    assert own[0]["needs"] == ["fingerprint"]
    done = fedprint(
        package, "distances", run, "--measure", "jensen-shannon", "--json", tmp_path / "d.json"
    )
    assert done.returncode == 0, done.stderr
    rows = [task.fingerprint.rows for task in tasks_of_folder(run) if task.fingerprint]
    expected = [[jensenshannon(p, q, axis=1).mean() for q in rows] for p in rows]
    found = json.loads((tmp_path / "d.json").read_text())["distances"]
    np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        ("import nothing_of_this_name", "ModuleNotFoundError: No module named 'nothing_of_this_"),
        ("JensenShannon = 3", "TypeError: jensen_shannon:JensenShannon is no subclass of Measure"),
        (
            "from strategies.measures import LargeUnweighted\n"
            "class JensenShannon(LargeUnweighted):\n    name = 'vdna'\n",
            "ConfigError: measure 'vdna' is registered already: choose another name",
        ),
    ],
)
def test_a_broken_package_is_one_line(package: Path, tmp_path: Path, code: str, fault: str) -> None:
    shutil.copytree(package, tmp_path / "broken")
    (tmp_path / "broken" / "jensen_shannon.py").write_text(code)
    listed = fedprint(tmp_path / "broken", "measures")
    assert listed.returncode == 1
    assert listed.stderr.count("\n") == 1
    assert listed.stderr.startswith(
        "fedprint: error: measure 'jensen-shannon' of fedprint-jensen-shannon cannot be loaded "
        f"({fault}"
    )
    assert listed.stderr.endswith("mend or uninstall fedprint-jensen-shannon\n")


def test_the_default_measure_is_the_unweighted_one() -> None:
    from fl_server.measure_commands import DEFAULT
    from fl_server.settings import RunSettings

    assert RunSettings.model_fields["measure"].default == DEFAULT == LargeUnweighted.name
