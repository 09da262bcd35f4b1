"""Adding to a pool: a run folder, or one release that a site sent by other means."""

from __future__ import annotations

from pathlib import Path

from fl_server.pool.records import ENVELOPE_LIMIT, ExperimentRecord, open_experiment, open_release
from fl_server.pool.runs import read_run
from fl_server.pool.session import Pool
from fl_server.pool.store import Tally, put_all, put_task
from fl_server.verify_evidence import Broken, read_plain
from protocol.errors import ConfigError
from protocol.experiment import Experiment, sign_experiment
from protocol.fingerprint import LIMIT
from protocol.keys import Signer
from protocol.verify import local_spec

ENDING = ".dsse.json"
OWN_KEY = (
    "the coordinator's key is the one that the run brings along, which whoever rewrote the whole "
    "folder would have replaced; if others made the run, give --coordinator PEM"
)


def add_run(pool: Pool, run: Path, signer: Signer, coordinator: str | None = None) -> Tally:
    """Verify a run folder and add its tasks and experiments.

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
    with pool.writing() as session:
        put_all(session, found.tasks, signed, tally)
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
    site = envelope.name.removesuffix(ENDING)
    payload = envelope.with_name(f"{site}.safetensors")
    spec = local_spec(envelope.parent).require_ready()
    record = open_release(
        _bytes_of(payload, LIMIT), _bytes_of(envelope, ENVELOPE_LIMIT), spec, vouched_by=""
    )
    tally = Tally()
    with pool.writing() as session:
        put_task(session, record, tally)
    return tally


def add_experiments(pool: Pool, experiments: list[Experiment], signer: Signer) -> Tally:
    """Sign experiments on tasks of the pool, and add them."""
    tally = Tally()
    signed = [_signed(experiment, signer, "") for experiment in experiments]
    with pool.writing() as session:
        put_all(session, [], signed, tally)
    return tally


def _signed(experiment: Experiment, signer: Signer, vouched_by: str) -> ExperimentRecord:
    return open_experiment(sign_experiment(experiment, signer), vouched_by=vouched_by)


def _bytes_of(path: Path, limit: int) -> bytes:
    try:
        return read_plain(path, str(path), limit)
    except Broken as error:
        raise ConfigError(
            f"{path} {error.finding.what}: a release is NAME{ENDING} with NAME.safetensors and "
            "spec.json beside it"
        ) from None
