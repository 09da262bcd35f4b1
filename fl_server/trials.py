"""Trials: every site of a group trains each shot alone, at the whole budget, before any plan.

Groups try side by side: one message a site and shot. What a stage ended with is kept in the journal
as a whole, so that a run that goes on neither asks nor decides again.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from flwr.app import ArrayRecord, ConfigRecord, MessageType, RecordDict

from fl_server.asking import Problem
from fl_server.course import Course, array_record, message
from fl_server.offers import Adviser, Offer
from fl_server.scores import Answer, ArmOutcome, score
from fl_server.settings import RunSettings, Stage
from fl_server.trial_choice import choose, plain
from fl_server.trial_shots import Shot, ask_recipes, make_ready
from protocol.experiment import Architecture, Value
from protocol.files import canonical_json, sha256_hex
from protocol.names import printable
from protocol.plan import Knowledge
from protocol.sharing import Arrays
from protocol.spec import Spec
from protocol.trials import NOT_ALLOWED, Scores, Trial, Tried

__all__ = ["Chosen", "run_trials", "settings_of"]

log = logging.getLogger("fedprint")

LABEL = 200  # characters
OF_TRIALS = ("rounds", "local_epochs", "batch_size", "learning_rate", "recipe")
"""Settings that the outcome of a trial depends on."""


@dataclass(frozen=True)
class Chosen:
    """What a group has chosen so far.

    Attributes
    ----------
    group : str
        Its name.
    sites : tuple of str
        All of it.
    baseline : dict
        By site, its scores with what was chosen; who is not among them tries nothing more.
    apart : dict
        Sites whose policy lets them take part in no plans, with what they said: they are asked
        nothing more, and have no say.
    knowledge : Knowledge
        What was chosen.
    body : dict or None
        Of the weights among it, the arrays by name.
    trials : tuple of Trial
        How it came about.
    """

    group: str
    sites: tuple[str, ...]
    baseline: dict[str, Scores]
    knowledge: Knowledge = field(default_factory=Knowledge)
    body: Arrays | None = None
    trials: tuple[Trial, ...] = ()
    apart: dict[str, str] = field(default_factory=dict)

    @property
    def trying(self) -> list[str]:
        """The sites that go on trying."""
        return sorted(self.baseline.keys() - self.apart.keys())

    def after(self, trial: Trial, taken: Tried | None, body: Arrays | None) -> Chosen:
        """Return what is chosen after one more trial."""
        known = replace(self, trials=(*self.trials, trial), apart=trial.apart)
        if taken is None:
            return known
        return replace(known, knowledge=taken.knowledge, baseline=dict(taken.scores), body=body)


def run_trials(
    groups: Sequence[tuple[str, Sequence[str]]],
    alone: ArmOutcome,
    course: Course,
    advice: Adviser,
) -> list[Chosen]:
    """Find out what each group had better train with, one scenario on top of the other.

    Parameters
    ----------
    groups : sequence of (str, sequence of str)
        Names and sites.
    alone : ArmOutcome
        Of the arm ``alone``: the same budget without any shot. A group of which nobody has a score
        there has nothing to go by and is left out.
    course : Course
        The run.
    advice : Adviser
        Who proposes the shots.
    """
    scores = {site: plain(alone.scores[site]) for site in alone.examples}
    chosen = [
        Chosen(name, tuple(sites), {site: scores[site] for site in sites if site in scores})
        for name, sites in groups
    ]
    chosen = [each for each in chosen if each.baseline]
    for scenario in course.settings.scenarios:
        chosen = _try(scenario, chosen, course, advice)
    return chosen


def settings_of(settings: RunSettings, knowledge: Knowledge, spec: Spec) -> dict[str, Value]:
    """Return what a trial's outcome depends on beside the shot: the budget, what was chosen."""
    values: dict[str, Value] = settings.model_dump(mode="json", include=set(OF_TRIALS))
    network, policy, start = knowledge.architecture or spec, knowledge.augmentation, knowledge.start
    return values | {
        "architecture": network.backbone,
        "crop": network.preprocess.crop,
        "augmentation": sha256_hex(canonical_json(policy.pipeline)) if policy else None,
        "start": start.sha256 if start else None,
    }


def _try(
    scenario: Stage, groups: Sequence[Chosen], course: Course, advice: Adviser
) -> list[Chosen]:
    """Let every group try the shots of one scenario; return what each has chosen then."""
    known = {each.group: _recall(scenario, each, course) for each in groups}
    new = [each for each in groups if known[each.group] is None]
    new, ready = _make_ready(scenario, new, course, advice)
    tried: dict[str, list[Tried]] = {each.group: [] for each in new}
    for number in range(max((len(shots) for shots, _ in ready.values()), default=0)):
        turn = [(e, ready[e.group][0][number]) for e in new if number < len(ready[e.group][0])]
        answers = _ask(scenario, number + 1, turn, course)
        for each, shot in turn:
            tried[each.group].append(_tried(each, shot, answers))
        new = [_without(each, answers) for each in new]
    for each in new:
        known[each.group] = _end(scenario, each, *ready[each.group], tried[each.group], course)
    return [found for each in groups if (found := known[each.group]) is not None]


