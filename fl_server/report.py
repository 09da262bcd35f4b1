"""The report of a run: one self-contained HTML page, made of the run folder's files alone."""

from __future__ import annotations

import functools
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import jinja2

from fl_server.report_data import RunData, read_run
from fl_server.report_evidence import grounds
from fl_server.report_figures import ARM_COLOURS, bars, dendrogram, timings
from fl_server.report_heatmap import heatmap
from fl_server.report_numbers import ARMS, Paired, arm_means, comparisons
from fl_server.report_objectives import guessed, objectives_of, own_scores
from fl_server.report_plans import plans_headline, plans_of, tried_rows
from fl_server.report_privacy import doubts, privacy_headline, privacy_rows
from fl_server.report_shapes import Figure
from protocol.errors import FedprintError
from protocol.files import atomic_write
from protocol.runfiles import LeftOut, SiteMetrics
from protocol.taskcard import class_keys
from strategies.transferability import SCORES

TEMPLATE = Path("fl_server/templates/report.html")
REPORT = "report.html"
MOST_LEAVES = 400
"""Sites above which there is no dendrogram: nobody could read it."""


def write_report(run: Path) -> Path:
    """Write a run folder's ``report.html``.

    Parameters
    ----------
    run : Path
        A finished run's folder.

    Returns
    -------
    Path
        The report, in that folder.

    Raises
    ------
    FedprintError
        A file of the run is missing or malformed, or the template cannot be found.
    """
    atomic_write(run / REPORT, page_of(run))
    return run / REPORT


def page_of(run: Path) -> str:
    """Return the report of a run folder as HTML; see `write_report`."""
    return render(read_run(run))


def render(data: RunData) -> str:
    """Return the report of a run as HTML; whatever sites wrote is escaped.

    Parameters
    ----------
    data : RunData
        The run folder's content.

    Returns
    -------
    str
        The page.
    """
    return _template(find_template()).render(page_context(data), standalone=True, links={})


@functools.cache
def _template(path: Path) -> jinja2.Template:
    """Compile a template and what it includes once a process: that takes longer than a page."""
    return environment().get_template(path.name)


