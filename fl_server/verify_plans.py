"""Checks of a run's plans: signed, as the log names them, and as the trials' scores have it.

What a site scored is its own word; what followed from these words is computed once more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydantic import ValidationError

from fl_server.outcome_records import EXPERIMENTS, experiments_of
from fl_server.planning import ENDING, PLANS, open_plan
from fl_server.runfolder import PLANNING
from fl_server.trial_choice import choose, plain
from fl_server.trials import settings_of
from fl_server.verify_evidence import Broken, Evidence, Finding
from fl_server.verify_results import writer
from fl_server.verify_same import differences
from protocol.errors import FedprintError, one_line
from protocol.experiment import KINDS, Architecture, Experiment, Policy, Weights
from protocol.files import sha256_hex
from protocol.plan import Knowledge, Plan
from protocol.runfiles import GroupsFile, MetricsFile
from protocol.spec import Spec
from protocol.trials import PlansFile, Scores, Trial, TrialsFile


def check_plans(evidence: Evidence) -> Iterator[Finding]:
    """Check trials, choices, plans and experiments of a run that has them."""
    if "planned" not in evidence.settings.arms:
        for name in PLANNING:
            if (evidence.run / name).exists():
                yield Finding(name, "was added: the run made no plans")
        return
    trials = evidence.model("trials.json", TrialsFile).trials
    plans = evidence.model("plans.json", PlansFile).plans
    yield from _check_log(evidence)
    yield from _check_signed(evidence, plans)
    yield from _check_groups(evidence, plans, trials)
    for plan in plans:
        yield from _check_choices(evidence, plan, [t for t in trials if t.group == plan.group])
    yield from _check_experiments(evidence, trials)


def _check_log(evidence: Evidence) -> Iterator[Finding]:
    """Check that a group has one plan for as long as the groups stay as they are."""
    planned: set[str] = set()
    for number, entry in enumerate(evidence.entries, 1):
        group = str(entry.get("group"))
        if entry["kind"] == "groups":
            planned.clear()
        elif entry["kind"] == "plan" and group in planned:
            yield Finding("log", f"entry {number} replaces the plan of {group}, and none says why")
        elif entry["kind"] == "plan":
            planned.add(group)


def _check_signed(evidence: Evidence, plans: Sequence[Plan]) -> Iterator[Finding]:
    """Check that every plan is signed, and is the last that the log names for its group."""
    logged = {e.get("group"): e.get("sha256") for e in evidence.entries if e["kind"] == "plan"}
    there = {path.name for path in (evidence.run / PLANS).glob("*")}
    wanted = {f"{plan.group}{ENDING}" for plan in plans}
    for name in sorted(there ^ wanted):
        yield Finding(f"{PLANS}/{name}", "is missing" if name in wanted else "was added")
    for plan in plans:
        name = f"{PLANS}/{plan.group}{ENDING}"
        if f"{plan.group}{ENDING}" not in there:  # nor does a group's name lead out of the folder
            continue
        envelope = evidence.read(name)
        if logged.get(plan.group) != sha256_hex(envelope):
            yield Finding(name, "is not the plan that the log names")
        try:
            signed = open_plan(envelope, evidence.pem)
        except FedprintError as error:
            yield Finding(name, str(error))
            continue
        for line in differences(plan, signed):
            yield Finding("plans.json", f"{plan.group}: {line}")


def _check_groups(
    evidence: Evidence, plans: Sequence[Plan], trials: Sequence[Trial]
) -> Iterator[Finding]:
    """Check that plans are of this run, of its groups, and of the releases that it verified."""
    groups = {g.name: g.sites for g in evidence.model("groups.json", GroupsFile).groups}
    named = [plan.group for plan in plans]
    if len(set(named)) != len(named):
        yield Finding("plans.json", "has two plans of one group")
    for group in dict.fromkeys(trial.group for trial in trials):
        if group not in named:
            yield Finding("plans.json", f"has no plan of {group}, which tried something")
    for plan in plans:
        if plan.run != evidence.log.origin:
            yield Finding("plans.json", f"the plan of {plan.group} is of run {plan.run!r}")
        for site, release in plan.sites.items():
            if site not in groups.get(plan.group, []):
                yield Finding("plans.json", f"{site} is not of {plan.group}")
            elif evidence.named.get(site, {}).get("payload") != release:
                yield Finding("plans.json", f"names another release of {site} than the log does")


def _check_choices(evidence: Evidence, plan: Plan, trials: Sequence[Trial]) -> Iterator[Finding]:
    """Choose again, stage by stage, from the scores that the group's sites answered."""
    knowledge, baseline = Knowledge(), _alone(evidence, plan)
    for trial in trials:
        where = f"{trial.scenario} of {plan.group}"
        if trial.baseline != baseline:
            yield Finding("trials.json", f"{where}: the baseline is not what was chosen before it")
        wanted = settings_of(evidence.settings, knowledge, evidence.spec)
        if trial.hyperparameters != wanted:
            yield Finding("trials.json", f"{where}: was not made with the settings of the run")
        yield from _check_tried(trial, knowledge, evidence.spec, where)
        for site in sorted(trial.apart.keys() & {s for each in trial.tried for s in each.scores}):
            yield Finding("trials.json", f"{where}: {site} tried something, and has no say")
        choice, taken = choose(
            trial.scenario, trial.baseline, trial.tried, trial.untried, trial.apart
        )
        if writer(evidence):  # other versions word it otherwise
            choice = choice.model_copy(update={"sentence": trial.choice.sentence})
        for line in differences(trial.choice, choice):
            yield Finding("trials.json", f"{where}: {line}{writer(evidence)}")
        if taken is not None:
            knowledge, baseline = taken.knowledge, taken.scores
    if [trial.scenario for trial in trials] != list(evidence.settings.scenarios):
        yield Finding("trials.json", f"{plan.group} did not try each scenario once, in order")
    if plan.knowledge != knowledge:
        yield Finding("plans.json", f"the plan of {plan.group} is not what its trials chose")
    if plan.choices != [trial.choice for trial in trials]:
        yield Finding("plans.json", f"{plan.group} has other choices than its trials")


