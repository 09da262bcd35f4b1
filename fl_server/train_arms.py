"""All trainings of a run: the arms that are compared, one after the other."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
from flwr.serverapp import Grid

from fl_server.advising import adviser
from fl_server.arms import arm_groups, run_arm
from fl_server.coordinator import Coordinator, open_coordinator
from fl_server.course import Course
from fl_server.decisions import Decision
from fl_server.exchange import Exchange
from fl_server.journal import Journal
from fl_server.models import save_model
from fl_server.planned import run_planned
from fl_server.recommended import write_recommendations
from fl_server.runstate import RunState
from fl_server.scores import ArmOutcome
from fl_server.settings import RunSettings
from fl_server.steps import Steps
from fl_server.tracking import RunTracker, run_tracker
from protocol.errors import FedprintError, VerificationError
from protocol.statement import utc_now
from strategies.objectives import UNTRAINED

__all__ = ["Revoked", "check_trust", "train_arms"]

log = logging.getLogger("fedprint")


class Revoked(FedprintError):
    """Sites lost their place in the trust store while the run was going on."""


def train_arms(
    grid: Grid,
    settings: RunSettings,
    state: RunState,
    exchange: Exchange,
    decision: Decision,
    coordinator: Coordinator | None,
) -> dict[str, ArmOutcome]:
    """Train the arms that a run compares, one after the other, and keep the models of groups.

    Sites whose objective is not trained here take no part, and so get no scores.

    Raises
    ------
    Revoked
        Before an arm begins, if a site's key is not good any more.
    """
    journal = state.journal(decision.names)
    if settings.arms:
        exchange, decision = _to_train(exchange, decision)
        if not decision.names:
            return {}
    tracker = run_tracker(settings, state.folder, state.run)
    outcomes: dict[str, ArmOutcome] = {}
    groups = [group.sites for group in decision.groups.groups]
    cards = {site: release.verified.card for site, release in exchange.releases.items()}
    objectives = {site: cards[site].objective for site in decision.names}
    for arm in settings.arms:
        if coordinator is not None:
            check_trust(exchange, coordinator)
        if arm == "planned":
            outcomes[arm] = _train_planned(
                grid, settings, state, exchange, decision, outcomes, journal, tracker
            )
            _end_arm(arm, outcomes[arm], state, tracker)
            continue
        who = arm_groups(arm, groups, decision.names, settings.seed, objectives)
        log.info("training: %s (%d groups)", arm, len(who))
        outcomes[arm] = run_arm(
            arm,
            who,
            grid,
            exchange,
            settings,
            outcomes.get("alone"),
            journal=journal,
            progress=state.progress,
            tracker=tracker,
        )
        _end_arm(arm, outcomes[arm], state, tracker)
    return outcomes


def _to_train(exchange: Exchange, decision: Decision) -> tuple[Exchange, Decision]:
    """Leave out, and say so, the sites whose objective is not trained."""
    told = {site: release.verified.card.objective for site, release in exchange.releases.items()}
    left = [site for site in decision.names if told[site] in UNTRAINED]
    if not left:
        return exchange, decision
    log.info("not trained, for their task is a segmentation: %s", ", ".join(left))
    groups = [group for group in decision.groups.groups if not set(left) & set(group.sites)]
    releases = {site: each for site, each in exchange.releases.items() if site not in left}
    kept = [place for place, site in enumerate(decision.names) if site not in left]
    among = replace(
        decision,
        names=[decision.names[place] for place in kept],
        distances=decision.distances[np.ix_(kept, kept)],
        groups=decision.groups.model_copy(update={"groups": groups}),
    )
    return replace(exchange, releases=releases), among


def _train_planned(
    grid: Grid,
    settings: RunSettings,
    state: RunState,
    exchange: Exchange,
    decision: Decision,
    outcomes: dict[str, ArmOutcome],
    journal: Journal,
    tracker: RunTracker | None,
) -> ArmOutcome:
    """Ask for advice, say what is going to be tried, then try, plan and train."""
    log.info("trying what may serve each group, and training it by its plan")
    advice = adviser(settings, exchange, decision, outcomes)
    write_recommendations(
        state.folder, exchange, decision, advice, settings.scenarios, settings.shots
    )
    steps = Steps(exchange.nodes, settings.train_timeout, journal, state.progress)
    course = Course("planned", grid, exchange, settings, steps, tracker)
    return run_planned(decision.groups.groups, course, outcomes, advice, state.folder)


def _end_arm(arm: str, outcome: ArmOutcome, state: RunState, tracker: RunTracker | None) -> None:
    """Tell what an arm came to, and keep the models of its groups."""
    _tell_arm(arm, outcome)
    if tracker:
        tracker.arm(arm, outcome)
    for name, arrays in outcome.models.items():
        save_model(state.folder / "models" / f"{name}.safetensors", arrays)


def _tell_arm(arm: str, outcome: ArmOutcome) -> None:
    values = [s["test_balanced_accuracy"] for s in outcome.scores.values()]
    if values:
        log.info(
            "%s: mean balanced accuracy %.3f on test data of %d sites, %.0f s",
            *(arm, sum(values) / len(values), len(values), outcome.seconds),
        )
    for site, why in outcome.lost.items():
        log.info("lost in training (%s): %s: %s", arm, site, why)


def check_trust(exchange: Exchange, coordinator: Coordinator) -> None:
    """Raise `Revoked` if a site's key is not good any more: the trust store may have changed."""
    store, gone = open_coordinator(coordinator.folder).store, []
    for site, release in exchange.releases.items():
        try:
            store.key_for(release.verified.key_id, site, utc_now())
        except VerificationError:
            gone.append(site)
    if gone:
        raise Revoked(f"key of {', '.join(gone)} not valid any more")
