"""The architecture scenario at a site: a search, what it says, its experiments, the command."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import typer
from fixtures_sites import write_classes, write_manifest
from safetensors.torch import save_file
from sklearn.metrics import recall_score
from typer.testing import CliRunner

from fl_client import architecture_command
from fl_client.architecture_search import search, target_of
from fl_client.candidates import Candidate, prepare
from fl_client.efforts import ladder
from fl_client.halving import Budget
from fl_client.site import Site, read_site
from fl_client.trials import Trials
from protocol.errors import ConfigError, DataError
from protocol.experiment import Experiment
from protocol.files import file_digest
from protocol.presets import Preset

NAMES = ("resnet10t", "mobilenetv3_small_050", "test_resnet")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of weights of small networks."""
    folder = tmp_path_factory.mktemp("weights")
    for name in NAMES:
        torch.manual_seed(0)
        save_file(timm.create_model(name).state_dict(), folder / f"{name}.safetensors")
    return folder


@pytest.fixture(autouse=True)
def _weights_folder(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDPRINT_WEIGHTS", str(weights))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Return a site of 60 small images."""
    return read_site(write_classes(tmp_path / "north", {"brain": 24, "liver": 20, "lung": 16}))


@pytest.fixture
def small() -> Preset:
    """Return a preset of small networks."""
    return Preset("own", "", "resnet10t", NAMES)


def test_a_search_is_the_same_again(site: Site, small: Preset, tmp_path: Path) -> None:
    def run() -> dict[str, object]:
        found = search(site, small, Budget(3), CPU, size=32, seed=5)
        told = found.summary()
        assert {row["name"] for row in told["ranking"]} == set(NAMES)
        clock = re.compile(r'"(spent_)?seconds": [\d.e-]+')
        again: dict[str, object] = json.loads(clock.sub('"seconds": 0', json.dumps(told)))
        return again | {"ids": [e.id for e in found.experiments("a" * 64)]}

    first = run()
    assert run() == first  # from the cache
    for path in (site.state / "features").iterdir():
        path.unlink()
    assert run() == first  # without it


def test_test_images_decide_nothing(site: Site) -> None:
    candidate = prepare(NAMES[:1], {}, size=32)
    trials = Trials(site, candidate, ladder(1), CPU)
    before = trials("resnet10t", 0)
    rows, splits = trials.images(1.0)
    assert len(rows) == len(set(rows.tolist())) == 60
    test = rows[splits["test"]]
    for row in test:  # other labels for test images
        object.__setattr__(site.images[row], "label", (site.images[row].label + 1) % 3)
    del site.__dict__["labels"]
    after = trials("resnet10t", 0)
    assert (after.score, after.price) == (before.score, before.price)


def test_experiments_compare_at_equal_effort(site: Site, small: Preset) -> None:
    found = search(site, small, Budget(3), CPU, size=32)
    lines = found.experiments("a" * 64)
    assert len(lines) == 2 * len(found.measured)
    assert len({line.id for line in lines}) == len(lines)
    trials = [(key, metric) for key in found.measured for metric in ("balanced_accuracy", "auroc")]
    for ((name, round_), metric), line in zip(trials, lines, strict=True):
        again = Experiment.model_validate_json(line.model_dump_json())
        assert again == line
        mine, its = found.measured[name, round_], found.measured[small.baseline, round_]
        values = again.hyperparameters
        assert again.detail.name == name  # type: ignore[union-attr]
        assert (values["epochs"], values["images"]) == (mine.effort.epochs, len(mine.rows))
        assert (mine.effort, again.metric) == (its.effort, metric)
        assert again.performance == mine.scores[f"test_{metric}"]
        assert again.baseline == its.scores[f"test_{metric}"]


def test_what_is_recommended_beats_the_baseline_beyond_doubt(site: Site, small: Preset) -> None:
    found = search(site, small, Budget(2), CPU, size=32)
    best = found.rows[0]
    own = next(row for row in found.rows if row.name == small.baseline)
    assert (own.gain, own.error, own.test_gain) == (0, 0, 0)
    score = found.measured[small.baseline, best.rounds - 1].scores["val_balanced_accuracy"]
    assert best.gain == pytest.approx(best.score - score)
    assert found.recommended == (best.name if best.gain > best.error else small.baseline)
    assert f"recommended: {found.recommended}" in found.sentence
    # a candidate with all hits where the baseline has none
    for (name, round_), each in found.measured.items():
        hits = np.full(len(each.hits), name == best.name)
        found.measured[name, round_] = dataclasses.replace(each, hits=hits)
    if best.name != small.baseline:
        assert (found.rows[0].gain, found.rows[0].error) == (1, 0)
        assert found.recommended == best.name


def test_without_test_images_there_are_no_experiments(tmp_path: Path, small: Preset) -> None:
    rows = [f"{i}.png,{'ab'[i % 2]},s{i},{'val' if i % 5 == 0 else 'train'}" for i in range(30)]
    site = read_site(
        write_manifest(tmp_path / "s", rows, header="path,label,subject_id,split"), tmp_path / "st"
    )
    found = search(site, small, Budget(1), CPU, size=32)
    assert found.experiments("a" * 64) == []
    told = found.summary()["ranking"]
    assert [row["test"] for row in told] == [None] * 3
    assert all(0 <= row["score"] <= 1 for row in told)
    assert math.isnan(found.rows[0].test)


def test_a_spent_budget_is_said(site: Site, small: Preset) -> None:
    found = search(site, small, Budget(3, 1e-9), CPU, size=32)
    assert found.race.rounds == 0
    assert [row.reason for row in found.rows] == ["", *["the budget was spent"] * 2]
    assert found.sentence == "only 1 of 3 candidates were tried: give a larger --budget"
    assert found.recommended == "resnet10t"
    assert json.dumps(found.summary(), allow_nan=False)


def test_one_class_is_refused(tmp_path: Path) -> None:
    site = read_site(write_classes(tmp_path / "one", {"brain": 12}))
    with pytest.raises(DataError, match=r"^site one holds one class only: there is nothing to"):
        Trials(site, [], ladder(1), CPU)


def test_it_learns_what_can_be_learnt(tmp_path: Path) -> None:
    """Candidates whose features carry the label rank above those that carry noise."""
    site = read_site(write_classes(tmp_path / "s", {"a": 30, "b": 30, "c": 30}))
    made = [Candidate(prepare(["test_resnet"], {}, size=32)[0].recipe, 0, 1.0)]
    trials = Trials(site, made, ladder(1), CPU)
    rng = np.random.default_rng(0)
    means, scores = rng.normal(size=(3, 40)), []
    for signal in (2.0, 0.0):
        noise = rng.normal(size=(90, 40))

        class Made:
            table = (signal * means[site.labels] + noise).astype(np.float32)

            def of(self, rows: np.ndarray) -> np.ndarray:
                return self.table[rows]  # type: ignore[no-any-return]

        trials._features["test_resnet"] = Made()  # type: ignore[assignment]
        scores.append(trials("test_resnet", 0).score)
    assert scores[0] > 0.95
    assert scores[1] < 0.6
    guess = recall_score([0, 1, 2], [0, 0, 0], average="macro")
    assert scores[1] == pytest.approx(guess, abs=0.25)


def run(*arguments: object) -> tuple[int, str, Exception | None]:
    app = typer.Typer()
    app.callback()(lambda: None)
    architecture_command.add(app)
    result = CliRunner().invoke(app, ["architectures", *map(str, arguments)])
    return result.exit_code, result.output, result.exception  # type: ignore[return-value]


def test_the_command(site: Site, tmp_path: Path) -> None:
    release = tmp_path / "north.safetensors"
    release.write_bytes(b"a release")
    options = ["--candidate", "resnet10t", "--candidate", "test_resnet", "--baseline", "resnet10t"]
    options += ["--rounds", "2", "--size", "32", "--budget", "600", "--release", release]
    code, output, _ = run(
        site.folder, *options, "--json", tmp_path / "out.json", "--experiments", tmp_path / "e.txt"
    )
    assert code == 0
    assert "recommended: " in output
    told = json.loads((tmp_path / "out.json").read_text())
    assert (told["preset"], told["completed"], told["budget_seconds"]) == ("own", 2, 600.0)
    assert sorted(row["name"] for row in told["ranking"]) == ["resnet10t", "test_resnet"]
    lines = (tmp_path / "e.txt").read_text().splitlines()
    assert [json.loads(line) for line in lines] == told["experiments"]
    assert {Experiment.model_validate_json(line).target for line in lines} == {file_digest(release)}
    assert len(lines) in (6, 8)  # the baseline stays, the other one may drop out
    assert f"{len(lines)} experiments in {tmp_path / 'e.txt'}" in output.replace("\n", "")


def test_what_the_command_refuses(site: Site, tmp_path: Path) -> None:
    _, _, error = run(site.folder, "--experiments", tmp_path / "e.jsonl")
    assert str(error).startswith("--experiments needs --release: experiments name the task")
    _, _, error = run(site.folder, "--budget", 0)
    assert str(error) == "--budget must be more than 0 seconds"
    with pytest.raises(ConfigError, match=r"is no release: give NAME\.safetensors as it left"):
        target_of(tmp_path / "x.json")
