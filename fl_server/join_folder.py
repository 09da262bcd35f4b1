"""Writing into a finished run folder who joined it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from fl_server.amend import amended
from fl_server.descriptors import enter_descriptors, write_descriptors
from fl_server.exchange import Exchange
from fl_server.join import Joined
from fl_server.outcomes import recommendations_file
from fl_server.received import Received
from fl_server.reopen import Reopened
from fl_server.report import write_report
from fl_server.runfolder import distances_csv, site_entry, write_exchange
from protocol.files import atomic_json, atomic_write, sha256_hex
from protocol.runfiles import RunFile
from protocol.statement import utc_now

JOINING = Path("state", "join")


def received_newcomers(run: Path) -> Received:
    """Return what newcomers have sent so far: kept aside, so that a finished folder stays whole."""
    return Received(run / JOINING, stays=False)


def write_joined(
    reopened: Reopened, joined: Joined, exchange: Exchange, now: datetime | None = None
) -> None:
    """Add newcomers to a finished run folder, and to its log.

    A crash at any moment leaves the old state, or one that the next `reopen` makes new.

    Parameters
    ----------
    reopened : Reopened
        The run.
    joined : Joined
        Who joined it.
    exchange : Exchange
        Of the run: present trust store, signer, and all who were left out so far.
    now : datetime or None
        When they joined.
    """
    now = now or utc_now()
    everybody = dict(sorted({**reopened.releases, **joined.releases}.items()))
    recommended = recommendations_file(joined.decision).sites
    recommended |= reopened.recommendations.sites  # of before, as they were
    metrics = joined.metrics(reopened.metrics)
    with amended(reopened.folder) as new:
        write_exchange(new, replace(exchange, releases=everybody))
        write_descriptors(new, joined.described)
        decision = joined.decision
        atomic_write(new / "distances.csv", distances_csv(decision.names, decision.distances))
        atomic_json(new / "groups.json", decision.groups)
        atomic_json(
            new / "recommendations.json",
            reopened.recommendations.model_copy(update={"sites": recommended}),
        )
        if metrics is not None:
            atomic_json(new / "metrics.json", metrics)
        atomic_json(new / "run.json", _run_file(reopened.run, joined, exchange, now))
        write_report(new)
        _close(joined, exchange, new, now)
    shutil.rmtree(reopened.folder / JOINING, ignore_errors=True)


def _run_file(run: RunFile, joined: Joined, exchange: Exchange, now: datetime) -> RunFile:
    """Return the run's file with the newcomers among its sites."""
    new = [site_entry(site, release) for site, release in joined.releases.items()]
    seconds = {f"join {arm}": round(o.seconds, 2) for arm, o in joined.outcomes.items()}
    earlier = (run.model_extra or {}).get("joined", [])
    return run.model_copy(
        update={
            "sites": sorted([*run.sites, *new], key=lambda entry: entry.site),
            "left_out": exchange.left_out,
            "seconds": {
                **run.seconds,
                **{phase: s + run.seconds.get(phase, 0.0) for phase, s in seconds.items()},
            },
            "joined": [*earlier, *joined.entries(now)],
        }
    )


def _close(joined: Joined, exchange: Exchange, new: Path, now: datetime) -> None:
    """Enter in the log what happened since, and close it over the new folder."""
    log = exchange.log
    log.trusted(exchange.store, now)
    for site, release in joined.releases.items():
        log.released(site, release.digests, now)
        log.add("joined", at=now, site=site, group=joined.places[site].group)
    enter_descriptors(joined.described, log, now)
    for left in exchange.left_out:
        log.left_out(left, now)
    log.add("groups", at=now, sha256=sha256_hex((new / "groups.json").read_bytes()))
    log.close(exchange.run, new, exchange.signer)
