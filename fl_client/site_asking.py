"""What ``fedprint site init`` asks a person at a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import click
import typer
from pydantic import ValidationError

from fl_client.readers import Cut, find_images
from fl_client.readers.kinds import kind_of
from fl_client.site_file import SITE_FILE, DataTable, TaskTable
from protocol.errors import ConfigError, DataError, one_line

_LOOKED_AT = 1000
"""Files that tell which kinds there are."""


@dataclass(frozen=True)
class Asked:
    """What the person said.

    Attributes
    ----------
    data : Path
        Folder of the images.
    described : (TaskTable, DataTable) or None
        The task, and how the images are listed; None where nobody was asked.
    invitation : Path or None
        The coordinator's.
    alone : bool
        Whether there is no coordinator yet.
    """

    data: Path
    described: tuple[TaskTable, DataTable] | None = None
    invitation: Path | None = None
    alone: bool = False


def ask(folder: Path, data: Path | None, *, told: bool) -> Asked:
    """Ask for what the command line leaves open; nobody is asked who named the data folder.

    Parameters
    ----------
    folder : Path
        The site's folder, which may hold the images itself.
    data : Path or None
        The data folder, if named.
    told : bool
        Whether the command line names the coordinator.

    Raises
    ------
    ConfigError
        If there is something to ask and no terminal to ask at, or an answer cannot be used.
    """
    if data is not None:
        return Asked(data)
    if not sys.stdin.isatty():
        raise ConfigError("give --data FOLDER: only on a terminal is it asked for")
    data = _ask_folder(folder)
    if (data / SITE_FILE).is_file():
        typer.echo(f"{data / SITE_FILE} describes the data already and is taken over")
        described = None
    else:
        table = _ask_listing(data.absolute())
        task = _ask_task(listed=table.listed)
        described = task, _ask_labels(table) if task.objective == "multilabel" else table
    if told:
        return Asked(data, described)
    invitation = _ask("The coordinator's invitation.json (empty: no coordinator yet)")
    return Asked(data, described, Path(invitation) if invitation else None, not invitation)


def _ask_folder(folder: Path) -> Path:
    here = str(folder) if folder.is_dir() and any(folder.iterdir()) else None

    def existing(text: str) -> Path:
        path = Path(text).expanduser()
        if not path.is_dir():
            raise click.BadParameter(f"{path} does not exist or is no folder")
        return path

    path: Path = typer.prompt("Folder of the images", default=here, value_proc=existing)
    return path


def _ask_listing(data: Path) -> DataTable:
    """Ask how the images are listed and cut, only as far as the folder leaves it open."""
    values: dict[str, Any] = {"folder": str(data)}
    forms = {
        "manifest": [*data.glob("*.csv"), *data.glob("*.parquet")],
        "npz": list(data.glob("*.npz")),
        "dataset": [p.parent for p in data.glob("*/state.json")]
        + [p.parent for p in data.glob("*/dataset_dict.json")],
    }
    likely = next((form for form, found in forms.items() if found), "folders")
    form = _choose("How are images listed", ["folders", *forms], likely)
    if form != "folders":
        first = sorted(path.name for path in forms[form])[:1]
        values[form] = typer.prompt(f"Name of the {form}", default=first[0] if first else None)
    if form == "dataset":
        values["image"] = typer.prompt("Column of the images", default="image")
        values["label"] = typer.prompt("Column of the labels", default="label")
        values["subject"] = _ask("Column of the patients (empty: none)") or None
    kinds = _kinds(data)
    if "NIfTI" in kinds or form == "npz":
        planes = ["axial", "coronal", "sagittal"]
        values["plane"] = _choose("Plane of a volume's slices", planes, "axial")
        values["slices"] = typer.prompt("Slices of each volume, 0 takes all", default=0, type=int)
    if "a whole slide" in kinds:
        values["tile"] = typer.prompt("Side of a slide's tiles in pixels", default=256, type=int)
        values["mpp"] = typer.prompt("Micrometres a pixel", default=0.5, type=float)
    try:
        return DataTable.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"these answers do not fit together: {one_line(error)}") from error


def _ask_task(*, listed: bool) -> TaskTable:
    """Ask what the task card says; without a listing no image has several labels."""
    name = _ask("Name of the task, such as brain tissue (empty: the site's name)")
    modality = _ask("Modality, such as MRI")
    anatomy = _ask("Anatomy, such as brain")
    keywords = _words("Keywords, with commas")
    values: dict[str, Any] = {"name": name or None, "modality": modality, "anatomy": anatomy}
    several = ["multilabel"] if listed else []
    values["objective"] = _choose(
        "An image has one class, several labels or a grade"
        if listed
        else "An image has one class or a grade",
        ["classification", *several, "ordinal"],
        "classification",
    )
    if values["objective"] == "ordinal":
        values["order"] = _words("Grades with commas, the lowest first")
    try:
        return TaskTable.model_validate(values | {"keywords": keywords})
    except ValidationError as error:
        raise ConfigError(f"these answers do not fit together: {one_line(error)}") from error


def _ask_labels(table: DataTable) -> DataTable:
    text = "Columns of 0 and 1, with commas (empty: names in one column labels)"
    return table.model_copy(update={"labels": _words(text)})


def _kinds(data: Path) -> set[str]:
    try:
        found: Iterable[Path] = find_images(data, Cut())
    except DataError:
        found = []  # the check of the data says what is wrong
    return {str(kind_of(path, Cut())) for path in islice(found, _LOOKED_AT)}


def _words(text: str) -> list[str]:
    return [word for part in _ask(text).split(",") if (word := part.strip())]


def _choose(text: str, choices: list[str], default: str) -> str:
    answer: str = typer.prompt(text, default=default, type=click.Choice(choices))
    return answer


def _ask(text: str) -> str:
    answer: str = typer.prompt(text, default="", show_default=False)
    return answer.strip()
