"""Start fedprint as a user would, and see what it leaves running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import psutil

from tests.conftest import ray_workers

ROOT = Path(__file__).parents[2]
MARK = "FEDPRINT_TEST_MARK"


class Command:
    """A started ``fedprint`` command, marked so that all its processes can be found.

    Parameters
    ----------
    arguments
        As on the command line.
    workers : int
        Of a simulation: processes that compute at once.
    """

    def __init__(self, *arguments: object, workers: int = 1) -> None:
        self.mark, threads = uuid.uuid4().hex, {"OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "protocol.cli", *map(str, arguments)],
            cwd=ROOT,
            env={**os.environ, MARK: self.mark, **threads, **dict([ray_workers(workers)])},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # a runner started in the background ignores Ctrl-C, and children inherit that
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def left_running(self) -> list[str]:
        """Return the command lines of its processes, detached ones included, that still run."""
        return left_running(self.mark)

    def gone(self, seconds: float = 10.0) -> list[str]:
        """Wait until nothing of it runs any more; return what does nevertheless."""
        return gone(self.mark, seconds)


def left_running(mark: str) -> list[str]:
    """Return the command lines of all processes that were started with a mark and still run."""
    found = []
    for process in psutil.process_iter():
        try:
            ours = process.environ().get(MARK) == mark
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline())[:200])
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def gone(mark: str, seconds: float = 10.0) -> list[str]:
    """Wait until nothing with a mark runs any more; return what does nevertheless."""
    deadline = time.monotonic() + seconds
    while (left := left_running(mark)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left
