"""A coordinator that takes in many fingerprints: how long, and how much memory it needs for it."""

from __future__ import annotations

import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from fl_server.bench.wire_sites import MadeGrid
from fl_server.exchange import Begun, Exchange, exchange_fingerprints
from fl_server.progress import Progress
from fl_server.received import Received
from fl_server.runfolder import write_exchange
from fl_server.runlog import RunLog
from fl_server.witness import enter, show_log
from protocol.privacy import AskedTerms
from protocol.spec import Spec, load_spec


@dataclass(frozen=True)
class Intake:
    """What it took.

    Attributes
    ----------
    exchange, proofs, folder : float
        Seconds to verify and store all, to show each site the log with its proofs, and to write
        and close the run folder; without the time in which the sites signed.
    memory : int
        Bytes by which the process's peak memory grew.
    """

    exchange: float
    proofs: float
    folder: float
    memory: int

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.exchange + self.proofs + self.folder


def intake_alone(count: int, spec: str, private: bool, folder: Path) -> Intake:
    """Take in `count` fingerprints in a process of its own, whose peak is theirs alone."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(intake, count, spec, private, folder).result()


def intake(count: int, name: str, private: bool, folder: Path) -> Intake:
    """Take in fingerprints of `count` made-up sites, from the roll call to the closed log.

    Parameters
    ----------
    count : int
        How many sites.
    name : str
        Their spec.
    private : bool
        Whether their releases are noised.
    folder : Path
        Where the run folder goes.
    """
    spec = load_spec(name)
    _run(MadeGrid(2, spec, private), spec, private, folder / "warm")
    before = _peak()
    exchange, proofs, written = _run(
        MadeGrid(count, spec, private), spec, private, folder / f"run-{count}"
    )
    return Intake(exchange, proofs, written, _peak() - before)


def _run(grid: MadeGrid, spec: Spec, private: bool, out: Path) -> tuple[float, float, float]:
    progress, log = Progress(out, "bench"), RunLog.open(out)
    begun = Begun(AskedTerms(mode="private" if private else "plain"), log)
    clock = _Clock(grid)
    outcome = exchange_fingerprints(
        grid, spec, "bench", received=Received(out), progress=progress, begun=begun
    )
    exchanged = clock.lap()
    enter(outcome, show_log(grid, outcome, outcome.nodes, 60.0, progress))
    shown = clock.lap()
    _close(outcome, out)
    return exchanged, shown, clock.lap()


def _close(outcome: Exchange, out: Path) -> None:
    write_exchange(out, outcome)
    outcome.enter()
    outcome.log.close(outcome.run, out, outcome.signer)


class _Clock:
    """Seconds without those in which the sites worked."""

    def __init__(self, grid: MadeGrid) -> None:
        self._grid = grid
        self._at = self._now()

    def lap(self) -> float:
        before, self._at = self._at, self._now()
        return self._at - before

    def _now(self) -> float:
        return time.perf_counter() - self._grid.seconds


def _peak() -> int:
    """Return the most memory that this process has had so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
