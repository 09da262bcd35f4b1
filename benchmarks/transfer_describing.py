"""All that measures may know of the benchmark's tasks, computed by the code that sites run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from strategies.transferability import score_model

from benchmarks.transfer_training import model_of
from fl_client.features import cached_features
from fl_client.learner import Learner
from fl_client.model import Adapter, SiteModel
from protocol.fingerprint import Fingerprint
from protocol.sharing import HIDDEN, Arrays
from strategies.measures import Task

Scores = dict[str, dict[str, float]]  # by measure, then by source


def describe(every: dict[str, Learner], seeds: Sequence[int]) -> list[Task]:
    """Return the tasks with fingerprint, card, descriptors and scores, of all images but scores.

    Scores are of the models that the sources trained alone, on the target's training images, and
    means over the seeds.
    """
    models = {name: [model_of(learner, s) for s in seeds] for name, learner in every.items()}
    return [_task(learner, _scores(learner, models, every)) for learner in every.values()]


def _task(learner: Learner, scores: Scores) -> Task:
    site, spec = learner.site, learner.spec
    counts = cached_features(site, spec, "cpu")[1]
    images = len(site.images)
    return Task(
        site.name,
        images,
        spec,
        fingerprint=Fingerprint(site.name, counts, spec.digest, images),
        card=site.card,
        scores=scores,
    )


def _scores(target: Learner, models: dict[str, list[Arrays]], every: dict[str, Learner]) -> Scores:
    train = target.data.splits["train"]
    features = cached_features(target.site, target.spec, "cpu")[0][train]
    labels = target.data.labels[train]
    found: Scores = {}
    for source, trained in models.items():
        values = [
            score_model(*_answers(arrays, every[source].classes, features), labels)
            for arrays in trained
        ]
        for name in values[0]:
            found.setdefault(name, {})[source] = float(np.mean([v[name] for v in values]))
    return found


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
