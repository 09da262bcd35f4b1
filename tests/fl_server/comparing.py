"""Folders to compare measures on: released fingerprints, and outcomes of transfers between them."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from protocol.descriptors import ClassMoments, Features, Fisher, Moments
from protocol.envelope import sign
from protocol.files import atomic_json, atomic_write
from protocol.fingerprint import counts_to_bytes
from protocol.keys import generate_key, signer
from protocol.statement import Release, release_statement, utc_now
from protocol.taskcard import ClassCard, TaskCard
from strategies.measures import Task, available, get
from tests.strategies.synthetic import make_sites, make_spec

SPEC = make_spec(features=24, bins=12)
SIZES = [[90, 60], [80, 120], [100, 70]]


def write_prints(folder: Path, names: Sequence[str] = ("lungs", "eyes", "skin")) -> list[str]:
    """Write fingerprints of six sites, two of each of three tasks; return the sites."""
    prints, truth = make_sites(SIZES, SPEC)
    now = utc_now()
    for each in prints:
        payload = counts_to_bytes(each.counts)
        release = Release(
            site=each.site,
            spec_digest=SPEC.digest,
            spec_name=SPEC.name,
            images=each.n_images,
            policy_digest="b" * 64,
            task_card=TaskCard(name=names[truth[each.site]], classes=[ClassCard(name="c")]),
            issued=now,
            expires=now + timedelta(days=30),
        )
        atomic_write(folder / f"{each.site}.safetensors", payload)
        envelope = sign(release_statement(payload, release), signer(generate_key()))
        atomic_write(folder / f"{each.site}.dsse.json", envelope)
    atomic_json(folder / "spec.json", SPEC)
    return [each.site for each in prints]


def described(tasks: Sequence[Task], seed: int = 0) -> list[Task]:
    """Return tasks of which everything is known, as if all had been released and scored."""
    rng, sites = np.random.default_rng(seed), [task.name for task in tasks]
    return [_described(task, sites, rng) for task in tasks]


def _described(task: Task, sites: Sequence[str], rng: np.random.Generator) -> Task:
    assert task.fingerprint is not None
    assert task.card is not None
    centre = (task.fingerprint.rows * SPEC.centres).sum(axis=1)  # [m]
    values = (centre + 0.1 * rng.normal(size=(40, SPEC.width))).astype(np.float32)  # [n, m]
    labels = np.arange(40) % 2
    by_class = [values[labels == label].astype(np.float64) for label in (0, 1)]
    names = [name for name in available() if "scores" in get(name).needs]
    return replace(
        task,
        card=task.card.model_copy(
            update={
                "keywords": [task.card.name],
                "classes": [ClassCard(name="a"), ClassCard(name="b")],
            }
        ),
        moments=Moments(values.mean(axis=0, dtype=np.float64), np.cov(values.T), len(values)),
        class_moments=ClassMoments(
            np.array([20, 20]),
            np.array([x.mean(axis=0) for x in by_class]),
            np.array([x.var(axis=0, ddof=1) for x in by_class]),
        ),
        fisher=Fisher(centre**2 + 0.01 * rng.random(SPEC.width)),
        features=Features(values, labels.astype(np.int64)),
        scores={name: {site: float(rng.normal()) for site in sites} for name in names},
    )


def write_csv(path: Path, *rows: Sequence[Any]) -> Path:
    """Write a table with its header first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def write_outcomes(folder: Path, sites: Sequence[str]) -> Path:
    """Write outcomes in which sources of the target's task serve best, and one unknown task."""
    tasks = [*sites, "elsewhere"]
    write_csv(folder / "tasks.csv", ["task"], *([task] for task in tasks))
    rows = [
        ["pretraining", "auroc", target, source, repetition, gives(target, source) + repetition / 9]
        for target in tasks
        for source in tasks
        for repetition in (0, 1)
        if source != target
    ]
    header = ["scenario", "metric", "target", "source", "repetition", "performance"]
    write_csv(folder / "outcomes.csv", header, *rows)
    header = ["metric", "shrunk", "target", "repetition", "performance"]
    alone = [["auroc", 0, task, repetition, 0.5] for task in tasks for repetition in (0, 1)]
    write_csv(folder / "baselines.csv", header, *alone)
    return folder


def gives(target: str, source: str) -> float:
    """Return what a transfer gives: more within a task."""
    return 0.7 if target[:6] == source[:6] else 0.4 + 0.01 * sum(map(ord, source)) % 0.1
