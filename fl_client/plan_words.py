"""A plan in words, for a person at the site."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fl_client.plans import KeptPlan
from protocol.experiment import Policy
from protocol.names import printable
from protocol.plan import Knowledge

RUNS_OWN = "as in the run"


def summary(kept: KeptPlan) -> dict[str, Any]:
    """Return a plan as a program reads it: what was signed, its digest, key and acceptance."""
    when = kept.accepted.isoformat() if kept.accepted else None
    about = {"sha256": kept.sha256, "key_id": kept.key, "accepted": when}
    return about | kept.plan.model_dump(mode="json")


def headline(kept: KeptPlan) -> str:
    """Return one line that tells plans apart."""
    plan = kept.plan
    labels = (f"{choice.scenario} {choice.label}" for choice in plan.choices)
    chosen = ", ".join(labels) or "nothing was tried"
    told = (kept.sha256[:12], accepted(kept), f"run {plan.run}", f"group {plan.group}", chosen)
    return "  ".join(printable(text, 200) for text in told)


def facts(kept: KeptPlan) -> list[tuple[str, str]]:
    """Return a plan as lines of a name and what a person reads beside it."""
    plan = kept.plan
    lines = [
        ("plan", kept.sha256),
        ("accepted", accepted(kept)),
        ("run", plan.run),
        ("group", f"{plan.group}: {', '.join(sorted(plan.sites))}"),
        ("architecture", architecture(plan.knowledge)),
        ("augmentation", augmentation(plan.knowledge.augmentation)),
        ("start", start(plan.knowledge)),
        *((f"why {choice.scenario}", choice.sentence) for choice in plan.choices),
        ("signed with", f"key {kept.key}"),
    ]
    return [(name, printable(text, 2000)) for name, text in lines]


def accepted(kept: KeptPlan) -> str:
    """Say when the site accepted a plan."""
    return f"{kept.accepted:%Y-%m-%d %H:%M} UTC" if kept.accepted else "not yet"


def architecture(knowledge: Knowledge) -> str:
    """Say which network is trained, on which images."""
    spec = knowledge.architecture
    if spec is None:
        return RUNS_OWN
    digest = (spec.weights.sha256 or "unknown")[:12]
    return f"{spec.backbone}, weights {digest}, images of {spec.preprocess.crop} pixels"


def augmentation(policy: Policy | None) -> str:
    """Say which steps a training image goes through, in their order."""
    if policy is None:
        return RUNS_OWN
    compose = policy.pipeline.get("transform")
    steps = list(_steps(compose.get("transforms"))) if isinstance(compose, dict) else []
    return ", ".join(steps) or "none"


def start(knowledge: Knowledge) -> str:
    """Say which weights training starts from, and from how many tasks they are."""
    found = knowledge.start
    if found is None:
        return RUNS_OWN
    tasks = "one task" if len(found.sources) == 1 else f"{len(found.sources)} tasks"
    return f"weights {found.sha256[:12]} of {found.architecture}, trained on {tasks}"


def _steps(transforms: object) -> Iterator[str]:
    """Yield each step as its transform, with how often it is applied, and what it holds."""
    for step in transforms if isinstance(transforms, list) else []:
        name = str(step.get("__class_fullname__", "?")).rpartition(".")[2]
        inner = ", ".join(_steps(step.get("transforms")))
        often = float(step.get("p", 1))
        yield name + (f" of ({inner})" if inner else "") + (f" {often:.0%}" if often < 1 else "")
