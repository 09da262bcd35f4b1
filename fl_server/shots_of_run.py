"""What a run tries where no pool knows more: preset networks, shipped policies, its own models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fl_server.decisions import Decision
from fl_server.exchange import Exchange
from fl_server.offers import Offer
from fl_server.scores import ArmOutcome
from fl_server.settings import RunSettings
from protocol.experiment import Scenario
from protocol.plan import Knowledge


@dataclass(frozen=True)
class OwnCandidates:
    """Proposes a run's own candidates; see `fl_server.offers.Adviser`."""

    settings: RunSettings
    exchange: Exchange
    decision: Decision
    outcomes: Mapping[str, ArmOutcome]

    def shots(
        self, scenario: Scenario, group: Sequence[str], knowledge: Knowledge, k: int
    ) -> list[Offer]:
        """Return the first k candidates."""
        return []
