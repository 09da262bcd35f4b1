"""Changing a finished run folder so that a crash leaves the old state or the new one within reach.

The new state is prepared as a whole beside the old one, in ``RUN/state``, and then moved in file by
file, the log last. A folder whose move was interrupted differs from its log, whose check names the
files; `settle` ends the move.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from protocol.files import sha256_hex
from protocol.log import CHECKPOINT, ENTRIES, OUTSIDE

PREPARING, PREPARED = Path("state", "preparing"), Path("state", "prepared")
LOG = [f"log/{ENTRIES}", f"log/{CHECKPOINT}"]


@contextmanager
def amended(run: Path) -> Iterator[Path]:
    """Yield a copy of a run folder to change with `atomic_write`; put it in place at the end.

    Files that stay as they are cost nothing: the copy is made of hard links, and an atomic write
    replaces a link without touching what it linked to. Nothing is put in place after an error.

    Parameters
    ----------
    run : Path
        The run folder.
    """
    settle(run)
    copy = run / PREPARING
    shutil.copytree(run, copy, ignore=_outside(run), copy_function=_link)
    try:
        yield copy
        os.replace(copy, run / PREPARED)  # from here on the new state is the one that counts
    finally:
        shutil.rmtree(copy, ignore_errors=True)
    settle(run)


def settle(run: Path) -> None:
    """Put in place what an interrupted `amended` had prepared whole; drop what was not whole."""
    shutil.rmtree(run / PREPARING, ignore_errors=True)
    prepared = run / PREPARED
    if not prepared.is_dir():
        return
    files = (path.relative_to(prepared) for path in sorted(prepared.rglob("*")) if path.is_file())
    names = [name for name in files if name.as_posix() not in LOG]
    for name in [*names, *map(Path, LOG)]:
        if (prepared / name).is_file() and _differs(prepared / name, run / name):
            (run / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(prepared / name, run / name)
    shutil.rmtree(prepared)


def _outside(run: Path) -> Callable[[str, list[str]], set[str]]:
    """Return what tells `shutil.copytree` to leave out what is no part of the results."""
    others = set(OUTSIDE) - {"log"}
    return lambda folder, _names: others if Path(folder) == run else set()


def _link(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copy2(source, target)
    return target


def _differs(new: Path, old: Path) -> bool:
    if not old.is_file():
        return True
    return not new.samefile(old) and sha256_hex(new.read_bytes()) != sha256_hex(old.read_bytes())
