"""Options that commands of several rooms take, and what is checked of them before any work."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path

import typer

from protocol.errors import ConfigError


class Panel(StrEnum):
    """Where ``fedprint --help`` lists a command, in this order; `cli.build_app` sorts by it."""

    RUNS = "Whole runs"
    STEPS = "Step by step"
    RESULTS = "What came of a run"
    DEPLOYMENT = "Between hospitals"
    KNOWLEDGE = "Knowledge and measures"


def file_to_write(param: typer.CallbackParam, path: Path | None) -> Path | None:
    """Check that an option names a file that can be written; the callback of such options.

    Nothing is written: a command that then fails leaves no trace of its options.

    Raises
    ------
    ConfigError
        If it is a folder, or its folder cannot be written.
    """
    if path is None:
        return None
    option = param.opts[0]
    if path.is_dir():
        raise ConfigError(f"{option} {path} is a folder: name the file to write")
    nearest = next(folder for folder in path.absolute().parents if folder.exists())
    if not (nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)):
        raise ConfigError(f"{option} {path} cannot be written into {nearest}: name another file")
    return path
