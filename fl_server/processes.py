"""Ending what was started: a process with all its descendants, whatever the user presses."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from typing import Any

from protocol.errors import ConfigError

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


def require_psutil() -> None:
    """See that processes can be ended with all their children.

    Raises
    ------
    ConfigError
        If psutil is not installed.
    """
    if find_spec("psutil") is None:
        raise ConfigError("the package psutil is missing: run `pip install 'fedprint[sim]'`")


def family(process: subprocess.Popen[Any]) -> list[Any]:
    """Return a process and all that it started, as `psutil.Process`; nothing if it has ended."""
    import psutil  # comes with the simulation engine

    with suppress(psutil.NoSuchProcess):
        root = psutil.Process(process.pid)
        return [root, *root.children(recursive=True)]
    return []


def end_family(process: subprocess.Popen[Any], others: Iterable[Any] = ()) -> None:
    """Stop a process and all it started, by process id; a second Ctrl-C does not cut this short.

    Ray and Flower detach their children into sessions of their own, so a process group does not
    hold them all; the table of parents does.

    Parameters
    ----------
    process : subprocess.Popen
        The root of the family; it may have ended already.
    others : iterable of psutil.Process
        Relatives known from before, whose parent may have ended.
    """
    import psutil

    with handling(dict.fromkeys((signal.SIGINT, signal.SIGTERM), signal.SIG_IGN)):
        members = list({*family(process), *others})
        for stop in (psutil.Process.terminate, psutil.Process.kill):
            for member in members:
                with suppress(psutil.NoSuchProcess):
                    stop(member)
            deadline = time.monotonic() + STOP_SECONDS
            while members and time.monotonic() < deadline:
                process.poll()
                members = [member for member in members if _alive(member)]
                time.sleep(0.1)


def _alive(member: Any) -> bool:
    import psutil

    try:  # a zombie has ended, whether or not anyone reaps it
        return bool(member.is_running() and member.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
