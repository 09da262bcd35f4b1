"""What a run ended with, as the files of the run folder say it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fl_server.arms import ArmOutcome
from fl_server.decisions import Decision
from protocol.runfiles import MetricsFile, RecommendationsFile, Shot, SiteMetrics


def metrics_file(outcomes: Mapping[str, ArmOutcome], names: Sequence[str]) -> MetricsFile:
    """Return balanced accuracy on test data by site and arm, the guard's choice, and all scores.

    Parameters
    ----------
    outcomes : mapping of str to ArmOutcome
        By arm; ``alone`` must be among them.
    names : sequence of str
        The sites; one without any score is left out.
    """
    sites = {}
    for site in names:
        scores = {arm: o.scores[site] for arm, o in outcomes.items() if site in o.scores}
        if not scores:
            continue
        test: dict[str, Any] = {arm: s["test_balanced_accuracy"] for arm, s in scores.items()}
        kept = _kept(outcomes, site)
        sites[site] = SiteMetrics.model_validate(
            {
                **{arm: _number(value) for arm, value in test.items()},
                "final": _number(test.get(kept)),
                "kept": kept,
                "train_images": outcomes["alone"].examples.get(site),
                "scores": {
                    arm: {name: _number(value) for name, value in s.items()}
                    for arm, s in scores.items()
                },
            }
        )
    plans = {arm: [p.model_dump(mode="json") for p in o.plans] for arm, o in outcomes.items()}
    lost = {arm: dict(o.lost) for arm, o in outcomes.items() if o.lost}
    returned = {arm: dict(o.returned) for arm, o in outcomes.items() if o.returned}
    content = {"sites": sites, "plans": plans, "lost": lost, "returned": returned}
    return MetricsFile.model_validate(content)


def _kept(outcomes: Mapping[str, ArmOutcome], site: str) -> str:
    """Return the arm whose model a site keeps: each gained over the one before it."""
    return next(
        (arm for arm in ("planned", "grouped") if _gained(outcomes.get(arm), site)), "alone"
    )


def _gained(outcome: ArmOutcome | None, site: str) -> bool:
    return outcome is not None and bool(outcome.keeps_group.get(site))


def recommendations_file(decision: Decision) -> RecommendationsFile:
    """Return every site's co-training partners as shots in rank order, with their evidence."""
    return RecommendationsFile(
        sites={
            site: {
                "co-training": [
                    Shot(
                        rank=rank,
                        source=partner.site,
                        distance=partner.distance,
                        percentile=partner.percentile,
                    )
                    for rank, partner in enumerate(why.partners, start=1)
                ]
            }
            for site, why in decision.groups.sites.items()
        }
    )


def _number(value: float | None) -> float | None:
    """Return the value, None where it is undefined: JSON has neither NaN nor infinity."""
    return value if value is not None and math.isfinite(value) else None
