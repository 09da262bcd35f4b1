"""What a report says of groups that learn something else than one class an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fl_server.report_data import RunData
from fl_server.report_numbers import ARMS
from protocol.runfiles import SiteMetrics
from protocol.taskcard import Objective, TaskCard

OWN = {
    "test_average_precision": "mean average precision",
    "test_quadratic_kappa": "quadratic weighted kappa",
    "test_grade_error": "mean error in grades",
}
"""Scores that some objectives have beside balanced accuracy, as people call them."""


def objectives_of(data: RunData) -> dict[str, Objective]:
    """Return what the sites of each group learn, by name of the group.

    Groups hold sites of one objective; one whose cards cannot be read says nothing.
    """
    found: dict[str, Objective] = {}
    for group in data.groups.groups:
        releases = (data.releases.get(site) for site in group.sites)
        cards = [r.verified.card for r in releases if r is not None and r.verified is not None]
        if cards:
            found[group.name] = cards[0].objective
    return found


def guessed(card: TaskCard) -> float:
    """Return the balanced accuracy of guessing: of several labels each is there or not."""
    return 0.5 if card.objective == "multilabel" else 1 / len(card.classes)


def own_scores(
    metrics: dict[str, SiteMetrics], sites: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Return means over a group's sites on test data, by score and arm; of what it has.

    Parameters
    ----------
    metrics : dict
        By site.
    sites : sequence of str
        Of the group.
    """
    found: dict[str, dict[str, float]] = {}
    for score, label in OWN.items():
        for arm in ARMS:
            values = [_score(metrics[site], arm, score) for site in sites if site in metrics]
            known = [value for value in values if value is not None]
            if known and len(known) == len(values):
                found.setdefault(label, {})[arm] = sum(known) / len(known)
    return found


def _score(outcome: SiteMetrics, arm: str, score: str) -> float | None:
    """Return one score of one arm; fields beyond the schema may hold anything."""
    kept = outcome.kept if arm == "final" else arm
    found: Any = (outcome.model_extra or {}).get("scores")
    scores = found.get(kept) if isinstance(found, dict) else None
    value = scores.get(score) if isinstance(scores, dict) else None
    return float(value) if isinstance(value, int | float) else None
