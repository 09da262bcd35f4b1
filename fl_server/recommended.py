"""``recommendations.json`` with the shots of every scenario that a run is going to try."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fl_server.decisions import Decision
from fl_server.offers import Adviser
from protocol.experiment import Scenario


def write_recommendations(
    out: Path, decision: Decision, adviser: Adviser, scenarios: Sequence[Scenario], k: int
) -> None:
    """Write every site's shots with their evidence, beside its co-training partners.

    Parameters
    ----------
    out : Path
        The run folder.
    decision : Decision
        The groups, and each site's partners.
    adviser : Adviser
        Who proposes.
    scenarios : sequence of str
        Which are going to be tried.
    k : int
        Shots a scenario.
    """
