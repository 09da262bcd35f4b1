"""Where runs lie: each run folder below a folder, by a name that is safe in a URL."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from fl_server.progress import STATUS
from protocol.errors import ConfigError

MARKS = ("run.json", STATUS)
"""Files by which a folder is known as a run's: the first when it is over, the second from start."""
DEEP = 3
"""Levels below the given folder at which runs are looked for: DIR/runs/NAME of a coordinator."""
MOST_FOLDERS = 20_000
"""Folders that are looked into: somebody may give the root of a disk."""


def is_run(folder: Path) -> bool:
    """Tell whether a folder is a run's, whole or not."""
    return any(os.path.isfile(folder / mark) for mark in MARKS)  # False where we may not look


def find_runs(root: Path) -> dict[str, Path]:
    """Return the run folders at or below a folder, by name.

    Parameters
    ----------
    root : Path
        A run folder, or a folder of them.

    Returns
    -------
    dict of str to Path
        Names are of letters, digits and ``. _ -``, so that each is one segment of a URL.

    Raises
    ------
    ConfigError
        If there is no such folder.
    """
    root = root.resolve()
    if not root.is_dir():
        raise ConfigError(f"there is no folder {root}: give a run folder or a folder of runs")
    found: dict[str, Path] = {}
    for folder in sorted(_runs_below(root)):
        words = folder.name if folder == root else folder.relative_to(root).as_posix()
        name = stem = re.sub(r"[^\w.-]+", "-", words, flags=re.ASCII).strip(".-") or "run"
        number = 1
        while name in found:
            name = f"{stem}-{(number := number + 1)}"
        found[name] = folder
    return found


def _runs_below(root: Path) -> Iterator[Path]:
    """Yield run folders; what lies in a run is never one, and links are not followed."""
    level, left = [root], MOST_FOLDERS
    for _ in range(DEEP + 1):
        runs = [folder for folder in level if is_run(folder)]
        yield from runs
        level = [below for folder in level if folder not in runs for below in _folders(folder)]
        left -= len(level)
        if left < 0:
            raise ConfigError(
                f"{root} has more than {MOST_FOLDERS:,} folders: give the one in which runs lie"
            )


def _folders(folder: Path) -> list[Path]:
    try:
        return [
            path
            for path in folder.iterdir()
            if not path.name.startswith(".") and path.is_dir() and not path.is_symlink()
        ]
    except OSError:  # not ours to look into
        return []
