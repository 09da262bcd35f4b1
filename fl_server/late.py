"""Sites that come after the groups were made: asked, placed and trained without the others."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from flwr.serverapp import Grid

from fl_server.asking import POLL_SECONDS
from fl_server.closing import show_closed
from fl_server.coordinator import Coordinator
from fl_server.descriptors import gather
from fl_server.exchange import Exchange, Patience, Release, exchange_newcomers
from fl_server.join import join
from fl_server.join_folder import received_newcomers, write_joined
from fl_server.journal import Journal
from fl_server.pool_after import add_to_pool
from fl_server.progress import Progress
from fl_server.reopen import Reopened, reopen
from fl_server.roster import EnrolledRoster
from fl_server.runstate import JOURNAL, locked
from fl_server.settings import RunSettings
from fl_server.suspects import note_suspicions
from fl_server.tasks import tasks_of_folder
from protocol.errors import ConfigError, FedprintError
from protocol.files import canonical_json, sha256_hex
from strategies.suspicion import Suspicion, suspicions

log = logging.getLogger("fedprint")

UNANSWERED = ("no-reply", "client-error", "unreachable", "awaiting-approval")
"""Reasons for which a site was left out that may be over by the end of the run."""


def join_late(grid: Grid, settings: RunSettings, coordinator: Coordinator | None) -> list[str]:
    """Take the sites that came after a finished run into its groups.

    Parameters
    ----------
    grid : Grid
        Flower's grid.
    settings : RunSettings
        Whose `out` is the run folder; what changes results is taken from the run itself.
    coordinator : Coordinator
        Whose run it is.

    Returns
    -------
    list of str
        Names of the sites that joined.

    Raises
    ------
    ConfigError
        If there is no coordinator's folder: the log of a simulated run cannot be signed again.
    FedprintError
        If no new site connects in time, or none passes verification.
    """
    if coordinator is None:
        raise ConfigError('mode="join" needs server-dir: a simulated run cannot be joined later')
    out = Path(settings.out)
    with locked(out):
        reopened = reopen(out, coordinator.public_pem)
        progress = Progress(out, reopened.run.run)
        exchange = reopened.exchange(coordinator.store, coordinator.signer)
        try:
            _await_newcomer(grid, exchange, settings, progress)
            names = _take_in(grid, reopened, exchange, settings, progress)
            if not names:
                why = [
                    f"; {gone.site}: {gone.message or gone.reason}" for gone in exchange.left_out
                ]
                raise FedprintError(f"no new site could join{why[-1] if why else ''}")
        except BaseException as error:  # the run itself is as whole as before
            message = f"nobody joined: {error or type(error).__name__}"
            progress.note("join failed", message=message)
            progress.finish("finished", message)
            raise
        progress.finish("finished")
        add_to_pool(settings, out, coordinator.signer)
    return names


def join_at_the_end(
    grid: Grid,
    settings: RunSettings,
    coordinator: Coordinator,
    exchange: Exchange,
    progress: Progress,
) -> None:
    """Take in who came or answered too late for the groups, now that the run has its results.

    A failure costs nothing that is there: it is logged, and ``mode="join"`` tries it again.
    """
    refused = {gone.site for gone in exchange.left_out if gone.reason not in UNANSWERED}
    roster = EnrolledRoster(grid, coordinator.store, lambda _site, _error: None)
    arrived = set(roster.arrivals(0.0).values())
    if not arrived - exchange.releases.keys() - refused:
        return
    try:
        reopened = reopen(Path(settings.out), coordinator.public_pem)
        again = reopened.exchange(coordinator.store, coordinator.signer)
        _take_in(grid, reopened, again, settings, progress, refused)
    except FedprintError as error:
        log.warning('late sites were not taken in (try mode="join"): %s', error)
        progress.note("join failed", message=str(error))


def _await_newcomer(
    grid: Grid, exchange: Exchange, settings: RunSettings, progress: Progress
) -> None:
    progress.phase("connect", deadline_s=settings.connect_timeout)
    roster = EnrolledRoster(grid, exchange.store, lambda _site, _error: None)
    deadline = time.monotonic() + settings.connect_timeout
    while not set(roster.arrivals(0.0).values()) - exchange.releases.keys():
        if time.monotonic() > deadline:
            raise FedprintError(
                f"no site connected within {settings.connect_timeout:.0f} s that is not in the "
                "run: enrol it and start its SuperNode"
            )
        time.sleep(POLL_SECONDS)


def _start_of(reopened: Reopened, newcomers: Mapping[str, Release]) -> str:
    """Return a name for these newcomers on these groups: others begin a journal of their own."""
    prints = {site: release.digests["release"] for site, release in newcomers.items()}
    start = [prints, reopened.groups.model_dump(mode="json"), len(reopened.log)]
    return sha256_hex(canonical_json(start))[:16]


def _take_in(
    grid: Grid,
    reopened: Reopened,
    exchange: Exchange,
    settings: RunSettings,
    progress: Progress,
    refused: set[str] | None = None,
) -> list[str]:
    """Exchange with the newcomers, place and train them, and write the run folder anew."""
    out, run_settings = reopened.folder, reopened.settings(settings)
    newcomers = exchange_newcomers(
        grid,
        exchange,
        Patience(1, 1, 0.0, settings.exchange_timeout, settings.await_approval),
        received=received_newcomers(out),
        progress=progress,
        skip=refused or set(),
    )
    found = _doubted(newcomers, exchange)
    certain = {s.site for s in found if s.certain and run_settings.suspects == "leave-out"}
    note_suspicions(exchange, found, sorted(certain))
    newcomers = {site: r for site, r in newcomers.items() if site not in certain}
    if not newcomers:
        return []
    journal = Journal(out / JOURNAL / _start_of(reopened, newcomers))
    before = tasks_of_folder(out)
    among = replace(exchange, releases=newcomers, left_out=[], seconds={})
    joined = join(
        grid,
        newcomers,
        exchange,
        reopened.groups,
        reopened.plans,
        reopened.models,
        run_settings,
        before=before,
        described=gather(grid, run_settings, among, journal, progress, before),
        journal=journal,
        progress=progress,
    )
    for doubt in found:
        if doubt.site in newcomers:
            joined.decision.groups.sites[doubt.site].warnings.append(doubt.message)
    progress.phase("report")
    write_joined(reopened, joined, exchange)
    shutil.rmtree(out / JOURNAL, ignore_errors=True)
    everybody = replace(exchange, releases={**exchange.releases, **newcomers})
    roster = EnrolledRoster(grid, exchange.store, lambda _site, _error: None)
    online = {site: node for node, site in roster.arrivals(0.0).items()}
    nodes = {site: online[site] for site in everybody.releases if site in online}
    show_closed(grid, out, everybody, nodes, settings, progress)
    return sorted(newcomers)


def _doubted(newcomers: Mapping[str, Release], exchange: Exchange) -> list[Suspicion]:
    """Return what speaks against newcomers, beside the fingerprints that are there."""
    there = [release.verified.fingerprint for release in newcomers.values()]
    return [
        s
        for s in suspicions([*exchange.fingerprints, *there], exchange.spec)
        if s.site in newcomers
    ]
