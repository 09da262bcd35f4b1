"""Measured transfers as a folder of recorded outcomes, which `fedprint replay --data` reads."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.transfer_training import METRICS, Kept
from fl_client.learner import Learner
from protocol.files import atomic_write

Rows = Iterable[Sequence[object]]


def write_outcomes(folder: Path, kept: Kept) -> None:
    """Write ``outcomes.csv.gz`` and ``baselines.csv``; the seed is the repetition."""
    outcomes, baselines = list[list[object]](), list[list[object]]()
    for (scenario, seed, source, target), scores in sorted(kept.scores.items()):
        for metric in METRICS:
            value = f"{scores[metric]:.6f}"
            if scenario == "alone":
                baselines.append([metric, 0, target, seed, value])
            elif scenario != "source":
                outcomes.append([scenario, metric, target, source, seed, value])
    names = ["scenario", "metric", "target", "source", "repetition", "performance"]
    packed = gzip.compress(_table(names, outcomes).encode(), mtime=0)  # the same bytes again
    atomic_write(folder / "outcomes.csv.gz", packed)
    names = ["metric", "shrunk", "target", "repetition", "performance"]
    atomic_write(folder / "baselines.csv", _table(names, baselines))


def write_cards(folder: Path, learners: dict[str, Learner], families: dict[str, str]) -> None:
    """Write ``tasks.csv``; siblings have one family, and may be each other's source."""
    names = ["order", "task", "family", "num_classes", "num_samples", "imbalance_ratio"]
    names += ["keywords"]
    rows = list[list[object]]()
    for number, (name, learner) in enumerate(learners.items()):
        labels = learner.data.labels[learner.data.splits["train"]]
        counts = np.bincount(labels, minlength=len(learner.classes))
        card, family = learner.site.card, families[name]
        words = [word.lower() for word in [card.modality, card.anatomy, *card.keywords] if word]
        row = [number, name, family, len(counts), len(labels), f"{counts.max() / counts.min():.4g}"]
        rows.append([*row, "|".join(words)])
    atomic_write(folder / "tasks.csv", _table(names, rows))


def families_of(folder: Path) -> dict[str, str]:
    """Return the family of each task of ``tasks.csv``."""
    with (folder / "tasks.csv").open(newline="", encoding="utf-8") as file:
        return {row["task"]: row["family"] for row in csv.DictReader(file)}


def write_distances(folder: Path, name: str, names: list[str], d: NDArray[np.float64]) -> None:
    """Write one matrix: row = source, column = target, lower is closer, empty where unknown."""
    cells = [["" if np.isnan(v) else f"{v:.9g}" for v in row] for row in d]
    rows = [[source, *row] for source, row in zip(names, cells, strict=True)]
    (folder / "distances").mkdir(parents=True, exist_ok=True)
    text = _table(["source\\target", *names], rows)
    atomic_write(folder / "distances" / f"{name}.csv", text)


def _table(names: Sequence[str], rows: Rows) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([names, *rows])
    return text.getvalue()
