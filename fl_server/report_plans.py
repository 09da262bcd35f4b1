"""What a report says of plans: what was tried, what each group took, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fl_server.report_data import RunData
from fl_server.report_numbers import paired
from fl_server.trial_choice import DECISIVE
from protocol.plan import Plan
from protocol.runfiles import SiteMetrics
from protocol.trials import Scores, Tried


@dataclass(frozen=True)
class TriedRow:
    """One shot in one group.

    Attributes
    ----------
    group, scenario, label : str
        Where, in which scenario, and the shot in a few words.
    sites : int
        Sites that tried it.
    validation, test : float or None
        Mean gain over training without it: in AUROC on validation data, which decides, and in
        balanced accuracy on test data.
    chosen : bool
        Whether the group took it.
    missing : str
        Who did not try it, and why.
    """

    group: str
    scenario: str
    label: str
    sites: int
    validation: float | None
    test: float | None
    chosen: bool
    missing: str


def tried_rows(data: RunData) -> list[TriedRow]:
    """Return one row for each group and shot, in the order in which they were tried."""
    return [
        TriedRow(
            *(trial.group, trial.scenario, tried.label, len(tried.scores)),
            validation=_gain(tried, trial.baseline, DECISIVE),
            test=_gain(tried, trial.baseline, "test_balanced_accuracy"),
            chosen=tried.label == trial.choice.label,
            missing=_listed(tried.missing),
        )
        for trial in (data.trials.trials if data.trials else [])
        for tried in trial.tried
    ]


def plans_of(data: RunData) -> list[Plan]:
    """Return the plans that change anything."""
    plans = data.plans.plans if data.plans else []
    return [plan for plan in plans if not plan.knowledge.is_default]


def plans_headline(data: RunData, metrics: list[SiteMetrics]) -> list[str]:
    """Say in a sentence whether training by plan was better than by the defaults."""
    if data.plans is None:
        return []
    changed, groups = len(plans_of(data)), len(data.plans.plans)
    words = f"{changed} of {groups} groups trained by a plan that changes the run's defaults"
    pair = paired(metrics, "planned", "grouped")
    if pair is None or not changed:
        return [f"{words}." if changed else "No shot beat the run's defaults in any group."]
    unclear = pair.low is None or pair.low <= 0
    verdict = "it did not beat" if pair.mean <= 0 else "not clearly above" if unclear else "above"
    sign = f"{100 * pair.mean:+.1f}".replace("-", "−")
    return [f"{words}: {sign} points on test images, {verdict} the defaults at equal budget."]


def _gain(tried: Tried, baseline: dict[str, Scores], score: str) -> float | None:
    pairs = [
        (value, before)
        for site, scores in tried.scores.items()
        if (value := scores.get(score)) is not None
        and (before := baseline.get(site, {}).get(score)) is not None
    ]
    return float(np.mean([value - before for value, before in pairs])) if pairs else None


def _listed(missing: dict[str, str]) -> str:
    return "; ".join(f"{site}: {why}" for site, why in sorted(missing.items()))
