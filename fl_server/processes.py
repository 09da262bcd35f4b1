"""Ending what was started: a process with all its descendants, whatever the user presses."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

STOP_SECONDS = 10.0


@contextmanager
def handling(handlers: Mapping[signal.Signals, Any]) -> Iterator[None]:
    """Handle signals in this way for a while; outside the main thread Python allows no change.

    Parameters
    ----------
    handlers : mapping of signal to callable or signal.Handlers
        As for `signal.signal`.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_family(process: subprocess.Popen[Any]) -> None:
    """Stop a process and all it started, by process id; a second Ctrl-C does not cut this short.

    Ray and Flower detach their children into sessions of their own, so a process group does not
    hold them all; the table of parents does.

    Parameters
    ----------
    process : subprocess.Popen
        The root of the family; it may have ended already.
    """
    import psutil  # comes with the simulation engine

    with handling(dict.fromkeys((signal.SIGINT, signal.SIGTERM), signal.SIG_IGN)):
        family: list[Any] = []
        with suppress(psutil.NoSuchProcess):
            root = psutil.Process(process.pid)
            family = [root, *root.children(recursive=True)]
        for stop in (psutil.Process.terminate, psutil.Process.kill):
            for member in family:
                with suppress(psutil.NoSuchProcess):
                    stop(member)
            deadline = time.monotonic() + STOP_SECONDS
            while family and time.monotonic() < deadline:
                process.poll()
                family = [member for member in family if _alive(member)]
                time.sleep(0.1)


def _alive(member: Any) -> bool:
    import psutil

    try:  # a zombie has ended, whether or not anyone reaps it
        return bool(member.is_running() and member.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
