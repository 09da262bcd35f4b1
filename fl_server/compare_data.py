"""What measures are compared on: a folder's tasks, their families, and what their release cost."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from fl_server.descriptor_folder import ENDINGS, FOLDER, file_name
from fl_server.tasks import tasks_of_folder
from protocol.descriptors import KINDS
from protocol.errors import ConfigError
from protocol.files import canonical_json
from protocol.sharing import HIDDEN, initial_adapter, initial_rows
from protocol.taskcard import class_keys
from strategies.measures import Need, Task

__all__ = ["families_of", "read_families", "released_bytes", "tasks_in"]

COLUMNS = ["site", "family"]


def tasks_in(folder: Path) -> list[Task]:
    """Return all that a run folder or a folder of fingerprints tells of its tasks, verified.

    Raises
    ------
    ConfigError
        If the folder holds fewer than three.
    VerificationError
        If a file is not what its site signed.
    """
    tasks = tasks_of_folder(folder)
    if len(tasks) < 3:
        raise ConfigError(
            f"{folder} holds {len(tasks)} sites: measures rank sources, so compare at least three"
        )
    return tasks


def families_of(tasks: Sequence[Task]) -> list[str] | None:
    """Return the name of each task as its card has it; None if it tells nothing of families.

    That is so if a card is missing, all tasks are called alike, or no two are.
    """
    names = [task.card.name.strip().casefold() for task in tasks if task.card is not None]
    telling = len(names) == len(tasks) and 1 < len(set(names)) < len(names)
    return names if telling else None


def read_families(path: Path, tasks: Sequence[Task]) -> list[str]:
    """Return the family of each task from a table with the columns ``site`` and ``family``.

    Raises
    ------
    ConfigError
        If the table is not one, names a site twice or one that is not there, lacks a site, or
        leaves nothing to be found because all families or no two are alike.
    """
    families = _table(path)
    sites = [task.name for task in tasks]
    strange = [site for site in families if site not in sites]
    if strange:
        raise ConfigError(f"{path}: no site is called {strange[0]!r}: known are {', '.join(sites)}")
    missing = [site for site in sites if site not in families]
    if missing:
        raise ConfigError(f"{path}: site {missing[0]} has no family: add a line for it")
    found = [families[site] for site in sites]
    if not 1 < len(set(found)) < len(found):
        raise ConfigError(
            f"{path}: {len(set(found))} families of {len(found)} sites leave nothing to find: "
            "name at least two families, one of them with two sites"
        )
    return found


def released_bytes(folder: Path, tasks: Sequence[Task]) -> dict[Need, list[int]]:
    """Return how many bytes each task released for what a measure needs, envelopes included.

    A need that a task did not release is 0. The card lies in the fingerprint's envelope; it counts
    as its own JSON. With scores comes the model that other sites scored, an adapter with its head:
    no folder keeps it, so its size follows from its shapes.
    """
    prints = folder / "fingerprints" if (folder / "fingerprints").is_dir() else folder
    names = [task.name for task in tasks]
    scored = {source for task in tasks for scores in task.scores.values() for source in scores}
    out: dict[Need, list[int]] = {
        "fingerprint": [_size(*(prints / f"{name}.{e}" for e in ENDINGS)) for name in names],
        "card": [
            len(canonical_json(t.card.model_dump(mode="json"))) if t.card else 0 for t in tasks
        ],
        "scores": [
            _size(folder / "scores" / f"{task.name}.dsse.json")
            + (_model_bytes(task) if task.name in scored else 0)
            for task in tasks
        ],
    }
    for kind in KINDS:
        out[kind] = [
            _size(*(folder / FOLDER / file_name(name, kind, e) for e in ENDINGS)) for name in names
        ]
    return out


def _model_bytes(task: Task) -> int:
    """Return the bytes of the model that a site trains by the adapter recipe: all its arrays."""
    keys = class_keys(task.card) if task.card else ()
    model = initial_adapter(task.spec.features, 0) | initial_rows(keys, HIDDEN, 0)
    return sum(array.nbytes for array in model.values())


def _size(*paths: Path) -> int:
    return sum(path.stat().st_size for path in paths if path.is_file())


def _table(path: Path) -> Mapping[str, str]:
    """Return the families of a table by site, all that it names."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    for column in COLUMNS:
        if column not in (reader.fieldnames or []):
            raise ConfigError(f"{path}: no column {column!r}: the header is site,family")
    families: dict[str, str] = {}
    for line, row in enumerate(rows, start=2):
        site, family = (str(row[column] or "").strip() for column in COLUMNS)
        if not family:
            raise ConfigError(f"{path}, line {line}: no family: write site,family")
        if site in families:
            raise ConfigError(f"{path}, line {line}: site {site} is listed twice: name each once")
        families[site] = family
    return families
