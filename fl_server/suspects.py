"""What follows from fingerprints that cannot be honest: a warning, or no place in the run."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from fl_server.asking import Problem
from fl_server.exchange import Exchange
from fl_server.runfolder import SUSPICIOUS
from strategies.suspicion import Suspicion

log = logging.getLogger("fedprint")


def note_suspicions(
    exchange: Exchange, found: Iterable[Suspicion], left_out: Iterable[str] = ()
) -> None:
    """Enter findings in the log; take those who are `left_out` because of them out of the run.

    Their releases stay in the folder: they are what the finding is about.
    """
    said: dict[str, str] = {}
    for suspicion in found:
        log.warning("suspicious: %s: %s", suspicion.site, suspicion.message)
        said[suspicion.site] = suspicion.message
        exchange.log.add_once(
            "suspicion",
            site=suspicion.site,
            finding=suspicion.kind,
            certain=suspicion.certain,
            message=suspicion.message,
        )
    for site in left_out:
        exchange.releases.pop(site, None)
        exchange.leave_out(site, Problem(SUSPICIOUS, said[site]))
