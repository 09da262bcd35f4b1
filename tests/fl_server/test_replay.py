"""`fedprint replay` on the development tasks and on folders of all kinds."""

import csv
import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from fl_server import replay_commands
from fl_server.replay_data import read_replay
from fl_server.replay_lifelong import arrivals
from fl_server.replay_selectors import full_pool, references
from protocol.errors import ConfigError, DataError
from strategies.outcome_metrics import MEASURES

DEV = Path(__file__).parents[2] / "benchmarks" / "replay" / "dev"


def write(path, header, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


@pytest.fixture
def folder(tmp_path):
    """Six tasks, two of one group; a transfer is missing, and so are the baselines."""
    rng = np.random.default_rng(0)
    names = list("abcdef")
    write(
        tmp_path / "tasks.csv", ["task", "exclusion_group"], [[x, "g" * (x < "c")] for x in names]
    )
    pairs = [(t, s) for t in names for s in names if t != s and not {t, s} <= {"a", "b"}]
    rows = [["pretraining", "F1", t, s, 0, rng.random()] for t, s in pairs[1:]]
    head = ["scenario", "metric", "target", "source", "repetition", "performance"]
    write(tmp_path / "outcomes.csv", head, rows)
    matrix = [[s, *rng.random(6)] for s in names]
    write(tmp_path / "distances" / "mine.csv", ["source\\target", *names], matrix)
    return tmp_path


def run(*args):
    app = typer.Typer()
    replay_commands.register(app)
    return CliRunner().invoke(app, [str(a) for a in args])


def test_the_development_tasks_are_read_whole():
    data = read_replay(DEV)
    with gzip.open(DEV / "outcomes.csv.gz", "rt") as file:
        rows = list(csv.DictReader(file))
    assert np.isfinite(data.performance).sum() == len(rows) == 15180
    row = rows[1234]
    where = (
        data.scenarios.index(row["scenario"]),
        data.metrics.index(row["metric"]),
        int(row["repetition"]),
        data.tasks.index(row["target"]),
        data.tasks.index(row["source"]),
    )
    assert data.performance[where] == float(row["performance"])
    assert len(data.distances) == 10


def test_shrunk_targets_take_the_shrunk_baseline():
    data = read_replay(DEV)
    with (DEV / "baselines.csv").open() as file:
        rows = list(csv.DictReader(file))
    with (DEV / "tasks.csv").open() as file:
        shrunk = {row["task"]: row["shrunk_as_target"] for row in csv.DictReader(file)}
    assert np.isfinite(data.baseline).all()
    for row in rows:
        if row["shrunk"] == shrunk[row["target"]]:
            m, t = data.metrics.index(row["metric"]), data.tasks.index(row["target"])
            assert data.baseline[m, int(row["repetition"]), t] == float(row["performance"])


def test_json_has_one_row_for_each_selector_protocol_scenario_and_metric(tmp_path):
    out = tmp_path / "replay.json"
    result = run("--data", DEV, "--json", out, "--orders", 1, "--plot", tmp_path / "r.svg")
    assert result.exit_code == 0, result.output
    rows = json.loads(out.read_text())["rows"]
    keys = {(r["selector"], r["protocol"], r["scenario"], r["metric"]) for r in rows}
    assert len(keys) == len(rows) == 13 * 2 * 4 * 2
    assert {r["selector"] for r in rows} >= {"pool", "random", "oracle", "bkld_small_target"}
    for row in rows:
        for measure in MEASURES:
            assert row[f"{measure}_low"] <= row[measure] <= row[f"{measure}_high"]
    assert (tmp_path / "r.svg").read_bytes().startswith(b"<?xml")
    full = [r for r in rows if r["protocol"] == "full"]
    tau = {s: np.mean([r["weightedtau"] for r in full if r["selector"] == s]) for s in
           {r["selector"] for r in full}}  # fmt: skip
    assert tau["oracle"] == pytest.approx(1)
    assert tau["random"] == 0
    assert tau["pool"] > 2 * max(v for s, v in tau.items() if s not in ("pool", "oracle"))


def test_differences_are_those_of_the_means_that_are_shown(tmp_path):
    out = tmp_path / "replay.json"
    assert run("--data", DEV, "--json", out, "--protocol", "full").exit_code == 0
    tables = json.loads(out.read_text())
    overall = {row["selector"]: row for row in tables["overall"]}
    assert set(overall) >= {"pool", "noise ceiling", "mean percentile", "vdna"}
    for measure in MEASURES:
        for row in tables["differences"]:
            difference = overall["pool"][measure] - overall[row["against"]][measure]
            assert row[measure] == pytest.approx(difference, abs=1e-12)
            assert row[f"{measure}_low"] <= row[measure] <= row[f"{measure}_high"]
            parts = [r for r in tables["by_scenario"] if r["against"] == row["against"]]
            assert len(parts) == 4
            assert np.mean([r[measure] for r in parts]) == pytest.approx(row[measure], abs=1e-12)
        own = [r[measure] for r in tables["rows"] if r["selector"] == "pool"]
        assert np.mean(own) == pytest.approx(overall["pool"][measure], abs=1e-12)


def test_any_folder_will_do_and_the_seed_decides(folder, tmp_path):
    texts = []
    for name in ("1.json", "2.json"):
        result = run("--data", folder, "--json", tmp_path / name, "--orders", 2)
        assert result.exit_code == 0, result.output
        texts.append((tmp_path / name).read_text())
    assert texts[0] == texts[1]
    rows = json.loads(texts[0])["rows"]
    assert {r["selector"] for r in rows} == {"mine", "random", "oracle", "pool"}
    assert all(r["gain1"] is None and r["percentile1"] is not None for r in rows)


def test_a_folder_without_distances_is_replayed(folder):
    (folder / "distances" / "mine.csv").unlink()
    assert run("--data", folder, "--protocol", "full").exit_code == 0


def test_a_targets_outcomes_do_not_change_its_own_scores():
    data = read_replay(DEV)
    before = full_pool(data)
    data.performance[:, :, :, 5] = data.performance[:, :, :, 5][..., ::-1]
    data.performance[:, :, :, 5, 5] = np.nan
    after = full_pool(data)
    np.testing.assert_allclose(before[:, :, 0, 5], after[:, :, 0, 5], atol=1e-6)
    assert np.nanmax(np.abs(before - after)) > 0.01


def test_group_members_are_never_each_others_source(folder):
    data = read_replay(folder)
    assert not data.eligible[0, 1]
    assert np.isnan(full_pool(data)[0, 0, 0, 0, 1])
    for arrival in arrivals(data, np.random.default_rng(0)):
        if arrival.target < 2:
            assert 1 - arrival.target not in arrival.shots


def test_lifelong_learns_from_tried_shots_only():
    data = read_replay(DEV)
    seen = list(arrivals(data, np.random.default_rng(1)))
    data.performance[...] = np.where(np.isfinite(data.performance), _only(data, seen), np.nan)
    again = list(arrivals(data, np.random.default_rng(1)))
    for a, b in zip(seen, again, strict=True):
        np.testing.assert_array_equal(a.shots, b.shots)
        np.testing.assert_array_equal(a.scores, b.scores)


def _only(data, seen):
    """Keep what was tried, put noise in place of the rest."""
    out = np.random.default_rng(9).random(data.performance.shape)
    for a in seen:
        where = (a.scenario, slice(None), slice(None), a.target)
        for source in a.shots:
            out[(*where, source)] = data.performance[(*where, source)]
    return out


def test_the_plain_mean_leaves_the_target_out(folder):
    data = read_replay(folder)
    mean = references(data)["mean percentile"][0, 0, 0]
    performance = data.performance[0, 0, 0]
    shares = [
        (performance[t][np.isfinite(performance[t])] <= performance[t, 5]).mean()
        for t in range(1, 5)
    ]
    assert mean[0, 5] == pytest.approx(np.mean(shares))


def test_faults_are_told_in_one_line(folder, tmp_path):
    with pytest.raises(DataError, match=r"tasks\.csv is missing: give a folder of"):
        read_replay(tmp_path / "nowhere")
    with (folder / "outcomes.csv").open("a") as file:
        file.write("pretraining,F1,a,zebra,0,0.5\n")
    with pytest.raises(DataError, match=r"line 29: 'zebra' is not in tasks\.csv"):
        read_replay(folder)
    (folder / "tasks.csv").write_text("name\na\n")
    with pytest.raises(DataError, match="no column 'task'; add it to the header"):
        read_replay(folder)
    assert isinstance(run("--data", DEV, "--plot", "x.pdf").exception, ConfigError)
