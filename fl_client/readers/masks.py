"""Label maps of segmentation tasks: which class each pixel of an image belongs to."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fl_client.readers.cut import Cut
from fl_client.readers.kinds import kind_of, open_file
from fl_client.readers.rows import inside
from fl_client.readers.source import Source, Unreadable
from protocol.errors import DataError

MOST_CLASSES = 254
"""Most classes of a segmentation task: a byte holds them beside no class, and what is unknown."""

MOST_VALUE = 65535
"""Largest value of a pixel that can mean a class."""

_UNKNOWN = MOST_CLASSES + 1
_KINDS = ("picture", "NIfTI")


@dataclass(frozen=True, eq=False)
class Mask:
    """The label map of one image.

    Attributes
    ----------
    source : Source
        Where its values come from.
    values : tuple of int
        Value of a pixel for each class of the task card, in its order. 0 means no class unless it
        is one of them.
    only : frozenset of int or None
        Classes that count, where not all of them do.
    """

    source: Source
    values: tuple[int, ...]
    only: frozenset[int] | None = None

    def classes(self) -> NDArray[np.uint8]:
        """Return the class of each pixel, uint8 [height, width]: 0 for none, else index plus 1.

        Raises
        ------
        DataError
            If it cannot be read, or holds a value that means no class.
        """
        stored = self.source.labels()
        table = self._table()
        known = stored.size > 0 and stored.min() >= 0 and stored.max() <= MOST_VALUE
        found = table[stored] if known else np.full(stored.shape, _UNKNOWN, np.uint8)
        if known and not bool((found == _UNKNOWN).any()):
            return found
        strange = np.setdiff1d(stored, (0, *self.values))
        shown = ", ".join(map(str, strange[:3].tolist())) + (", ..." if len(strange) > 3 else "")
        raise DataError(
            f"mask {self.source.name} holds the values {shown or 'of no pixel'}, which "
            "[task.classes] of site.toml does not name: name them there, or make them 0"
        )

    def content_digest(self) -> bytes:
        """Return 32 bytes that name what it shows: the label map, and what its values mean."""
        meaning = f"{self.values}{sorted(self.only) if self.only is not None else ''}"
        return hashlib.sha256(self.source.content_digest() + meaning.encode()).digest()

    def _table(self) -> NDArray[np.uint8]:
        """Return what each value that can be stored means, uint8 [MOST_VALUE + 1]."""
        table = np.full(MOST_VALUE + 1, _UNKNOWN, np.uint8)
        table[0] = 0
        for index, value in enumerate(self.values):
            counts = self.only is None or index in self.only
            table[value] = index + 1 if counts else 0
        return table


def mask_values(classes: Mapping[str, str]) -> dict[int, str]:
    """Return the classes of a segmentation task by the value of their pixels, ascending.

    Parameters
    ----------
    classes : mapping
        ``[task.classes]`` of a ``site.toml``: from the value, as text, to the name.

    Raises
    ------
    ValueError
        If a value is no whole number that a pixel can have, or a name stands twice.
    """
    found: dict[int, str] = {}
    for text, name in classes.items():
        if not (text.isascii() and text.isdigit() and int(text) <= MOST_VALUE):
            raise ValueError(f"{text!r} is no value of a pixel: write 0 to {MOST_VALUE}")
        if int(text) in found or name in found.values():
            raise ValueError(f"{text} = {name!r} stands twice: keep one")
        found[int(text)] = name
    if len(found) > MOST_CLASSES:
        raise ValueError(f"{len(found)} classes, at most {MOST_CLASSES} are read")
    return dict(sorted(found.items()))


def masks_of(
    folder: Path, name: str, images: Sequence[Source], cut: Cut, where: str
) -> list[Source]:
    """Return the label maps of a listed file's images, from the file that a row names as mask.

    Parameters
    ----------
    folder : Path
        Where the data lie.
    name : str
        The mask's file, relative to it.
    images : sequence of Source
        The images of the file that the mask is of.
    cut : Cut
        How both files are cut.
    where : str
        The row, for messages.

    Returns
    -------
    list of Source
        One an image, in their order.

    Raises
    ------
    DataError
        If the file is missing, leaves the folder, is no label map, or does not fit the images.
    """
    if name.lower() in ("", "nan", "na", "null", "none"):
        raise DataError(f"{where}: mask is {name or 'empty'}: fill it in, or drop the line")
    path = inside(folder, name, where)
    if not path.is_file():
        raise DataError(f"{where}: mask {name} does not exist: restore it or drop this line")
    if kind_of(path, Cut()) not in _KINDS:
        raise DataError(f"{where}: mask {name} is no label map: give PNG or NIfTI")
    volume = kind_of(path, Cut()) == "NIfTI"
    masks = open_file(path, Cut(cut.plane, cut.slices))
    if isinstance(masks[0], Unreadable) and not isinstance(images[0], Unreadable):
        raise DataError(f"{where}: {masks[0].fault}")
    if len(masks) != len(images):
        raise DataError(
            f"{where}: mask {name} holds {len(masks)} label maps for {len(images)} images: give "
            "one of the same kind and depth"
        )
    if volume and kind_of(images[0].path, cut) == "NIfTI" and not _same_grid(images[0].path, path):
        raise DataError(
            f"{where}: mask {name} does not lie on the voxels of its image: resample it to them"
        )
    return masks


def _same_grid(image: Path, mask: Path) -> bool:
    from fl_client.readers.nifti import same_grid  # nibabel is an optional extra

    try:
        return same_grid(image, mask)
    except DataError:  # stays listed as unreadable, and says why when it is used
        return True


def array_masks(
    masks: NDArray[np.generic], images: NDArray[np.generic], where: str
) -> NDArray[np.generic]:
    """Return the label maps of an npz file's images, or volumes: [n, h, w] or [n, d, h, w].

    Raises
    ------
    DataError
        If they do not fit the images; begins with `where`.
    """
    flat = images.ndim == 4 and images.shape[-1] in (1, 3, 4)
    wanted = images.shape[:-1] if flat else images.shape
    if masks.ndim == len(wanted) + 1 and masks.shape[-1] == 1:
        masks = masks[..., 0]
    if masks.shape != wanted or masks.dtype.kind not in "bui":
        raise DataError(
            f"{where} has shape {masks.shape} and type {masks.dtype}: give whole numbers of shape "
            f"{wanted}, one a pixel"
        )
    return masks
