"""Collecting releases: ask whoever connects, verify whatever comes, ask again who must wait."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flwr.app import Message, MessageType
from flwr.serverapp import Grid

from fl_server.asking import (
    POLL_SECONDS,
    SIMULATED_SECONDS,
    Problem,
    arrived,
    content_of,
    push,
    take,
)
from fl_server.privacy import require_terms
from fl_server.progress import Progress
from fl_server.received import Received, Release
from fl_server.roster import Roster
from protocol.errors import FedprintError, WrongNode
from protocol.records import from_reply, release_request
from protocol.statement import new_nonce, utc_now
from protocol.verify import verify_release

if TYPE_CHECKING:
    from fl_server.exchange import Exchange

log = logging.getLogger("fedprint")

AWAITING = "awaiting-approval"
ASK_AGAIN_SECONDS = 5.0
ROSTER_SECONDS = 1.0
BATCH, BATCH_BYTES, BATCH_SECONDS = 64, 8 * 1024 * 1024, 1.0
"""Most releases, about the most bytes of them, and the longest that they wait for the disk."""


@dataclass
class _Batch:
    """Verified releases that are not on the disk yet, and what their sites were asked with."""

    releases: dict[str, Release] = field(default_factory=dict)
    nonces: dict[str, str] = field(default_factory=dict)
    since: float = math.inf

    def add(self, site: str, release: Release, nonce: str) -> None:
        """Hold one more."""
        self.since = min(self.since, time.monotonic())
        self.releases[site], self.nonces[site] = release, nonce

    @property
    def due(self) -> bool:
        """Whether it is time to write them."""
        held = self.releases.values()
        many = len(held) >= BATCH or sum(len(r.payload) for r in held) >= BATCH_BYTES
        return many or time.monotonic() - self.since >= BATCH_SECONDS


class Collector:
    """One round of asking; each site gets a nonce of its own, a new one when it is asked again.

    Parameters
    ----------
    grid : Grid
        Flower's grid.
    outcome : Exchange
        Verified releases and those left out are added to it.
    roster : Roster
        Says who connects.
    received, progress
        See `fl_server.exchange.exchange_fingerprints`.
    skip : collection of str
        Sites that are not asked.
    """

    def __init__(
        self,
        grid: Grid,
        outcome: Exchange,
        roster: Roster,
        received: Received | None,
        progress: Progress | None,
        skip: Collection[str] = (),
    ) -> None:
        self._skip = frozenset(skip)
        self._grid, self._outcome, self._roster = grid, outcome, roster
        self._received, self._progress = received, progress
        self._sites: dict[int, str] = {}
        self._line: deque[int] = deque()  # nodes to ask as soon as there is room
        self._pending: dict[str, tuple[int, str]] = {}  # message id: node, nonce
        self._awaiting: set[int] = set()  # nodes where a person must approve first
        self._again: dict[int, float] = {}  # when to ask them again
        self._batch = _Batch()
        self._approval_ends = 0.0
        self._asked = 0
        self._looked = 0.0

    def locate(self, timeout: float) -> None:
        """Only learn the nodes of the sites whose releases are there already."""
        arrivals = self._roster.arrivals(timeout)
        self._outcome.store = self._roster.store
        for node, site in arrivals.items():
            self._is_known(node, site)

    def collect(self, timeout: float, approval: float) -> None:
        """Ask until every connected site has answered or its time is up.

        Parameters
        ----------
        timeout : float
            Seconds for an answer.
        approval : float
            Seconds in which a site that awaits approval is asked again.
        """
        try:
            self._collect(timeout, approval)
        finally:  # what was verified is not lost with a grid that fails
            self._keep()
        with self._outcome.log.together(), self._showing():
            for node in self._awaited():
                self._lose(self._sites[node], Problem("no-reply", "did not answer in time"))
        self._outcome.releases = dict(sorted(self._outcome.releases.items()))
        self._outcome.left_out.sort(key=lambda gone: gone.site)

    def _collect(self, timeout: float, approval: float) -> None:
        started = time.monotonic()
        self._approval_ends = started + approval
        simulated = self._roster.at_once is not None
        self._meet(timeout)
        while self._line or self._pending or self._again:
            over = time.monotonic() - started
            last = over > (max(timeout, approval) if self._awaiting else timeout)
            self._pull(may_wait=over < approval, every=last or simulated)
            if last and over > (max(timeout, approval) if self._awaiting else timeout):
                break
            if self._line or self._pending or self._again:
                time.sleep(SIMULATED_SECONDS if simulated else POLL_SECONDS)
            self._ask([node for node, due in self._again.items() if time.monotonic() >= due])
            self._meet(timeout)

    def _meet(self, timeout: float) -> None:
        """Ask who has connected since the last look."""
        if self._looked and time.monotonic() - self._looked < ROSTER_SECONDS:
            return
        self._looked = time.monotonic()
        arrivals = self._roster.arrivals(timeout)
        self._outcome.store = self._roster.store
        fresh = {node: s for node, s in arrivals.items() if not self._is_known(node, s)}
        self._sites |= fresh
        if fresh:
            self._outcome.log.trusted(self._roster.store)
        if fresh and self._progress is not None:
            waiting = [self._sites[node] for node in sorted(self._awaited())]
            self._progress.phase("fingerprints", [*waiting, *fresh.values()], timeout)
        self._asked += len(fresh)
        self._ask(list(fresh))

    def _awaited(self) -> set[int]:
        asked = {node for node, _ in self._pending.values()}
        return asked | self._again.keys() | set(self._line)

    def _is_known(self, node: int, site: str) -> bool:
        release = self._outcome.releases.get(site)
        if release is not None and release.node_id != node:
            self._outcome.releases[site] = release.at(node)
        return release is not None or site in self._skip

    def _ask(self, nodes: Sequence[int]) -> None:
        """Ask these nodes too, and as many of those in line as may be asked at once."""
        self._line.extend(nodes)
        for node in nodes:
            self._again.pop(node, None)
        fresh = take(self._line, self._roster.at_once, len(self._pending))
        if fresh:
            self._send(fresh)

    def _send(self, nodes: Sequence[int]) -> None:
        nonces = [new_nonce() for _ in nodes]
        outcome = self._outcome
        messages = [
            Message(
                release_request(outcome.run, nonce, outcome.spec, outcome.terms),
                dst_node_id=node,
                message_type=f"{MessageType.QUERY}.fingerprint",
            )
            for node, nonce in zip(nodes, nonces, strict=True)
        ]
        nonce_of = dict(zip(nodes, nonces, strict=True))
        with outcome.log.together():
            for node in nonce_of.keys() - self._awaiting:  # those are asked every few seconds
                outcome.log.requested(self._sites[node], nonce_of[node])
        sent = push(self._grid, messages)
        self._pending |= {number: (node, nonce_of[node]) for number, node in sent.items()}
        for node in nonce_of.keys() - set(sent.values()):
            self._lose(self._sites[node], Problem("unreachable", "Flower took no message for it"))

    def _pull(self, may_wait: bool, every: bool) -> None:
        with self._outcome.log.together(), self._showing():
            for (node, nonce), reply in arrived(self._grid, self._pending, every):
                self._take(node, nonce, reply, may_wait)
                if self._batch.due:
                    self._keep()
            if self._batch.due:
                self._keep()

    def _take(self, node: int, nonce: str, reply: Message, may_wait: bool) -> None:
        site = self._sites[node]
        try:
            release = self._verified(site, node, nonce, reply)
        except FedprintError as error:
            if may_wait and getattr(error, "reason", "") == AWAITING:
                self._wait_for(site, node)
            else:
                self._awaits_no_more(node, nonce)
                self._lose(site, error)
        else:
            self._awaits_no_more(node, nonce)
            self._batch.add(site, release, nonce)

    def _showing(self) -> AbstractContextManager[None]:
        return nullcontext() if self._progress is None else self._progress.together()

    def _awaits_no_more(self, node: int, nonce: str) -> None:
        if node in self._awaiting:
            self._awaiting.discard(node)
            self._outcome.log.requested(self._sites[node], nonce)

    def _wait_for(self, site: str, node: int) -> None:
        if node not in self._awaiting:
            log.info("%s awaits approval by a person at the site", site)
            self._awaiting.add(node)
            self._outcome.log.add_once(AWAITING, site=site)
            if self._progress is not None:
                left = self._approval_ends - time.monotonic()
                self._progress.awaits_approval(site, max(left, 0.0))
        self._again[node] = time.monotonic() + ASK_AGAIN_SECONDS

    def _verified(self, site: str, node: int, nonce: str, message: Message) -> Release:
        outcome, reply = self._outcome, from_reply(content_of(message))
        if reply.site != site:
            raise WrongNode(f"the node of {site} answers as {reply.site!r}: it is not that site's")
        verified = verify_release(
            site=site,
            payload=reply.payload,
            release=reply.release,
            binding=reply.binding,
            store=outcome.store,
            spec=outcome.spec,
            run=outcome.run,
            nonce=nonce,
            now=utc_now(),
        )
        require_terms(verified, outcome.terms)
        return Release(node, verified, reply.payload, reply.release, reply.binding)

    def _keep(self) -> None:
        """Write the verified releases of the batch, then enter them in the log."""
        batch, self._batch = self._batch, _Batch()
        if not batch.releases:
            return
        kept = batch.releases
        sizes = {site: len(release.payload) for site, release in kept.items()}
        with self._outcome.log.together(), self._showing():
            if self._received is not None:
                self._outcome.log.flush()  # a release that is kept answers a request in the log
                kept = self._received.keep(batch.releases, batch.nonces, self._outcome.spec)
            self._outcome.releases |= kept
            for site, release in kept.items():
                self._outcome.log.released(site, release.digests)
                if self._progress is not None:
                    self._progress.done(site, f"{sizes[site]} bytes verified")
            self._outcome.log.flush()  # an entry says when its release came
        done = self._asked - len(self._awaited())
        log.info("fingerprints: %d of %d sites answered", done, self._asked)

    def _lose(self, site: str, error: FedprintError) -> None:
        self._outcome.leave_out(site, error)
        if self._progress is not None:
            self._progress.lost(site, str(getattr(error, "reason", "error")), str(error))
