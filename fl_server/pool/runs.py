"""What a finished run folder has for the pool: its releases, and what its trainings came to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fl_server.outcome_records import EXPERIMENTS
from fl_server.pool.records import TaskRecord, open_release
from fl_server.pool.run_weights import Trained, group_plans, trained_weights
from fl_server.runfolder import CHECKPOINT
from fl_server.runstate import RUN
from fl_server.verify_evidence import Broken, Evidence
from fl_server.verify_run import verify_run
from protocol.errors import FedprintError, VerificationError, one_line
from protocol.experiment import Experiment, Partner
from protocol.keys import key_id
from protocol.runfiles import MetricsFile, SiteMetrics
from protocol.statement import utc_now

ARMS = ("together", "grouped", "planned")
"""Arms whose partners were chosen for a reason, each compared with training alone.

What a plan gained is not its partners' alone: it is kept, and no advice on partners learns of it.
"""
METRICS = ("balanced_accuracy", "auroc")
SETTINGS = (
    "rounds",
    "local_epochs",
    "batch_size",
    "learning_rate",
    "proximal_mu",
    "strategy",
    "recipe",
)
"""What the outcome of a co-training depends on, among the settings of a run."""


class NotVerified(FedprintError):
    """A run folder that is not finished, or that `fedprint verify` finds fault with."""


@dataclass(frozen=True)
class RunRecords:
    """What a verified run has for the pool.

    Attributes
    ----------
    coordinator : str
        Id of the key that signed the run's log.
    tasks : list of TaskRecord
        The releases of the sites that took part.
    experiments : list of Experiment
        Not signed yet.
    weights : list of Trained
        Models of groups whose sites all agreed to hand them on.
    notes : list of str
        What was left out, and why.
    """

    coordinator: str
    tasks: list[TaskRecord]
    experiments: list[Experiment]
    weights: list[Trained]
    notes: list[str]


def read_run(run: Path, coordinator: str | None = None) -> RunRecords:
    """Verify a run folder and return what it has for the pool.

    Parameters
    ----------
    run : Path
        The run folder.
    coordinator : str or None
        The coordinator's public key (PEM), from elsewhere; else the one in the folder.

    Raises
    ------
    NotVerified
        When the run is not finished, or `fedprint verify` finds anything.
    """
    if (run / RUN).is_file() and not (run / CHECKPOINT).exists():
        raise NotVerified(
            f"{run} is not finished: nothing was added; resume it (start the same run again), "
            "and add it then"
        )
    evidence = Evidence(run, coordinator)
    found = verify_run(evidence).findings
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise NotVerified(
            f"{run} is not in order: {found[0].where}: {found[0].what}{more}: nothing was added; "
            f"see fedprint verify {run}"
        )
    try:
        return _records(evidence)
    except Broken as error:
        raise NotVerified(f"{run}: {error.finding.where}: {error.finding.what}") from None


def _records(evidence: Evidence) -> RunRecords:
    coordinator, notes = key_id(evidence.pem), list[str]()
    tasks = {}
    for site in evidence.members:
        payload = evidence.read(f"fingerprints/{site}.safetensors")
        envelope = evidence.read(f"fingerprints/{site}.dsse.json")
        try:
            tasks[site] = open_release(payload, envelope, evidence.spec, vouched_by=coordinator)
        except VerificationError as error:  # what was valid in the run may have expired since
            notes.append(f"{site}: {error}")
    ids = {site: task.id for site, task in tasks.items()}
    found = [*_trained_together(evidence, ids), *written_experiments(evidence)]
    weights = list(trained_weights(evidence, ids))
    return RunRecords(coordinator, list(tasks.values()), found, weights, notes)


def written_experiments(evidence: Evidence) -> Iterator[Experiment]:
    """Yield the experiments that the run folder holds as such; its log covers the file."""
    if not (evidence.run / EXPERIMENTS).exists():
        return
    for number, line in enumerate(evidence.read(EXPERIMENTS).splitlines(), 1):
        try:
            yield Experiment.model_validate_json(line)
        except ValidationError as error:
            raise Broken(EXPERIMENTS, f"line {number}: {one_line(error)}") from None


def _trained_together(evidence: Evidence, ids: Mapping[str, str]) -> Iterator[Experiment]:
    """Yield one experiment for each site, partner, arm and metric that was measured."""
    if not (evidence.run / "metrics.json").exists():  # an exchange, without training
        return
    file = evidence.model("metrics.json", MetricsFile)
    extra = file.model_extra or {}
    for arm in ARMS:
        lost = extra.get("lost", {}).get(arm, {})
        for plan in group_plans(extra, arm):
            members = [site for site in plan.taking_part if site in ids and site not in lost]
            for target in members if plan.trainable else ():
                partners = [ids[site] for site in members if ids[site] != ids[target]]
                yield from _outcomes(evidence, file, arm, target, ids[target], partners)


def _outcomes(
    evidence: Evidence,
    file: MetricsFile,
    arm: str,
    site: str,
    target: str,
    partners: list[str],
) -> Iterator[Experiment]:
    settings, said = evidence.settings, evidence.run_file
    dumped = settings.model_dump(mode="json", include=set(SETTINGS))
    for metric in METRICS:
        performance = _score(file.sites.get(site), arm, metric)
        baseline = _score(file.sites.get(site), "alone", metric)
        if performance is None or baseline is None:
            continue
        for source in dict.fromkeys(partners):
            yield Experiment(
                scenario="co-training",
                target=target,
                source=source,
                detail=Partner(arm=arm, tasks=len(partners) + 1),
                hyperparameters=dumped,
                seed=settings.seed,
                metric=metric,
                performance=performance,
                baseline=baseline,
                run=said.run,
                recorded=said.ended or utc_now(),
            )


def _score(metrics: SiteMetrics | None, arm: str, metric: str) -> float | None:
    """Return a score on test data, None where it was not measured."""
    if metrics is None:
        return None
    if metric == METRICS[0]:
        value: Any = getattr(metrics, arm, None)
    else:
        scores = (metrics.model_extra or {}).get("scores")
        of_arm = scores.get(arm) if isinstance(scores, Mapping) else None
        value = of_arm.get(f"test_{metric}") if isinstance(of_arm, Mapping) else None
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if number and 0 <= value <= 1 else None  # NaN is neither
