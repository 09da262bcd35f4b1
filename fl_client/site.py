"""A site's folder: its images with labels, subjects and splits, and its task card."""

from __future__ import annotations

import hashlib
import tomllib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from fl_client.images import Pixels, array_to_rgb, read_image
from fl_client.readers import Row, read_arrays, read_manifest, read_subfolders
from protocol.errors import DataError, one_line
from protocol.names import check_site_name
from protocol.taskcard import ClassCard, TaskCard

STATE = ".fedprint"
"""Folder inside a site's folder for what fedprint itself keeps there; readers ignore it."""

_Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


@dataclass(frozen=True, eq=False)
class ImageItem:
    """One image of a site.

    Attributes
    ----------
    path : Path
        Image file, or the npz file that holds it.
    label : int
        Index into the classes of the task card.
    subject : str
        Whose image it is; images of one subject never lie in different splits.
    split : str or None
        ``"train"``, ``"val"`` or ``"test"`` where the site's own files say so.
    array : ndarray or None
        Its pixels on disk (memory-mapped) when it comes from an npz file.
    """

    path: Path
    label: int
    subject: str
    split: str | None = None
    array: NDArray[np.generic] | None = None

    def pixels(self) -> Pixels:
        """Decode to RGB, uint8 ``[height, width, 3]``; see `fl_client.images.read_image`."""
        if self.array is None:
            return read_image(self.path)
        return array_to_rgb(self.array, str(self.path))

    def content_digest(self) -> bytes:
        """Return the SHA-256 of the file's bytes, or of the array's type, shape and bytes."""
        if self.array is not None:
            header = f"{self.array.dtype.str}{self.array.shape}".encode()
            return hashlib.sha256(header + self.array.tobytes()).digest()
        try:
            with self.path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").digest()
        except OSError as error:
            raise DataError(f"image {self.path} cannot be read: {error.strerror}") from error


@dataclass(frozen=True)
class Site:
    """Who holds a task: its name, task card and images.

    Attributes
    ----------
    name : str
        Name of the site.
    folder : Path
        Where its images lie.
    card : TaskCard
        Public description of its task.
    images : list of ImageItem
        In a fixed order.
    state : Path
        Folder for what fedprint keeps at the site (feature cache, private heads).
    has_subjects : bool
        Whether the site says which subject an image is of; if not, each image is its own.
    """

    name: str
    folder: Path
    card: TaskCard
    images: list[ImageItem]
    state: Path
    has_subjects: bool

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """Label of each image, int64 [n]: indices into `card.classes`."""
        return np.array([item.label for item in self.images], dtype=np.int64)

    @property
    def patients(self) -> int | None:
        """Number of subjects, or None when the site has no subject ids."""
        return len({item.subject for item in self.images}) if self.has_subjects else None

    @property
    def data_digest(self) -> str:
        """SHA-256 over the content of all images in order: what a feature cache belongs to."""
        return hashlib.sha256(b"".join(item.content_digest() for item in self.images)).hexdigest()


class _Task(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: _Name | None = None
    modality: str = ""
    anatomy: str = ""
    keywords: list[str] = []
    objective: _Name = "classification"
    codes: dict[str, str] = {}


class _Data(BaseModel):
    model_config = ConfigDict(extra="forbid")

    manifest: _Name | None = None
    npz: _Name | None = None


class _SiteFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    task: _Task = _Task()
    data: _Data = _Data()


def read_site(
    folder: Path | str, state: Path | str | None = None, *, name: str | None = None
) -> Site:
    """Read a site's folder.

    Either class subfolders of images (``FOLDER/<class>/*.png``), or ``site.toml`` that names a
    manifest (a CSV file with columns path, label, subject_id and, if wanted, split) or an npz file
    with MedMNIST's keys. No image is decoded yet.

    Parameters
    ----------
    folder : Path or str
        The site's folder. Hidden files and ``.fedprint`` are ignored.
    state : Path or str, optional
        Where to keep what fedprint keeps at the site; default ``FOLDER/.fedprint``.
    name : str, optional
        Name of the site; default the folder's name.

    Returns
    -------
    Site
        With images in an order that does not depend on the file system.

    Raises
    ------
    DataError
        One line that names the file and says how to mend it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"site folder {folder} does not exist or is no folder")
    name = check_site_name(name if name is not None else folder.resolve().name)
    described = _read_site_file(folder / "site.toml")
    rows, has_subjects = _read_rows(folder, described.data)
    classes = sorted({row.label for row in rows}, key=_natural)
    index = {label: number for number, label in enumerate(classes)}
    images = [ImageItem(r.path, index[r.label], r.subject, r.split, r.array) for r in rows]
    return Site(
        name=name,
        folder=folder,
        card=_card(described.task, name, classes, folder / "site.toml"),
        images=images,
        state=Path(state) if state is not None else folder / STATE,
        has_subjects=has_subjects,
    )


def _read_rows(folder: Path, data: _Data) -> tuple[list[Row], bool]:
    if data.manifest and data.npz:
        raise DataError(f"{folder / 'site.toml'}: [data] names both manifest and npz, keep one")
    if data.manifest:
        return read_manifest(folder, data.manifest), True
    if data.npz:
        return read_arrays(folder, data.npz), False
    return read_subfolders(folder), False


def _read_site_file(path: Path) -> _SiteFile:
    if not path.exists():
        return _SiteFile()
    try:
        content: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DataError(f"{path} is not readable TOML ({error}): correct it") from error
    try:
        return _SiteFile.model_validate(content)
    except ValidationError as error:
        unknown = [e["loc"] for e in error.errors() if e["type"] == "extra_forbidden"]
        if unknown:
            key = ".".join(str(part) for part in unknown[0])
            raise DataError(
                f"{path}: unknown key {key!r}; [task] takes name, modality, anatomy, keywords, "
                "objective and codes, [data] takes manifest or npz"
            ) from error
        raise DataError(f"{path}: {one_line(error)}") from error


def _card(task: _Task, name: str, classes: list[str], where: Path) -> TaskCard:
    try:
        return TaskCard(
            name=task.name or name,
            modality=task.modality,
            anatomy=task.anatomy,
            keywords=task.keywords,
            objective=task.objective,
            classes=[ClassCard(name=label, code=task.codes.get(label)) for label in classes],
        )
    except ValidationError as error:
        raise DataError(f"{where}: task card: {one_line(error)}") from error


def _natural(label: str) -> tuple[bool, int, str]:
    """Sort whole numbers by value, before everything else."""
    number = label.isascii() and label.isdigit()
    return (not number, int(label) if number else 0, label)
