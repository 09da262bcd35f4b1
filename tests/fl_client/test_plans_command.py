"""What a person at the site reads of the plans that it accepted."""

from __future__ import annotations

import json
import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fixtures_sites import write_classes
from typer.testing import CliRunner

from fl_client.plan_words import augmentation
from fl_client.plans import Plans
from fl_client.policy_files import default_policy, pipeline_of
from fl_client.site_commands import site as APP
from protocol.errors import ConfigError, FedprintError
from protocol.experiment import Policy
from protocol.files import sha256_hex
from protocol.keys import generate_key, signer
from protocol.plan import Choice, Knowledge, Plan, Start, sign_plan
from protocol.spec import Spec

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC).timestamp()
KEY = signer(generate_key())
SENTENCE = "It gained 0.031 on average at 2 sites; horizontal flips gained nothing."


def plan(knowledge: Knowledge, **changes: Any) -> bytes:
    values = {
        "run": "run-1",
        "group": "grouped-2",
        "sites": {"south": "b" * 64, "north": "a" * 64},
        "knowledge": knowledge,
    }
    return sign_plan(Plan.model_validate(values | changes), KEY)


def keep(folder: Path, *signed: bytes) -> Path:
    kept = Plans(folder / ".fedprint")
    for number, envelope in enumerate(signed):
        kept.keep(envelope)
        seconds = NOON + 60 * number
        os.utime(kept.folder / f"{sha256_hex(envelope)}.dsse.json", (seconds, seconds))
    return folder


def show(*words: object) -> str:
    result = CliRunner().invoke(APP, ["plans", *map(str, words)])
    if isinstance(result.exception, FedprintError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_classes(tmp_path / "north", {"brain": 2, "lung": 2})


def lines(shown: str) -> dict[str, str]:
    return {line[:18].strip(): line[19:] for line in shown.splitlines()}


def test_one_plan_is_shown_in_words(folder: Path, spec: Spec, tmp_path: Path) -> None:
    knowledge = Knowledge(
        architecture=spec,
        augmentation=Policy(pipeline=pipeline_of(default_policy())),
        start=Start(sha256="c" * 64, architecture="resnet10t", sources=["d" * 64, "e" * 64]),
    )
    choice = Choice(scenario="augmentation", label="usual", gain=0.031, sentence=SENTENCE)
    signed = plan(knowledge, choices=[choice])
    shown = lines(show(keep(folder, signed), "--json", tmp_path / "plans.json"))
    assert shown == {
        "plan": sha256_hex(signed),
        "accepted": "2026-11-21 12:00 UTC",
        "run": "run-1",
        "group": "grouped-2: north, south",
        "architecture": f"resnet10t, weights {str(spec.weights.sha256)[:12]}, images of 32 pixels",
        "augmentation": "HorizontalFlip 50%, Affine 70%, RandomBrightnessContrast 50%",
        "start": "weights cccccccccccc of resnet10t, trained on 2 tasks",
        "why augmentation": SENTENCE,
        "signed with": f"key {KEY.public_key.keyid}",
    }
    (found,) = json.loads((tmp_path / "plans.json").read_text())["plans"]
    assert (found["sha256"], found["key_id"]) == (sha256_hex(signed), KEY.public_key.keyid)
    assert found["accepted"] == "2026-11-21T12:00:00+00:00"
    assert Plan.model_validate(found).knowledge == knowledge


def test_several_are_listed_and_one_is_picked(folder: Path) -> None:
    choice = Choice(scenario="architecture", label="as in the run", sentence="Nothing did better.")
    first, second = plan(Knowledge()), plan(Knowledge(), run="run-2", choices=[choice])
    shown = show(keep(folder, first, second))
    digests = [sha256_hex(envelope)[:12] for envelope in (first, second)]
    noon, later = "2026-11-21 12:00 UTC", "2026-11-21 12:01 UTC"
    assert shown.splitlines()[:2] == [
        f"{digests[0]}  {noon}  run run-1  group grouped-2  nothing was tried",
        f"{digests[1]}  {later}  run run-2  group grouped-2  architecture as in the run",
    ]
    picked = lines(show(folder, "--plan", digests[1]))
    assert (picked["run"], picked["architecture"]) == ("run-2", "as in the run")
    assert picked["why architecture"] == "Nothing did better."
    with pytest.raises(
        ConfigError, match=r"^no plan of .* begins with 'zz': `fedprint site plans .*` lists them"
    ):
        show(folder, "--plan", "zz")


def test_no_plan_and_no_folder(folder: Path, tmp_path: Path) -> None:
    assert re.fullmatch(r"no plan was accepted: .*plans has none\n", show(folder))
    with pytest.raises(ConfigError, match=re.escape("nowhere is no folder: name a site's folder")):
        show(tmp_path / "nowhere")


def test_steps_within_steps_in_words() -> None:
    def step(name: str, p: float = 1.0, inner: list[dict[str, Any]] | None = None) -> Any:
        held = {} if inner is None else {"transforms": inner}
        return {"__class_fullname__": name, "p": p, **held}

    compose = step("Compose", 1, [step("OneOf", 0.5, [step("ToGray"), step("Equalize", 0.2)])])
    assert augmentation(Policy(pipeline={"transform": compose})) == (
        "OneOf of (ToGray, Equalize 20%) 50%"
    )
    assert augmentation(Policy(pipeline={"transform": step("Compose", 1, [])})) == "none"
    assert augmentation(None) == "as in the run"
