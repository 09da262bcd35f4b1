"""Readers of the three forms of a site: class subfolders, a CSV manifest, an npz file."""

from __future__ import annotations

import csv
import os
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from fl_client.images import SUFFIXES
from protocol.errors import DataError

COLUMNS = ("path", "label", "subject_id")
_SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_KINDS = ", ".join(sorted(SUFFIXES))


@dataclass(frozen=True, eq=False)
class Row:
    """One labelled image as a site's files list it; see `fl_client.site.ImageItem`."""

    path: Path
    label: str
    subject: str
    split: str | None = None
    array: NDArray[np.generic] | None = None


def find_images(folder: Path) -> list[Path]:
    """Return all image files below a folder, hidden ones left out, sorted by relative path.

    Raises
    ------
    DataError
        If a link leads out of the folder.
    """
    found: list[Path] = []
    for where, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            Path(where, name)
            for name in files
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES
        ]
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


def read_subfolders(folder: Path) -> list[Row]:
    """List the images of a site that has one subfolder a class.

    Raises
    ------
    DataError
        If there are no images, or images outside class subfolders.
    """
    paths = find_images(folder)
    loose = [path for path in paths if path.parent == folder]
    if loose:
        raise DataError(
            f"image {loose[0]} lies in no class subfolder: move it to {folder}/<class>/, or add "
            "site.toml with a manifest"
        )
    if not paths:
        raise DataError(
            f"site folder {folder} holds no images: expected {folder}/<class>/<image> "
            f"({_KINDS}), or site.toml with a manifest"
        )
    names = [path.relative_to(folder).as_posix() for path in paths]
    return [
        Row(path, name.split("/", 1)[0], subject=name)
        for path, name in zip(paths, names, strict=True)
    ]


def read_manifest(folder: Path, manifest: str, named_in: Path) -> list[Row]:
    """List the images of a site's CSV manifest (columns path, label, subject_id and maybe split).

    Parameters
    ----------
    folder : Path
        Where the data lie: what the manifest and its rows are relative to, and must not leave.
    manifest : str
        The manifest.
    named_in : Path
        The ``site.toml`` that names it.

    Raises
    ------
    DataError
        If the table cannot be read, lacks columns, or a row cannot be used.
    """
    table = _inside(folder, manifest, f"{named_in}: manifest")
    if not table.is_file():
        raise DataError(f"manifest {table} does not exist: create it or correct {named_in}")
    rows: dict[Path, Row] = {}
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            for number, cells in _csv_rows(file, table):
                row = _manifest_row(folder, cells, f"{table}, line {number}")
                if row.path in rows:
                    raise DataError(
                        f"{table}, line {number}: {cells['path']} is listed twice: keep one line"
                    )
                rows[row.path] = row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"manifest {table} cannot be read ({error}): save it as CSV in UTF-8"
        ) from error
    if not rows:
        raise DataError(f"manifest {table} lists no images: add lines of path,label,subject_id")
    _check_splits(table, list(rows.values()))
    return sorted(rows.values(), key=lambda row: row.path.relative_to(folder).as_posix())


