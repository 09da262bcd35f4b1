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

from fl_client.images import Pixels
from fl_client.readers import (
    Picture,
    Row,
    Source,
    find_folders,
    know_subjects,
    read_arrays,
    read_dataset,
    read_manifest,
    read_subfolders,
)
from fl_client.readers.masks import Mask, mask_values
from fl_client.readers.source import Window
from fl_client.site_file import SITE_FILE, SiteFile, TaskTable, read_site_file
from protocol.errors import DataError, one_line
from protocol.names import check_site_name
from protocol.taskcard import ONE_CLASS, ClassCard, TaskCard


@dataclass(frozen=True, eq=False)
class ImageItem:
    """One image of a site.

    Attributes
    ----------
    path : Path
        File that holds it.
    label : int or tuple of int
        Index into the classes of the task card; of a multi-label task the indices of all that it
        shows, ascending, perhaps none.
    subject : str
        Whose image it is; images of one subject never lie in different splits.
    split : str or None
        ``"train"``, ``"val"`` or ``"test"`` where the site's own files say so.
    source : Source or None
        Where its pixels come from; by default the file is one picture.
    mask : Mask or None
        Which class each of its pixels belongs to, where the task is a segmentation.
    """

    path: Path
    label: int | tuple[int, ...]
    subject: str
    split: str | None = None
    source: Source | None = None
    mask: Mask | None = None

    @property
    def sources(self) -> tuple[Source, ...]:
        """Where its pixels come from, and its mask."""
        return (self.held,) if self.mask is None else (self.held, self.mask.source)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that it is read from."""
        return (self.path,) if self.mask is None else (self.path, self.mask.source.path)

    @property
    def classes(self) -> tuple[int, ...]:
        """Indices of all classes that it shows."""
        return self.label if isinstance(self.label, tuple) else (self.label,)

    @property
    def held(self) -> Source:
        """Where its pixels come from."""
        return self.source or Picture(self.path)

    def pixels(self, window: Window | None = None) -> Pixels:
        """Decode to RGB, uint8 ``[height, width, 3]``; see `fl_client.readers.Source.pixels`."""
        return self.held.pixels(window)

    def content_digest(self) -> bytes:
        """Return what names its content; see `fl_client.readers.Source.content_digest`.

        A mask is part of it, and leaves the first half as it is: images of one file stay together.
        """
        own = self.held.content_digest()
        if self.mask is None:
            return own
        return own[:16] + hashlib.sha256(own + self.mask.content_digest()).digest()[:16]


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
        """Label of each image, int64 [n]: indices into `card.classes`.

        Raises
        ------
        DataError
            If the task gives an image anything but one class.
        """
        self.require_one_class("what is asked for")
        return np.array([item.label for item in self.images], dtype=np.int64)

    @cached_property
    def targets(self) -> NDArray[np.uint8]:
        """Which classes each image shows, 0 or 1, uint8 [n, classes], for every objective."""
        shown = np.zeros((len(self.images), len(self.card.classes)), dtype=np.uint8)
        for row, item in zip(shown, self.images, strict=True):
            row[list(item.classes)] = 1
        return shown

    def require_one_class(self, what: str) -> None:
        """Raise unless every image has exactly one class, which some computations take for granted.

        Parameters
        ----------
        what : str
            Begins the message: what needs it.

        Raises
        ------
        DataError
            Otherwise.
        """
        if self.card.objective not in ONE_CLASS:
            raise DataError(
                f"{what} needs one class an image, which only the objectives "
                f"{' and '.join(ONE_CLASS)} have: that of site {self.name} is {self.card.objective}"
            )

    @property
    def patients_by_class(self) -> dict[str, int]:
        """Number of subjects behind each class of the task card; without ids of images."""
        if self.card.objective == "segmentation":
            from fl_client.regions import patients_with  # which reads masks, and needs digests

            return patients_with(self)
        pairs = {(label, item.subject) for item in self.images for label in item.classes}
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
    manifest (CSV or Parquet with columns path, label, subject_id and, if wanted, split), an npz
    file with MedMNIST's keys, or a Hugging Face dataset; several labels an image need one of these.
    All of them lie in the folder itself, or in the one that ``site.toml`` names as its data folder.
    No image is decoded yet.

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
    described = _described(folder)
    name = check_site_name(name or described.site.name or folder.resolve().name)
    rows, has_subjects = _read_rows(folder, described)
    task, where = described.task, folder / SITE_FILE
    classes = _classes(task, rows, where)
    index = {label: number for number, label in enumerate(classes)}
    values = tuple(mask_values(task.classes))
    images = [
        ImageItem(
            *(r.source.path, _label(r, index, task), r.subject, r.split, r.source),
            mask=None if r.mask is None else Mask(r.mask, values),
        )
        for r in rows
    ]
    return Site(
        name=name,
        folder=folder,
        card=_card(task, name, classes, where),
        images=images,
        state=Path(state) if state is not None else described.state_folder(folder),
        has_subjects=has_subjects,
    )


def read_site_name(folder: Path) -> str:
    """Return the name of the site of a folder, whose images are not listed for it.

    Raises
    ------
    DataError
        As from `read_site`.
    """
    return check_site_name(_described(folder).site.name or folder.resolve().name)


def _described(folder: Path) -> SiteFile:
    if not folder.is_dir():
        raise DataError(f"site folder {folder} does not exist or is no folder")
    return read_site_file(folder / SITE_FILE)


def site_stamp(folder: Path) -> object:
    """Return a stamp of the files that describe a site: it differs when one of them changes.

    That is ``site.toml`` and the manifest, npz file or dataset that it names, else the class
    subfolders, which change when images come or go. Of what images hold see `opened_stamp`.
    """
    described = read_site_file(folder / SITE_FILE)
    root = described.data_folder(folder)
    paths = described.data.listings(root) or find_folders(root)
    return tuple((path, _changed(path)) for path in [folder / SITE_FILE, *paths])


def opened_stamp(site: Site) -> object:
    """Return a stamp of the files that were opened to list a site's images and masks.

    A volume says how many slices it has and a DICOM file whose image it is; one that could not be
    read may have been mended. Nothing but digests depends on what pictures hold.
    """
    held = (source for item in site.images for source in item.sources)
    paths = {source.path for source in held if not isinstance(source, Picture)}
    return tuple((path, _changed(path)) for path in sorted(paths))


def _changed(path: Path) -> tuple[int, int, int]:
    try:
        status = path.stat()
    except OSError:
        return (0, 0, 0)
    return (status.st_mtime_ns, status.st_ctime_ns, status.st_size)


def _read_rows(folder: Path, described: SiteFile) -> tuple[list[Row], bool]:
    data, where = described.data, folder / SITE_FILE
    root = described.data_folder(folder)
    if not root.is_dir():
        raise DataError(f"{where}: data folder {root} does not exist or is no folder: correct it")
    forms = [name for name in ("manifest", "npz", "dataset") if getattr(data, name)]
    if len(forms) > 1:
        raise DataError(f"{where}: [data] names both {forms[0]} and {forms[1]}, keep one")
    labels = described.labels
    if data.manifest:
        return read_manifest(root, data.manifest, where, data.cut, labels), True
    if data.dataset and not labels.masks:
        return read_dataset(root, data.records, where, labels), data.subject is not None
    if labels.masks and not data.npz:
        raise DataError(
            f"{where}: a segmentation has masks: name a manifest with the column mask, or an npz "
            "file with train_masks"
        )
    if labels.several and not data.npz:
        raise DataError(
            f"{where}: class subfolders give each image one label: name a manifest, npz or dataset "
            "of the multilabel task"
        )
    rows = (
        read_arrays(root, data.npz, where, data.cut, labels)
        if data.npz
        else read_subfolders(root, data.cut)
    )
    return rows, know_subjects(rows)


def _classes(task: TaskTable, rows: list[Row], where: Path) -> list[str]:
    """Return the names of the classes that images show: grades in their order, others by name."""
    if task.objective == "segmentation":
        return list(mask_values(task.classes).values())
    held = {label for row in rows for label in row.labels}
    if task.objective != "ordinal":
        return sorted(held, key=_natural)
    if foreign := sorted(held - set(task.order), key=_natural):
        raise DataError(f"{where}: grade {foreign[0]} is not in [task] order: add it, or mend it")
    return [grade for grade in task.order if grade in held]


def _label(row: Row, index: dict[str, int], task: TaskTable) -> int | tuple[int, ...]:
    if task.objective in ("multilabel", "segmentation"):
        return tuple(sorted({index[label] for label in row.labels}))
    return index[row.labels[0]]


def _card(task: TaskTable, name: str, classes: list[str], where: Path) -> TaskCard:
    try:
        return TaskCard(
            name=task.name or name,
            modality=task.modality,
            anatomy=task.anatomy,
            keywords=task.keywords,
            objective=task.objective,
            classes=[ClassCard(name=label, code=task.codes.get(label)) for label in classes],
            order=task.order,
            shares_weights=task.shares_weights,
            properties=task.properties,
        )
    except ValidationError as error:
        raise DataError(f"{where}: task card: {one_line(error)}") from error


def _natural(label: str) -> tuple[bool, int, str]:
    """Sort whole numbers by value, before everything else."""
    number = label.isascii() and label.isdigit()
    return (not number, int(label) if number else 0, label)
