"""One coordinator on a run folder at a time, and the same run again after it was interrupted."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fl_server.journal import Journal
from fl_server.progress import STATE, Progress
from fl_server.received import RECEIVED, Received
from fl_server.runfolder import CHECKPOINT, RUN_FILES
from fl_server.runlog import RunLog
from fl_server.settings import FREE, RunSettings
from protocol.errors import ConfigError, FedprintError
from protocol.files import atomic_json
from protocol.keys import Signer, signer, user_key

RUN = f"{STATE}/run.json"
LOCK = f"{STATE}/lock"
JOURNAL = f"{STATE}/journal"
KEY = f"{STATE}/coordinator.pem"
LOCK_SECONDS = 90.0
"""A ServerApp whose SuperLink was killed needs about a minute to notice."""


@dataclass(frozen=True)
class RunState:
    """What a run keeps beside its results, to be resumed with.

    Attributes
    ----------
    folder : Path
        The run folder.
    run : str
        Name of the run, also after it was resumed: sites keep their models under it.
    started : datetime
        When it was first started.
    resumed : bool
        Whether it was begun before.
    """

    folder: Path
    run: str
    started: datetime
    resumed: bool
    received: Received
    progress: Progress
    log: RunLog

    @property
    def signer(self) -> Signer:
        """What signs a run without a coordinator's folder: a key of its own, made once."""
        return own_signer(self.folder)

    def tidy(self) -> None:
        """Drop what a run is resumed with, once its results are complete."""
        for name in (RUN, RECEIVED):
            (self.folder / name).unlink(missing_ok=True)
        shutil.rmtree(self.folder / JOURNAL, ignore_errors=True)

    def journal(self, sites: Iterable[str]) -> Journal:
        """Return the journal of training among these sites; others have a journal of their own."""
        members = hashlib.sha256("\n".join(sorted(sites)).encode()).hexdigest()[:16]
        return Journal(self.folder / JOURNAL / members)


@contextmanager
def run_state(out: Path, settings: RunSettings, name: str) -> Iterator[RunState]:
    """Begin a run in a folder, or resume the one that was interrupted there.

    Parameters
    ----------
    out : Path
        The run folder.
    settings : RunSettings
        What is asked; of an interrupted run, it must ask the same.
    name : str
        Name of a new run.

    Raises
    ------
    ConfigError
        If the folder holds a finished run, or an interrupted one with other settings.
    FedprintError
        If another coordinator works on the folder.
    """
    refuse_finished(out)
    with locked(out):
        refuse_finished(out)  # another coordinator may have finished it meanwhile
        state = _open(out, settings, name)
        try:
            yield state
        except BaseException as error:
            state.progress.finish("failed", str(error) or type(error).__name__)
            raise
        state.progress.finish("finished")
        state.tidy()


def own_signer(run: Path) -> Signer:
    """Return the signer of a run that has no coordinator's folder.

    Its key stays with the run, so that a run that goes on, and a report made later, are signed as
    before; it proves nothing but that, and is no part of what the log covers.
    """
    return signer(user_key(run / KEY))


def refuse_finished(out: Path) -> None:
    """Raise if a folder holds a run that cannot be resumed."""
    held = [entry for entry in RUN_FILES if entry != STATE and (out / entry).exists()]
    if (out / CHECKPOINT).exists():
        raise ConfigError(
            f"{out} holds an earlier run ({held[0]}): choose another out, or take new sites into "
            'that run with mode="join"'
        )
    if held and not (out / RUN).exists():
        raise ConfigError(f"{out} holds an earlier run ({held[0]}): choose another out")


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Keep other coordinators off a run folder.

    Raises
    ------
    FedprintError
        If one is at work there and does not end within `LOCK_SECONDS`.
    """
    try:
        (out / LOCK).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot write to {out}: {error.strerror}; choose another out") from error
    with (out / LOCK).open("a") as file:
        deadline = time.monotonic() + LOCK_SECONDS
        while not _lock(file.fileno()):
            if time.monotonic() > deadline:
                raise FedprintError(
                    f"another coordinator works on {out}: stop it with flwr stop, or choose "
                    "another out"
                )
            time.sleep(0.5)
        yield


def _known(path: Path) -> dict[str, Any]:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        return {"run": str(known["run"]), **known, "settings": dict(known["settings"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} is damaged: the run cannot be resumed; delete its folder or choose another out"
        ) from error


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _open(out: Path, settings: RunSettings, name: str) -> RunState:
    path = out / RUN
    asked = settings.model_dump(mode="json")
    resumed = path.is_file()
    if resumed:
        known = _known(path)
        for key, before in known["settings"].items():
            if key not in FREE and asked.get(key, before) != before:
                raise ConfigError(
                    f"{out} holds an unfinished run with {key.replace('_', '-')}={before!r}, not "
                    f"{asked[key]!r}: resume it with its own settings or choose another out"
                )
    else:
        known = {"run": name, "settings": asked, "started": datetime.now(UTC).isoformat()}
        atomic_json(path, known)
    progress = Progress(out, known["run"])
    progress.note("resumed" if resumed else "started", pid=os.getpid())
    return RunState(
        out,
        known["run"],
        datetime.fromisoformat(known["started"]),
        resumed,
        Received(out),
        progress,
        RunLog.open(out),
    )
