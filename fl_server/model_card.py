"""Cards of a run's models, made of the run folder's files alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from fl_server.pool.run_weights import ARMS, group_plans
from fl_server.report_data import RunData, SiteRelease
from protocol.model_card import ModelCard, Score, Trained, named_weights
from protocol.plan import Knowledge, Plan
from protocol.runfiles import SiteMetrics
from protocol.sharing import Arrays, GroupPlan, Recipe, row_name

SHOWN = ("fedprint", "flwr", "torch", "timm")
"""Packages whose versions a card names."""


def trained_groups(data: RunData) -> Iterator[tuple[str, GroupPlan]]:
    """Yield the groups that trained together, with their arm.

    Raises
    ------
    Broken
        If metrics.json does not say properly who did.
    """
    said = (data.metrics.model_extra or {}) if data.metrics else {}
    for arm in ARMS:
        yield from ((arm, plan) for plan in group_plans(said, arm) if plan.trainable)


def group_card(
    data: RunData, arm: str, group: GroupPlan, arrays: Arrays
) -> tuple[ModelCard, bytes | None]:
    """Return the card of a group's model, and its weights where all its sites hand them on.

    Parameters
    ----------
    data : RunData
        The run.
    arm : str
        ``grouped`` or ``planned``.
    group : GroupPlan
        Who trained together.
    arrays : dict of str to ndarray
        The group's model: the body, and the head rows that are shared.
    """
    plan = _plan_of(data, group) if arm == "planned" else None
    knowledge = plan.knowledge if plan else Knowledge()
    spec = knowledge.architecture or data.spec
    recipe: Recipe = "fine-tune" if data.run.settings.get("recipe") == "fine-tune" else "adapter"
    classes = [key for key in group.shared_classes if row_name(key) in arrays]
    card = ModelCard(
        name=f"{group.group}: {', '.join(group.taking_part)}",
        run=data.run.run,
        about=f"The model that {len(group.taking_part)} sites trained together; no image left one.",
        spec=spec,
        fingerprints=f"spec {data.spec.name}, digest {data.spec.digest}",
        recipe=recipe,
        classes=classes,
        training={"objective": _objective(data, group)} | _training(data, knowledge, plan, group),
        trained=[_trained(data, site) for site in group.taking_part],
        scores=list(_scores(data, arm, group)),
        consent=_consent(data, group),
        versions={name: data.run.versions[name] for name in SHOWN if name in data.run.versions},
    )
    if not _withheld(data, group):
        content, sha256 = named_weights(arrays, classes, card.recipe)
        return replace(card, sha256=sha256), content
    return card, None


def _plan_of(data: RunData, group: GroupPlan) -> Plan | None:
    plans = data.plans.plans if data.plans else []
    return next((plan for plan in plans if {*group.sites} <= plan.sites.keys()), None)


def _training(
    data: RunData, knowledge: Knowledge, plan: Plan | None, group: GroupPlan
) -> dict[str, str]:
    """Say how the group trained, and by which plan."""
    settings = data.run.settings
    names = ("strategy", "rounds", "local_epochs", "batch_size", "proximal_mu", "seed")
    said = {name.replace("_", " "): str(settings[name]) for name in names if name in settings}
    rate = float(settings.get("learning_rate") or 0.0)
    said["learning rate"] = f"{rate:g}" if rate > 0 else "found" if rate < 0 else "the recipe's own"
    said["expected"] = group.expectation
    for choice in plan.choices if plan else ():
        said[f"plan: {choice.scenario}"] = f"{choice.label}. {choice.sentence}"
    if knowledge.start is not None:
        said["plan: weights"] = f"SHA-256 {knowledge.start.sha256}"
    return said


def _objective(data: RunData, group: GroupPlan) -> str:
    found = (_release(data, site) for site in group.taking_part)
    return ", ".join(sorted({r.verified.card.objective for r in found if r and r.verified}))


def _release(data: RunData, site: str) -> SiteRelease | None:
    found = data.releases.get(site)
    return found if found is not None and found.verified is not None else None


def _trained(data: RunData, site: str) -> Trained:
    entry = next((e for e in data.run.sites if e.site == site), None)
    return Trained(
        site=site,
        task=entry.task if entry else "not known",
        images=(_metrics(data, site).model_extra or {}).get("train_images"),
        privacy=_privacy(data, site),
    )


def _privacy(data: RunData, site: str) -> str:
    release = _release(data, site)
    if release is None or release.verified is None:
        return "not verified"
    said = release.verified.statement.predicate
    if said.privacy.mode == "plain":
        return f"plain, of {said.images} images"
    return (
        f"private, epsilon {said.privacy.epsilon:.3g} at delta {said.privacy.delta:.3g}, "
        f"of {said.images} images"
    )


def _metrics(data: RunData, site: str) -> SiteMetrics:
    return (data.metrics.sites if data.metrics else {}).get(site, SiteMetrics())


def _scores(data: RunData, arm: str, group: GroupPlan) -> Iterator[Score]:
    """Yield what the model scored at each site; how many images those were, sites do not say."""
    for split in ("val", "test"):
        each = []
        for site in group.taking_part:
            metrics = _metrics(data, site)
            scores = (metrics.model_extra or {}).get("scores", {}).get(arm)
            if scores:
                kept = ", kept" if metrics.kept == arm else ", not kept"
                values = [scores.get(f"{split}_{m}") for m in ("balanced_accuracy", "auroc")]
                each.append((site, kept if split == "test" else "", *values))
        for site, kept, accuracy, auroc in each:
            yield Score(f"{site}{kept}", split, "1 site", accuracy, auroc)
        if each:
            means = (_mean([row[place] for row in each]) for place in (2, 3))
            yield Score("mean over sites", split, f"{len(each)} sites", *means)


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _withheld(data: RunData, group: GroupPlan) -> list[str]:
    """Return the sites of a group that did not sign that weights may be handed on."""
    return [
        site
        for site in group.sites
        if (release := _release(data, site)) is None
        or release.verified is None
        or not release.verified.card.shares_weights
    ]


def _consent(data: RunData, group: GroupPlan) -> str:
    if withheld := _withheld(data, group):
        return f"They stay with this run and its group: {', '.join(withheld)} did not agree more."
    return "All sites of the group signed that they may be handed on."
