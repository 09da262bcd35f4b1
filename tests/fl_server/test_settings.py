"""The run-config, validated once."""

from __future__ import annotations

import math
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from fl_server.settings import ARMS, COMPARED, SCENARIOS, RunSettings
from protocol.errors import ConfigError


def test_the_apps_own_run_config_is_the_default() -> None:
    pyproject = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    config = pyproject["tool"]["flwr"]["app"]["config"]
    read, default = RunSettings.from_run_config(config), RunSettings()
    differing = {
        name for name in RunSettings.model_fields if getattr(read, name) != getattr(default, name)
    }
    assert differing <= {"sites_dir"}
    assert set(RunSettings.model_fields) <= {key.replace("-", "_") for key in config}


@pytest.mark.parametrize(
    ("arms", "expected"),
    [
        ("alone,together,random,grouped", COMPARED),
        ("planned,grouped,random,together", ARMS),
        ("planned", ("alone", "grouped", "planned")),
        (" grouped , alone ", ("alone", "grouped")),
        ("random", ("alone", "random")),
        ("grouped,grouped,", ("alone", "grouped")),
        ("", ()),
        (("together",), ("alone", "together")),
    ],
)
def test_arms_are_ordered_and_compared_with_alone(arms: object, expected: object) -> None:
    assert RunSettings.from_run_config({"arms": arms}).arms == expected


def test_a_run_makes_plans_only_if_asked() -> None:
    assert RunSettings().arms == COMPARED
    assert "planned" not in COMPARED


@pytest.mark.parametrize(
    ("scenarios", "expected"),
    [
        ("architecture,augmentation,pretraining", SCENARIOS),
        (" pretraining , architecture,pretraining", ("architecture", "pretraining")),
        ("", ()),
    ],
)
def test_scenarios_are_tried_in_one_order(scenarios: str, expected: object) -> None:
    assert RunSettings.from_run_config({"scenarios": scenarios}).scenarios == expected


def test_only_a_run_with_plans_commits_to_how_they_are_made() -> None:
    with_plans = RunSettings(arms=("planned",)).decisive
    without = RunSettings(arms=("grouped",)).decisive
    assert with_plans.keys() - without.keys() == {"scenarios", "shots", "preset", "crop"}


def test_other_keys_are_left_to_others() -> None:
    assert RunSettings.from_run_config({"my-own": 1, "local-epochs": 7}).local_epochs == 7


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("recipe", "magic"),
        ("arms", "alone,sideways"),
        ("arms", 3),
        ("scenarios", "co-training"),
        ("scenarios", "architecture,sideways"),
        ("shots", 0),
        ("shots", 21),
        ("preset", "all"),
        ("crop", -1),
        ("crop", 4097),
        ("rounds", 0),
        ("rounds", 1.5),
        ("rounds", "many\nrounds"),
        ("local-epochs", -1),
        ("batch-size", 0),
        ("batch-size", 5000),
        ("learning-rate", -1.5),
        ("learning-rate", math.nan),
        ("learning-rate", math.inf),
        ("proximal-mu", -0.1),
        ("proximal-mu", math.inf),
        ("proximal-mu", math.nan),
        ("seed", -1),
        ("seed", 2**31),
        ("min-group-size", 0),
        ("max-group-size", -1),
        ("partners", 0),
        ("min-sites", 0),
        ("timeout", 0),
        ("timeout", math.inf),
        ("timeout", math.nan),
        ("spec", 3),
        ("out", None),
    ],
)
def test_a_bad_value_is_named_in_one_line(key: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        RunSettings.from_run_config({key: value})
    text = str(caught.value)
    assert re.match(rf"^run-config {key}=.+: .+$", text)
    assert "\n" not in text


def test_the_exact_text() -> None:
    expected = "run-config batch-size=0: Input should be greater than or equal to 1"
    with pytest.raises(ConfigError, match=rf"^{expected}$"):
        RunSettings.from_run_config({"batch-size": 0})


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"preset": "x"}, "run-config preset='x': there is no such preset: take one of offline, "),
        ({"scenarios": 3}, "run-config scenarios=3: give names in quotes, with commas between "),
    ],
)
def test_texts_name_what_to_give(config: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(expected)}"):
        RunSettings.from_run_config(config)


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError):
        RunSettings().rounds = 3  # type: ignore[misc]
