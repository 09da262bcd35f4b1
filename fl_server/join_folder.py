"""Writing into a finished run folder who joined it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from fl_server.amend import amended
from fl_server.exchange import Exchange
from fl_server.join import Joined
from fl_server.outcomes import recommendations_file
from fl_server.received import Received
from fl_server.reopen import Reopened
from fl_server.report import write_report
from fl_server.runfolder import distances_csv, write_exchange
from protocol.files import atomic_json, atomic_write, sha256_hex
from protocol.log import Log
from protocol.runfiles import RunFile, SiteEntry
from protocol.statement import utc_now

JOINING = Path("state", "join")


def received_newcomers(run: Path) -> Received:
    """Return what newcomers have sent so far: kept aside, so that a finished folder stays whole."""
    return Received(run / JOINING)


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
        _log(reopened.log, joined, exchange, new, now).write(new, exchange.signer)
    shutil.rmtree(reopened.folder / JOINING, ignore_errors=True)


def _run_file(run: RunFile, joined: Joined, exchange: Exchange, now: datetime) -> RunFile:
    """Return the run's file with the newcomers among its sites."""
    new = [
        SiteEntry(
            site=site,
            task=release.verified.card.name,
            images=release.verified.fingerprint.n_images,
        )
        for site, release in joined.releases.items()
    ]
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


def _log(before: Log, joined: Joined, exchange: Exchange, new: Path, now: datetime) -> Log:
    """Return the log with what happened since, closed over the new folder."""
    log = Log(before.origin)
    log.lines = list(before.lines)
    entries = [json.loads(line) for line in before.lines]
    known = {entry["key"] for entry in entries if entry["kind"] == "enrolment"}
    gone = {(entry["site"], entry["reason"]) for entry in entries if entry["kind"] == "left out"}
    for trusted in exchange.store.entries:
        if trusted.key_id not in known:
            log.append("enrolment", at=now, site=trusted.site, key=trusted.key_id)
    for site, release in joined.releases.items():
        log.append(
            "release",
            at=now,
            site=site,
            key=release.verified.key_id,
            payload=sha256_hex(release.payload),
            release=sha256_hex(release.envelope),
        )
        log.append("joined", at=now, site=site, group=joined.places[site].group)
    for left in exchange.left_out:
        if (left.site, left.reason) not in gone:
            log.append("left out", at=now, site=left.site, reason=left.reason)
    log.append("groups", at=now, sha256=sha256_hex((new / "groups.json").read_bytes()))
    log.close(new)
    return log
