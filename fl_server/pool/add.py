"""Adding to a pool: a run folder, one release, or experiments that a site made by itself.

All of it is verified and signed before the pool is touched, so that a pool can be made for it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from fl_server.pool.records import (
    ENVELOPE_LIMIT,
    ExperimentRecord,
    TaskRecord,
    open_experiment,
    open_release,
)
from fl_server.pool.run_weights import Trained, put_weights
from fl_server.pool.runs import read_run
from fl_server.pool.session import Pool
from fl_server.pool.store import Tally, put_all
from fl_server.pool_vectors import follow
from fl_server.shelf import all_or_nothing
from fl_server.verify_evidence import Broken, read_plain
from protocol.errors import ConfigError, one_line
from protocol.experiment import Experiment, sign_experiment
from protocol.fingerprint import LIMIT
from protocol.keys import Signer
from protocol.verify import local_spec

ENDING = ".dsse.json"
LINES = ".jsonl"
A_RELEASE = f"a release is NAME{ENDING} with NAME.safetensors and spec.json beside it"
A_FILE = "a file of experiments holds one as JSON a line"
OWN_KEY = (
    "the coordinator's key is the one that the run brings along, which whoever rewrote the whole "
    "folder would have replaced; if others made the run, give --coordinator PEM"
)


@dataclass(frozen=True)
class Addition:
    """What goes into a pool, verified and signed.

    Attributes
    ----------
    tasks : list of TaskRecord
        Releases.
    experiments : list of ExperimentRecord
        On these tasks, or on tasks of the pool.
    weights : list of Trained
        Models that may be handed on.
    notes : list of str
        What is not in it, and why.
    """

    tasks: list[TaskRecord] = field(default_factory=list)
    experiments: list[ExperimentRecord] = field(default_factory=list)
    weights: list[Trained] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def add(pool: Pool, addition: Addition) -> Tally:
    """Put into a pool what it lacks of an addition; all of it or nothing."""
    tally = Tally(notes=list(addition.notes))
    with pool.writing() as session, all_or_nothing(pool):
        put_all(session, addition.tasks, addition.experiments, tally)
        for weights in addition.weights:
            put_weights(pool, session, weights, tally)
    if addition.tasks:
        follow(pool)
    return tally


def of_run(run: Path, signer: Signer, coordinator: str | None = None) -> Addition:
    """Verify a run folder; return its tasks, its experiments, and weights that may be handed on.

    Parameters
    ----------
    run : Path
        The run folder.
    signer : Signer
        Who signs that these experiments are what the run measured.
    coordinator : str or None
        The coordinator's public key (PEM), from elsewhere than the run folder.

    Raises
    ------
    NotVerified
        When the run is not finished, or `fedprint verify` finds anything.
    """
    found = read_run(run, coordinator)
    notes = [*found.notes, *([OWN_KEY] if coordinator is None else [])]
    signed = [_signed(experiment, signer, found.coordinator) for experiment in found.experiments]
    return Addition(found.tasks, signed, found.weights, notes)


def of_release(envelope: Path) -> Addition:
    """Verify one release and return its task; nobody vouches for its key.

    Parameters
    ----------
    envelope : Path
        ``<site>.dsse.json``; ``<site>.safetensors`` and ``spec.json`` lie beside it.

    Raises
    ------
    ConfigError
        When a file is missing.
    VerificationError
        When the release is not in order, or has expired.
    """
    return Addition([read_release(envelope)])


def of_experiments(experiments: list[Experiment], signer: Signer) -> Addition:
    """Sign experiments on tasks that are in the pool."""
    return Addition(experiments=[_signed(experiment, signer, "") for experiment in experiments])


def read_release(envelope: Path) -> TaskRecord:
    """Verify one release from its files and return its task; see `of_release`."""
    site = envelope.name.removesuffix(ENDING)
    payload = envelope.with_name(f"{site}.safetensors")
    spec = local_spec(envelope.parent).require_ready()
    return open_release(
        _bytes_of(payload, LIMIT), _bytes_of(envelope, ENVELOPE_LIMIT), spec, vouched_by=""
    )


def read_experiments(file: Path) -> list[Experiment]:
    """Return the experiments of a file, one as JSON a line.

    Raises
    ------
    ConfigError
        When the file is none of that.
    """
    found = []
    for number, line in enumerate(_bytes_of(file, LIMIT, A_FILE).splitlines(), 1):
        try:
            found.append(Experiment.model_validate_json(line))
        except ValidationError as error:
            raise ConfigError(f"{file}: line {number}: {one_line(error)}: {A_FILE}") from None
    return found


def _signed(experiment: Experiment, signer: Signer, vouched_by: str) -> ExperimentRecord:
    return open_experiment(sign_experiment(experiment, signer), vouched_by=vouched_by)


def _bytes_of(path: Path, limit: int, wanted: str = A_RELEASE) -> bytes:
    try:
        return read_plain(path, str(path), limit)
    except Broken as error:
        raise ConfigError(f"{path} {error.finding.what}: {wanted}") from None
