"""Descriptors in a run: asked for after the exchange, verified, entered in the log and written.

Whatever one site refuses or gets wrong costs that descriptor of that site, and nothing else.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from flwr.app import ConfigRecord, MessageType, RecordDict
from flwr.serverapp import Grid

from fl_server.asking import Problem
from fl_server.descriptor_folder import ENDINGS, FOLDER, file_name
from fl_server.exchange import Exchange
from fl_server.journal import Journal
from fl_server.privacy import require_privacy
from fl_server.progress import Progress
from fl_server.received import Release
from fl_server.runlog import RunLog
from fl_server.runstate import RunState
from fl_server.settings import RunSettings
from fl_server.steps import Steps
from protocol.descriptor_records import (
    DescriptorsRequest,
    Sent,
    descriptors_request,
    from_descriptors,
    to_descriptors,
)
from protocol.descriptor_statement import VerifiedDescriptor, largest, verify_descriptor
from protocol.descriptors import KINDS, Descriptor, Fisher, Kind
from protocol.errors import BadShape, FedprintError, UnknownKey
from protocol.files import atomic_write, sha256_hex
from protocol.keys import SSlibKey
from protocol.statement import utc_now
from strategies.measures import Task, get

log = logging.getLogger("fedprint")

STEP, CLOSED = "descriptors", "descriptors-closed"


@dataclass
class Collected:
    """What sites released beside their fingerprints.

    Attributes
    ----------
    sent : dict
        The exact bytes, by site and kind, of what was verified.
    verified : dict
        The same, opened.
    problems : list of (str, str, FedprintError)
        Site, kind, and why there is none.
    """

    sent: dict[str, dict[Kind, Sent]] = field(default_factory=dict)
    verified: dict[str, dict[Kind, VerifiedDescriptor]] = field(default_factory=dict)
    problems: list[tuple[str, Kind, FedprintError]] = field(default_factory=list)

    @property
    def descriptors(self) -> dict[str, dict[Kind, Descriptor]]:
        """What measures take, by site and kind."""
        return {
            site: {kind: each.descriptor for kind, each in kinds.items()}
            for site, kinds in self.verified.items()
        }

    def add(self, site: str, kind: Kind, sent: Sent, verified: VerifiedDescriptor) -> None:
        """Take in what passed every check."""
        self.sent.setdefault(site, {})[kind] = sent
        self.verified.setdefault(site, {})[kind] = verified

    def drop(self, site: str, kind: Kind, error: FedprintError) -> None:
        """Note why there is no such descriptor."""
        self.sent.get(site, {}).pop(kind, None)
        self.verified.get(site, {}).pop(kind, None)
        self.problems.append((site, kind, error))


def collect_descriptors(
    grid: Grid, settings: RunSettings, state: RunState, exchange: Exchange
) -> dict[str, dict[Kind, Descriptor]]:
    """Ask every site of a run for the descriptors that it is to be compared by.

    Interrupted and called again, it asks only those that have not answered.

    Parameters
    ----------
    grid : Grid
        Flower's grid.
    settings : RunSettings
        Which kinds: those that are asked for, and those that the measure needs.
    state : RunState
        The run folder, into whose `descriptors` they are written, and its journal.
    exchange : Exchange
        The verified fingerprints that they go with.

    Returns
    -------
    dict
        By site and kind.

    Raises
    ------
    FedprintError
        If too few sites let go what the measure needs, so that nothing is left to compare.
    """
    started, journal = time.monotonic(), state.journal(exchange.releases)
    found = gather(grid, settings, exchange, journal, state.progress)
    if settings.kinds:
        exchange.seconds[STEP] = time.monotonic() - started
    enter_descriptors(found, exchange.log)
    kept = write_descriptors(state.folder, found)
    for path in (state.folder / FOLDER).glob("*"):  # of earlier tries
        if path not in kept:
            path.unlink()
    _require_enough(found, settings, len(exchange.releases))
    return found.descriptors


def _require_enough(found: Collected, settings: RunSettings, sites: int) -> None:
    """Raise unless two sites can be compared: a policy, not the run's settings, is in the way."""
    for kind in (kind for kind in KINDS if kind in get(settings.measure).needs):
        count = sum(kind in kinds for kinds in found.verified.values())
        if count < min(2, sites):
            why = next((str(e) for _, each, e in found.problems if each == kind), "it is silent")
            raise FedprintError(
                f"measure {settings.measure} needs {kind} of two sites at least, and {count} of "
                f"{sites} sent them; the first that did not: {why}"
            )


def gather(
    grid: Grid,
    settings: RunSettings,
    exchange: Exchange,
    journal: Journal | None,
    progress: Progress | None,
    before: Sequence[Task] = (),
) -> Collected:
    """Ask the sites of an exchange for descriptors, and verify what comes; nothing is written.

    Parameters
    ----------
    grid, settings, exchange
        As in `collect_descriptors`.
    journal, progress
        See `fl_server.steps.Steps`.
    before : sequence of Task
        What others released before, whose Fisher embeddings are of the very same network.
    """
    found = Collected()
    if not settings.kinds or not exchange.releases:
        return found
    log.info("asking for descriptors: %s", ", ".join(settings.kinds))
    steps = Steps(exchange.nodes, settings.exchange_timeout, journal, progress)
    for site, answer in _ask(grid, settings, exchange, steps).items():
        _take(found, site, answer, settings.kinds, exchange)
    _same_network(found, [len(t.fisher.values) for t in before if t.fisher is not None])
    return found


