"""What a listed file holds, by its name or its first bytes.

Installed packages add readers of other kinds: an entry point of the group ``fedprint.readers``,
named like the ending of the files, that leads to a module with ``expand(path, cut)``.
"""

from __future__ import annotations

import functools
import importlib
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType

from fl_client.images import SUFFIXES
from fl_client.readers.cut import Cut
from fl_client.readers.foreign import foreign
from fl_client.readers.source import Picture, Source, Unreadable
from protocol.errors import DataError

DICOM = (".dcm", ".dicom")
NIFTI = (".nii", ".nii.gz")
SLIDES = (".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".svslide")
GROUP = "fedprint.readers"
KINDS = ", ".join(sorted((*SUFFIXES, *DICOM, *NIFTI, *SLIDES)))

_BACKENDS = {  # kind: our module, the package that it needs, and the extra that brings it
    "DICOM": ("dicom", "pydicom", "dicom"),
    "NIfTI": ("nifti", "nibabel", "nifti"),
    "a whole slide": ("slides", "openslide", "slides"),
}


def kind_of(path: Path, cut: Cut) -> str | None:
    """Return ``"picture"``, ``"DICOM"``, ``"NIfTI"`` or ``"a whole slide"``; None for others.

    Of a kind that a package adds it is the ending.

    DICOM files often have no ending, so those with an unknown one are known by their magic.
    """
    name = path.name.lower()
    if name.endswith(SLIDES) or (cut.tile and name.endswith((".tif", ".tiff"))):
        return "a whole slide"
    if path.suffix.lower() in SUFFIXES:
        return "picture"
    if name.endswith(NIFTI):
        return "NIfTI"
    if name.endswith(DICOM):
        return "DICOM"
    ending = path.suffix.lower().removeprefix(".")
    if ending in added():
        return ending
    return "DICOM" if _has_magic(path) else None


@functools.cache
def added() -> dict[str, EntryPoint]:
    """Return the readers that installed packages add, by the ending of their files."""
    return {entry.name.lower(): entry for entry in entry_points(group=GROUP)}


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
        backend = _backend(kind, path)
        if kind in added():
            return foreign(backend, path, cut)
        sources: list[Source] = backend.expand(path, cut)
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
    if kind in added():
        return _load(added()[kind])
    module, package, extra = _BACKENDS[kind]
    try:
        importlib.import_module(package)
    except ImportError as error:
        raise DataError(
            f'image {path} is {kind}: run pip install "fedprint[{extra}]" to read it'
        ) from error
    return importlib.import_module(f"fl_client.readers.{module}")


def _load(entry: EntryPoint) -> ModuleType:
    try:
        module: ModuleType = entry.load()
    except Exception as error:
        raise DataError(
            f"the reader of .{entry.name} files ({entry.value}) cannot be loaded: {error}"
        ) from error
    if not callable(getattr(module, "expand", None)):
        raise DataError(f"the reader of .{entry.name} files ({entry.value}) has no expand()")
    return module
