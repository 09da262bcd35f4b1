"""Running a child with all that it starts: its output relayed, its signals forwarded, its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import IO

PATIENCE = 20.0
"""Seconds that a child has to end after the first signal."""

_STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_FAMILY_SECONDS = ((None, 1.5), (signal.SIGTERM, 5.0), (signal.SIGKILL, 2.0))


@dataclass
class Ended:
    """How a child ended: its exit status, and the signal that we were stopped by, if any."""

    status: int
    stopped_by: int | None


def run_child(
    command: Sequence[str],
    environment: Mapping[str, str],
    see: Callable[[str], None],
    inherit: Sequence[int] = (),
    started: Callable[[int], None] = lambda _: None,
) -> Ended:
    """Run a command until it ends by itself or this process is told to stop.

    It gets a session of its own, so that a Ctrl-C reaches it once, through us, and whatever it has
    started ends with it.

    Parameters
    ----------
    command, environment
        As for `subprocess.Popen`.
    see : callable
        Receives each line of output; the line is also written to our standard output.
    inherit : sequence of int
        File descriptors that the child keeps open.
    started : callable
        Receives the child's process id.
    """
    stop = _Stop()
    with stop.listening():  # before the child is there: a signal in between would leave it behind
        child = subprocess.Popen(
            list(command),
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=tuple(inherit),
        )
        started(child.pid)
        assert child.stdout is not None
        relay = threading.Thread(target=_relay, args=(child.stdout, see), daemon=True)
        relay.start()
        try:
            stop.forward_to(child)
            while child.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    child.wait(timeout=0.5)
                stop.hasten()
        finally:
            _end_family(child)
            relay.join(timeout=5)
    return Ended(child.returncode, stop.by)


@dataclass
class _Stop:
    """Forwards the first signal as SIGTERM; the second one, or long silence, ends everything."""

    child: subprocess.Popen[bytes] | None = None
    by: int | None = None
    since: float = field(default=0.0)

    @contextmanager
    def listening(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield  # Python lets no other thread handle signals
            return
        before = {number: signal.signal(number, self._heard) for number in _STOPPING}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def forward_to(self, child: subprocess.Popen[bytes]) -> None:
        """Forward signals to a child from now on, also the one that came before it was there."""
        self.child = child
        if self.by is not None:
            child.terminate()

    def _heard(self, number: int, _frame: FrameType | None) -> None:
        if self.by is None:
            self.by, self.since = number, time.monotonic()
            if self.child is not None:
                self.child.terminate()
        else:
            self.since = -PATIENCE  # no more of it

    def hasten(self) -> None:
        if (
            self.child is not None
            and self.by is not None
            and time.monotonic() - self.since > PATIENCE
        ):
            _signal_family(self.child.pid, signal.SIGKILL)


def _relay(output: IO[bytes], see: Callable[[str], None]) -> None:
    for line in output:
        text = line.decode(errors="replace")
        see(text)
        with suppress(OSError, ValueError):  # whoever read our output may have gone
            sys.stdout.write(text)
            sys.stdout.flush()


def _end_family(child: subprocess.Popen[bytes]) -> None:
    """Wait until the child's process group is empty, with more and more pressure."""
    for number, seconds in _FAMILY_SECONDS:
        if number is not None:
            _signal_family(child.pid, number)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            child.poll()
            if not _signal_family(child.pid, 0):
                return
            time.sleep(0.05)


def _signal_family(group: int, number: int) -> bool:
    """Send a signal to a process group; say whether anybody is left in it."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    except PermissionError:  # macOS says so of zombies
        return number != 0
    return True
