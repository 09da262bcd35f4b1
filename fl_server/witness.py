"""Showing sites the run's log, so that what was written there cannot be changed behind their backs.

Each site gets the signed checkpoint, the proof that its own release is in it, and the proof that it
extends the checkpoint that the site keeps (RFC 9162, section 2.1). Who does not answer holds nobody
up; who refuses is named.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid

from fl_server.asking import ask, content_of
from fl_server.exchange import Exchange
from fl_server.progress import Progress
from fl_server.runlog import RunLog
from protocol.errors import BadLog, FedprintError
from protocol.keys import signer_pem
from protocol.records import CheckpointMessage, from_kept, to_checkpoint
from protocol.runfiles import SiteCheckpoint

log = logging.getLogger("fedprint")

UNANSWERED = ("no-reply", "client-error", "unreachable")
"""Reasons that are no site's judgement of what it was shown."""

SECONDS = 60.0
"""Longest wait for the answers: the run can do without."""


def show_log(
    grid: Grid,
    exchange: Exchange,
    nodes: Mapping[str, int],
    timeout: float,
    progress: Progress | None = None,
) -> dict[str, SiteCheckpoint]:
    """Show sites the log as it is now; return what each answered.

    A site that keeps a checkpoint unknown here names its size, and is shown the proof from there.

    Parameters
    ----------
    grid : Grid
        Flower's grid.
    exchange : Exchange
        The run, its log, and whose key signs.
    nodes : mapping of str to int
        Flower node id of each site to be asked; all of them must have released.
    timeout : float
        Seconds to wait, at most `SECONDS`.
    progress : Progress, optional
        Told who refused.
    """
    timeout = min(timeout, SECONDS)
    shown = _Shown(exchange)
    first = {site: exchange.log.seen_by(site) for site in nodes}
    answers = _answers(grid, shown, nodes, first, timeout)
    again = {
        site: answer.size
        for site, answer in answers.items()
        if answer.size not in (0, len(shown.log), first[site])
    }
    answers |= _answers(grid, shown, {site: nodes[site] for site in again}, again, timeout)
    for site, answer in answers.items():
        if answer.size not in (0, len(shown.log)):
            answers[site] = SiteCheckpoint(reason="bad-log", message="keeps another log")
        if progress is not None and answers[site].reason:
            said = answers[site]
            progress.note("checkpoint", site=site, reason=said.reason, message=said.message)
        if refused(answers[site]):
            log.warning("%s refuses the log: %s", site, answers[site].message)
    return answers


def refused(answer: SiteCheckpoint) -> bool:
    """Tell whether a site judged the log and found it wrong."""
    return bool(answer.reason) and answer.reason not in UNANSWERED


def enter(exchange: Exchange, answers: Mapping[str, SiteCheckpoint]) -> None:
    """Enter in the log who keeps which checkpoint, and who refused."""
    with exchange.log.together():
        for site, answer in sorted(answers.items()):
            if answer.size:
                exchange.log.add_once("checkpoint", site=site, size=answer.size)
            elif refused(answer):
                reason, message = answer.reason, answer.message
                exchange.log.add("checkpoint refused", site=site, reason=reason, message=message)


def answers_of(log: RunLog) -> dict[str, SiteCheckpoint]:
    """Return by site the last answer that a log has."""
    said = [entry for entry in log.entries if entry["kind"].startswith("checkpoint")]
    fields = SiteCheckpoint.model_fields.keys()
    found = {e["site"]: {name: e[name] for name in fields & e.keys()} for e in said}
    return {site: SiteCheckpoint.model_validate(found[site]) for site in sorted(found)}


class _Shown:
    """One state of the log, ready to be shown."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange, self.log = exchange, exchange.log.as_log(exchange.run)
        self._tree = self.log.tree()
        self._checkpoint = exchange.log.checkpoint(exchange.run, exchange.signer)
        self._coordinator = signer_pem(exchange.signer)

    def to(self, site: str, earlier: int) -> RecordDict:
        """Return the message for a site that keeps a checkpoint of size `earlier`."""
        index = self._exchange.log.release_of(site)
        message = CheckpointMessage(
            run=self._exchange.run,
            coordinator=self._coordinator,
            checkpoint=self._checkpoint,
            entry=self.log.lines[index],
            index=index,
            inclusion=self._tree.inclusion(index),
            earlier=earlier,
            consistency=self._extends(earlier),
        )
        return to_checkpoint(message)

    def _extends(self, earlier: int) -> list[bytes]:
        return self._tree.consistency(earlier) if 0 < earlier < len(self.log) else []


def _answers(
    grid: Grid,
    shown: _Shown,
    nodes: Mapping[str, int],
    earlier: Mapping[str, int],
    timeout: float,
) -> dict[str, SiteCheckpoint]:
    if not nodes:
        return {}
    requests = [(node, shown.to(site, earlier[site])) for site, node in nodes.items()]
    replies = ask(grid, requests, f"{MessageType.QUERY}.checkpoint", timeout)
    return {site: _answer(replies.get(node)) for site, node in nodes.items()}


def _answer(reply: Message | None) -> SiteCheckpoint:
    try:
        return SiteCheckpoint(size=from_kept(content_of(reply)))
    except FedprintError as error:
        reason = str(getattr(error, "reason", BadLog.reason))
        return SiteCheckpoint(reason=reason, message=str(error))
