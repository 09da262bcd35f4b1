"""Recorded outcomes of transfers, as tables in a folder.

``tasks.csv`` (column ``task``; numbers, ``keywords`` and ``exclusion_group`` if known),
``outcomes.csv`` or ``outcomes.csv.gz`` (scenario, metric, target, source, repetition,
performance), ``baselines.csv`` (metric, shrunk, target, repetition, performance) and
``distances/*.csv`` (row = source, column = target, lower is closer).
"""

from __future__ import annotations

import csv
import gzip
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from protocol.errors import DataError

__all__ = ["ReplayData", "read_replay"]

Floats = NDArray[np.float64]
Row = dict[str, str]

COVARIATES = ("num_samples", "num_classes", "imbalance_ratio", "max_resolution")  # as logarithms


@dataclass(frozen=True)
class ReplayData:
    """One folder of recorded outcomes.

    Parameters
    ----------
    tasks, scenarios, metrics
        Names, in the order of the tables.
    performance
        Shape ``[scenario, metric, repetition, target, source]``; NaN where nothing was recorded.
    baseline
        Without transfer, shape ``[metric, repetition, target]``; NaN where unknown.
    distances
        By name, shape ``[source, target]``; lower is closer, NaN where unknown.
    covariates
        Logarithms of what the task cards tell in numbers, shape ``[task, c]``.
    keywords
        Of every task; None if the table has none.
    eligible
        Which source, row, may serve which target, column.
    """

    tasks: list[str]
    scenarios: list[str]
    metrics: list[str]
    performance: Floats
    baseline: Floats
    distances: dict[str, Floats]
    covariates: Floats
    keywords: list[frozenset[str]] | None
    eligible: NDArray[np.bool_]


def read_replay(folder: Path) -> ReplayData:
    """Read and check a folder of recorded outcomes.

    Raises
    ------
    DataError
        If a file is missing, lacks a column, or names a task that ``tasks.csv`` does not.
    """
    cards = _rows(folder / "tasks.csv", ["task"])
    tasks = [card["task"] for card in cards]
    if len(set(tasks)) != len(tasks):
        raise DataError(f"{folder / 'tasks.csv'}: a task is listed twice; name each once")
    zipped = folder / "outcomes.csv.gz"
    path = zipped if zipped.exists() else folder / "outcomes.csv"
    needed = ["scenario", "metric", "target", "source", "repetition", "performance"]
    outcomes = _rows(path, needed)
    if not outcomes:
        raise DataError(f"{path}: no outcomes; record at least one transfer")
    scenarios = list(dict.fromkeys(row["scenario"] for row in outcomes))
    metrics = list(dict.fromkeys(row["metric"] for row in outcomes))
    repetitions = sorted({row["repetition"] for row in outcomes})
    axes = [scenarios, metrics, repetitions, tasks, tasks]
    names = ["scenario", "metric", "repetition", "target", "source"]
    eligible = _eligible(cards)
    performance = _filled(path, outcomes, names, axes)
    performance[..., ~eligible.T] = np.nan
    keywords = [frozenset(filter(None, c.get("keywords", "").split("|"))) for c in cards]
    return ReplayData(
        tasks,
        scenarios,
        metrics,
        performance,
        _baselines(folder / "baselines.csv", cards, metrics, repetitions, tasks),
        {p.stem: _matrix(p, tasks) for p in sorted((folder / "distances").glob("*.csv"))},
        np.array([[_log(card.get(name, "")) for name in COVARIATES] for card in cards]),
        keywords if any(keywords) else None,
        eligible,
    )


def _rows(path: Path, columns: Iterable[str]) -> list[Row]:
    try:
        with (
            gzip.open(path, "rt", newline="", encoding="utf-8")
            if path.suffix == ".gz"
            else open(path, newline="", encoding="utf-8") as file
        ):
            reader = csv.DictReader(file)
            missing = [c for c in columns if c not in (reader.fieldnames or [])]
            if missing:
                raise DataError(f"{path}: no column {missing[0]!r}; add it to the header")
            return [{k: v or "" for k, v in row.items() if k is not None} for row in reader]
    except FileNotFoundError:
        raise DataError(f"{path} is missing: give a folder of recorded outcomes") from None
    except (OSError, UnicodeDecodeError, csv.Error, EOFError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None


def _filled(path: Path, rows: list[Row], names: list[str], axes: list[list[str]]) -> Floats:
    places = [{value: i for i, value in enumerate(axis)} for axis in axes]
    out = np.full([len(axis) for axis in axes], np.nan)
    for line, row in enumerate(rows, start=2):
        try:
            where = tuple(place[row[name]] for place, name in zip(places, names, strict=True))
        except KeyError as error:
            raise DataError(
                f"{path}, line {line}: {error.args[0]!r} is not in tasks.csv; add the task there"
            ) from None
        out[where] = _number(row["performance"], path, line)
    return out


def _baselines(
    path: Path, cards: list[Row], metrics: list[str], repetitions: list[str], tasks: list[str]
) -> Floats:
    if not path.exists():
        return np.full((len(metrics), len(repetitions), len(tasks)), np.nan)
    shrunk = {card["task"]: card.get("shrunk_as_target", "") or "0" for card in cards}
    rows = [
        row
        for row in _rows(path, ["metric", "target", "repetition", "performance"])
        if row["metric"] in metrics
        and row["repetition"] in repetitions
        and (row.get("shrunk") or "0") == shrunk.get(row["target"], "0")
    ]
    names = ["metric", "repetition", "target"]
    out = _filled(path, rows, names, [metrics, repetitions, tasks])
    known = np.isfinite(out)
    total, count = np.where(known, out, 0).sum(axis=1), known.sum(axis=1)
    mean = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return np.where(known, out, mean[:, None, :])  # a repetition without its own takes the mean


def _matrix(path: Path, tasks: list[str]) -> Floats:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            table = [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    place = {task: i for i, task in enumerate(tasks)}
    out = np.full((len(tasks), len(tasks)), np.nan)
    header = table[0][1:] if table else []
    for line, row in enumerate(table[1:], start=2):
        if len(row) != len(header) + 1:
            raise DataError(
                f"{path}, line {line}: {len(row)} cells, the header has {len(table[0])}"
            )
        for target, cell in zip(header, row[1:], strict=True):
            if row[0] in place and target in place:
                out[place[row[0]], place[target]] = _number(cell, path, line)
    return out


def _eligible(cards: list[Row]) -> NDArray[np.bool_]:
    groups = np.array([card.get("exclusion_group", "") or f"\0{i}" for i, card in enumerate(cards)])
    return np.asarray(groups[:, None] != groups[None, :])


def _number(text: str, path: Path, line: int) -> float:
    try:
        value = float(text) if text.strip() else math.nan
    except ValueError:
        raise DataError(f"{path}, line {line}: {text!r} is not a number; correct it") from None
    return value if math.isfinite(value) else math.nan


def _log(text: str) -> float:
    try:
        return math.log(float(text))
    except ValueError:
        return math.nan