def environment() -> jinja2.Environment:
    """Return what renders the report's templates and the dashboard's: everything is escaped."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(find_template().parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"points": _points, "percent": _percent}
    return made


def find_template() -> Path:
    """Find the report's template.

    The app bundle that Flower ships holds no HTML and comes first on ``sys.path``; the installed
    package is further down.

    Returns
    -------
    Path
        The template.

    Raises
    ------
    FedprintError
        It is nowhere on ``sys.path``.
    """
    folders = [Path(__file__).parent.parent, *(Path(entry or ".") for entry in sys.path)]
    for folder in folders:
        if (folder / TEMPLATE).is_file():
            return folder / TEMPLATE
    raise FedprintError(f"the report's template {TEMPLATE} is missing: run pip install fedprint")


def page_context(data: RunData) -> dict[str, Any]:
    """Return everything that the templates of a run name."""
    found = data.metrics.sites if data.metrics else {}
    metrics = {site: found[site] for site in data.sites if site in found}
    groups = sorted(data.groups.groups, key=lambda group: data.sites.index(group.sites[0]))
    leaves = 2 <= len(data.sites) <= MOST_LEAVES
    return {
        "run": data.run,
        "spec": data.spec,
        "sites": data.sites,
        "task_of": {entry.site: entry.task for entry in data.run.sites},
        "images": {entry.site: entry.images for entry in data.run.sites},
        "groups": groups,
        "group_of": {site: group.name for group in groups for site in group.sites},
        "shared": {group.name: _shared(data, group.sites) for group in groups},
        "expectation": {group.name: _expectation(data, group.sites) for group in groups},
        "why": data.groups.sites,
        "left_out": [*data.run.left_out, *_lost(data)],
        "metrics": metrics,
        "arms": [a for a in ARMS if any(getattr(m, a) is not None for m in metrics.values())],
        "best": {site: _best(outcome) for site, outcome in metrics.items()},
        "means": arm_means(metrics.values()),
        "group_means": _group_means(data, metrics),
        "objective": objectives_of(data),
        "own_scores": {group.name: own_scores(metrics, group.sites) for group in groups},
        "comparisons": comparisons(list(metrics.values())),
        "headline": _headline(data, list(metrics.values())),
        "plans": plans_of(data),
        "tried": tried_rows(data),
        "refused": data.plans.refused if data.plans else {},
        "privacy": privacy_rows(data),
        "checkpoints": data.run.checkpoints,
        "judged": sum(entry.certain is not None for entry in data.groups.sites.values()),
        "sure": sum(entry.certain is True for entry in data.groups.sites.values()),
        "colours": ARM_COLOURS,
        "most_leaves": MOST_LEAVES,
        "releases": data.releases,
        "measure": data.measure,
        "grounds": grounds(data.measure),
        "beside": data.beside,
        "single_features": any(entry.kind == "features" for entry in data.beside),
        "by_scores": data.measure in SCORES,
        "heatmap": heatmap(data.sites, data.between, groups),
        "dendrogram": dendrogram(data.sites, data.linkage, groups) if leaves else None,
        "bars": bars(data.sites, metrics, groups, _chance(data)) if metrics else None,
        "timings": _timings(data),
        "kept": Counter(m.kept for m in metrics.values() if m.kept),
        "plain": sum(
            r.verified is not None and r.verified.statement.predicate.privacy.mode == "plain"
            for r in data.releases.values()
        ),
    }


def _headline(data: RunData, metrics: list[SiteMetrics]) -> list[str]:
    """Say in a few sentences what came out."""
    images = sum(entry.images for entry in data.run.sites)
    together = sum(len(group.sites) > 1 for group in data.groups.groups)
    single = len(data.groups.groups) - together
    lines = [
        f"{_count(len(data.sites), 'site')} with {images:,} images were put into "
        f"{_count(together, 'co-training group')}"
        + (f", and {_count(single, 'site')} on its own" if single == 1 else "")
        + (f", and {_count(single, 'site')} on their own" if single > 1 else "")
        + f", {_grounds(data)}. No image left a site."
    ]
    means = arm_means(metrics)
    if means:
        parts = [f"{_ARM_WORDS[arm]} {_percent(mean)}" for arm, mean in means.items()]
        lines.append(f"Mean balanced accuracy on the sites' own test images: {', '.join(parts)}.")
        said = [_said(pair) for pair in comparisons(metrics) if pair.arm == "grouped"]
        if said:
            lines.append(f"Grouped training differs {', '.join(said)}.")
        lines += plans_headline(data, metrics)
    else:
        what = " and ".join(["Fingerprints", *(["what the measure needs"] if data.beside else [])])
        lines.append(f"{what} were exchanged and compared; nothing was trained.")
    lines += privacy_headline(data, privacy_rows(data)) + doubts(data)
    if data.run.left_out:
        lines.append(f"{_count(len(data.run.left_out), 'site')} left out; see why below.")
    return lines


def _grounds(data: RunData) -> str:
    said = grounds(data.measure)
    return f"from {said} alone" if said else f"by measure {data.measure}"


_ARM_WORDS = {
    "alone": "every site alone",
    "together": "everybody together",
    "random": "random groups",
    "grouped": "the groups found",
    "planned": "the same groups by plan",
    "final": "what the sites keep",
}


def _said(pair: Paired) -> str:
    words = f"from {pair.against} by {_points(pair.mean)} points"
    if pair.low is None or pair.high is None:
        return words
    doubt = "; not clearly" if pair.low <= 0 <= pair.high else ""
    return f"{words} (95\u00a0% interval {_points(pair.low)} to {_points(pair.high)}{doubt})"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _points(value: float) -> str:
    """Return a difference of accuracies in percentage points, with its sign."""
    return f"{100 * value:+.1f}".replace("-", "−")


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}\u00a0%"


def _shared(data: RunData, sites: list[str]) -> list[str]:
    """Return the classes that two or more of some sites hold, as their signed cards say."""
    cards = [
        release.verified.card
        for site in sites
        if (release := data.releases.get(site)) is not None and release.verified is not None
    ]
    held = Counter(key for card in cards for key in set(class_keys(card)))
    return sorted(key for key, count in held.items() if count > 1)


def _expectation(data: RunData, sites: list[str]) -> str:
    """Return what the group's plan expected of training together, before it spent a round."""
    extra = (data.metrics.model_extra or {}) if data.metrics else {}
    plans = extra.get("plans", {})
    for plan in [*plans.get("grouped", []), *plans.get("joined", [])]:
        if sorted(plan.get("sites", [])) == sorted(sites):
            return str(plan.get("expectation", ""))
    if len(sites) == 1:
        return "A group of one trains alone."
    return "" if _shared(data, sites) else "No class in common: nothing to gain from each other."


def _lost(data: RunData) -> list[LeftOut]:
    """Return the sites that stopped answering in training."""
    extra = (data.metrics.model_extra or {}) if data.metrics else {}
    return [
        LeftOut(site=site, reason="lost-in-training", message=f"arm {arm}: {why}")
        for arm, lost in extra.get("lost", {}).items()
        for site, why in lost.items()
    ]


def _chance(data: RunData) -> dict[str, float]:
    """Return the balanced accuracy of guessing, where the card lists the classes."""
    return {
        site: guessed(release.verified.card)
        for site, release in data.releases.items()
        if release.verified is not None and release.verified.card.classes
    }


def _best(outcome: SiteMetrics) -> float | None:
    values = [getattr(outcome, arm) for arm in ARMS if arm != "final"]
    return max((value for value in values if value is not None), default=None)


def _group_means(data: RunData, metrics: dict[str, SiteMetrics]) -> dict[str, dict[str, float]]:
    return {
        group.name: arm_means(metrics[site] for site in group.sites if site in metrics)
        for group in data.groups.groups
    }


def _timings(data: RunData) -> Figure | None:
    seconds = {phase: value for phase, value in data.run.seconds.items() if value >= 0}
    return timings(seconds) if seconds else None
