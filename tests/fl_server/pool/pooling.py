"""Signed releases and experiments by the dozen, and pools that hold them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from fl_server.pool import Pool, open_pool
from fl_server.pool.export import export_pool
from fl_server.pool.records import ExperimentRecord, TaskRecord, open_experiment, open_release
from fl_server.pool.store import Tally, put_all
from fl_server.pool.views import list_tasks, show
from protocol.envelope import sign
from protocol.experiment import Architecture, Experiment, Partner, sign_experiment
from protocol.files import sha256_hex
from protocol.fingerprint import counts_to_bytes
from protocol.keys import generate_key, signer
from protocol.spec import Spec
from protocol.statement import Release, release_statement, utc_now
from protocol.taskcard import ClassCard, TaskCard
from tests.strategies.synthetic import make_spec

SPEC = make_spec(features=6, bins=5)
NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
COORDINATOR = signer(generate_key())
KEY = generate_key()


def counts_of(number: int, spec: Spec = SPEC) -> np.ndarray[Any, Any]:
    """Return counts [m, b] that no other number has; every row adds up to 40 + number."""
    rng = np.random.default_rng(number)
    shares = np.full(spec.bins, 1 / spec.bins)
    return rng.multinomial(40 + number, shares, size=spec.features)


def released(
    number: int,
    key: PrivateKeyTypes = KEY,
    spec: Spec = SPEC,
    card: TaskCard | None = None,
    **changes: Any,
) -> tuple[bytes, bytes]:
    """Return payload and envelope of a plain release of `site-NUMBER`."""
    payload, now = counts_to_bytes(counts_of(number, spec)), utc_now()
    values: dict[str, Any] = {
        "site": f"site-{number}",
        "spec_digest": spec.digest,
        "spec_name": spec.name,
        "images": 40 + number,
        "policy_digest": "b" * 64,
        "task_card": card or TaskCard(name=f"task {number}", classes=[ClassCard(name="x")]),
        "issued": now,
        "expires": now + timedelta(days=30),
    }
    release = Release.model_validate(values | changes)
    return payload, sign(release_statement(payload, release), signer(key))


def a_task(number: int, vouched_by: str = "c" * 64, **changes: Any) -> TaskRecord:
    """Return a verified task."""
    return open_release(*released(number, **changes), SPEC, vouched_by=vouched_by)


def task_id(number: int) -> str:
    """Return the id of a task."""
    return sha256_hex(counts_to_bytes(counts_of(number)))


def experiment(target: int, source: int | None, **changes: Any) -> Experiment:
    """Return an experiment on one task with knowledge of another."""
    values: dict[str, Any] = {
        "scenario": "co-training" if source is not None else "architecture",
        "target": task_id(target),
        "source": task_id(source) if source is not None else None,
        "detail": Partner(arm="grouped", tasks=2) if source is not None else Architecture(name="a"),
        "hyperparameters": {"rounds": 10, "strategy": "fedavg", "learning_rate": 0.1},
        "seed": 4,
        "metric": "balanced_accuracy",
        "performance": 0.1 + 0.7 / (1 + target),
        "baseline": 1 / 3,
        "run": "run-1",
        "recorded": NOON,
    }
    return Experiment.model_validate(values | changes)


def measured(each: Experiment, vouched_by: str = "c" * 64) -> ExperimentRecord:
    """Return an experiment that the coordinator signed."""
    return open_experiment(sign_experiment(each, COORDINATOR), vouched_by=vouched_by)


def filled(where: str, numbers: range = range(4)) -> Pool:
    """Return a pool with tasks, each tried on the next one."""
    pool = open_pool(where, create=True)
    pairs = zip(numbers, list(numbers)[1:], strict=False)
    experiments = [measured(experiment(target, source)) for target, source in pairs]
    with pool.writing() as session:
        put_all(session, [a_task(number) for number in numbers], experiments, Tally())
    return pool


def names(pool: Pool) -> list[str]:
    """Return the sites whose tasks a pool holds."""
    with pool.reading() as session:
        return [task["site"] for task in list_tasks(session)]


def everything(pool: Pool) -> str:
    """Return all that a pool says of its tasks and their experiments, as JSON."""
    with pool.reading() as session:
        tasks = list_tasks(session)
        return json.dumps([tasks, [show(session, task["id"]) for task in tasks]])


def body(pool: Pool, folder: Path) -> bytes:
    """Return what a pool exports, without the signature."""
    export_pool(pool, folder / "body.jsonl", COORDINATOR)
    return (folder / "body.jsonl").read_bytes().partition(b"\n")[2]
