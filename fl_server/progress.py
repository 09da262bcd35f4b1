"""How far a run is: one small file for people and monitors, and one event a line for machines.

Both lie in ``RUN/state``, which the log's closing entry leaves out, because they change to the end.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Lock
from typing import Any, Literal

from protocol.files import atomic_json

log = logging.getLogger("fedprint")

STATE = "state"
STATUS = f"{STATE}/status.json"
EVENTS = f"{STATE}/events.jsonl"
SHOWN_SECONDS = 1.0


class Progress:
    """Tells which phase a run is in, who is awaited since when, and who was lost.

    Parameters
    ----------
    folder : Path
        The run folder.
    run : str
        Name of the run.
    """

    def __init__(self, folder: Path, run: str) -> None:
        self._folder, self._lock = folder, Lock()  # groups train in threads
        self._together, self._shown = False, 0.0
        self._behind = False  # whether something happened since the status was shown
        self._status: dict[str, Any] = {
            "run": run,
            "state": "running",
            "pid": os.getpid(),
            "phase": "",
            "since": _now(),
            "deadline": None,
            "waiting": {},
            "approval": {},
            "message": "",
            "done": [],
            "lost": {},
            "phases": [],
        }

    @contextmanager
    def together(self) -> Iterator[None]:
        """Show all events of the block at its end, and in between once a second."""
        self._together = True
        try:
            yield
        finally:
            self._together = False
            with self._lock:
                if self._behind and self._status["state"] == "running":
                    self._show()

    def phase(
        self, name: str, waiting: Iterable[str] = (), deadline_s: float | None = None
    ) -> None:
        """Begin a phase: who is awaited, and for how many seconds at most."""
        waiting = list(waiting)
        with self._lock:
            self._end_phase()
            now, status = datetime.now(UTC), self._status
            status["phases"].append({"name": name, "started": _now(), "ended": None})
            end = _text(now + timedelta(seconds=deadline_s)) if deadline_s else None
            status |= {"phase": name, "since": _text(now), "deadline": end, "done": []}
            status["waiting"] = dict.fromkeys(waiting, _text(now))
            status["approval"] = {s: t for s, t in status["approval"].items() if s in waiting}
            self._record("phase", waiting=list(status["waiting"]), deadline=end)

    def done(self, site: str, note: str = "") -> None:
        """Say that a site has answered."""
        with self._lock:
            self._status["waiting"].pop(site, None)
            self._status["approval"].pop(site, None)
            self._status["lost"].pop(site, None)  # it came back
            self._status["done"].append(site)
            self._record("done", site=site, note=note)

    def lost(self, site: str, reason: str, message: str = "") -> None:
        """Say that a site does not take part any more, and why."""
        with self._lock:
            status = self._status
            status["waiting"].pop(site, None)
            status["approval"].pop(site, None)
            why = {"reason": reason, "message": message, "phase": status["phase"]}
            status["lost"][site] = why
            self._record("lost", site=site, reason=reason, message=message)

    def awaits_approval(self, site: str, seconds: float) -> None:
        """Say that a person at the site must approve, for which the run waits so many seconds."""
        with self._lock:
            until = datetime.now(UTC) + timedelta(seconds=seconds)
            self._status["approval"][site] = _now()
            self._status["deadline"] = max(self._status["deadline"] or "", _text(until))
            self._record("awaiting-approval", site=site)

    def note(self, event: str, **values: Any) -> None:
        """Record anything else worth a line."""
        with self._lock:
            self._record(event, **values)

    def finish(self, state: Literal["finished", "failed"], message: str = "") -> None:
        """End the run."""
        with self._lock:
            self._end_phase()
            nobody: dict[str, str] = {}
            self._status |= {"state": state, "since": _now(), "deadline": None, "message": message}
            self._status |= {"waiting": nobody, "approval": nobody}
            self._record(state, message=message)

    def _end_phase(self) -> None:
        if self._status["phases"]:
            self._status["phases"][-1]["ended"] = _now()

    def _record(self, event: str, **values: Any) -> None:
        """Append the event and replace the status; the status alone would lose the history."""
        said = {name: value for name, value in values.items() if value not in ("", None)}
        run, phase = self._status["run"], self._status["phase"]
        line = {"time": _now(), "run": run, "phase": phase, "event": event, **said}
        path = self._folder / EVENTS
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._behind = True
        if not self._together or time.monotonic() - self._shown > SHOWN_SECONDS:
            self._show()

    def _show(self) -> None:
        atomic_json(self._folder / STATUS, self._status)
        self._behind, self._shown = False, time.monotonic()


def read_status(folder: Path) -> Mapping[str, Any] | None:
    """Return what `Progress` last said of a run folder, None where there is nothing to read."""
    try:
        status = json.loads((folder / STATUS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return status if isinstance(status, dict) else None


def _now() -> str:
    return _text(datetime.now(UTC))


def _text(time: datetime) -> str:
    return time.isoformat(timespec="seconds")
