"""What a listed file holds, by its name or its first bytes."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

from fl_client.images import SUFFIXES
from fl_client.readers.cut import Cut
from fl_client.readers.source import Picture, Source, Unreadable
from protocol.errors import DataError

DICOM = (".dcm", ".dicom")
NIFTI = (".nii", ".nii.gz")
SLIDES = (".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".svslide")
KINDS = ", ".join(sorted((*SUFFIXES, *DICOM, *NIFTI, *SLIDES)))

_BACKENDS = {  # kind: our module, the package that it needs, and the extra that brings it
    "DICOM": ("dicom", "pydicom", "dicom"),
    "NIfTI": ("nifti", "nibabel", "nifti"),
    "a whole slide": ("slides", "openslide", "slides"),
}


def kind_of(path: Path, cut: Cut) -> str | None:
    """Return ``"picture"``, ``"DICOM"``, ``"NIfTI"`` or ``"a whole slide"``; None for others.

    DICOM files often have no ending, so those with an unknown one are known by their magic.
    """
    name = path.name.lower()
    if name.endswith(SLIDES) or (cut.tile and name.endswith((".tif", ".tiff"))):
        return "a whole slide"
    if path.suffix.lower() in SUFFIXES:
        return "picture"
    if name.endswith(NIFTI):
        return "NIfTI"
    return "DICOM" if name.endswith(DICOM) or _has_magic(path) else None


def _has_magic(path: Path) -> bool:
    if path.name.upper() == "DICOMDIR":  # a table of contents
        return False
    try:
        if not path.is_file():  # opening a pipe waits for ever
            return False
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def open_file(path: Path, cut: Cut | None = None) -> list[Source]:
    """Return the images of a file, in its own order; none is decoded.

    A file that cannot be opened is one `Unreadable` image: `fedprint site check` shows all such
    files at once, and nothing is computed of a site that has one.
    """
    cut = cut or Cut()
    kind = kind_of(path, cut)
    if kind == "picture":
        return [Picture(path)]
    try:
        if kind is None:
            raise DataError(f"{path.name} is no image that can be read ({KINDS})")
        sources: list[Source] = _backend(kind, path).expand(path, cut)
    except DataError as error:
        return [Unreadable(path, fault=str(error))]
    return sources


def tile_at(path: Path, cut: Cut, corner: tuple[str, str], where: str) -> Source:
    """Return the tile of a whole slide that a manifest's row names.

    Parameters
    ----------
    path : Path
        The slide.
    cut : Cut
        Size and resolution of the tile.
    corner : (str, str)
        Columns x and y: its upper left corner in pixels of level 0.
    where : str
        The row, for messages.

    Raises
    ------
    DataError
        If the file is no whole slide, or the corner no pair of whole numbers.
    """
    x, y = corner
    if kind_of(path, cut) != "a whole slide":
        raise DataError(f"{where}: x and y belong to a whole slide: leave them empty")
    if not (x.isascii() and x.isdigit() and y.isascii() and y.isdigit()):
        raise DataError(f"{where}: x is {x!r} and y is {y!r}: write pixels of level 0")
    try:
        tile: Source = _backend("a whole slide", path).tile_at(path, cut, int(x), int(y))
    except DataError as error:
        return Unreadable(path, fault=str(error))
    return tile


def _backend(kind: str, path: Path) -> ModuleType:
    """Import what reads a kind of file; its package is an optional extra."""
    module, package, extra = _BACKENDS[kind]
    try:
        importlib.import_module(package)
    except ImportError as error:
        raise DataError(
            f'image {path} is {kind}: run pip install "fedprint[{extra}]" to read it'
        ) from error
    return importlib.import_module(f"fl_client.readers.{module}")
