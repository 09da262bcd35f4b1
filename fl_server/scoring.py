"""Scores in a run: models go to every target, and each target signs how well they fit its data.

The models are those that sites trained alone, so the arm ``alone`` is trained first; when its turn
comes among the other arms, it is there already.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from flwr.app import MessageType
from flwr.serverapp import Grid

from fl_server.arms import arm_groups, run_arm
from fl_server.asking import Problem
from fl_server.coordinator import Coordinator
from fl_server.course import Course, message
from fl_server.exchange import Exchange
from fl_server.model_answers import body_shapes, model_of, only_model
from fl_server.runstate import RunState
from fl_server.score_asking import Asking
from fl_server.score_folder import ByTarget, keep_only
from fl_server.scores import ArmOutcome
from fl_server.settings import RunSettings
from fl_server.steps import Steps
from fl_server.train_arms import check_trust
from protocol.errors import ConfigError, FedprintError
from protocol.sharing import Arrays
from protocol.taskcard import ONE_CLASS, class_keys
from strategies.measures import get
from strategies.suspicion import suspicions

__all__ = ["collect_scores", "require_scorable"]

log = logging.getLogger("fedprint")


def require_scorable(settings: RunSettings) -> None:
    """Raise if scores are wanted of models that nobody would train.

    Raises
    ------
    ConfigError
        If the run trains nothing.
    """
    if settings.wants_scores and not settings.arms:
        why = "scores=true" if settings.scores else f'measure="{settings.measure}"'
        raise ConfigError(
            f"run-config {why} scores the models that sites train alone, and this run trains "
            'nothing: let arms be "alone", or take a measure that needs no scores'
        )


def collect_scores(
    grid: Grid,
    settings: RunSettings,
    state: RunState,
    exchange: Exchange,
    coordinator: Coordinator | None,
) -> ByTarget:
    """Return by target, measure and source how well the sites' models fit; nothing if not wanted.

    Raises
    ------
    FedprintError
        If the run's measure needs scores, and there is none at all.
    Revoked
        If a site's key is not good any more.
    """
    if not settings.wants_scores:
        return {}
    members = _unsuspected(exchange, settings)
    if not any(release.verified.card.shares_weights for release in members.releases.values()):
        _nothing_scored(settings, "no task card says shares_weights = true")
        return {}
    if coordinator is not None:
        check_trust(members, coordinator)
    course, alone = _trained_alone(grid, settings, state, members)
    models = _models(course, alone)
    targets = _targets(members, alone)
    found = Asking(course, models, targets, state.folder).scores() if models else {}
    keep_only(state.folder, found)
    log.info("%d models scored by %d sites", len(models), len(found))
    scores = {site: signed.by_measure() for site, signed in found.items()}
    if not any(scores.values()):
        _nothing_scored(settings, "no site scored them" if models else "no site sent its own")
    return scores


def _nothing_scored(settings: RunSettings, why: str) -> None:
    """Say that there are no scores; a measure cannot do without.

    Raises
    ------
    FedprintError
        If the run's measure needs them.
    """
    if "scores" in get(settings.measure).needs:
        raise FedprintError(
            f"measure {settings.measure} needs scores of models, and there is none: {why}"
        )
    log.warning("no models are scored: %s", why)


def _trained_alone(
    grid: Grid, settings: RunSettings, state: RunState, members: Exchange
) -> tuple[Course, ArmOutcome]:
    """Train the arm ``alone``; its journal is the one of the arms that follow."""
    names = sorted(members.releases)
    log.info("training every site alone first: other sites score its model")
    steps = Steps(members.nodes, settings.train_timeout, state.journal(names), state.progress)
    alone = run_arm(
        "alone",
        arm_groups("alone", [], names, settings.seed),
        grid,
        members,
        settings,
        journal=steps.journal,
        progress=state.progress,
    )
    return Course("alone", grid, members, settings, steps), alone


def _unsuspected(exchange: Exchange, settings: RunSettings) -> Exchange:
    """Return the exchange without the sites that will have no part: no model goes to them."""
    if settings.suspects != "leave-out":
        return exchange
    prints = sorted(exchange.fingerprints, key=lambda fingerprint: fingerprint.site)
    out = {found.site for found in suspicions(prints, exchange.spec) if found.certain}
    kept = {site: release for site, release in exchange.releases.items() if site not in out}
    return replace(exchange, releases=kept)


def _targets(members: Exchange, alone: ArmOutcome) -> dict[str, int]:
    """Return who can score models, with its number of training images; say who cannot."""
    targets = {}
    for site, images in alone.examples.items():
        objective = members.releases[site].verified.card.objective
        if objective in ONE_CLASS:
            targets[site] = images
        else:
            log.info("%s has no part in scores of models: its objective is %s", site, objective)
    return targets


def _models(course: Course, alone: ArmOutcome) -> dict[str, Arrays]:
    """Return the models of those who trained alone and let their weights travel."""
    cards = {site: r.verified.card for site, r in course.exchange.releases.items()}
    asked = [
        site
        for site, card in cards.items()
        if site in alone.examples and card.shares_weights and card.objective in ONE_CLASS
    ]
    content = message(course.order().to_config())
    course.steps.phase("collect models", asked, course.settings.train_timeout)
    answers = course.steps.ask(
        *("scores/model", f"{MessageType.QUERY}.model", dict.fromkeys(asked, content)),
        course.grid,
        check=only_model,
    )
    shapes = body_shapes(course.settings.recipe, course.exchange.spec.features)
    models = {}
    for site, answer in answers.items():
        try:
            if isinstance(answer, Problem):
                raise answer
            models[site] = model_of(answer, class_keys(cards[site]), shapes)
        except Problem as problem:
            log.info("no model of %s is scored: %s", site, problem)
            course.steps.lost(site, problem)
    return models