def _csv_rows(file: IO[str], table: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield line number and cells of each row of the manifest."""
    reader = csv.DictReader(file, strict=True, skipinitialspace=True)
    header = [name.strip() for name in reader.fieldnames or []]
    reader.fieldnames = header
    missing = [name for name in COLUMNS if name not in header]
    if missing:
        hint = " (repeat the path when every image is its own subject)"
        raise DataError(
            f"manifest {table} lacks the column {', '.join(missing)}: its first line must name "
            f"path,label,subject_id[,split]{hint if 'subject_id' in missing else ''}"
        )
    for cells in reader:
        if None in cells or None in cells.values():
            raise DataError(
                f"{table}, line {reader.line_num}: has not as many cells as the header: correct it"
            )
        yield reader.line_num, {key: value.strip() for key, value in cells.items()}


def _manifest_row(folder: Path, cells: dict[str, str], where: str) -> Row:
    for column in COLUMNS:
        if cells[column].lower() in ("", "nan", "na", "null", "none"):
            raise DataError(f"{where}: {column} is {cells[column] or 'empty'}: fill it in")
    path = _inside(folder, cells["path"], where)
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"{where}: {cells['path']} is no image that can be read ({_KINDS})")
    if not path.is_file():
        raise DataError(f"{where}: image {cells['path']} does not exist: restore it or drop this")
    split = cells.get("split") or None
    if split is not None and split.lower() not in _SPLITS:
        raise DataError(f"{where}: split is {split!r}: write train, val or test")
    return Row(path, cells["label"], cells["subject_id"], split and _SPLITS[split.lower()])


def _inside(folder: Path, name: str, where: str) -> Path:
    """Return the path of a name relative to the site's folder, which it must not leave."""
    path = Path(os.path.normpath(folder / name))
    if Path(name).is_absolute() or not path.resolve().is_relative_to(folder.resolve()):
        raise DataError(f"{where}: {name} lies outside the site's folder: copy it into {folder}")
    return path


def _check_splits(table: Path, rows: list[Row]) -> None:
    unsplit = [row for row in rows if row.split is None]
    if len(unsplit) == len(rows):
        return
    if unsplit:
        raise DataError(
            f"{table}: split is empty for {unsplit[0].path.name}: fill it in everywhere or nowhere"
        )
    seen: dict[str, str] = {}
    for row in rows:
        first = seen.setdefault(row.subject, str(row.split))
        if first != row.split:
            raise DataError(
                f"{table}: subject {row.subject} is in both {first} and {row.split}: "
                "keep each subject in one split"
            )


def read_arrays(folder: Path, npz: str, named_in: Path) -> list[Row]:
    """List the images of an npz file with MedMNIST's keys (``train_images``, ``train_labels``, …).

    The arrays are spilled to a nameless temporary file and memory-mapped, so that memory does not
    grow with the number of images. The parameters are those of `read_manifest`.

    Raises
    ------
    DataError
        If keys are missing, or arrays do not fit each other.
    """
    path = _inside(folder, npz, f"{named_in}: npz")
    if not path.is_file():
        raise DataError(f"npz file {path} does not exist: create it or correct {named_in}")
    try:
        with zipfile.ZipFile(path) as archive:
            keys = {name.removesuffix(".npy") for name in archive.namelist()}
            splits = [split for split in ("train", "val", "test") if f"{split}_images" in keys]
            if not splits:
                raise DataError(
                    f"npz file {path} has the keys {', '.join(sorted(keys)[:8]) or 'none'}: "
                    "expected train_images, train_labels, and the same for val and test"
                )
            rows = [row for split in splits for row in _split_rows(archive, keys, split, path)]
    except (zipfile.BadZipFile, OSError, ValueError, EOFError) as error:
        raise DataError(f"npz file {path} cannot be read ({error}): write it again") from error
    if not rows:
        raise DataError(f"site folder {folder} holds no images after reading {npz}: add some")
    return rows


def _split_rows(archive: zipfile.ZipFile, keys: set[str], split: str, path: Path) -> list[Row]:
    if f"{split}_labels" not in keys:
        raise DataError(f"npz file {path} has {split}_images but no {split}_labels: add them")
    images = _spill(archive, f"{split}_images")  # [n, h, w] or [n, h, w, c]
    labels = np.asarray(_spill(archive, f"{split}_labels"))  # [n] or [n, 1]
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or len(labels) != len(images):
        raise DataError(
            f"npz file {path}: {split}_labels has shape {labels.shape} for {len(images)} images: "
            "give one label an image"
        )
    if labels.dtype.kind == "f":
        if not bool(np.all(labels == np.floor(labels))):  # false for NaN too
            raise DataError(f"npz file {path}: {split}_labels holds NaN or fractions: mend them")
        labels = labels.astype(np.int64)
    return [
        Row(path, str(label).strip(), f"{split}-{number}", split, images[number])
        for number, label in enumerate(labels.tolist())
    ]


def _spill(archive: zipfile.ZipFile, key: str) -> NDArray[np.generic]:
    """Copy one array of an npz file to a nameless temporary file; return it memory-mapped."""
    with archive.open(f"{key}.npy") as source:
        version = np.lib.format.read_magic(source)
        read = np.lib.format.read_array_header_1_0
        if version != (1, 0):
            read = np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(source)
        if dtype.hasobject:
            raise ValueError(f"{key} holds Python objects")
        if 0 in shape or not shape:
            return np.empty(shape, dtype)
        spill = tempfile.TemporaryFile()  # noqa: SIM115, the map keeps its own handle
        with spill:
            while block := source.read(1 << 20):
                spill.write(block)
            spill.flush()
            return np.memmap(spill, dtype, "r", shape=shape, order="F" if fortran else "C")
