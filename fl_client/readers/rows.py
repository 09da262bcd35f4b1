"""What a listing says of an image, and which paths it may name."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from fl_client.readers.source import Source
from protocol.errors import DataError
from protocol.names import printable

_SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True, eq=False)
class Row:
    """One labelled image as a site's files list it; see `fl_client.site.ImageItem`.

    It has one label, or any number of them where the task is multi-label; none, but a mask, where
    it is a segmentation.
    """

    source: Source
    labels: tuple[str, ...]
    subject: str
    split: str | None = None
    mask: Source | None = None


def inside(folder: Path, name: str, where: str) -> Path:
    """Return the path of a name relative to the site's folder, which it must not leave.

    Raises
    ------
    DataError
        If it does; begins with `where`.
    """
    path = Path(os.path.normpath(folder / name))
    try:
        leads_out = not path.resolve().is_relative_to(folder.resolve())
        path.is_file()
    except (OSError, ValueError, RuntimeError) as error:  # too long, a null byte, links in a circle
        raise DataError(
            f"{where}: {printable(name, 80)} is no path that can be used: correct it"
        ) from error
    if Path(name).is_absolute() or leads_out:
        raise DataError(f"{where}: {name} lies outside the site's folder: copy it into {folder}")
    return path


def split_named(split: str, where: str) -> str:
    """Return train, val or test.

    Raises
    ------
    DataError
        If the word means none of them; begins with `where`.
    """
    if split.lower() not in _SPLITS:
        raise DataError(f"{where}: split is {split!r}: write train, val or test")
    return _SPLITS[split.lower()]


def check_splits(table: Path, rows: list[Row]) -> None:
    """Check that all images have a split or none, and that no subject lies in two.

    Raises
    ------
    DataError
        Otherwise; begins with `table`.
    """
    unsplit = [row for row in rows if row.split is None]
    if len(unsplit) == len(rows):
        return
    if unsplit:
        first = unsplit[0].source.path.name
        raise DataError(f"{table}: split is empty for {first}: fill it in everywhere or nowhere")
    seen: dict[str, str] = {}
    for row in rows:
        first = seen.setdefault(row.subject, str(row.split))
        if first != row.split:
            raise DataError(
                f"{table}: subject {row.subject} is in both {first} and {row.split}: "
                "keep each subject in one split"
            )
