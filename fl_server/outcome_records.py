"""``experiments.jsonl``: what a run's trials measured, as the knowledge pool takes it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path

from fl_server.settings import RunSettings
from protocol.experiment import Architecture, Detail, Experiment
from protocol.files import atomic_write
from protocol.trials import Scores, Trial, Tried

EXPERIMENTS = "experiments.jsonl"
METRICS = ("balanced_accuracy", "auroc")


def experiments_of(
    trials: Iterable[Trial],
    tasks: Mapping[str, str],
    settings: RunSettings,
    run: str,
    recorded: datetime,
) -> list[Experiment]:
    """Return what each shot did for each site, on its test data.

    Decisions were made on validation data, so these figures are not the better for having been
    chosen by. Weights that several tasks taught speak for each of them.

    Parameters
    ----------
    trials : iterable of Trial
        Of the run.
    tasks : mapping of str to str
        Each site's task: the SHA-256 of its release.
    settings : RunSettings
        Of the run, for the seed.
    run : str
        Its name.
    recorded : datetime
        When it ended.
    """
    return [
        Experiment(
            scenario=trial.scenario,
            target=tasks[site],
            source=source,
            detail=detail,
            hyperparameters=trial.hyperparameters,
            seed=settings.seed,
            metric=metric,
            performance=performance,
            baseline=_test(trial.baseline.get(site, {}), metric),
            run=run,
            recorded=recorded,
        )
        for trial in trials
        for site, source, detail, scores in _used(trial, tasks)
        for metric in METRICS
        if (performance := _test(scores, metric)) is not None
    ]


def write_experiments(folder: Path, experiments: Iterable[Experiment]) -> None:
    """Write ``experiments.jsonl``: one experiment as JSON a line."""
    lines = "".join(f"{each.model_dump_json()}\n" for each in experiments)
    atomic_write(folder / EXPERIMENTS, lines)


def _used(
    trial: Trial, tasks: Mapping[str, str]
) -> Iterator[tuple[str, str | None, Detail, Scores]]:
    """Yield site, source, knowledge and scores of all that was compared.

    The network that the shots had to beat is among them: a pool that never heard of it would advise
    the best of those that lost to it.
    """
    if trial.scenario == "architecture" and trial.tried:
        network = Architecture(name=str(trial.hyperparameters["architecture"]))
        for site, scores in sorted(trial.baseline.items()):
            yield site, None, network, scores
    for tried in trial.tried:
        for site, scores in sorted(tried.scores.items()):
            for source in _sources(tried, tasks[site]):
                yield site, source, tried.detail, scores


def _sources(tried: Tried, target: str) -> Iterator[str | None]:
    """Yield the tasks that a shot comes from, None where it is nobody's or the target's own."""
    start = tried.knowledge.start if tried.detail.kind == "weights" else None
    named = start.sources if start else [tried.source]
    yield from dict.fromkeys(None if source == target else source for source in named)


def _test(scores: Scores, metric: str) -> float | None:
    return scores.get(f"test_{metric}")
