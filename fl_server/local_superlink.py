"""A coordinator's SuperLink as a process on this machine, with the ServerApps that it starts."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from fl_server.background import Background
from protocol.errors import FedprintError
from protocol.tls import trusting

SERVERAPP = "flwr-serverapp"
START_SECONDS = 60.0


class LocalSuperLink:
    """Starts, stops and kills what ``superlink.sh`` of a coordinator's folder runs.

    Parameters
    ----------
    coordinator : Path
        Folder made by ``fedprint server init``.
    address : str
        ``HOST:PORT`` under which it is reached.
    log : Path
        File that its output is appended to.
    environment : mapping
        Of its process.
    """

    def __init__(
        self, coordinator: Path, address: str, log: Path, environment: Mapping[str, str]
    ) -> None:
        self._coordinator, self._address = coordinator, address
        self._log, self._environment = log, environment
        self._process: Background | None = None

    def start(self) -> None:
        """Start it and wait until it answers over TLS.

        Raises
        ------
        FedprintError
            If it ends, or does not answer in time.
        """
        self.stop()
        command = [str(self._coordinator / "superlink.sh")]
        self._process = Background(command, self._log, self._environment)
        trusted = trusting(self._coordinator / "tls" / "ca.crt")
        deadline = time.monotonic() + START_SECONDS
        while self._process.running and time.monotonic() < deadline:
            try:
                url = f"https://{self._address}/health"
                with urllib.request.urlopen(url, timeout=2, context=trusted):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        raise FedprintError(f"the SuperLink did not start: {self._process.last_words()}")

    def stop(self) -> None:
        """Stop it in order; its database stays."""
        if self._process is not None:
            self._process.stop()

    def kill(self) -> None:
        """Kill it and its ServerApps without a warning, as a power cut would."""
        if self._process is not None:
            self._process.kill()

    def serverapps(self) -> list[Any]:
        """Return the processes of the ServerApps that run now, as `psutil.Process`."""
        members = self._process.members() if self._process is not None else []
        return [member for member in members if SERVERAPP in " ".join(_command_line(member))]

    def kill_serverapps(self) -> int:
        """Kill every running ServerApp without a warning; return how many."""
        import psutil

        found = self.serverapps()
        for process in found:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        return len(found)


def _command_line(process: Any) -> list[str]:
    import psutil

    try:
        return list(process.cmdline())
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return []
