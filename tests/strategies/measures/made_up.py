"""Tasks of made-up features that have everything any measure needs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from protocol.descriptors import ClassMoments, Features, Fisher, Moments
from protocol.fingerprint import Fingerprint
from protocol.spec import Spec
from protocol.taskcard import ClassCard, TaskCard, TaskProperties
from strategies.measures import Task
from tests.strategies.synthetic import make_spec

SPEC = make_spec(features=6, bins=8)


def make_task(
    name: str,
    family: int = 0,
    images: int = 40,
    *,
    spec: Spec = SPEC,
    seed: int = 0,
    keywords: Sequence[str] = (),
    properties: TaskProperties | None = None,
    classes: Sequence[str] = ("a", "b"),
) -> Task:
    """Return a task whose images lie where its family does, the seed aside."""
    own, rng = np.random.default_rng(1000 + family), np.random.default_rng([seed, family])
    width = spec.upper_array - spec.lower_array
    centres = own.uniform(0.3, 0.7, (len(classes), spec.width))  # [c, m]
    labels = np.arange(images) % len(classes)
    spread = own.uniform(0.03, 0.1, spec.width)
    values = (centres[labels] + spread * rng.normal(size=(images, spec.width))) * width
    return task_of(
        name,
        spec.lower_array + values,
        labels,
        spec,
        card=TaskCard(
            name=f"family {family}",
            keywords=list(keywords),
            classes=[ClassCard(name=c) for c in classes],
            properties=properties or TaskProperties(),
        ),
        fisher=own.uniform(0.0, 1.0, 30) + 0.02 * rng.uniform(size=30),
    )


def task_of(
    name: str,
    values: np.ndarray,
    labels: np.ndarray,
    spec: Spec,
    card: TaskCard,
    fisher: np.ndarray,
) -> Task:
    """Return the task of these features [n, m] and labels [n]."""
    n, (low, high) = len(values), (spec.lower_array, spec.upper_array)
    bins = ((values - low) / (high - low) * spec.bins).astype(np.int64).clip(0, spec.bins - 1)
    counts = np.stack([np.bincount(column, minlength=spec.bins) for column in bins.T])
    each = [values[labels == c] for c in range(len(card.classes))]
    return Task(
        name,
        n,
        spec,
        fingerprint=Fingerprint(name, counts, spec.digest, n),
        card=card,
        moments=Moments(values.mean(axis=0), np.cov(values, rowvar=False), n),
        class_moments=ClassMoments(
            np.array([len(own) for own in each]),
            np.stack([own.mean(axis=0) for own in each]),
            np.stack([own.var(axis=0, ddof=1) for own in each]),
        ),
        fisher=Fisher(fisher),
        features=Features(values.astype(np.float32), labels.astype(np.int64)),
    )


def make_tasks(families: Sequence[int], images: int = 40, spec: Spec = SPEC) -> list[Task]:
    """Return one task for each entry, those of one family alike."""
    return [
        make_task(f"site-{i}", family, images, spec=spec, seed=i)
        for i, family in enumerate(families)
    ]
