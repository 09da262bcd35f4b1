"""Class subfolders, and folders of images without labels."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from fl_client.readers.cut import Cut
from fl_client.readers.kinds import KINDS, kind_of, open_file
from fl_client.readers.rows import Row
from fl_client.readers.source import Source
from protocol.errors import DataError

_PARTS = {"train", "training", "val", "valid", "validation", "test", "testing"}


def find_images(folder: Path, cut: Cut | None = None) -> list[Path]:
    """Return all image files below a folder, hidden ones left out, sorted by relative path.

    Raises
    ------
    DataError
        If a link leads out of the folder.
    """
    found: list[Path] = []
    for where, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = (Path(where, name) for name in files if not name.startswith("."))
        found += [path for path in paths if kind_of(path, cut or Cut())]
    root = folder.resolve()
    for path in found:
        if path.is_symlink() and not path.resolve().is_relative_to(root):
            raise DataError(f"image {path} is a link out of {folder}: copy the file instead")
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def find_folders(folder: Path) -> list[Path]:
    """Return all folders below a folder, hidden ones left out, in a fixed order."""
    found: list[Path] = []
    for where, folders, _ in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(where, name) for name in folders]
    return found


def list_images(folder: Path, cut: Cut | None = None) -> list[Source]:
    """Return every image of every file below a folder, whatever its class."""
    return [source for path in find_images(folder, cut) for source in open_file(path, cut)]


def read_subfolders(folder: Path, cut: Cut | None = None) -> list[Row]:
    """List the images of a site that has one subfolder a class.

    Whose images they are is known only of files that say so (DICOM) or that hold several; every
    other file is its own subject.

    Raises
    ------
    DataError
        If there are no images, images outside class subfolders, or sites in place of classes.
    """
    paths = find_images(folder, cut)
    loose = [path for path in paths if path.parent == folder]
    if loose:
        raise DataError(
            f"image {loose[0]} lies in no class subfolder: move it to {folder}/<class>/, or add "
            "site.toml with a manifest"
        )
    sites = sorted(path.parent for path in folder.glob("[!.]*/site.toml"))
    if sites:
        raise DataError(
            f"{folder} holds sites, not classes: {sites[0].name} has a site.toml of its own; give "
            f"one site, such as {sites[0]}"
        )
    if not paths:
        raise DataError(
            f"site folder {folder} holds no images: expected {folder}/<class>/<image> "
            f"({KINDS}), or site.toml with a manifest"
        )
    rows: list[Row] = []
    for path in paths:
        name = path.relative_to(folder).as_posix()
        label = name.split("/", 1)[0]
        rows += [Row(s, (label,), s.subject or name) for s in open_file(path, cut)]
    return rows


def perhaps_sites(folder: Path) -> list[str]:
    """Return the names of class subfolders that look like sites: all hold the same subfolders.

    Empty where there is a ``site.toml``, or the subfolders within are parts such as ``train``.
    """
    if (folder / "site.toml").exists():
        return []
    inner = {path.name: {p.name for p in _folders(path)} for path in _folders(folder)}
    alike = list(inner.values())
    same = len(alike) > 1 and len(alike[0]) > 1 and all(names == alike[0] for names in alike)
    return sorted(inner) if same and not alike[0] <= _PARTS else []


def _folders(folder: Path) -> list[Path]:
    return [path for path in folder.glob("[!.]*") if path.is_dir()]


def know_subjects(rows: Sequence[Row]) -> bool:
    """Tell whether files say whose images they are: by themselves, or by holding several."""
    named = any(row.source.subject is not None for row in rows)
    return named or len({row.subject for row in rows}) < len(rows)
