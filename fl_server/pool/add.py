"""Adding to a pool: a run folder, one release, or experiments that a site made by itself."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from fl_server.pool.records import (
    ENVELOPE_LIMIT,
    ExperimentRecord,
    TaskRecord,
    open_experiment,
    open_release,
)
from fl_server.pool.run_weights import put_weights
from fl_server.pool.runs import read_run
from fl_server.pool.session import Pool
from fl_server.pool.store import Tally, put_all, put_task
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


def add_run(pool: Pool, run: Path, signer: Signer, coordinator: str | None = None) -> Tally:
    """Verify a run folder and add its tasks, its experiments, and weights that may be handed on.

    Parameters
    ----------
    pool : Pool
        Where to.
    run : Path
        The run folder.
    signer : Signer
        Who signs that these experiments are what the run measured.
    coordinator : str or None
        The coordinator's public key (PEM), from elsewhere than the run folder.

    Raises
    ------
    NotVerified
        When `fedprint verify` finds anything; nothing is added then.
    """
    found = read_run(run, coordinator)
    tally = Tally(notes=list(found.notes))
    if coordinator is None:
        tally.notes.append(OWN_KEY)
    signed = [_signed(experiment, signer, found.coordinator) for experiment in found.experiments]
    with pool.writing() as session, all_or_nothing(pool):
        put_all(session, found.tasks, signed, tally)
        for weights in found.weights:
            put_weights(pool, session, weights, tally)
    follow(pool)
    return tally


def add_release(pool: Pool, envelope: Path) -> Tally:
    """Verify one release and add its task; nobody vouches for its key.

    Parameters
    ----------
    pool : Pool
        Where to.
    envelope : Path
        ``<site>.dsse.json``; ``<site>.safetensors`` and ``spec.json`` lie beside it.

    Raises
    ------
    ConfigError
        When a file is missing.
    VerificationError
        When the release is not in order, or has expired.
    """
    record, tally = read_release(envelope), Tally()
    with pool.writing() as session:
        put_task(session, record, tally)
    follow(pool)
    return tally


def read_release(envelope: Path) -> TaskRecord:
    """Verify one release from its files and return its task; see `add_release`."""
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


def add_experiments(pool: Pool, experiments: list[Experiment], signer: Signer) -> Tally:
    """Sign experiments on tasks of the pool, and add them."""
    tally = Tally()
    signed = [_signed(experiment, signer, "") for experiment in experiments]
    with pool.writing() as session:
        put_all(session, [], signed, tally)
    return tally


def _signed(experiment: Experiment, signer: Signer, vouched_by: str) -> ExperimentRecord:
    return open_experiment(sign_experiment(experiment, signer), vouched_by=vouched_by)


def _bytes_of(path: Path, limit: int, wanted: str = A_RELEASE) -> bytes:
    try:
        return read_plain(path, str(path), limit)
    except Broken as error:
        raise ConfigError(f"{path} {error.finding.what}: {wanted}") from None
