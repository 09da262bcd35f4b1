"""What the dashboard reads: run folders below a folder, and a pool."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from fl_server.dashboard.folders import find_runs
from fl_server.dashboard.runs import Reader, Run
from fl_server.pool import Pool, open_pool
from protocol.errors import ConfigError, FedprintError


class NotFound(FedprintError):
    """There is nothing of that name."""


class Sources:
    """Run folders and a pool, either of which may be missing.

    Parameters
    ----------
    root : Path or None
        A run folder, or a folder of them.
    pool : str
        A pool's file or URL; empty for none.
    """

    def __init__(self, root: Path | None, pool: str = "") -> None:
        self.root, self.pool = root, pool
        self._reader = Reader()

    def check(self) -> None:
        """See before anything is served that there is something to show.

        Raises
        ------
        FedprintError
            If there is no run, the only one cannot be read, or the pool cannot.
        """
        if self.root is not None:
            runs = self.runs()
            if not runs and not self.pool:
                raise ConfigError(
                    f"there is no run in {self.root}: give a run folder or a folder of runs"
                )
            if len(runs) == 1 and (run := runs[0]).state == "broken":
                raise ConfigError(run.problem)
        if self.pool:
            with self.opened_pool():
                pass

    def runs(self) -> list[Run]:
        """Return all runs, newest first; those that are broken too."""
        found = [self._reader.read(name, folder) for name, folder in self._folders().items()]
        never = datetime.min.replace(tzinfo=UTC)
        return sorted(found, key=lambda run: run.when or never, reverse=True)

    def run(self, name: str) -> Run:
        """Return a run by its name: no path is ever made of a name.

        Raises
        ------
        NotFound
            If none is called so.
        """
        folder = self._folders().get(name)
        if folder is None:
            raise NotFound("there is no run of this name")
        return self._reader.read(name, folder)

    @contextmanager
    def opened_pool(self) -> Iterator[Pool]:
        """Give the pool, which refuses to be changed.

        Raises
        ------
        NotFound
            If none was named.
        ConfigError
            If it cannot be read.
        """
        if not self.pool:
            raise NotFound("no pool was named: start fedprint server dashboard with --pool POOL")
        with open_pool(self.pool, read_only=True) as pool:
            yield pool

    def _folders(self) -> dict[str, Path]:
        return find_runs(self.root) if self.root is not None else {}
