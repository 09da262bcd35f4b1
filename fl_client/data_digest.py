"""The digest of a site's images, remembered: asking again must not mean reading all bytes again.

What is remembered belongs to a stamp over path, size and times of change of every image file, and
lies in the site's state folder. A file that is replaced by another of the same size and
modification time still differs in its change time, which nobody can set.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path

from fl_client.site import Site
from protocol.errors import DataError
from protocol.files import atomic_write, canonical_json, sha256_hex

MEMO = "data.json"


def known_digest(site: Site) -> str:
    """Return `Site.data_digest`; the images are read only where one of them has changed.

    Parameters
    ----------
    site : Site
        Whose images; the memo lies in its state folder.

    Returns
    -------
    str
        SHA-256 over the content of all images in order.

    Raises
    ------
    DataError
        If an image cannot be found or read.
    """
    return remembered(site, MEMO, "", lambda: site.data_digest)


def remembered(site: Site, memo: str, belongs: str, compute: Callable[[], str]) -> str:
    """Return a digest of a site's images; it is computed only where one of them has changed.

    Parameters
    ----------
    site : Site
        Whose images.
    memo : str
        Name of the memo's file in the state folder.
    belongs : str
        What else the digest depends on.
    compute : callable
        Takes the digest, 64 hexadecimal digits, of the files.

    Raises
    ------
    DataError
        If an image cannot be found or read.
    """
    path, stamp = site.state / memo, _stamp(site) + belongs
    found = _read(path)
    if found.get("stamp") == stamp and len(found.get("digest", "")) == 64:
        return found["digest"]
    digest = compute()
    if _stamp(site) + belongs == stamp:  # else what was read is of neither state
        with contextlib.suppress(OSError):  # without a memo the next call reads again
            atomic_write(path, json.dumps({"stamp": stamp, "digest": digest}), mode=0o600)
    return digest


def _stamp(site: Site) -> str:
    """Return one SHA-256 over what the file system says of every image and mask, in order."""
    seen: dict[Path, tuple[str, int, int, int]] = {}
    for path in (path for item in site.images for path in item.files):
        if path not in seen:  # all images of an npz file have one path
            seen[path] = _state_of(path, site.folder)
    files = [seen[path] for item in site.images for path in item.files]
    meanings = sorted({item.mask.values for item in site.images if item.mask is not None})
    return sha256_hex(canonical_json([files, meanings] if meanings else files))


def _state_of(path: Path, folder: Path) -> tuple[str, int, int, int]:
    try:
        found = path.stat()
    except OSError as error:
        raise DataError(f"image {path} cannot be read: {error.strerror}") from error
    return os.path.relpath(path, folder), found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _read(path: Path) -> dict[str, str]:
    """Read the memo; a damaged one counts as absent."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return {k: v for k, v in found.items() if isinstance(v, str)} if isinstance(found, dict) else {}
