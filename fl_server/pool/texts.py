"""How tasks and experiments of a pool read on the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import make_url

from protocol.names import printable


def shown_name(where: str) -> str:
    """Return a pool's file or URL, without a password."""
    return make_url(where).render_as_string() if "://" in where else where


def counted(counts: Mapping[str, int]) -> str:
    """Return what was counted, in one line."""
    said = [f"{what}: {count}" for what, count in sorted(counts.items()) if count]
    return ", ".join(said) or "nothing"


def facts(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what `fl_server.pool.views.show` returned, one fact a line."""
    for name, value in found.items():
        if name in ("experiments", "provenance", "card"):
            continue
        yield name, "" if value is None else printable(str(value), 300)
    card = found.get("card", {})
    for name in ("modality", "anatomy", "objective"):
        if card.get(name):
            yield name, printable(card[name])
    if card.get("classes"):
        yield "classes", printable(", ".join(each["name"] for each in card["classes"]))
    for signed in found.get("provenance", []):
        voucher = f", vouched for by {signed['vouched_by']}" if signed["vouched_by"] else ""
        yield "signed by", signed["key"] + voucher


def outcome_row(experiment: Mapping[str, Any], task: str) -> list[str]:
    """Return one experiment of a task as a row of a table."""

    def name(identity: str | None) -> str:
        return "" if identity is None else "this" if identity == task else identity[:12]

    baseline = experiment["baseline"]
    return [
        experiment["scenario"],
        name(experiment["source"]),
        name(experiment["target"]),
        knowledge(experiment["detail"]),
        experiment["metric"],
        "" if baseline is None else f"{baseline:.3f}",
        f"{experiment['performance']:.3f}",
    ]


def knowledge(detail: Mapping[str, Any]) -> str:
    """Say in a few words what was handed over."""
    if detail["kind"] == "partner":
        return f"{detail['arm']}, {detail['tasks']} tasks"
    if detail["kind"] == "policy":
        return "augmentation policy"
    return str(detail["name"] if detail["kind"] == "architecture" else detail["sha256"][:12])
