"""One plain sentence for every shot: what to do, and why."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from protocol.augmentations import shipped_policies
from protocol.experiment import Architecture, Detail, Policy, Scenario
from protocol.names import printable
from strategies.shots import Measured, Shot

__all__ = ["likely", "sentence"]

ASK: dict[Scenario, str] = {
    "architecture": "Ask {who} which architecture serves them",
    "augmentation": "Ask {who} how they augment their images",
    "pretraining": "Start from weights that {who} trained",
    "co-training": "Train together with {who}",
}
"""What to do when the task is all that is known."""

DO: dict[Scenario, str] = {
    "architecture": "Use {what}, which {who} would take",
    "augmentation": "Use the augmentation policy {what}of {who}",
    "pretraining": "Start from the weights {what} of {who}",
    "co-training": "Train together with {who}",
}


def sentence(scenario: Scenario, shot: Shot, candidates: int) -> str:
    """Return the shot in words.

    Parameters
    ----------
    scenario
        Of the shot.
    shot
        Without its sentence.
    candidates
        How many tasks the target can be compared with.
    """
    task = shot.task
    who = printable(f"{task.site} ({task.name})" if task.name else task.site, 200)
    wanted = (ASK if shot.knowledge is None else DO)[scenario]
    parts = [wanted.format(who=who, what=_what(shot.knowledge))]
    parts.append(_near(shot.place, candidates))
    parts.append(_measured(shot.measured, task.id))
    if shot.better is not None:
        parts.append(f"{likely(shot.better)} likely to do better than a typical candidate")
    if shot.why == "explored":
        parts.append("tried to learn more about it")
    return f"{parts[0]}: {', '.join(part for part in parts[1:] if part)}."


def likely(probability: float) -> str:
    """Return a probability in percent, without claiming a certainty that no model has."""
    if probability > 0.99:
        return "over 99%"
    return "under 1%" if probability < 0.01 else f"{probability:.0%}"


def _what(detail: Detail | None) -> str:
    if isinstance(detail, Architecture):
        return detail.name
    if isinstance(detail, Policy):  # most have no name but that of the site
        names = (name for name, policy in shipped_policies().items() if policy == detail)
        return next((f"{name} " for name in names), "")
    return str(getattr(detail, "sha256", ""))[:12]


def _near(place: int | None, candidates: int) -> str:
    if place is None:
        return "how near it is cannot be told"
    if place == 1:
        return f"the nearest of {_counted(candidates, 'task')}"
    return f"number {place} by nearness of {_counted(candidates, 'task')}"


def _measured(measured: Sequence[Measured], source: str) -> str:
    there = [each for each in measured if each.target == source]
    others = [each for each in measured if each.target != source]
    said = [f"{_rose(there)} there"] if there else []
    if others:
        tasks = _counted(len({each.target for each in others}), "other task")
        said.append(f"{_rose(others)} on {tasks}")
    return " and ".join(said) or "nothing was measured of it yet"


def _rose(measured: Sequence[Measured]) -> str:
    """Say how the first metric changed by the knowledge; standings where there is no baseline."""
    compared = [each for each in measured if each.baseline is not None]
    if not compared:
        middle = float(np.mean([each.standing for each in measured]))
        side = "above" if middle > 0 else "below" if middle < 0 else "in"
        return f"it stood {side} the middle of what was tried"
    metric = compared[0].metric
    gains = [
        each.performance - each.baseline
        for each in compared
        if each.metric == metric and each.baseline is not None
    ]
    mean = float(np.mean(gains))
    words = metric.replace("_", " ")
    if abs(mean) < 0.0005:
        return f"{words} was as without it"
    return f"{words} {'rose' if mean > 0 else 'fell'} by {abs(mean):.3f}"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
