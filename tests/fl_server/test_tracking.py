"""The coordinator's metrics of a run, read back from TensorBoard's files."""

from __future__ import annotations

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

from fl_server.arms import run_arm
from fl_server.settings import RunSettings
from fl_server.simulation import check_settings
from fl_server.tracking import FOLDER, run_tracker
from protocol.errors import ConfigError
from protocol.names import slug
from tests.fl_server.test_arms import CLASSES, GROUPS, setting

SETTINGS = RunSettings(rounds=3, local_epochs=2, timeout=5, track="tensorboard")


def points(folder: Path, name: str) -> dict[str, list[tuple[int, float]]]:
    reader = EventMultiplexer().AddRunsFromDirectory(str(folder / FOLDER)).Reload()
    run = slug("run-1", name)
    tags = reader.Runs()[run]["scalars"]
    return {t: [(e.step, e.value) for e in reader.Scalars(run, t)] for t in tags}


def train(folder: Path) -> None:
    tracker = run_tracker(SETTINGS, folder, "run-1")
    assert tracker is not None
    grid, exchange, _ = setting()
    alone = run_arm("alone", [[s] for s in CLASSES], grid, exchange, SETTINGS, tracker=tracker)
    tracker.arm("alone", alone)
    grouped = run_arm("grouped", GROUPS, grid, exchange, SETTINGS, alone, tracker=tracker)
    tracker.arm("grouped", grouped)


def test_rounds_and_arms(tmp_path: Path) -> None:
    train(tmp_path)
    rounds = points(tmp_path, "grouped-1")
    assert rounds["sites"] == [(1, 3.0), (2, 3.0), (3, 3.0)]
    assert rounds["images"] == [(1, 60.0), (2, 60.0), (3, 60.0)]
    assert [value for _, value in rounds["losses"]] == [0, 0, 0]
    # every fake site moves every array by one, so that they never differ
    assert [value for _, value in rounds["spread"]] == [0, 0, 0]
    assert [step for step, _ in rounds["change"]] == [2, 3]
    assert all(value > 0 for _, value in rounds["change"])
    arm = points(tmp_path, "grouped")
    assert arm["test_balanced_accuracy/b"] == [(0, 0.75)]
    assert arm["mean_test_balanced_accuracy"] == [(0, 0.75)]
    assert points(tmp_path, "alone")["mean_test_balanced_accuracy"] == [(0, 0.5)]


def test_nothing_is_tracked_unless_asked(tmp_path: Path) -> None:
    assert run_tracker(RunSettings(), tmp_path, "run-1") is None


def test_a_missing_extra_is_found_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("protocol.tracking.find_spec", lambda _name: None)
    with pytest.raises(ConfigError) as caught:
        check_settings({"track": "tensorboard"})
    said = "tensorboard is not installed: run `pip install 'fedprint[tensorboard]'`"
    assert str(caught.value) == said
    with pytest.raises(ConfigError, match="run-config track='wandb': Input should be"):
        check_settings({"track": "wandb"})