def _make_ready(
    scenario: Stage, groups: Sequence[Chosen], course: Course, advice: Adviser
) -> tuple[list[Chosen], dict[str, tuple[list[Shot], dict[str, str]]]]:
    """Return by group the shots that it can try, and those that it cannot with the reason.

    The groups come along, without the sites that said that they take part in no plans.
    """
    k, spec = course.settings.shots, course.exchange.spec
    offers = {each.group: advice.shots(scenario, each.sites, each.knowledge, k) for each in groups}
    told = ask_recipes(
        {site: _architectures(offers[each.group]) for each in groups for site in each.trying},
        course,
    )
    groups = [_without(each, told) for each in groups]
    return groups, {
        each.group: make_ready(offers[each.group], each.knowledge, each.trying, told, spec)
        for each in groups
    }


def _without(each: Chosen, answers: Mapping[str, object]) -> Chosen:
    """Return a group without the say of those who just answered that they take part in no plans."""
    said = {
        site: str(answer)
        for site in each.trying
        if isinstance(answer := answers.get(site), Problem) and answer.reason == NOT_ALLOWED
    }
    return replace(each, apart={**each.apart, **said}) if said else each


def _architectures(offers: Sequence[Offer]) -> list[str]:
    return [offer.detail.name for offer in offers if isinstance(offer.detail, Architecture)]


def _ask(
    scenario: Stage, number: int, turn: Sequence[tuple[Chosen, Shot]], course: Course
) -> dict[str, Answer]:
    """Ask the sites of several groups to train one shot each."""
    contents, steps = {}, {}
    for each, shot in turn:
        order = course.order(
            arm=f"trial-{scenario}-{number}",
            epochs=course.budget,
            proximal_mu=0.0,
            knowledge=shot.knowledge,
        )
        body = _body(each, shot)
        content = message(order.to_config(), array_record(body) if body else None)
        for site in [site for site in each.trying if site not in shot.missing]:
            contents[site] = content
            steps[site] = f"trials/{scenario}-{number}-{shot.knowledge.digest[:16]}"
    course.steps.phase(f"trial {scenario} {number}", list(contents), course.settings.train_timeout)
    return course.steps.ask(steps, f"{MessageType.TRAIN}.trial", contents, course.grid)


def _body(each: Chosen, shot: Shot) -> Arrays | None:
    return shot.offer.body if shot.offer.body is not None else each.body


def _tried(each: Chosen, shot: Shot, answers: dict[str, Answer]) -> Tried:
    """Return what came of one shot at a group's sites."""
    said = ArmOutcome()
    score(said, {site: answers[site] for site in sorted(each.baseline) if site in answers})
    return Tried(
        label=printable(shot.offer.label, LABEL),
        detail=shot.offer.detail,
        source=shot.offer.source,
        knowledge=shot.knowledge,
        scores={site: plain(scores) for site, scores in said.scores.items()},
        missing={**each.apart, **shot.missing, **said.lost},
    )


def _end(
    scenario: Stage,
    each: Chosen,
    shots: Sequence[Shot],
    untried: dict[str, str],
    tried: list[Tried],
    course: Course,
) -> Chosen:
    """Let a group choose, keep what it chose, and return it."""
    choice, taken = choose(scenario, each.baseline, tried, untried, each.apart)
    log.info("%s, %s: %s", each.group, scenario, choice.sentence)
    for label, why in untried.items():
        log.info("%s, %s: no site could try %s: %s", each.group, scenario, label, why)
    trial = Trial(
        group=each.group,
        scenario=scenario,
        hyperparameters=settings_of(course.settings, each.knowledge, course.exchange.spec),
        baseline=each.baseline,
        tried=tried,
        untried=untried,
        apart=each.apart,
        choice=choice,
    )
    body = each.body if taken is None else _body(each, shots[tried.index(taken)])
    if course.steps.journal:
        content = RecordDict({"trial": ConfigRecord({"json": trial.model_dump_json()})})
        if body:
            content["arrays"] = array_record(body)
        course.steps.journal.keep(f"trials/{scenario}", each.group, content)
    return each.after(trial, taken, body)


def _recall(scenario: Stage, each: Chosen, course: Course) -> Chosen | None:
    """Return what a group chose in a stage that had ended before the run was interrupted."""
    journal = course.steps.journal
    kept = journal.recall(f"trials/{scenario}", each.group) if journal else None
    if kept is None:
        return None
    trial = Trial.model_validate_json(str(kept.config_records["trial"]["json"]))
    _, taken = choose(scenario, trial.baseline, trial.tried, trial.untried, trial.apart)
    arrays = kept.array_records.get("arrays", ArrayRecord())
    body = {name: array.numpy() for name, array in arrays.items()} or None
    return each.after(trial, taken, body)
