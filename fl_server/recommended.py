"""``recommendations.json`` with the shots of every scenario that a run is going to try."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fl_server.decisions import Decision
from fl_server.exchange import Exchange
from fl_server.offers import Adviser, Offer
from fl_server.outcomes import recommendations_file
from protocol.experiment import Scenario
from protocol.files import atomic_json
from protocol.plan import Knowledge
from protocol.runfiles import Shot

OF_THE_RUN = "the run"
"""Source of what no task of any pool stands for: presets and policies that ship with fedprint."""


def write_recommendations(
    out: Path,
    exchange: Exchange,
    decision: Decision,
    adviser: Adviser,
    scenarios: Sequence[Scenario],
    k: int,
) -> None:
    """Write every site's shots with their evidence, beside its co-training partners.

    They are each site's own: what its group tries is made of what all of its sites are advised.

    Parameters
    ----------
    out : Path
        The run folder.
    exchange : Exchange
        The releases, by which weights of other sites are known.
    decision : Decision
        The groups, and each site's partners.
    adviser : Adviser
        Who proposes.
    scenarios : sequence of str
        Which are going to be tried.
    k : int
        Shots a scenario.
    """
    names = {release.digests["payload"]: site for site, release in exchange.releases.items()}
    file = recommendations_file(decision)
    for site, shots in file.sites.items():
        for scenario in scenarios:
            offers = adviser.shots(scenario, [site], Knowledge(), k)
            shots[scenario] = [_shot(n, offer, names) for n, offer in enumerate(offers, 1)]
    atomic_json(out / "recommendations.json", file)


def _shot(rank: int, offer: Offer, names: Mapping[str, str]) -> Shot:
    """Return a shot with its evidence; what no pool knows has nothing but its sentence."""
    said: dict[str, Any] = {"why": "cold-start", "standing": None, "better": None, "measured": []}
    source = names.get(offer.source or "", OF_THE_RUN)
    if offer.evidence is not None:
        said = {name: getattr(offer.evidence, name) for name in (*said, "sd", "distance")}
        said["measured"] = [asdict(each) for each in offer.evidence.measured]
        source = offer.evidence.task.site
    return Shot.model_validate(
        {
            "rank": rank,
            "source": source,
            "task": offer.source,
            "label": offer.label,
            "knowledge": offer.detail.model_dump(mode="json"),
            "sentence": offer.sentence,
            **said,
        }
    )
