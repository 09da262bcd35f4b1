"""All that measures may know of the benchmark's tasks, computed by the code that sites run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.transfer_training import few, model_of
from fl_client.describe import site_fisher
from fl_client.features import cached_features
from fl_client.histogram import BinCounter
from fl_client.learner import Learner
from fl_client.model import Adapter, SiteModel
from fl_client.moments import class_moments, moments
from fl_client.site import Site
from protocol.descriptors import Features, Fisher
from protocol.fingerprint import Fingerprint
from protocol.sharing import HIDDEN, Arrays
from protocol.spec import Spec
from strategies.measures import Task
from strategies.transferability import score_model

FISHER_IMAGES = 60
Scores = dict[str, dict[str, float]]  # by measure, then by source


def describe(every: dict[str, Learner], seeds: Sequence[int], cache: Path) -> list[Task]:
    """Return the tasks with fingerprint, card, descriptors and scores.

    Fingerprint and descriptors are of the training images of a task as source; no test image is
    looked at. Scores are of the models that the sources trained, on the target's few images; the
    mean over the seeds.
    """
    models = {name: [model_of(learner, seed) for seed in seeds] for name, learner in every.items()}
    tasks = []
    for target, learner in every.items():
        others = {name: each for name, each in models.items() if name != target}
        scores = _scores(learner, seeds, others, every)
        tasks.append(_task(learner, scores, cache))
    return tasks


def projected(tasks: Sequence[Task], spec: Spec) -> list[Task]:
    """Return the tasks with nothing but their features, in a spec's public projection."""
    assert spec.projection is not None
    out = []
    for task in tasks:
        assert task.features is not None
        values = spec.projection.apply(task.features.values).astype(np.float32)  # [n, m]
        features = Features(values, task.features.labels)
        out.append(Task(task.name, task.images, spec, features=features))
    return out


def _task(learner: Learner, scores: Scores, cache: Path) -> Task:
    train, spec = learner.data.splits["train"], learner.spec
    features = cached_features(learner.site, spec, "cpu")[0][train]
    labels = learner.data.labels[train]
    site = replace(learner.site, images=[learner.site.images[i] for i in train])
    return Task(
        site.name,
        len(train),
        spec,
        fingerprint=Fingerprint(site.name, counts_of(learner, train), spec.digest, len(train)),
        card=site.card,
        moments=moments(features),
        class_moments=class_moments(features, labels, len(learner.classes)),
        fisher=fisher_of(site, spec, features, cache),
        features=Features(features, labels),
        scores=scores,
    )


def counts_of(learner: Learner, images: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the fingerprint's counts [m, b] of some of a site's images."""
    features = cached_features(learner.site, learner.spec, "cpu")[0][images]
    counter = BinCounter(learner.spec, torch.device("cpu"))
    counter.add(torch.from_numpy(features))
    return counter.counts()


def fisher_of(site: Site, spec: Spec, features: NDArray[np.float32], cache: Path) -> Fisher:
    """Return a site's Fisher embedding, from the cache if it is there: each costs minutes."""
    kept = cache / f"{site.name}-{FISHER_IMAGES}.npy"
    if not kept.exists():
        cache.mkdir(parents=True, exist_ok=True)
        np.save(kept, site_fisher(site, spec, features, "cpu", most=FISHER_IMAGES).values)
    return Fisher(np.load(kept))


def _scores(
    target: Learner,
    seeds: Sequence[int],
    models: dict[str, list[Arrays]],
    every: dict[str, Learner],
) -> Scores:
    features = cached_features(target.site, target.spec, "cpu")[0]
    values: dict[str, dict[str, list[float]]] = {}
    for number, seed in enumerate(seeds):
        train = few(target, seed).data.splits["train"]
        for source, trained in models.items():
            answers = _answers(trained[number], every[source].classes, features[train])
            for name, value in score_model(*answers, target.data.labels[train]).items():
                values.setdefault(name, {}).setdefault(source, []).append(value)
    return {
        name: {source: float(np.mean(found)) for source, found in of.items()}
        for name, of in values.items()
    }


def _answers(
    arrays: Arrays, classes: Sequence[str], features: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return a model's embeddings [n, HIDDEN] and probabilities [n, classes]."""
    body = Adapter(features.shape[1])
    model = SiteModel(body, HIDDEN, classes, torch.ones(len(classes)), lr=0)
    model.load_arrays(arrays)
    with torch.inference_mode():
        embeddings = model.body(torch.from_numpy(features))
        return embeddings.numpy(), torch.softmax(model.head(embeddings), 1).numpy()
