"""What a site's page shows: why it is in its group, what it is advised, what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

from fl_server.dashboard.runs import Run, read_file
from fl_server.report_numbers import ARMS
from fl_server.report_objectives import OWN
from protocol.names import printable
from protocol.runfiles import LedgerFile, RecommendationsFile, Shot
from strategies.advice_words import likely

MOST = 50
"""Shots of a scenario that are shown."""
SCORES = {
    "test_auroc": "test AUROC",
    "val_balanced_accuracy": "validation accuracy",
    "val_auroc": "validation AUROC",
    **OWN,
}


def site_context(run: Run, site: str) -> dict[str, Any]:
    """Return what the page of a site names.

    Parameters
    ----------
    run : Run
        With results.
    site : str
        One of its sites.

    Raises
    ------
    DataError
        If recommendations or ledger are malformed.
    """
    assert run.results is not None
    data, shared = run.results.data, run.results.context
    advised = read_file(run, "recommendations.json", RecommendationsFile)
    ledger = read_file(run, "ledger.json", LedgerFile)
    group = shared["group_of"][site]
    plans = data.plans.plans if data.plans else []
    outcome = shared["metrics"].get(site)
    scores = _scores((outcome.model_extra or {}).get("scores", {}) if outcome else {})
    held = {name for own in scores.values() for name in own}
    return {
        "site": site,
        "group": group,
        "mates": [mate for g in shared["groups"] if g.name == group for mate in g.sites],
        "entry": data.groups.sites.get(site),
        "release": data.releases.get(site),
        "advice": _advice(advised.sites.get(site, {}) if advised else {}),
        "plan": next((plan for plan in plans if plan.group == group and site in plan.sites), None),
        "refusal": (data.plans.refused if data.plans else {}).get(site, ""),
        "outcome": outcome,
        "scores": scores,
        "score_names": {
            name: label for name, label in SCORES.items() if name in held or name not in OWN
        },
        "ledger": ledger.sites.get(site) if ledger else None,
        "checkpoint": data.run.checkpoints.get(site),
    }


def _advice(scenarios: Mapping[str, list[Shot]]) -> dict[str, list[dict[str, str]]]:
    """Return the shots of each scenario as words; fields beyond the schema may hold anything."""
    return {
        printable(scenario, 60): [_shot(shot) for shot in shots[:MOST]]
        for scenario, shots in scenarios.items()
    }


def _shot(shot: Shot) -> dict[str, str]:
    extra = shot.model_extra or {}
    better = extra.get("better")
    return {
        "rank": str(shot.rank),
        "source": printable(shot.source, 100),
        "what": printable(str(extra.get("label", "")), 120),
        "distance": "–" if shot.distance is None else f"{shot.distance:.4f}",
        "nearer": "–" if shot.percentile is None else f"{shot.percentile:.0%}",
        "better": likely(better) if isinstance(better, float) else "–",
        "sentence": printable(str(extra.get("sentence", "")), 600),
        "measured": "; ".join(_measured(extra.get("measured"))),
    }


def _measured(found: Any) -> list[str]:
    """Say what was measured elsewhere with a shot's knowledge."""
    said = []
    for each in islice(found if isinstance(found, list) else [], 5):
        try:
            base = "" if each["baseline"] is None else f" (without: {each['baseline']:.3f})"
            words = f"{each['metric']} {each['performance']:.3f}{base} on {each['target']!s:.12}"
        except (KeyError, TypeError, ValueError):
            continue
        said.append(printable(words, 160))
    return said


def _scores(found: Any) -> dict[str, dict[str, float]]:
    """Return each arm's scores, those that are numbers."""
    if not isinstance(found, dict):
        return {}
    return {
        arm: {name: float(value) for name in SCORES if _number(value := found[arm].get(name))}
        for arm in ARMS
        if isinstance(found.get(arm), dict)
    }


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
