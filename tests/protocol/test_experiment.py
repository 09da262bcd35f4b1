"""Experiments: what they may say, their id, their signed form."""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from protocol.envelope import open_envelope, own_key, sign
from protocol.errors import DigestMismatch, MalformedStatement, one_line
from protocol.experiment import (
    Experiment,
    ExperimentStatement,
    parse_experiment,
    sign_experiment,
)
from protocol.keys import generate_key, signer
from protocol.statement import Digest, Subject

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
WHOLE: dict[str, Any] = {
    "scenario": "co-training",
    "target": "a" * 64,
    "source": "b" * 64,
    "detail": {"kind": "partner", "arm": "grouped", "tasks": 3},
    "hyperparameters": {"rounds": 10, "strategy": "fedavg"},
    "seed": 1,
    "metric": "balanced_accuracy",
    "performance": 0.75,
    "baseline": 0.5,
    "run": "run-1",
    "recorded": NOON,
}
DETAILS: dict[str, dict[str, Any]] = {
    "architecture": {"kind": "architecture", "name": "resnet34.a1_in1k"},
    "pretraining": {"kind": "weights", "sha256": "c" * 64, "architecture": None},
    "augmentation": {"kind": "policy", "pipeline": {"transform": {"p": 0.5, "of": [1, "x"]}}},
    "co-training": {"kind": "partner", "arm": "together", "tasks": 2},
}


def test_the_id_is_the_digest_of_the_content_by_hand() -> None:
    text = (
        '{"baseline":0.5,"detail":{"arm":"grouped","kind":"partner","tasks":3},'
        '"hyperparameters":{"rounds":10,"strategy":"fedavg"},"metric":"balanced_accuracy",'
        '"performance":0.75,"run":"run-1","scenario":"co-training","seed":1,'
        f'"source":"{"b" * 64}","target":"{"a" * 64}"}}'
    )
    experiment = Experiment.model_validate(WHOLE)
    assert experiment.id == hashlib.sha256(text.encode()).hexdigest()
    later = experiment.model_copy(update={"recorded": NOON + timedelta(days=1)})
    assert later.id == experiment.id
    assert experiment.model_copy(update={"seed": 2}).id != experiment.id


@given(
    scenario=st.sampled_from(sorted(DETAILS)),
    performance=st.floats(allow_nan=False, allow_infinity=False),
    value=st.one_of(st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False)),
)
def test_an_experiment_survives_its_envelope(
    scenario: str, performance: float, value: object
) -> None:
    changes = {"performance": performance, "hyperparameters": {"value": value}}
    experiment = Experiment.model_validate(
        WHOLE | {"scenario": scenario, "detail": DETAILS[scenario]} | changes
    )
    envelope = sign_experiment(experiment, signer(generate_key()))
    key = own_key(envelope)
    read = parse_experiment(open_envelope(envelope, lambda _: key)[0])
    assert (read, read.id) == (experiment, experiment.id)
    assert Experiment.model_validate_json(experiment.model_dump_json()).id == experiment.id


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"source": "a" * 64}, "source and target are one task: leave the source out"),
        ({"source": None}, "co-training needs a source"),
        ({"detail": DETAILS["pretraining"]}, "co-training hands over partner, not weights"),
        ({"performance": float("nan")}, "performance: Input should be a finite number"),
        ({"target": "A" * 64}, "target: String should match pattern '^[0-9a-f]{64}$'"),
        ({"code": "import os"}, "code: Extra inputs are not permitted"),
        ({"run": "run \0"}, "run: String should match pattern"),
    ],
)
def test_what_makes_no_sense_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Experiment.model_validate(WHOLE | change)
    assert one_line(caught.value).startswith(said)


def test_a_policy_has_a_limit() -> None:
    detail = {"kind": "policy", "pipeline": {"x": "y" * 65528}}
    Experiment.model_validate(WHOLE | {"scenario": "augmentation", "detail": detail})
    detail = {"kind": "policy", "pipeline": {"x": "y" * 65529}}
    with pytest.raises(ValidationError) as caught:
        Experiment.model_validate(WHOLE | {"scenario": "augmentation", "detail": detail})
    assert "a policy of 65537 bytes is longer than 65536" in one_line(caught.value)


def test_a_statement_about_another_task_is_refused() -> None:
    experiment = Experiment.model_validate(WHOLE)
    subject = Subject(name="target", digest=Digest(sha256="d" * 64))
    statement = ExperimentStatement(subject=[subject], predicate=experiment)
    envelope = json.loads(sign(statement, signer(generate_key())))
    payload = base64.b64decode(envelope["payload"])
    with pytest.raises(DigestMismatch, match="is not the target of its experiment"):
        parse_experiment(payload)
    with pytest.raises(MalformedStatement, match="is no valid ExperimentStatement"):
        parse_experiment(b"{}")
