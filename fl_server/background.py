"""A command that runs in the background with its log in a file, until it is stopped or killed."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from fl_server.processes import STOP_SECONDS, end_family, family


class Background:
    """A started command and all that it starts.

    Parameters
    ----------
    command : sequence of str
        Program and arguments.
    log : Path
        File that its output is appended to.
    environment : mapping
        Of the process.
    """

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        self.log = log
        self._known: set[Any] = set()
        self._asked = False
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                list(command),
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches us alone, and we end it in order
            )

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def members(self) -> list[Any]:
        """Return its processes, as `psutil.Process`."""
        found = family(self._process) if self.running else []
        self._known |= set(found)
        return found

    def last_words(self, lines: int = 3) -> str:
        """Return the end of its log in one line."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return " ".join(" ".join(text.splitlines()[-lines:]).split())[-400:] or "no log"

    def ask_to_stop(self) -> None:
        """Ask it to end in order, and do not wait."""
        self.members()
        if self.running and not self._asked:
            self._asked = True
            self._process.terminate()

    def stop(self) -> None:
        """End it in order, and whatever of its family is left after a while."""
        self.ask_to_stop()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_SECONDS)
        end_family(self._process, self._known)

    def kill(self) -> None:
        """End all its processes at once without a warning, as a power cut would."""
        import psutil

        for member in self.members():
            with suppress(psutil.NoSuchProcess):
                member.kill()
        end_family(self._process, self._known)
