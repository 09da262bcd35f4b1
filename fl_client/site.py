"""A site's folder: its images with labels, subjects and splits, and its task card."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from fl_client.images import Pixels, array_to_rgb, read_image
from fl_client.readers import Row, find_folders, read_arrays, read_manifest, read_subfolders
from fl_client.site_file import SITE_FILE, SiteFile, TaskTable, read_site_file
from protocol.errors import DataError, one_line
from protocol.names import check_site_name
from protocol.taskcard import ClassCard, TaskCard


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
        The site's folder; its images lie there, or where its ``site.toml`` says.
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
    def patients_by_class(self) -> dict[str, int]:
        """Number of subjects behind each class of the task card; without ids of images."""
        pairs = {(item.label, item.subject) for item in self.images}
        counts = Counter(label for label, _ in pairs)
        return {card.name: counts[index] for index, card in enumerate(self.card.classes)}

    @property
    def patients(self) -> int | None:
        """Number of subjects, or None when the site has no subject ids."""
        return len({item.subject for item in self.images}) if self.has_subjects else None

    @property
    def data_digest(self) -> str:
        """SHA-256 over the content of all images in order: what a feature cache belongs to."""
        return hashlib.sha256(b"".join(item.content_digest() for item in self.images)).hexdigest()


def read_site(
    folder: Path | str, state: Path | str | None = None, *, name: str | None = None
) -> Site:
    """Read a site's folder.

    Either class subfolders of images (``FOLDER/<class>/*.png``), or ``site.toml`` that names a
    manifest (a CSV file with columns path, label, subject_id and, if wanted, split) or an npz file
    with MedMNIST's keys. All of these lie in the folder itself, or in the one that ``site.toml``
    names as its data folder. No image is decoded yet.

    Parameters
    ----------
    folder : Path or str
        The site's folder. Hidden files and ``.fedprint`` are ignored.
    state : Path or str, optional
        Where to keep what fedprint keeps at the site; by default where ``site.toml`` says, else
        in ``FOLDER/.fedprint``.
    name : str, optional
        Name of the site; by default the one in ``site.toml``, else the folder's name.

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
    described = read_site_file(folder / SITE_FILE)
    name = check_site_name(name or described.site.name or folder.resolve().name)
    rows, has_subjects = _read_rows(folder, described)
    classes = sorted({row.label for row in rows}, key=_natural)
    index = {label: number for number, label in enumerate(classes)}
    images = [ImageItem(r.path, index[r.label], r.subject, r.split, r.array) for r in rows]
    return Site(
        name=name,
        folder=folder,
        card=_card(described.task, name, classes, folder / SITE_FILE),
        images=images,
        state=Path(state) if state is not None else described.state_folder(folder),
        has_subjects=has_subjects,
    )


def site_stamp(folder: Path) -> object:
    """Return a stamp of the files that describe a site: it differs when one of them changes.

    That is ``site.toml`` and the manifest or npz file that it names, else the class subfolders,
    which change when images come or go. What images hold is no part of it: whatever depends on
    that goes by their digests.
    """
    described = read_site_file(folder / SITE_FILE)
    root = described.data_folder(folder)
    paths = [root / name for name in (described.data.manifest, described.data.npz) if name]
    paths = paths or find_folders(root)
    return tuple((path, _changed(path)) for path in [folder / SITE_FILE, *paths])


def _changed(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return (0, 0)
    return (status.st_mtime_ns, status.st_size)


def _read_rows(folder: Path, described: SiteFile) -> tuple[list[Row], bool]:
    data, where = described.data, folder / SITE_FILE
    root = described.data_folder(folder)
    if not root.is_dir():
        raise DataError(f"{where}: data folder {root} does not exist or is no folder: correct it")
    if data.manifest and data.npz:
        raise DataError(f"{where}: [data] names both manifest and npz, keep one")
    if data.manifest:
        return read_manifest(root, data.manifest, where), True
    if data.npz:
        return read_arrays(root, data.npz, where), False
    return read_subfolders(root), False


def _card(task: TaskTable, name: str, classes: list[str], where: Path) -> TaskCard:
    try:
        return TaskCard(
            name=task.name or name,
            modality=task.modality,
            anatomy=task.anatomy,
            keywords=task.keywords,
            objective=task.objective,
            classes=[ClassCard(name=label, code=task.codes.get(label)) for label in classes],
            shares_weights=task.shares_weights,
            properties=task.properties,
        )
    except ValidationError as error:
        raise DataError(f"{where}: task card: {one_line(error)}") from error


def _natural(label: str) -> tuple[bool, int, str]:
    """Sort whole numbers by value, before everything else."""
    number = label.isascii() and label.isdigit()
    return (not number, int(label) if number else 0, label)
