"""Distances, groups and recommendations from Python: by what the commands of these names call."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fl_server.api_results import Distances, Groups, Recommendations
from fl_server.decisions import compare, decide
from fl_server.measure_commands import DEFAULT
from fl_server.pool_query import MEASURE, ScenarioName
from fl_server.tasks import tasks_of_fingerprints, tasks_of_folder
from protocol.errors import ConfigError
from protocol.signed import SignedFingerprint, open_fingerprint
from strategies.measures import Task, get, lacks

if TYPE_CHECKING:
    from fl_server.pool.add import Addition
    from fl_server.pool.store import Tally

__all__ = [
    "Distances",
    "Fingerprints",
    "Groups",
    "Recommendations",
    "add_to_pool",
    "distances",
    "groups",
    "open_fingerprint",
    "recommend",
]

Fingerprints = Path | str | Sequence[SignedFingerprint | Path | str]
"""A run folder or a folder of fingerprints; or some, each as `fl_client.api` makes it or as a file
NAME.dsse.json."""


def distances(fingerprints: Fingerprints, measure: str = DEFAULT) -> Distances:
    """Compute the distances between the tasks of some sites.

    Parameters
    ----------
    fingerprints : Path, str or sequence
        Whose, all of one spec: a run folder, a folder of fingerprints, or a list of fingerprints,
        each as `fl_client.api.fingerprint` returns it or as its file NAME.dsse.json.
    measure : str
        One of `strategies.measures.available`.

    Returns
    -------
    Distances
        Row = source, column = target, lower = closer; NaN is not known.

    Raises
    ------
    ConfigError
        If there is no such measure, or fewer than two sites released what it needs.
    VerificationError
        If a fingerprint is not what was signed, or is of another spec.
    """
    chosen = get(measure)
    tasks = _tasks(fingerprints)
    matrix = compare(chosen, tasks)  # [s, s]
    lacking = {task.name: tuple(needs) for task in tasks if (needs := lacks(chosen, task))}
    return Distances(measure, tuple(task.name for task in tasks), matrix, lacking)


def groups(
    fingerprints: Fingerprints,
    measure: str = DEFAULT,
    *,
    min_size: int = 1,
    max_size: int = 0,
    partners: int = 3,
    alike: Literal["task", "data"] = "task",
) -> Groups:
    """Group sites by what they released, and name each one's partners.

    Parameters
    ----------
    fingerprints, measure
        See `distances`.
    min_size, max_size : int
        Smallest and largest group; a maximum of 0 is none.
    partners : int
        Co-training partners a site.
    alike : {"task", "data"}
        What groups have in common: the task, whatever the shares of classes; or the data.

    Raises
    ------
    ConfigError, VerificationError
        See `distances`; also if sizes or `alike` cannot be used.
    """
    tasks = _tasks(fingerprints)
    decision = decide(
        tasks,
        measure=measure,
        min_size=min_size,
        max_size=max_size,
        partners=partners,
        truth=alike,
    )
    return Groups(measure, decision)


def recommend(
    target: SignedFingerprint | Path | str,
    pool: Path | str,
    *,
    scenarios: Sequence[str] = (),
    shots: int = 3,
    measure: str = MEASURE,
    seed: int = 0,
    device: str = "auto",
) -> Recommendations:
    """Suggest what to try on a task, in rank order, and say why.

    Parameters
    ----------
    target : SignedFingerprint, Path or str
        Who asks: a fingerprint, its file NAME.dsse.json, or first digits of an id in the pool.
        What was measured on it is not used.
    pool : Path or str
        A SQLite file, or ``postgresql://USER@HOST/NAME``.
    scenarios : sequence of str
        What kind of knowledge: ``architecture``, ``pretraining``, ``augmentation``,
        ``co-training``; by default all.
    shots : int
        Suggestions a scenario.
    measure : str
        Distance by which tasks are near.
    seed : int
        Of which doubtful shots are tried.
    device : str
        What searches: ``auto``, ``cpu``, ``cuda``, ``mps`` or ``faiss``; all find the same.

    Raises
    ------
    ConfigError
        If there is no such pool, task, scenario or measure, or nobody in the pool compares.
    VerificationError
        If the fingerprint is not in order.
    """
    from fl_server import pool_advice
    from fl_server.pool.session import open_pool
    from fl_server.pool_nearest import require_somebody
    from fl_server.pool_target import read_target

    known = [each.value for each in ScenarioName]
    if unknown := [each for each in scenarios if each not in known]:
        raise ConfigError(f"there is no scenario {unknown[0]!r}: take {', '.join(known)}")
    if seed < 0:
        raise ConfigError(f"the seed is {seed}: take 0 or more")
    wanted = [each for each in pool_advice.SCENARIOS if not scenarios or each in scenarios]
    with open_pool(pool) as opened:
        with opened.reading() as session:
            who = target if isinstance(target, SignedFingerprint) else str(target)
            asking = read_target(session, who)
        found = pool_advice.recommend(
            opened, asking, wanted, k=shots, measure=measure, seed=seed, device=device
        )
        if not any(each.shots for each in found.counsels):
            require_somebody(opened, 0, asking.spec.name)
    return Recommendations(found)


def add_to_pool(
    pool: Path | str,
    source: Path | str | SignedFingerprint | Sequence[SignedFingerprint],
    *,
    key: str = "",
    public_key: Path | None = None,
    coordinator: Path | None = None,
) -> Tally:
    """Add tasks to a knowledge pool, and what trainings came to; all of it verified first.

    Parameters
    ----------
    pool : Path or str
        A SQLite file, made where there is none, or ``postgresql://USER@HOST/NAME``.
    source : Path, str, SignedFingerprint or sequence of SignedFingerprint
        A finished run folder; a release, NAME.dsse.json with its files beside it; experiments, one
        as JSON a line of a .jsonl file; or fingerprints.
    key, public_key : str, Path
        Who signs a run's outcomes and the experiments of a file: a key file, or a URI with the PEM
        file of its public half; else your own key.
    coordinator : Path, optional
        The coordinator's public key (PEM), from elsewhere than the run folder.

    Returns
    -------
    Tally
        How many tasks and experiments were added or known.

    Raises
    ------
    ConfigError
        If pool or source is none.
    NotVerified, VerificationError
        If anything in it is not in order.
    """
    from fl_server.pool import add as adding
    from fl_server.pool.session import check_place, open_pool

    check_place(pool)  # before the work, and a new pool is made only after it
    if isinstance(source, Path | str):
        addition = _addition(Path(source), key, public_key, coordinator)
    else:
        from fl_server.pool_target import record_of

        given = [source] if isinstance(source, SignedFingerprint) else source
        addition = adding.Addition([record_of(each) for each in given])
    with open_pool(pool, create=True) as opened:
        return adding.add(opened, addition)


def _addition(
    source: Path, key: str, public_key: Path | None, coordinator: Path | None
) -> Addition:
    """Verify what files hold that are to be added to a pool."""
    from fl_server.pool import add as adding
    from fl_server.pool_keys import pem_of, signer_of

    if source.is_dir():
        signer = signer_of(key, public_key, source)
        return adding.of_run(source, signer, pem_of(coordinator))
    if not source.exists():
        raise ConfigError(f"there is no {source}: give a run folder, or a release NAME.dsse.json")
    if source.name.endswith(adding.ENDING):
        return adding.of_release(source)
    if source.suffix == adding.LINES:
        told = adding.read_experiments(source)
        return adding.of_experiments(told, signer_of(key, public_key))
    raise ConfigError(
        f"{source} is neither a run folder, nor a release NAME.dsse.json, nor a .jsonl "
        "file of experiments"
    )


def _tasks(fingerprints: Fingerprints) -> list[Task]:
    if isinstance(fingerprints, Path | str):
        return tasks_of_folder(Path(fingerprints))
    return tasks_of_fingerprints([_opened(each) for each in fingerprints])


def _opened(given: SignedFingerprint | Path | str) -> SignedFingerprint:
    return given if isinstance(given, SignedFingerprint) else open_fingerprint(given)
