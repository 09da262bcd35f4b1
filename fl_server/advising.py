"""Who proposes shots in a run: its pool, or what every run can try where there is none."""

from __future__ import annotations

from collections.abc import Mapping

from fl_server.decisions import Decision
from fl_server.exchange import Exchange
from fl_server.offers import Adviser, Offer
from fl_server.pool_shots import PoolShots
from fl_server.scores import ArmOutcome
from fl_server.settings import RunSettings
from fl_server.shots_of_run import OwnCandidates

__all__ = ["Adviser", "Offer", "adviser"]


def adviser(
    settings: RunSettings,
    exchange: Exchange,
    decision: Decision,
    outcomes: Mapping[str, ArmOutcome],
) -> Adviser:
    """Return who proposes shots to the groups of a run.

    Parameters
    ----------
    settings, exchange, decision
        The run.
    outcomes : mapping of str to ArmOutcome
        Of the arms trained so far; other groups start from the models of the arm ``grouped``.
    """
    own = OwnCandidates(settings, exchange, decision, outcomes)
    return PoolShots(own) if settings.pool else own
