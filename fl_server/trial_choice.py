"""What a group takes of the shots that it tried, from its sites' scores on validation data."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from protocol.experiment import Scenario
from protocol.plan import Choice
from protocol.trials import Scores, Tried
from strategies.joint_choice import JointChoice, joint_choice

AS_IN_THE_RUN = "as in the run"
"""What a group is said to choose where no shot did better."""
DECISIVE = "val_auroc"
"""What decides. Balanced accuracy has few steps on a dozen images: its gain on validation data
hardly goes with that on test data, the gain in AUROC does (docs/explanation/plans.md)."""
METRICS = ("balanced_accuracy", "auroc", "loss")
SCORES = tuple(f"{split}_{metric}" for split in ("val", "test") for metric in METRICS)


def plain(scores: Mapping[str, float | None]) -> Scores:
    """Return the scores that are kept of a site's answer; None where one cannot be true.

    A site that says more than 1 of an accuracy would outweigh all others in the group's mean.
    """
    return {name: _believed(name, scores[name]) for name in SCORES if name in scores}


def choose(
    scenario: Scenario,
    baseline: Mapping[str, Scores],
    tried: Sequence[Tried],
    untried: Mapping[str, str],
    apart: Collection[str] = (),
) -> tuple[Choice, Tried | None]:
    """Return what a group takes in one scenario, and the shot if it is one.

    Parameters
    ----------
    scenario : str
        Architecture, augmentation or pretraining.
    baseline : mapping of str to dict
        Each site's scores without any of the shots.
    tried : sequence of Tried
        The shots, in rank order.
    untried : mapping of str to str
        Shots that no site could try.
    apart : collection of str
        Sites that train by no plan, whatever is chosen.
    """
    sites = sorted(baseline.keys() - {*apart})
    rows = [baseline, *(each.scores for each in tried)]
    score, loss = (
        np.array([[_number(row, site, name) for site in sites] for row in rows], dtype=np.float64)
        for name in (DECISIVE, "val_loss")
    )
    found = joint_choice(score, loss)  # of [shots + 1, sites]
    best = None if found.best is None else tried[found.best]
    taken = best if found.taken else None
    choice = Choice(
        scenario=scenario,
        label=taken.label if taken else AS_IN_THE_RUN,
        gain=found.gain,
        error=found.error,
        sentence=_sentence(scenario, found, best, len(tried), len(untried)),
    )
    return choice, taken


def _sentence(
    scenario: Scenario, found: JointChoice, best: Tried | None, tried: int, untried: int
) -> str:
    if not tried:
        return _nothing(scenario, untried)
    lacking = f" {untried} more could be tried by no site." if untried else ""
    if best is None or found.gain is None:
        return f"Nothing was tried that could be compared.{lacking}"
    digits = _digits(found.gain)
    spread = "" if found.error is None else f" +- {found.error:.{digits}f}"
    ending = "" if found.taken else ": not enough to change what the run does"
    return (
        f"Best of {tried} tried at {found.sites} site{'s' if found.sites > 1 else ''}: "
        f"{best.label}; mean gain in AUROC on validation data "
        f"{found.gain:+.{digits}f}{spread}{ending}.{lacking}"
    )


def _nothing(scenario: Scenario, untried: int) -> str:
    if untried:
        return f"Nothing was tried: no site could try any of {untried}."
    if scenario == "pretraining":
        return (
            "Nothing was tried: there are no weights of this architecture that may be handed on "
            "to this group."
        )
    return "Nothing was tried: there was nothing to try."


def _digits(gain: float) -> int:
    """Return how many decimals show a gain: three, or more where three would show none of it."""
    size = abs(gain)
    return 3 if size < 1e-6 or size >= 0.0005 else math.ceil(-math.log10(size))  # at most 6


def _number(scores: Mapping[str, Scores], site: str, name: str) -> float:
    value = scores.get(site, {}).get(name)
    return math.nan if value is None else value


def _believed(name: str, value: float | None) -> float | None:
    if value is None or not math.isfinite(value) or value < 0:
        return None
    return None if value > 1 and not name.endswith("loss") else float(value)
