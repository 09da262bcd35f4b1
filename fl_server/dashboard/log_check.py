"""What a run's transparency log holds, and whether it is the one that was signed."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from fl_server.dashboard.runs import check_file
from protocol.errors import FedprintError
from protocol.log import CHECKPOINT, ENTRIES, read_log
from protocol.names import printable


@dataclass(frozen=True)
class LogCheck:
    """A run's log.

    Attributes
    ----------
    kinds : dict
        How many entries there are of each kind, in the order of their first.
    problem : str
        Why it is not in order; empty if it is.
    """

    kinds: dict[str, int]
    problem: str = ""


def check_log(folder: Path) -> LogCheck | None:
    """Check a run's log against its checkpoint, as signed with the key in the folder.

    Parameters
    ----------
    folder : Path
        The run folder.

    Returns
    -------
    LogCheck or None
        None while no log was closed.
    """
    if not (folder / "log" / CHECKPOINT).is_file():
        return None
    try:
        for name in (ENTRIES, CHECKPOINT):
            check_file(folder / "log" / name)
        pem = (folder / "coordinator.pub.pem").read_text(encoding="utf-8")
        log = read_log(folder, pem)
        kinds = Counter(printable(str(json.loads(line)["kind"]), 60) for line in log.lines)
    except (FedprintError, OSError, ValueError, LookupError, TypeError) as error:
        return LogCheck({}, printable(str(error), 300))
    return LogCheck(dict(kinds))