def _ask(
    grid: Grid, settings: RunSettings, exchange: Exchange, steps: Steps
) -> Mapping[str, RecordDict | Problem]:
    limits = {
        kind: max(largest(kind, exchange.spec, r.verified) for r in exchange.releases.values())
        for kind in settings.kinds
    }
    asked = DescriptorsRequest(exchange.run, exchange.spec, settings.kinds, exchange.terms)
    content, sites = descriptors_request(asked), list(exchange.releases)
    steps.phase(STEP, sites, steps.timeout)

    def check(answer: RecordDict) -> RecordDict:
        return to_descriptors(from_descriptors(answer, limits))  # nothing else is kept

    closed = _closed(steps.journal)
    contents = {site: content for site in sites if site not in closed}
    answers = steps.ask(STEP, f"{MessageType.QUERY}.descriptors", contents, grid, check)
    _close(steps.journal, closed | {s: a for s, a in answers.items() if isinstance(a, Problem)})
    return {site: closed[site] if site in closed else answers[site] for site in sites}


def _closed(journal: Journal | None) -> dict[str, Problem]:
    """Return who did not answer before the run was interrupted, once all had been waited for.

    They are not asked again: what was decided without them, and logged, stays as it is.
    """
    kept = journal.recall(CLOSED, "all") if journal else None
    said = json.loads(str(kept.config_records[CLOSED]["json"])) if kept else {}
    return {site: Problem(*why) for site, why in said.items()}


def _close(journal: Journal | None, problems: Mapping[str, Problem]) -> None:
    if journal:
        said = json.dumps({site: [why.reason, str(why)] for site, why in problems.items()})
        journal.keep(CLOSED, "all", RecordDict({CLOSED: ConfigRecord({"json": said})}))


def _take(
    found: Collected,
    site: str,
    answer: RecordDict | Problem,
    kinds: tuple[Kind, ...],
    exchange: Exchange,
) -> None:
    """Verify what a site answered, kind by kind."""
    if isinstance(answer, Problem):
        for kind in kinds:
            found.drop(site, kind, answer)
        return
    release = exchange.releases[site]
    limits = {kind: largest(kind, exchange.spec, release.verified) for kind in kinds}
    try:
        reply = from_descriptors(answer, limits)
    except FedprintError as error:
        for kind in kinds:
            found.drop(site, kind, error)
        return
    for kind, refused in reply.refused.items():
        found.drop(site, kind, Problem(*refused))
    for kind, sent in reply.sent.items():
        try:
            found.add(site, kind, sent, _verified(sent, kind, release, exchange))
        except FedprintError as error:
            found.drop(site, kind, error)


def _verified(sent: Sent, kind: Kind, release: Release, exchange: Exchange) -> VerifiedDescriptor:
    """Verify a descriptor: signed with the key that signed the fingerprint, which is still good."""
    site, now = release.verified.fingerprint.site, utc_now()

    def find(key: str) -> SSlibKey:
        if key != release.verified.key_id:
            raise UnknownKey(f"the {kind} of {site} are signed with another key than its release")
        return exchange.store.key_for(key, site, now)

    found = verify_descriptor(*sent, kind, release.verified, exchange.spec, find, now)
    require_privacy(f"what {site} sent as {kind}", found.release.privacy, exchange.terms)
    return found


def _same_network(found: Collected, before: Sequence[int]) -> None:
    """Drop Fisher embeddings that are not as long as most: a network has so many filters."""
    lengths = {
        site: len(each.descriptor.values)
        for site, kinds in found.verified.items()
        for each in kinds.values()
        if isinstance(each.descriptor, Fisher)
    }
    if not lengths:
        return
    usual, _ = Counter(before or lengths.values()).most_common(1)[0]
    for site, length in lengths.items():
        if length != usual:
            why = f"the fisher of {site} has {length} filters, those of most have {usual}"
            found.drop(site, "fisher", BadShape(why))


def enter_descriptors(found: Collected, runlog: RunLog, at: datetime | None = None) -> None:
    """Enter in a run's log what came, and what did not."""
    for site, kinds in found.sent.items():
        for kind, sent in kinds.items():
            runlog.add_once(
                "descriptor",
                at=at,
                site=site,
                descriptor=kind,
                payload=sha256_hex(sent.payload),
                statement=sha256_hex(sent.envelope),
            )
    for site, kind, error in found.problems:
        reason = str(getattr(error, "reason", "error"))
        log.info("no %s of %s (%s): %s", kind, site, reason, error)
        runlog.add_once("no descriptor", at=at, site=site, descriptor=kind, reason=reason)


def write_descriptors(folder: Path, found: Collected) -> set[Path]:
    """Write what was verified into a run folder; return the files."""
    kept = set()
    for site, kinds in found.sent.items():
        for kind, sent in kinds.items():
            for ending, content in zip(ENDINGS, sent, strict=True):
                path = folder / FOLDER / file_name(site, kind, ending)
                atomic_write(path, content)
                kept.add(path)
    return kept
