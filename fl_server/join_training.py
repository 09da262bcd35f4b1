"""Training newcomers: each alone for comparison, then from the finished model of its group."""

from __future__ import annotations

import time
from collections.abc import Mapping

from flwr.app import ArrayRecord, ConfigRecord, MessageType, RecordDict
from flwr.serverapp import Grid

from fl_server.arms import run_arm
from fl_server.exchange import Exchange
from fl_server.journal import Journal
from fl_server.progress import Progress
from fl_server.scores import ArmOutcome, score
from fl_server.settings import RunSettings
from fl_server.steps import Steps
from protocol.orders import Order


def train_newcomers(
    grid: Grid,
    exchange: Exchange,
    starts: Mapping[str, ArrayRecord],
    settings: RunSettings,
    journal: Journal | None = None,
    progress: Progress | None = None,
) -> dict[str, ArmOutcome]:
    """Train newcomers in two messages each; nobody else is asked.

    Both models have the whole budget of the run, so that the guard compares what the group's model
    is worth as a start and nothing else.

    Parameters
    ----------
    grid : Grid
        Flower's grid.
    exchange : Exchange
        The run, with the releases of the newcomers only.
    starts : mapping of str to ArrayRecord
        What each newcomer starts from; one that has none keeps its model of the arm ``alone``.
    settings : RunSettings
        Of the run.
    journal, progress
        See `fl_server.arms.run_arm`.

    Returns
    -------
    dict
        Outcomes of the arms ``alone`` and ``grouped``.
    """
    one_each = [[site] for site in exchange.releases]
    alone = run_arm("alone", one_each, grid, exchange, settings, journal=journal, progress=progress)
    started = time.monotonic()
    steps = Steps(exchange.nodes, settings.train_timeout, journal, progress)
    config = _order(exchange, settings).to_config()
    contents = {
        site: RecordDict({"config": ConfigRecord(config), "arrays": start})
        for site, start in starts.items()
        if site in alone.examples
    }
    grouped = ArmOutcome()
    if contents:
        steps.phase("train join", list(contents), settings.train_timeout)
        answers = steps.ask("grouped/join", f"{MessageType.TRAIN}.join", contents, grid)
        score(grouped, answers)
    for site, scores in alone.scores.items():
        if site not in grouped.lost:
            grouped.scores.setdefault(site, scores)
    grouped.seconds = time.monotonic() - started
    return {"alone": alone, "grouped": grouped}


def _order(exchange: Exchange, settings: RunSettings) -> Order:
    """Return what a newcomer is asked: as alone, but another model and the choice of the two."""
    return Order(
        run=exchange.run,
        arm="grouped",
        spec=exchange.spec,
        recipe=settings.recipe,
        epochs=settings.rounds * settings.local_epochs,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        seed=settings.seed,
        guard_against="alone",
    )
