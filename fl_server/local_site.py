"""A site's SuperNode as a process on this machine."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from fl_server.background import Background

FEDPRINT = (sys.executable, "-m", "protocol.cli")


class LocalSite:
    """Starts, stops and kills what ``fedprint site start`` of a site's folder runs.

    Parameters
    ----------
    name : str
        The site's name.
    folder : Path
        Its folder, made by ``fedprint site init``.
    log : Path
        File that its output is appended to.
    environment : mapping
        Of its process.
    """

    def __init__(self, name: str, folder: Path, log: Path, environment: Mapping[str, str]) -> None:
        self.name, self.folder = name, folder
        self._log, self._environment = log, environment
        self._process: Background | None = None

    def start(self) -> None:
        """Start the SuperNode; it connects by itself, now or when the SuperLink comes."""
        self.stop()
        command = [*FEDPRINT, "site", "start", str(self.folder)]
        self._process = Background(command, self._log, self._environment)

    def ask_to_stop(self) -> None:
        """Ask it to end in order, and do not wait."""
        if self._process is not None:
            self._process.ask_to_stop()

    def stop(self) -> None:
        """Stop it in order."""
        if self._process is not None:
            self._process.stop()

    def kill(self) -> None:
        """Kill it and its ClientApp without a warning, as a power cut would."""
        if self._process is not None:
            self._process.kill()

    def last_words(self) -> str:
        """Return the end of its log in one line."""
        return self._process.last_words() if self._process is not None else "it was never started"
