"""A run and its pool: it is opened before the run begins, and takes the run in at its end."""

from __future__ import annotations

import logging
import shlex
from pathlib import Path

from fl_server.pool import open_pool
from fl_server.pool.add import add, of_run
from fl_server.pool.texts import counted, shown_name
from fl_server.server_file import read_server_file
from fl_server.settings import RunSettings
from fl_server.shelf import shelved
from protocol.errors import FedprintError
from protocol.keys import Signer, is_uri, signer_pem

log = logging.getLogger("fedprint")


def located(pool: str, folder: Path) -> str:
    """Return where a pool is, seen from any folder; a relative file counts from this one."""
    if not pool or "://" in pool:
        return pool
    return str(folder.resolve() / Path(pool).expanduser())


def check_pool(settings: RunSettings) -> None:
    """Open the pool of a run, making it where there is none: before hours of training, not after.

    Raises
    ------
    ConfigError, PoolBusy, DataError
        When it cannot be used, or weights beside it are damaged.
    """
    if settings.pool:
        with open_pool(settings.pool, create=True) as pool:
            shelved(pool)


def add_to_pool(settings: RunSettings, out: Path, signer: Signer) -> None:
    """Add a closed run to its pool; a failure is a warning that names the command that mends it.

    Parameters
    ----------
    settings : RunSettings
        Names the pool; without one nothing happens.
    out : Path
        The run folder, closed.
    signer : Signer
        The coordinator's key.
    """
    if not settings.pool:
        return
    name = shown_name(settings.pool)
    try:
        addition = of_run(out, signer, signer_pem(signer))
        with open_pool(settings.pool, create=True) as pool:
            tally = add(pool, addition)
    except (FedprintError, OSError) as error:
        log.warning("the run is not in the pool %s: %s; %s", name, error, _mend(settings, out))
        return
    log.info("pool %s: %s", name, counted(tally.counts))
    for note in tally.notes:
        log.info("pool: %s", note)


def _mend(settings: RunSettings, out: Path) -> str:
    """Return what to type; a deployment's key is elsewhere than beside the run."""
    words = ["fedprint", "pool", "add", shown_name(settings.pool), str(out)]
    if settings.server_dir:
        folder = Path(settings.server_dir)
        key = read_server_file(folder).key
        words += ["--key", key if is_uri(key) else str(folder / key)]
    return f"to add it: {shlex.join(words)}"
