"""The fingerprint exchange: what each site released, what was verified, who was left out and why.

It runs inside ``@app.main`` before any strategy starts, on any Flower grid.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from flwr.serverapp import Grid

from fl_server.asking import POLL_SECONDS, Problem, ask, is_deployment
from fl_server.collector import Collector
from fl_server.progress import Progress
from fl_server.received import Received, Release
from fl_server.roster import EnrolledRoster, RollCall, Roster
from fl_server.runlog import RunLog, participants
from protocol.errors import ConfigError, FedprintError
from protocol.fingerprint import Fingerprint
from protocol.keys import Signer, generate_key, signer
from protocol.privacy import AskedTerms
from protocol.runfiles import LeftOut
from protocol.spec import Spec
from protocol.statement import utc_now
from protocol.trust import TrustStore
from strategies.grouping import Group

if TYPE_CHECKING:
    from fl_server.coordinator import Coordinator

__all__ = ["Begun", "Exchange", "Release", "ask", "exchange_fingerprints", "exchange_newcomers"]


@dataclass
class Exchange:
    """Outcome of a fingerprint exchange.

    Attributes
    ----------
    run : str
        Name that every session binding carries.
    spec : Spec
        What makes the fingerprints comparable.
    store : TrustStore
        The sites' keys: the coordinator's, or in simulation as enrolled for this run.
    signer : Signer
        The coordinator's key; ephemeral in simulation.
    releases : dict
        Verified releases by site, in the order of the sites' names.
    left_out : list of LeftOut
        Sites (or nodes that gave no name) that do not take part, with the reason code.
    seconds : dict
        Wall time of each phase.
    signed_store : bytes
        The trust store as its coordinators signed it; empty in simulation.
    terms : AskedTerms
        What sites are asked to release under.
    log : RunLog
        The transparency log so far.
    """

    run: str
    spec: Spec
    store: TrustStore
    signer: Signer
    releases: dict[str, Release] = field(default_factory=dict)
    left_out: list[LeftOut] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    signed_store: bytes = b""
    terms: AskedTerms = field(default_factory=AskedTerms)
    log: RunLog = field(default_factory=RunLog)

    @property
    def nodes(self) -> dict[str, int]:
        """Flower node id of each verified site."""
        return {site: release.node_id for site, release in self.releases.items()}

    @property
    def fingerprints(self) -> list[Fingerprint]:
        """The verified fingerprints, one a site."""
        return [release.verified.fingerprint for release in self.releases.values()]

    def group_nodes(self, groups: Iterable[Group]) -> dict[str, list[int]]:
        """Return the Flower node ids of each group, as `strategies.group_grid.per_group` takes."""
        nodes = self.nodes
        return {group.name: [nodes[site] for site in group.sites] for group in groups}

    def leave_out(self, site: str, error: FedprintError) -> None:
        """Note that a site does not take part; the last reason counts."""
        reason = str(getattr(error, "reason", "error"))
        self.left_out.append(LeftOut(site=site, reason=reason, message=str(error)))
        self.log.left_out(self.left_out[-1])

    def enter(self, at: datetime | None = None) -> None:
        """Enter in the log what it does not say yet: keys, releases, and who was left out."""
        with self.log.together():
            self.log.trusted(self.store, at)
            for site, release in self.releases.items():
                self.log.released(site, release.digests, at)
            for gone in self.left_out:
                self.log.left_out(gone, at)


@dataclass(frozen=True)
class Patience:
    """How long the coordinator waits for whom.

    Attributes
    ----------
    min_sites : int
        Sites to wait for.
    quorum : int
        Fewest sites to go on with once a deadline has passed.
    connect, exchange : float
        Seconds for sites to connect, and to send their fingerprints.
    approval : float
        Seconds to wait for people at the sites to approve; 0 goes on without them.
    """

    min_sites: int = 2
    quorum: int = 2
    connect: float = 1800.0
    exchange: float = 1800.0
    approval: float = 0.0


@dataclass(frozen=True)
class Begun:
    """What a run has before its exchange.

    Attributes
    ----------
    terms : AskedTerms
        What sites are asked to release under.
    log : RunLog
        Its transparency log so far.
    signer : Signer or None
        Signs for a run without a coordinator's folder; None makes a key.
    settings : mapping
        All that the run's results depend on, for the log's first entry.
    """

    terms: AskedTerms = field(default_factory=AskedTerms)
    log: RunLog = field(default_factory=RunLog)
    signer: Signer | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


def exchange_fingerprints(
    grid: Grid,
    spec: Spec,
    run: str,
    *,
    min_sites: int = 2,
    timeout: float = 1800.0,
    coordinator: Coordinator | None = None,
    patience: Patience | None = None,
    received: Received | None = None,
    progress: Progress | None = None,
    begun: Begun | None = None,
) -> Exchange:
    """Ask every connected site for a signed fingerprint and verify what comes back.

    Parameters
    ----------
    grid : Grid
        Flower's grid, as given to ``@app.main``.
    spec : Spec
        What to fingerprint with; must be calibrated.
    run : str
        Unique name of this run; replies bound to another one are refused.
    min_sites : int
        Sites to wait for before asking.
    timeout : float
        Seconds for each phase (connect, roll call, fingerprints).
    coordinator : Coordinator, optional
        Key and trust store, from `fl_server.coordinator.open_coordinator`; a deployment needs it.
    patience : Patience, optional
        In place of `min_sites` and `timeout`, where phases differ.
    received : Received, optional
        Where verified releases are kept; those that lie there are not asked for again.
    progress : Progress, optional
        Told who is awaited, done or lost.
    begun : Begun, optional
        Terms, log and key of the run; plain releases, and a log and a key of its own without.

    Returns
    -------
    Exchange
        With one release a verified site; sites that failed are in ``left_out``.

    Raises
    ------
    ConfigError
        If a deployment comes without a coordinator's trust store.
    FedprintError
        If fewer sites than the quorum connect in time.
    """
    spec.require_ready()
    patience = patience or Patience(min_sites, min_sites, timeout, timeout)
    begun = begun or Begun()
    outcome, roster = _begin(grid, spec, run, coordinator, begun)
    outcome.log.asked(spec, outcome.terms, begun.settings)
    if received is not None:
        outcome.releases = received.recall(outcome.store, spec, run)
    started = time.monotonic()
    _await_sites(roster, patience, progress)
    collector = Collector(grid, outcome, roster, received, progress)
    if received is not None and received.complete and set(outcome.releases) == received.sites:
        collector.locate(patience.connect)
        said = {gone.site for gone in received.left_out}
        outcome.left_out = [g for g in outcome.left_out if g.site not in said] + received.left_out
        return outcome
    outcome.seconds["roll call"] = time.monotonic() - started
    started = time.monotonic()
    collector.collect(patience.exchange, patience.approval)
    _leave_out_gone(outcome)
    outcome.seconds["fingerprints"] = time.monotonic() - started
    if received is not None and len(outcome.releases) >= patience.quorum:
        received.close(outcome.left_out)  # else a run that goes on asks the others again
    return outcome


def _leave_out_gone(outcome: Exchange) -> None:
    """Leave out who released before the run was resumed, whose release is of no use any more."""
    named = outcome.releases.keys() | {gone.site for gone in outcome.left_out}
    for site, entry in participants(outcome.log.entries).items():
        if site in named:
            continue
        try:
            outcome.store.key_for(entry["key"], site, utc_now())
        except FedprintError as error:
            outcome.leave_out(site, error)
        else:
            outcome.leave_out(site, Problem("no-reply", "its release is damaged, it sent no other"))
    outcome.left_out.sort(key=lambda gone: gone.site)


def exchange_newcomers(
    grid: Grid,
    outcome: Exchange,
    patience: Patience,
    *,
    received: Received | None = None,
    progress: Progress | None = None,
    skip: Collection[str] = (),
) -> dict[str, Release]:
    """Ask the sites that came after the exchange; return their verified releases.

    Sites that were left out before are asked again, but for those to `skip`; who fails (again)
    stays or gets in `left_out`.
    """
    later = replace(outcome, left_out=[], seconds={})
    recalled = received.recall(outcome.store, outcome.spec, outcome.run) if received else {}
    later.releases = {**recalled, **outcome.releases}

    def refuse(site: str, error: FedprintError) -> None:
        if site not in outcome.releases:  # whatever became of a member's key: it took part
            later.leave_out(site, error)

    roster = EnrolledRoster(grid, outcome.store, refuse)
    collector = Collector(grid, later, roster, received, progress, skip)
    collector.collect(patience.exchange, patience.approval)
    again = {gone.site for gone in later.left_out} | later.releases.keys()
    kept = [gone for gone in outcome.left_out if gone.site not in again]
    outcome.left_out = [*kept, *later.left_out]
    there = roster.sites  # one kept from a join that failed may be gone meanwhile
    new = {site: r for site, r in later.releases.items() if site in there}
    return {site: release for site, release in new.items() if site not in outcome.releases}


def _begin(
    grid: Grid, spec: Spec, run: str, coordinator: Coordinator | None, begun: Begun
) -> tuple[Exchange, Roster]:
    terms, entries = begun.terms, begun.log
    if coordinator is not None:
        outcome = Exchange(
            *(run, spec, coordinator.store, coordinator.signer),
            signed_store=coordinator.signed_store,
            terms=terms,
            log=entries,
        )
        return outcome, EnrolledRoster(grid, coordinator.store, outcome.leave_out)
    if is_deployment(grid):
        raise ConfigError(
            "a deployment needs the coordinator's trust store: make one with fedprint server init "
            "and name it with run-config server-dir"
        )
    own = begun.signer or signer(generate_key())
    outcome = Exchange(run, spec, TrustStore.empty(), own, terms=terms, log=entries)
    return outcome, RollCall(grid, run, outcome.leave_out)


def _await_sites(roster: Roster, patience: Patience, progress: Progress | None) -> None:
    """Wait for `min_sites`; when their time is up, the quorum is enough."""
    if progress is not None:
        progress.phase("connect", deadline_s=patience.connect)
    deadline = time.monotonic() + patience.connect
    while (count := roster.connected()) < patience.min_sites:
        if time.monotonic() > deadline:
            if count >= patience.quorum:
                return
            raise FedprintError(
                f"{count} of at least {patience.quorum} sites connected within "
                f"{patience.connect:.0f} s: start the missing SuperNodes or lower quorum"
            )
        time.sleep(POLL_SECONDS)
