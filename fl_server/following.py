"""Following a run of a deployment to its end, with its log, while other things go on."""

from __future__ import annotations

import queue
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator

from fl_server.connection import NAME, Connection
from fl_server.engine import ERROR_MARK, absolute
from fl_server.processes import end_family
from protocol.errors import FedprintError

COMPLETED = "finished:completed"
ENDED = "finished:"
LOOK_SECONDS = 0.5
MARK = "fedprint | "
RAISED = re.compile(r"[\w.]+(Error|Exception): ")  # the line of a traceback that says what


def await_end(connection: Connection, run_id: str, timeout: float) -> str:
    """Wait until a run has ended, through any outage of the SuperLink; return Flower's word.

    Raises
    ------
    FedprintError
        If it has not ended in time.
    """
    deadline, status = time.monotonic() + timeout, "unknown"
    while time.monotonic() < deadline:
        try:
            status = connection.run_status(run_id)
        except FedprintError as error:
            status = str(error)
        if status.startswith(ENDED):
            return status
        time.sleep(LOOK_SECONDS)
    raise FedprintError(f"run {run_id} did not end within {timeout:.0f} s: {status}")


def follow(
    connection: Connection,
    run_id: str,
    *,
    show: Callable[[str], None] = print,
    meanwhile: Callable[[], None] = lambda: None,
    timeout: float = 3600.0,
    verbose: bool = False,
) -> None:
    """Show a run's log until it ends.

    Parameters
    ----------
    connection : Connection
        The SuperLink.
    run_id : str
        Flower's id of the run.
    show : callable
        Receives one line of progress at a time.
    meanwhile : callable
        Called about twice a second.
    timeout : float
        Seconds after which it is no longer awaited.
    verbose : bool
        Show every line of the log, not only fedprint's own.

    Raises
    ------
    FedprintError
        Unless Flower says that the run completed; carries the run's own error line.
    """
    deadline = time.monotonic() + timeout
    problem = last = ""
    for line in _lines(connection, run_id, deadline):
        if line is None:
            meanwhile()
            continue
        last = line.strip() if RAISED.match(line) else last
        if ERROR_MARK in line:
            problem = problem or line.partition(ERROR_MARK)[2]
        elif MARK in line:
            show(line.partition(MARK)[2])
        elif verbose:
            show(line)
    # `flwr log` ends well whatever became of the run
    status = await_end(connection, run_id, max(deadline - time.monotonic(), 10.0))
    if status != COMPLETED:
        why = f": {last}" if last else ": see its log with flwr log"
        raise FedprintError(problem or f"the Flower run {run_id} ended as {status}{why}")


def _lines(connection: Connection, run_id: str, deadline: float) -> Iterator[str | None]:
    """Yield the log's lines as they come, and None whenever there is time for something else."""
    process = subprocess.Popen(
        absolute(["flwr", "log", run_id, NAME, "--stream"], connection.environment),
        env=connection.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    reader = threading.Thread(target=_read, args=(process, lines), daemon=True)
    reader.start()
    try:
        due = time.monotonic()
        while time.monotonic() < deadline:
            if time.monotonic() >= due:
                yield None
                due = time.monotonic() + LOOK_SECONDS
            try:
                line = lines.get(timeout=LOOK_SECONDS)
            except queue.Empty:
                continue
            if line is None:
                return
            yield line
    finally:
        end_family(process)
        reader.join(timeout=5)


def _read(process: subprocess.Popen[str], lines: queue.SimpleQueue[str | None]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.put(line.rstrip())
    lines.put(None)