def _check_tried(trial: Trial, before: Knowledge, spec: Spec, where: str) -> Iterator[Finding]:
    """Check that each shot was tried as what it is said to be, and nothing else along with it."""
    for tried in trial.tried:
        now, detail = tried.knowledge, tried.detail
        if isinstance(detail, Architecture):
            part, said = "architecture", now.architecture and now.architecture.backbone
            fits = said == detail.name
        elif isinstance(detail, Policy):
            part, fits = "augmentation", now.augmentation == detail
        else:
            network = (before.architecture or spec).backbone
            part, start = "start", now.start
            fits = (
                isinstance(detail, Weights)
                and start is not None
                and ((start.sha256, start.architecture) == (detail.sha256, network))
            )
        rest = before.model_copy(update={part: getattr(now, part)})
        if KINDS[trial.scenario] != detail.kind or not fits or now != rest:
            yield Finding("trials.json", f"{where}: {tried.label} is not what was trained with")
        if any(plain(scores) != scores for scores in tried.scores.values()):
            yield Finding("trials.json", f"{where}: {tried.label} has scores that cannot be")


def _alone(evidence: Evidence, plan: Plan) -> dict[str, Scores]:
    """Return what each site of a plan scored alone, by ``metrics.json``."""
    sites = evidence.model("metrics.json", MetricsFile).sites
    found = {}
    for site in plan.sites:
        said = (sites[site].model_extra or {}).get("scores", {}) if site in sites else {}
        alone = said.get("alone", {}) if isinstance(said, dict) else {}
        if not isinstance(alone, dict) or not all(
            value is None or isinstance(value, int | float) for value in alone.values()
        ):
            raise Broken("metrics.json", f"does not say properly what {site} scored alone")
        found[site] = plain(alone)
    return found


def _check_experiments(evidence: Evidence, trials: Sequence[Trial]) -> Iterator[Finding]:
    """Check that the pool is told of every trial, and of nothing else."""
    ended = evidence.run_file.ended
    if ended is None:
        raise Broken("run.json", "does not say when the run ended")
    tasks = {site: str(entry.get("payload")) for site, entry in evidence.named.items()}
    run, wanted = evidence.log.origin, list[Experiment]()
    try:
        wanted = experiments_of(trials, tasks, evidence.settings, run, ended)
    except (KeyError, ValidationError):
        yield Finding("trials.json", "names sites or scores that no experiment can have")
    found = []
    for number, line in enumerate(evidence.read(EXPERIMENTS).splitlines(), 1):
        try:
            found.append(Experiment.model_validate_json(line))
        except ValidationError as error:
            raise Broken(EXPERIMENTS, f"line {number}: {one_line(error)}") from None
    if found != wanted:
        odd = next((n for n, (a, b) in enumerate(zip(found, wanted, strict=False), 1) if a != b), 0)
        where = f"line {odd}" if odd else f"{len(found)} lines, the trials give {len(wanted)}"
        yield Finding(EXPERIMENTS, f"is not what trials.json gives: {where}")
