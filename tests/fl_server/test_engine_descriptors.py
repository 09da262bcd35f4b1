"""Descriptors on Flower's real simulation engine: asked for, verified, written, and checked."""

from __future__ import annotations

import base64
import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from fl_server import compare_command
from fl_server.tasks import tasks_of_folder
from fl_server.verify_evidence import Evidence
from fl_server.verify_run import verify_run
from protocol.descriptors import KINDS
from protocol.ledger_lines import parse_ledger
from strategies.measures import available, feature_means, get, rows_of
from tests.fl_server.running import Command

pytestmark = pytest.mark.engine

SITES = ["digits-a", "digits-b", "one-class", "photos-a", "photos-b"]


@pytest.fixture(scope="module")
def folder(families: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run four good sites and one of a single class, which has no Fisher embedding."""
    root = tmp_path_factory.mktemp("described")
    sites = shutil.copytree(families, root / "sites")
    shutil.copytree(families / "photos-b" / "roof", sites / "one-class" / "roof")
    out = root / "run"
    command = Command(
        *("simulate", sites, "--out", out, "--run-config"),
        f'arms="" timeout=300.0 measure="task2vec" descriptors="{",".join(KINDS)}"',
    )
    output, errors = command.process.communicate(timeout=300)
    assert (command.process.returncode, errors) == (0, ""), output
    assert command.gone() == []
    assert "no fisher of one-class (site-error): a Fisher embedding needs at least" in output
    return out


def test_every_site_released_every_kind_but_what_it_cannot(folder: Path) -> None:
    tasks = tasks_of_folder(folder)
    assert [task.name for task in tasks] == SITES
    for task in tasks:
        assert task.moments is not None
        assert task.class_moments is not None
        assert task.features is not None
        assert (task.fisher is None) == (task.name == "one-class")
        np.testing.assert_allclose(task.moments.mean, task.features.values.mean(axis=0), atol=1e-5)
        np.testing.assert_allclose(
            task.moments.covariance,
            np.cov(task.features.values.astype(float), rowvar=False),
            atol=1e-5,
        )
        assert task.class_moments.counts.sum() == task.images
    lengths = {len(task.fisher.values) for task in tasks if task.fisher is not None}
    assert len(lengths) == 1
    assert lengths.pop() > 1000


def test_moments_agree_with_the_released_histograms(folder: Path) -> None:
    tasks = tasks_of_folder(folder)
    rows, spec = rows_of(tasks)
    means = feature_means(rows, spec)  # [k, m], of values that were clipped to the edges
    for task, mean in zip(tasks, means, strict=True):
        assert task.features is not None
        clipped = np.clip(task.features.values, spec.lower_array, spec.upper_array).mean(axis=0)
        half = (spec.upper_array - spec.lower_array) / spec.bins / 2
        assert bool((np.abs(clipped - mean) <= half * 1.01).all())


def test_run_is_verified_with_its_descriptors(folder: Path) -> None:
    outcome = verify_run(Evidence(folder))
    assert outcome.findings == []
    assert "descriptors and their statements" in outcome.checks


def test_decision_is_by_the_descriptors(folder: Path) -> None:
    with (folder / "distances.csv").open() as file:
        rows = {row["source"]: row for row in csv.DictReader(file)}
    wanted = get("task2vec")
    tasks = [task for task in tasks_of_folder(folder) if task.fisher is not None]
    distances = wanted.distances(tasks, tasks)
    for source, line in zip(tasks, distances, strict=True):
        for target, value in zip(tasks, line, strict=True):
            assert float(rows[source.name][target.name]) == pytest.approx(value)
    assert rows["one-class"]["digits-a"] == "nan"
    groups = json.loads((folder / "groups.json").read_text())
    assert "fisher" in str(groups["sites"]["one-class"]["warnings"])


def swap(folder: Path) -> str:
    ends = [("a.moments", "b.moments"), ("b.moments", "a.moments")]
    inner = folder / "descriptors"
    parts = {
        f"digits-{to}.{end}": (inner / f"digits-{one}.{end}").read_bytes()
        for one, to in ends
        for end in ("safetensors", "dsse.json")
    }
    for name, content in parts.items():
        (inner / name).write_bytes(content)
    return "descriptors/digits-a.moments"


def lose(folder: Path) -> str:
    (folder / "descriptors" / "digits-b.fisher.dsse.json").unlink()
    return "descriptors/digits-b.fisher.dsse.json"


def bring(folder: Path) -> str:
    (folder / "descriptors" / "one-class.fisher.safetensors").write_bytes(b"")
    return "descriptors/one-class.fisher.safetensors"


def pad(folder: Path) -> str:
    path = folder / "descriptors" / "photos-a.features.dsse.json"
    path.write_text(json.dumps(json.loads(path.read_text()), indent=1))
    return "descriptors/photos-a.features.dsse.json"


@pytest.mark.parametrize("change", [swap, lose, bring, pad])
def test_changed_descriptors_are_found(
    folder: Path, tmp_path: Path, change: Callable[[Path], str]
) -> None:
    copy = shutil.copytree(folder, tmp_path / "run")
    where = change(copy)
    found = {finding.where for finding in verify_run(Evidence(copy)).findings}
    assert any(name.startswith(where) for name in found), found


@pytest.fixture(scope="module")
def private(families: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Exchange noised fingerprints, and noised moments because the measure needs them."""
    root = tmp_path_factory.mktemp("noised")
    sites, out = shutil.copytree(families, root / "sites"), root / "run"
    command = Command("exchange", sites, "--out", out, "--run-config", 'measure="fid"')
    output, errors = command.process.communicate(timeout=300)
    assert (command.process.returncode, errors) == (0, ""), output
    assert command.gone() == []
    return out, sites


def test_private_exchange_compares_noised_moments(private: tuple[Path, Path]) -> None:
    out, _ = private
    tasks = tasks_of_folder(out)
    assert all(task.moments is not None for task in tasks)
    assert all(task.moments.covariance.shape == (8, 8) for task in tasks if task.moments)
    for path in (out / "descriptors").glob("*.dsse.json"):
        statement = json.loads(base64.b64decode(json.loads(path.read_bytes())["payload"]))
        assert statement["predicate"]["privacy"]["mode"] == "private"


def test_private_exchange_is_verified_with_the_ledgers_of_its_sites(
    private: tuple[Path, Path],
) -> None:
    out, sites = private
    states = [site / ".fedprint" for site in sorted(sites.iterdir())]
    outcome = verify_run(Evidence(out, states=states))
    assert outcome.findings == []
    for state in states:
        lines = parse_ledger((state / "ledger.jsonl").read_bytes())
        assert [line.kind for line in lines] == ["", "moments"]


def test_all_that_was_released_is_compared(folder: Path, tmp_path: Path) -> None:
    rows = "".join(f"{site},{site.removesuffix('-a').removesuffix('-b')}\n" for site in SITES)
    families = tmp_path / "families.csv"
    families.write_text(f"site,family\n{rows.replace('one-class,one-class', 'one-class,photos')}")
    app, out = typer.Typer(), tmp_path / "compared.json"
    compare_command.register(app)
    done = CliRunner().invoke(app, [str(folder), "--families", str(families), "--json", str(out)])
    assert done.exit_code == 0, done.output
    found = json.loads(out.read_text())
    unscored = {name for name in available() if "scores" in get(name).needs}
    assert found["left_out"].keys() == unscored | {"sinkhorn-projected", "manual"}
    assert found["left_out"]["manual"] == "says nothing of any pair of these tasks"
    by_name = {row["name"]: row for row in found["measures"]}
    assert {name: row["sites"] for name, row in by_name.items() if row["sites"] < 5} == (
        dict.fromkeys(("fed", "task2vec", "task2vec-asymmetric"), 4)
    )
    for name in ("vdna", "fid", "flux", "sinkhorn"):
        assert (by_name[name]["adjusted_rand"], by_name[name]["nearest"]) == (1, 1)
    files = [*folder.glob("descriptors/*.moments.*")]
    assert by_name["fid"]["bytes_per_site"] == sum(f.stat().st_size for f in files) / len(SITES)
