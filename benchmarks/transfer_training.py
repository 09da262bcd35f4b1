"""All transfers between tasks, trained by the very code that sites train with, and kept.

Adapter recipe on frozen features; every training has the same budget: `ROUNDS` x `EPOCHS` epochs
of the target's own images.

- *alone*: from a new adapter. What a transfer has to beat.
- *pretraining*: from the adapter that the source trained alone.
- *co-training*: both train in rounds and average their adapters, weighted by their images, as
  FedAvg does; heads stay apart, because no two tasks here have a class in common.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
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
ROUNDS, EPOCHS, BATCH = 5, 4, 16
METRICS = ("balanced_accuracy", "auroc")

Scores = dict[str, float]
Key = tuple[str, int, str, str]  # scenario, seed, source (empty: none), target


class Kept:
    """What was measured, one line a training in a file that a killed run goes on with."""

    def __init__(self, path: Path) -> None:
        self.path, self.scores = path, dict[Key, Scores]()
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        whole = [line for line in lines if line.endswith("\n")]
        if len(whole) < len(lines):
            path.write_text("".join(whole))  # the last line was cut short
        for line in whole:
            for row in json.loads(line):
                key = (row["scenario"], row["seed"], row["source"], row["target"])
                self.scores[key] = {name: row[name] for name in METRICS}

    def add(self, found: dict[Key, Scores]) -> None:
        """Keep the scores of one training, on test data, and write them at once."""
        names = ("scenario", "seed", "source", "target")
        kept = {key: {m: float(one[f"test_{m}"]) for m in METRICS} for key, one in found.items()}
        rows = [dict(zip(names, key, strict=True)) | scores for key, scores in kept.items()]
        with self.path.open("a") as file:
            file.write(json.dumps(rows) + "\n")
        self.scores |= kept


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


def model_of(learner: Learner, seed: int) -> Arrays:
    """Return the model that a task trained alone."""
    return RunModels(learner.site, RUN, f"alone-{seed}").load("model")


def measure_all(
    every: dict[str, Learner], seeds: Sequence[int], kept: Kept, step: Callable[[], None]
) -> None:
    """Train whatever is not kept yet, seed by seed."""
    for key, train in _trainings(every, seeds):
        if key not in kept.scores:
            kept.add(train())
        step()


def trainings(tasks: int, seeds: int) -> int:
    """Return how many trainings there are: alone, ordered pairs, unordered pairs."""
    return seeds * (tasks + tasks * (tasks - 1) * 3 // 2)


def _trainings(
    every: dict[str, Learner], seeds: Sequence[int]
) -> Iterator[tuple[Key, Callable[[], dict[Key, Scores]]]]:
    for seed in seeds:
        for name in every:
            yield ("alone", seed, "", name), lambda n=name, s=seed: _alone(every, n, s)  # type: ignore[misc]
        for one, other in combinations(every, 2):
            for source, target in ((one, other), (other, one)):
                yield (
                    ("pretraining", seed, source, target),
                    lambda a=source, b=target, s=seed: _pretrained(every, a, b, s),  # type: ignore[misc]
                )
            yield (
                ("co-training", seed, one, other),
                lambda a=one, b=other, s=seed: _together(every, a, b, s),  # type: ignore[misc]
            )


def _alone(every: dict[str, Learner], name: str, seed: int) -> dict[Key, Scores]:
    learner = every[name]
    scores = learner.train_alone(order(learner.spec, f"alone-{seed}", seed, ROUNDS * EPOCHS))
    return {("alone", seed, "", name): scores}


def _pretrained(
    every: dict[str, Learner], source: str, target: str, seed: int
) -> dict[Key, Scores]:
    learner, body = every[target], body_of(model_of(every[source], seed))
    scores = learner.try_out(order(learner.spec, "pretraining", seed, ROUNDS * EPOCHS), body)
    return {("pretraining", seed, source, target): scores}


def _together(every: dict[str, Learner], one: str, other: str, seed: int) -> dict[Key, Scores]:
    """Train two tasks together; what comes of it counts for both."""
    pair = [every[one], every[other]]
    examples = np.array([learner.examples for learner in pair], dtype=np.float64)
    body = body_of(pair[0].start(seed))  # the same for all, by the seed
    for number in range(1, ROUNDS + 1):
        asked = order(pair[0].spec, "co-training", seed, EPOCHS, number)
        sent = [learner.train_round(asked, body) for learner in pair]
        body = {
            name: np.average([s[name] for s in sent], axis=0, weights=examples).astype(np.float32)
            for name in body
        }
    last = order(pair[0].spec, "co-training", seed, EPOCHS)
    scores = [learner.finish(last, body) for learner in pair]
    return {
        ("co-training", seed, one, other): scores[1],
        ("co-training", seed, other, one): scores[0],
    }
