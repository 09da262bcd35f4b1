"""What is settled before a simulation starts: settings, site folders, run folder."""

from __future__ import annotations

import json
import re
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_server import simulation
from fl_server.runfolder import RUN_FILES
from fl_server.settings import COMPARED, RunSettings
from fl_server.simulation import (
    check_settings,
    clear_run_folder,
    parse_run_config,
    prepare_run_folder,
    run_simulation,
    site_folders,
)
from protocol.errors import ConfigError, FedprintError
from protocol.spec import load_spec

ROOT = Path(__file__).parents[2]
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]


def test_settings_are_those_of_the_app() -> None:
    declared = RunSettings.from_run_config(CONFIG).model_dump()
    # no file of a run says which pool advised it: its URL may hold a password
    assert {key.replace("_", "-") for key in declared} == set(CONFIG) - {"pool"}
    assert declared == {**RunSettings().model_dump(), "sites_dir": CONFIG["sites-dir"]}


def test_page_explains_every_setting_with_its_default() -> None:
    page = (ROOT / "docs" / "reference" / "running.md").read_text()
    rows = dict(re.findall(r"^\| `([\w-]+)` \| `(.*?)` \|", page, re.MULTILINE))
    shown = {k: v if isinstance(v, str) and v else json.dumps(v) for k, v in CONFIG.items()}
    assert rows == shown


def test_page_lists_every_file_of_a_run() -> None:
    page = (ROOT / "docs" / "reference" / "running.md").read_text()
    table = page.partition("## What a run leaves")[2].partition("## After")[0]
    for name in RUN_FILES:
        assert f"`{name}" in table


def test_run_config_is_read_as_toml() -> None:
    text = "rounds=5 strategy=\"fed avg\"  learning-rate=1e-3 out='a b' rounds=7"
    assert parse_run_config(text) == {
        "rounds": 7,
        "strategy": "fed avg",
        "learning-rate": 0.001,
        "out": "a b",
    }
    assert parse_run_config("  ") == {}


@given(st.text(max_size=40))
def test_no_run_config_breaks_the_parser(text: str) -> None:
    with suppress(ConfigError):
        assert isinstance(parse_run_config(text), dict)


def test_alone_is_always_an_arm() -> None:
    assert check_settings({"arms": "grouped"}).arms == ("alone", "grouped")
    assert check_settings({"arms": "grouped, random,together ,alone"}).arms == COMPARED
    assert check_settings({"arms": ""}).arms == ()


def test_site_folders_are_the_visible_ones(tmp_path: Path) -> None:
    for name in ("south", ".cache", "north"):
        (tmp_path / name).mkdir()
    (tmp_path / "README.txt").write_text("")
    assert [folder.name for folder in site_folders(tmp_path)] == ["north", "south"]


def write_unfinished_run(out: Path) -> None:
    """Write what a run that was killed in the middle leaves, and a demo's sites."""
    for name in ("fingerprints/north.safetensors", "spec.json", "sites/north/0.png"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("")


def test_files_of_another_run_are_not_mixed_in(tmp_path: Path) -> None:
    write_unfinished_run(tmp_path)
    with pytest.raises(ConfigError) as caught:
        prepare_run_folder(tmp_path, overwrite=False)
    assert str(caught.value) == (
        f"{tmp_path} holds an earlier run (spec.json): choose another --out or add --overwrite"
    )
    prepare_run_folder(tmp_path, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["sites"]


def test_only_the_run_is_cleared(tmp_path: Path) -> None:
    write_unfinished_run(tmp_path)
    clear_run_folder(tmp_path)
    assert (tmp_path / "sites" / "north" / "0.png").exists()
    write_unfinished_run(tmp_path / "other")
    (tmp_path / "other" / "sites" / "north" / "0.png").unlink()
    for folder in ("sites/north", "sites"):
        (tmp_path / "other" / folder).rmdir()
    clear_run_folder(tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("ended", [False, True])
def test_run_that_fails_leaves_its_folder_only_if_it_was_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended: bool
) -> None:
    out = tmp_path / "run"

    def failing(sites: int, values: dict[str, Any], **_: object) -> None:
        assert (sites, values["min-sites"], values["out"]) == (2, 2, str(out))
        write_unfinished_run(out)
        if ended:
            (out / "log").mkdir()
            (out / "log" / "checkpoint.dsse.json").write_text("{}")
        raise FedprintError("the engine broke")

    monkeypatch.setattr(simulation, "simulate", failing)
    for name in ("north", "south"):
        (tmp_path / "sites" / name / "a").mkdir(parents=True)
    with pytest.raises(FedprintError, match="the engine broke"):
        run_simulation(tmp_path / "sites", out)
    assert (out / "spec.json").exists() == ended


def test_a_spec_file_is_found_from_the_engines_own_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own.json").write_text(load_spec("lite0-100").as_json)
    monkeypatch.chdir(tmp_path)
    assert check_settings({"spec": "own.json"}).spec == str(tmp_path / "own.json")
    assert check_settings({"spec": "lite0-1000"}).spec == "lite0-1000"
    with pytest.raises(ConfigError, match=r"^no spec file other\.json: give a spec's JSON file"):
        check_settings({"spec": "other.json"})
