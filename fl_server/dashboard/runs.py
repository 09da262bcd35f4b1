"""One run as the pages show it: what it says of itself, and its results as far as there are any."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from fl_server.progress import STATUS
from fl_server.report import page_context
from fl_server.report_data import RunData, read_run
from fl_server.status import RunStatus, run_status
from protocol.errors import DataError, FedprintError, one_line
from protocol.names import printable

File = TypeVar("File", bound=BaseModel)
LIMIT = 64 * 2**20
"""Bytes of the largest file of a run that is read."""
SAYS = 2**20
"""Bytes of the largest status that is read."""
READ = ("run.json", "groups.json", "distances.csv", "spec.json")
"""Files without which there is nothing to show but how far the run is."""
MORE = ("metrics.json", "trials.json", "plans.json", "ledger.json", "recommendations.json")
FOLDERS = ("fingerprints", "descriptors", "scores")
TRUST = ("trust.dsse.json", "coordinator.pub.pem")
KEPT = 2000
"""Sites of runs of which what was read is kept: about 128 kB of counts each."""

Stamp = tuple[tuple[str, int, int], ...]
"""Name, time of change and bytes of each file."""


@dataclass(frozen=True)
class Results:
    """What a run came to.

    Attributes
    ----------
    data : RunData
        Its files, read and checked.
    context : dict
        What the report's templates name: the figures of both are the same.
    """

    data: RunData
    context: dict[str, Any]


@dataclass(frozen=True)
class Run:
    """A run folder at one moment.

    Attributes
    ----------
    name : str
        In URLs.
    folder : Path
        Where it lies.
    status : RunStatus or None
        What it last said of itself; None where it says nothing.
    results : Results or None
        None where there are none yet, or they cannot be read.
    problem : str
        Why there are no results; empty otherwise.
    """

    name: str
    folder: Path
    status: RunStatus | None
    results: Results | None
    problem: str

    @property
    def lives(self) -> bool:
        """Whether somebody works on it now."""
        return self.status is not None and self.status.state == "running"

    @property
    def when(self) -> datetime | None:
        """When something last happened in it; None where it does not say."""
        if self.status is not None:
            return self.status.since
        return self.results.data.run.ended if self.results else None

    @property
    def state(self) -> str:
        """Return its state in a word."""
        if self.status is not None and self.status.state != "finished":
            return self.status.state
        return "finished" if self.results else "broken"


Known = tuple[Stamp, Results | None, str]


class Reader:
    """Reads runs, and reads again only what has changed."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._kept: dict[Path, Known] = {}

    def read(self, name: str, folder: Path) -> Run:
        """Return a run; one that cannot be read says why instead of having results."""
        status = _status(name, folder)
        with self._lock:  # one reader at a time: others then find what it read
            stamp = _stamp(folder)
            known = self._kept.pop(folder, None)
            if known is None or known[0] != stamp:
                known = (stamp, *_results(folder))
            self._kept[folder] = known
            while len(self._kept) > 1 and sum(map(_size, self._kept.values())) > KEPT:
                self._kept.pop(next(iter(self._kept)))  # the one that was not asked for longest
        return Run(name, folder, status, *known[1:])


def read_file(run: Run, name: str, model: type[File]) -> File | None:
    """Return one of a run's JSON files, None where it has none.

    Raises
    ------
    DataError
        If the file is too large or malformed.
    """
    path = run.folder / name
    if not path.exists():
        return None
    check_file(path)
    try:
        return model.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise DataError(f"{path} is not as it should be: {one_line(error)}") from None


def check_file(path: Path, limit: int = LIMIT) -> None:
    """Raise unless something is a plain file, no larger than anything that fedprint writes."""
    if not is_plain(path):
        raise DataError(f"{path} is no plain file: put a copy in the place of links")
    if path.stat().st_size > limit:
        raise DataError(f"{path} has more than {limit:,} bytes: it is not one of a run's files")


def is_plain(path: Path) -> bool:
    """Tell whether something is a file: opening a pipe waits for ever, and links lead anywhere."""
    return stat.S_ISREG(path.lstat().st_mode)


def _size(known: Known) -> int:
    return len(known[1].data.sites) if known[1] else 1


def _status(name: str, folder: Path) -> RunStatus | None:
    try:
        check_file(folder / STATUS, SAYS)
    except (OSError, DataError):
        return None
    return run_status(folder, Path(name), datetime.now(UTC))


def _results(folder: Path) -> tuple[Results | None, str]:
    try:
        for path in _files(folder):
            check_file(path)
        data = read_run(folder)
        return Results(data, page_context(data)), ""
    except FedprintError as error:
        return None, printable(str(error), 500)
    except (OSError, ValueError, LookupError, TypeError, ArithmeticError, RecursionError) as error:
        said = printable(f"{type(error).__name__}: {error}", 300)
        return None, f"the files of {folder} do not go together ({said}): see fedprint verify"


def _stamp(folder: Path) -> Stamp:
    """Return what changes when any file does that the pages are made of."""
    found = []
    for path in _files(folder):
        try:
            said = path.lstat()
        except OSError:  # just replaced: the next look finds the new one
            continue
        found.append((path.name, said.st_mtime_ns, said.st_size))
    return tuple(found)


def _files(folder: Path) -> list[Path]:
    """Return the files that pages are made of, those that are there."""
    named = [folder / name for name in (*READ, *MORE, *TRUST)]
    below = [path for name in FOLDERS for path in sorted((folder / name).glob("*"))]
    return [path for path in named if os.path.lexists(path)] + below
