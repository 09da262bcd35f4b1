"""The main job: exchange, decide, train the arms, take in who came late, write the run folder."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from flwr.serverapp import Grid

from fl_server.closing import show_closed
from fl_server.coordinator import Coordinator, open_coordinator
from fl_server.decisions import Decision, decide_as
from fl_server.descriptors import collect_descriptors
from fl_server.exchange import Begun, Exchange, Patience, exchange_fingerprints
from fl_server.late import join_at_the_end
from fl_server.outcome_records import experiments_of, write_experiments
from fl_server.outcomes import metrics_file, recommendations_file
from fl_server.pool_after import add_to_pool, check_pool
from fl_server.report import write_report
from fl_server.runfolder import distances_csv, run_file, write_exchange, write_log
from fl_server.runstate import RunState, run_state
from fl_server.scores import ArmOutcome
from fl_server.scoring import collect_scores, require_scorable
from fl_server.settings import RunSettings
from fl_server.suspects import note_suspicions
from fl_server.tasks import tasks_of
from fl_server.tracking import check_tracking
from fl_server.train_arms import Revoked, train_arms
from fl_server.weights_out import write_models
from fl_server.witness import answers_of, enter, show_log
from protocol.errors import FedprintError
from protocol.files import atomic_json, atomic_write, sha256_hex
from protocol.runfiles import LeftOut
from protocol.spec import load_spec
from protocol.trials import TrialsFile
from strategies.measures import Task

log = logging.getLogger("fedprint")


def run(
    grid: Grid, settings: RunSettings, name: str, coordinator: Coordinator | None = None
) -> Path:
    """Exchange, decide, train the arms, and write the run folder.

    Interrupted at any moment and called again with the same settings, it goes on where it was:
    what is verified is not asked for again, and what was trained is not trained again.

    Parameters
    ----------
    grid : Grid
        Flower's grid.
    settings : RunSettings
        What was asked.
    name : str
        Unique name of the run; an interrupted run keeps the one that it began with.
    coordinator : Coordinator, optional
        Key and trust store; a deployment needs it.

    Returns
    -------
    Path
        The run folder.

    Raises
    ------
    ConfigError
        If the pool or tracking cannot be used, or models shall be scored that nobody trains.
    FedprintError
        If fewer sites than the quorum pass verification.
    """
    out = Path(settings.out)
    check_pool(settings)
    check_tracking(settings)
    require_scorable(settings)
    with run_state(out, settings, name) as state:
        if state.resumed:
            log.info("resuming run %s in %s", state.run, out)
        while True:
            try:
                exchange = _run_once(grid, settings, state, coordinator)
                break
            except Revoked as error:
                log.warning("%s: the run goes on without them", error)
                assert coordinator is not None
                coordinator = open_coordinator(coordinator.folder)
        state.tidy()
        if coordinator is not None:
            join_at_the_end(grid, settings, coordinator, exchange, state.progress)
        add_to_pool(settings, out, coordinator.signer if coordinator else state.signer)
    log.info("run folder: %s", out)
    return out


def _run_once(
    grid: Grid, settings: RunSettings, state: RunState, coordinator: Coordinator | None
) -> Exchange:
    """Do the job from where it is to its end."""
    exchange = exchange_as(grid, settings, state, coordinator)
    descriptors = collect_descriptors(grid, settings, state, exchange)
    scores = collect_scores(grid, settings, state, exchange, coordinator)
    decision = group_as(state.folder, exchange, settings, tasks_of(exchange, descriptors, scores))
    _show_log(grid, settings, state, exchange)
    outcomes = train_arms(grid, settings, state, exchange, decision, coordinator)
    _finish(state.folder, settings, state, exchange, decision, outcomes)
    show_closed(grid, state.folder, exchange, exchange.nodes, settings, state.progress)
    return exchange


def patience_of(settings: RunSettings) -> Patience:
    """Return how long a run waits for whom."""
    return Patience(
        settings.min_sites,
        settings.quorum,
        settings.connect_timeout,
        settings.exchange_timeout,
        settings.await_approval,
    )


def exchange_as(
    grid: Grid, settings: RunSettings, state: RunState, coordinator: Coordinator | None = None
) -> Exchange:
    """Exchange fingerprints as the settings say.

    Raises
    ------
    FedprintError
        If fewer sites than the quorum pass verification.
    """
    spec = load_spec(settings.spec)
    log.info("exchanging fingerprints under spec %s", spec.name)
    exchange = exchange_fingerprints(
        grid,
        spec,
        state.run,
        coordinator=coordinator,
        patience=patience_of(settings),
        received=state.received,
        progress=state.progress,
        begun=Begun(
            *(settings.terms, state.log, None if coordinator else state.signer),
            settings=settings.decisive,
        ),
    )
    exchange.enter()
    for gone in exchange.left_out:
        log.info("left out: %s (%s) %s", gone.site, gone.reason, gone.message)
    verified = len(exchange.releases)
    log.info("%d signed fingerprints verified, %d left out", verified, len(exchange.left_out))
    if verified < settings.quorum:
        first = exchange.left_out[0] if exchange.left_out else LeftOut(site="nobody", reason="")
        raise FedprintError(
            f"{verified} sites passed verification, at least {settings.quorum} are needed; "
            f"first problem: {first.site}: {first.message or first.reason}"
        )
    return exchange


def group_as(
    out: Path, exchange: Exchange, settings: RunSettings, tasks: Sequence[Task] | None = None
) -> Decision:
    """Decide who trains with whom, as the settings say, and write it into the run folder.

    Without `tasks`, fingerprints are all that is known of the sites.
    """
    decision = decide_as(settings, tasks if tasks is not None else tasks_of(exchange))
    note_suspicions(exchange, decision.suspicions, decision.left_out)
    write_exchange(out, exchange)
    atomic_write(out / "distances.csv", distances_csv(decision.names, decision.distances))
    atomic_json(out / "groups.json", decision.groups)
    atomic_json(out / "recommendations.json", recommendations_file(decision))
    exchange.log.add_once("groups", sha256=sha256_hex((out / "groups.json").read_bytes()))
    _tell(decision)
    return decision


def _tell(decision: Decision) -> None:
    """Log the groups, and mark the sites that may as well belong elsewhere."""
    unsure = {site for site, why in decision.groups.sites.items() if why.certain is False}
    for group in decision.groups.groups:
        named = (f"{site} (?)" if site in unsure else site for site in group.sites)
        log.info("%s: %s", group.name, ", ".join(named))
    if unsure:
        log.info("(?) not certain of its group: the report and groups.json say why")


def _show_log(grid: Grid, settings: RunSettings, state: RunState, exchange: Exchange) -> None:
    """Show the sites what was decided, before anything is built on it."""
    decided = exchange.log.last("groups")
    nodes = {s: node for s, node in exchange.nodes.items() if exchange.log.seen_by(s) <= decided}
    state.progress.phase("checkpoint", list(nodes), settings.exchange_timeout)
    answers = show_log(grid, exchange, nodes, settings.exchange_timeout, state.progress)
    enter(exchange, answers)


def _finish(
    out: Path,
    settings: RunSettings,
    state: RunState,
    exchange: Exchange,
    decision: Decision,
    outcomes: dict[str, ArmOutcome],
) -> None:
    """Write what the run ended with; the log's checkpoint comes last."""
    state.progress.phase("report")
    if outcomes:
        atomic_json(out / "metrics.json", metrics_file(outcomes, decision.names))
    seconds = exchange.seconds | {f"train {arm}": o.seconds for arm, o in outcomes.items()}
    ended = datetime.now(UTC)
    if "planned" in outcomes:
        trials = TrialsFile.model_validate_json((out / "trials.json").read_bytes()).trials
        tasks = {site: release.digests["payload"] for site, release in exchange.releases.items()}
        found = experiments_of(trials, tasks, settings, exchange.run, ended)
        write_experiments(out, found)
    answers = answers_of(exchange.log)
    file = run_file(exchange, settings, seconds, state.started, ended, answers)
    atomic_json(out / "run.json", file)
    write_models(out)
    write_report(out)
    write_log(out, exchange)
