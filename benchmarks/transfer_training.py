"""All transfers between tasks, trained by the very code that sites train with, and kept.

Adapter recipe on frozen features. As in Godau et al. (arXiv 2412.08763) a target has few images
and a source all of its own; here `FEW`, drawn anew for every seed, and 60 to 160. Every training
of a target has the same budget, `ROUNDS` epochs of these images:

- *alone*: from a new adapter. What a transfer has to beat.
- *pretraining*: from the adapter that the source trained alone, to the end.
- *co-training*: both train in rounds of one epoch and average their adapters, weighted by their
  images, as FedAvg does; heads stay apart, because no two tasks here have a class in common.
- *co-training-equal*: the same, but the source has few images too, so that sizes decide nothing.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np

from fl_client.learner import Learner
from fl_client.models import RunModels
from fl_client.site import read_site
from protocol.orders import Order
from protocol.sharing import Arrays
from protocol.spec import Spec
from protocol.weights import body_of

RUN = "transfer"
FEW, ROUNDS, BATCH = 32, 8, 16
SOURCE_EPOCHS = 20
SCENARIOS = ("pretraining", "co-training", "co-training-equal")
NAMES = ("scenario", "seed", "source", "target")
METRICS = ("balanced_accuracy", "auroc")

Scores = dict[str, float]
Key = tuple[str, int, str, str]  # scenario, seed, source (empty: none), target


class Kept:
    """What was measured, one line a training in a file that a killed run goes on with.

    Of other seeds than those given, nothing is taken.
    """

    def __init__(self, path: Path, seeds: Sequence[int]) -> None:
        self.path, self.scores = path, dict[Key, Scores]()
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        whole = [line for line in lines if line.endswith("\n")]
        if len(whole) < len(lines):
            path.write_text("".join(whole))  # the last line was cut short
        for line in whole:
            row = json.loads(line)
            key = (row["scenario"], row["seed"], row["source"], row["target"])
            if row["seed"] in seeds:
                self.scores[key] = {name: row[name] for name in METRICS}

    def add(self, key: Key, scores: Scores) -> None:
        """Keep the test scores of one training, and write them at once."""
        self.scores[key] = {name: float(scores[f"test_{name}"]) for name in METRICS}
        row = dict(zip(NAMES, key, strict=True)) | self.scores[key]
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")


def learners(folders: Sequence[Path], spec: Spec) -> dict[str, Learner]:
    """Return who trains, by name; features are computed where they are not cached."""
    sites = [read_site(folder) for folder in folders]
    return {site.name: Learner(site, spec, "adapter", "cpu", seed=0) for site in sites}


def order(spec: Spec, arm: str, seed: int, epochs: int, server_round: int = 0) -> Order:
    """Return what a coordinator would ask of one training."""
    return Order(
        run=RUN,
        arm=arm,
        spec=spec,
        recipe="adapter",
        epochs=epochs,
        batch_size=BATCH,
        learning_rate=0,
        seed=seed,
        server_round=server_round,
    )


def few(learner: Learner, seed: int) -> Learner:
    """Return the same task with few images to train on, of every class the same number."""
    data, rng = learner.data, np.random.default_rng(seed)
    train = rng.permutation(data.splits["train"])
    labels, each = data.labels[train], FEW // len(learner.classes)
    chosen = [train[labels == kind][:each] for kind in range(len(learner.classes))]
    target = copy.copy(learner)
    target.data = replace(data, splits={**data.splits, "train": np.sort(np.concatenate(chosen))})
    return target


def model_of(learner: Learner, seed: int) -> Arrays:
    """Return the model that a source trained alone."""
    return RunModels(learner.site, RUN, f"source-{seed}").load("model")


def measure_all(
    every: dict[str, Learner], seeds: Sequence[int], kept: Kept, step: Callable[[], None]
) -> None:
    """Train whatever is not kept yet, seed by seed."""
    for key in _keys(list(every), seeds):
        if key not in kept.scores:
            kept.add(key, _trained(every, *key))
        step()


def trainings(tasks: int, seeds: int) -> int:
    """Return how many trainings there are: sources, targets alone, and pairs."""
    return seeds * (2 * tasks + len(SCENARIOS) * tasks * (tasks - 1))


def _keys(names: Sequence[str], seeds: Sequence[int]) -> Iterator[Key]:
    for seed in seeds:
        yield from (("source", seed, "", name) for name in names)
        yield from (("alone", seed, "", name) for name in names)
        for scenario in SCENARIOS:
            yield from ((scenario, seed, *pair) for pair in permutations(names, 2))


def _trained(
    every: dict[str, Learner], scenario: str, seed: int, source: str, target: str
) -> Scores:
    """Train once; return the target's scores."""
    learner = every[target]
    if scenario == "source":
        return learner.train_alone(order(learner.spec, f"source-{seed}", seed, SOURCE_EPOCHS))
    if scenario == "co-training":
        return _together(every[source], few(learner, seed), seed)
    if scenario == "co-training-equal":
        return _together(few(every[source], seed), few(learner, seed), seed)
    given = body_of(model_of(every[source], seed)) if source else None
    return few(learner, seed).try_out(order(learner.spec, scenario, seed, ROUNDS), given)


def _together(source: Learner, target: Learner, seed: int) -> Scores:
    pair, arm = (source, target), "co-training"
    examples = [learner.examples for learner in pair]
    body = body_of(target.start(seed))  # the same for all, by the seed
    for number in range(1, ROUNDS + 1):
        asked = order(target.spec, arm, seed, epochs=1, server_round=number)
        sent = [learner.train_round(asked, body) for learner in pair]
        body = {
            name: np.average([s[name] for s in sent], axis=0, weights=examples).astype(np.float32)
            for name in body
        }
    return target.finish(order(target.spec, arm, seed, epochs=1), body)
