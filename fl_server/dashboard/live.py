"""How far a run is, in words: the same for the page and for the script that keeps it up to date."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fl_server.dashboard.runs import Run, is_plain
from fl_server.progress import EVENTS
from fl_server.status_commands import duration
from protocol.names import printable

TAIL = 64 * 1024
"""Bytes from the end of ``events.jsonl`` that are read."""
MOST = 40
"""Events that are shown."""

Rows = list[list[str]]


def live(run: Run, now: datetime | None = None) -> dict[str, Any]:
    """Return how far a run is.

    Parameters
    ----------
    run : Run
        As it was just read.
    now : datetime, optional
        The time.

    Returns
    -------
    dict
        ``lives``; ``facts``, one line each, by name; ``rows``, tables by name; ``results``, whether
        there are any. All of it is JSON, and all words are plain text.
    """
    problem = "" if run.lives else run.problem  # until a run is over its files are not all there
    facts = {"state": run.state, "phase": "–", "since": "–", "ends": "–", "why": problem}
    if run.when is not None:
        facts["since"] = f"{run.when.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    rows: dict[str, Rows] = {"waiting": [], "answered": [], "lost": [], "events": _events(run)}
    status = run.status
    if status is not None:
        now = now or datetime.now(UTC)
        facts["phase"] = _said(status.phase) or "–"
        if status.deadline is not None and run.lives:
            facts["ends"] = f"in {duration((status.deadline - now).total_seconds())} at the latest"
        facts["why"] = _said(status.message) or problem
        rows["waiting"] = [
            [_said(site), duration(seconds), _doing(status.approval.get(site))]
            for site, seconds in _some(status.waiting.items())
        ]
        rows["answered"] = [[_said(site)] for site in _some(dict.fromkeys(status.done))]
        rows["lost"] = [
            [_said(site), _said(why.get("phase", "")), _said(_reason(why))]
            for site, why in _some(status.lost.items())
        ]
    facts["sites"] = _progress(rows) if run.lives else "–"
    return {"lives": run.lives, "results": run.results is not None, "facts": facts, "rows": rows}


def _progress(rows: dict[str, Rows]) -> str:
    answered, waiting, lost = (len(rows[name]) for name in ("answered", "waiting", "lost"))
    said = f"{answered} of {answered + waiting} answered"
    return said + (f", {lost} lost" if lost else "")


def _doing(asked: float | None) -> str:
    return "" if asked is None else f"a person there was asked to approve {duration(asked)} ago"


def _reason(why: dict[str, str]) -> str:
    return ": ".join(filter(None, [why.get("reason", ""), why.get("message", "")]))


def _events(run: Run) -> Rows:
    """Return the last events, newest first; a line that is cut off or malformed is left out."""
    found = []
    for line in reversed(_last_lines(run.folder / EVENTS)):
        try:
            event = json.loads(line)
            rest = [
                str(event[name]) for name in ("site", "note", "reason", "message") if name in event
            ]
            time = datetime.fromisoformat(event["time"]).astimezone(UTC)
            row = [
                f"{time:%Y-%m-%d %H:%M:%S}",
                str(event["phase"]),
                str(event["event"]),
                " · ".join(rest),
            ]
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
        found.append([_said(cell) for cell in row])
        if len(found) == MOST:
            break
    return found


def _last_lines(path: Path) -> list[bytes]:
    try:
        if not is_plain(path):
            return []
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - TAIL, 0))
            lines = file.read(TAIL).split(b"\n")
    except OSError:  # not begun, or made before there were events
        return []
    return lines[1:] if size > TAIL else lines


def _some(values: Iterable[Any], most: int = 1000) -> list[Any]:
    return list(values)[:most]


def _said(text: str) -> str:
    return printable(str(text), 300)
