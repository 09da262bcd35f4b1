"""The steps of an arm: sites are asked once, and what they answered is taken from the journal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fl_server.asking import Problem, ask, content_of
from fl_server.journal import Journal
from fl_server.progress import Progress
from fl_server.scores import Answer
from protocol.errors import FedprintError
from strategies.members import Loss, Round

if TYPE_CHECKING:
    from fl_server.tracking import GroupTracker

Check = Callable[[RecordDict], RecordDict]

METRICS_LIMIT = 64  # numbers, and characters of their names


def only_metrics(content: RecordDict) -> RecordDict:
    """Return an answer's one record of scores: whatever else a site sends is not kept.

    Raises
    ------
    Problem
        If there is none, or it holds more than a few numbers.
    """
    metrics = content.metric_records.get("metrics")
    if (
        metrics is None
        or len(metrics) > METRICS_LIMIT
        or any(len(name) > METRICS_LIMIT or not name.isprintable() for name in metrics)
        or any(isinstance(value, list) for value in metrics.values())
    ):
        raise Problem("malformed-message", "sent no usable metrics")
    return RecordDict({"metrics": metrics})


@dataclass(frozen=True)
class Steps:
    """Asks sites by name.

    Attributes
    ----------
    nodes : mapping of str to int
        Flower node id of every site.
    timeout : float
        Seconds to wait for the answers of one step.
    journal : Journal or None
        Where answers are kept as they arrive; None keeps nothing.
    progress : Progress or None
        Told of sites that are done or lost.
    """

    nodes: Mapping[str, int]
    timeout: float
    journal: Journal | None = None
    progress: Progress | None = None

    def ask(
        self,
        step: str | Mapping[str, str],
        kind: str,
        contents: Mapping[str, RecordDict],
        grid: Grid,
        check: Check = only_metrics,
    ) -> dict[str, Answer]:
        """Return what every site answers, of those that answered before what they said then.

        A refusal and an error are not kept: whoever starts the run again may have mended them.

        Parameters
        ----------
        step : str or mapping of str to str
            Under which name the answers are kept, of all sites or by site.
        kind : str
            Flower's message type.
        contents : mapping of str to RecordDict
            What each site is sent.
        grid : Grid
            On which they are asked.
        check : callable
            Returns what is kept of an answer, or raises a `FedprintError`.
        """
        answers: dict[str, Answer] = {}
        steps = {site: step if isinstance(step, str) else step[site] for site in contents}
        for site in contents:
            if kept := self._recall(steps[site], site):
                answers[site] = kept
                self._done(site, "answered before")
        missing = [site for site in contents if site not in answers]
        site_of = {self.nodes[site]: site for site in missing}

        def arrived(node: int, reply: Message) -> None:
            site = site_of[node]
            answers[site] = self._received(steps[site], site, reply, check)

        if missing:
            requests = [(self.nodes[site], contents[site]) for site in missing]
            ask(grid, requests, kind, self.timeout, on_reply=arrived)
        for site in missing:
            if site not in answers:
                answers[site] = self._received(steps[site], site, None, check)
        return {site: answers[site] for site in contents}

    def phase(self, name: str, waiting: Sequence[str], deadline: float | None = None) -> None:
        """Say that a phase begins."""
        if self.progress:
            self.progress.phase(name, waiting, deadline)

    def lost(self, site: str, problem: Problem) -> None:
        """Say that a site is lost."""
        if self.progress:
            self.progress.lost(site, problem.reason, str(problem))

    def _recall(self, step: str, site: str) -> RecordDict | None:
        return self.journal.recall(step, site) if self.journal else None

    def _received(self, step: str, site: str, reply: Message | None, check: Check) -> Answer:
        try:
            content = check(content_of(reply))
        except FedprintError as error:
            problem = _problem(error)
            self.lost(site, problem)
            return problem
        if self.journal:
            self.journal.keep(step, site, content)
        self._done(site)
        return content

    def _done(self, site: str, note: str = "") -> None:
        if self.progress:
            self.progress.done(site, note)


def _problem(error: FedprintError) -> Problem:
    if isinstance(error, Problem):
        return error
    return Problem(str(getattr(error, "reason", "error")), str(error))


class GroupRounds:
    """A group's memory of its rounds, as `strategies.group_grid.GroupGrid` takes it.

    Parameters
    ----------
    group : str
        Name of the group.
    steps : Steps
        Names of the nodes, the journal, and who is told.
    tracker : GroupTracker, optional
        Told of every round that was not kept before.
    """

    def __init__(self, group: str, steps: Steps, tracker: GroupTracker | None = None) -> None:
        self._group, self._steps, self._tracker = group, steps, tracker
        self._site_of = {node: site for site, node in steps.nodes.items()}
        self._out: set[str] = set()

    def recall(self, number: int) -> Round | None:
        """Return a round that was kept, by today's node ids."""
        journal, nodes = self._steps.journal, self._steps.nodes
        kept = journal.recall_round(self._group, number) if journal else None
        if kept is None or not {*kept.replies, *(site for site, *_ in kept.losses)} <= set(nodes):
            return None
        ended = Round(
            {nodes[site]: content for site, content in kept.replies.items()},
            [Loss(nodes[site], why, for_good) for site, why, for_good in kept.losses],
        )
        self._tell(number, ended, "kept before")
        return ended

    def keep(self, number: int, ended: Round) -> None:
        """Keep a round by the names of its sites."""
        if self._steps.journal:
            self._steps.journal.keep_round(
                self._group,
                number,
                {self._site_of[node]: content for node, content in ended.replies.items()},
                [(self._site_of[loss.node], loss.why, loss.for_good) for loss in ended.losses],
            )
        if self._tracker:
            self._tracker.round(number, ended)
        self._tell(number, ended)

    def _tell(self, number: int, ended: Round, note: str = "") -> None:
        progress = self._steps.progress
        if progress is None:
            return
        sites = [self._site_of[node] for node in ended.replies]
        progress.note("round", group=self._group, round=number, sites=sites, note=note)
        for loss in ended.losses:
            reason = "unusable-reply" if loss.for_good else "no-reply"
            progress.lost(self._site_of[loss.node], reason, loss.why)
            self._out.add(self._site_of[loss.node])
        for site in self._out.intersection(sites):
            progress.note("returned", site=site, group=self._group, round=number)
            self._out.discard(site)
