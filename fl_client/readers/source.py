"""Where the pixels of one image come from: a file, and a place inside it."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fl_client.images import Pixels, array_to_rgb, picture_size, read_image, read_labels
from protocol.errors import DataError

Window = tuple[float, float]
"""Lower and upper end, in scanner units, of what becomes black and white."""

Stamp = tuple[int, int, int]
"""Size and times of change of a file: what was read of it holds while they stay."""


class BurntIn(DataError):
    """Text is burnt into the pixels of an image: it may name the patient."""


class NeedsWindow(DataError):
    """Values in scanner units are shown by the window of a spec only, and this spec has none."""


@dataclass(frozen=True, eq=False)
class Source(ABC):
    """One image of a file.

    Attributes
    ----------
    path : Path
        The file.
    place : str
        Which of the file's images it is; empty when the file is one image.
    """

    path: Path
    place: str = ""

    @property
    def name(self) -> str:
        """Its name for the site's own eyes: folder, file and place."""
        name = f"{self.path.parent.name}/{self.path.name}"
        return f"{name} ({self.place})" if self.place else name

    @property
    def subject(self) -> str | None:
        """Whose image it is by the file itself; None when the file does not say."""
        return None

    @property
    def extent(self) -> tuple[int, str]:
        """What must be equal for contents to be equal, without reading them."""
        return stamp_of(self.path)[0], self.place

    @property
    @abstractmethod
    def size(self) -> tuple[int, int]:
        """Height and width in pixels, from the header alone.

        Raises
        ------
        DataError
            If the header already shows that the image cannot be used.
        """

    @abstractmethod
    def pixels(self, window: Window | None = None) -> Pixels:
        """Decode to RGB, uint8 ``[height, width, 3]``.

        Parameters
        ----------
        window : (float, float) or None
            The spec's intensity window; only values in scanner units take notice of it.

        Raises
        ------
        DataError
            If it cannot be read.
        """

    def labels(self) -> NDArray[np.int64]:
        """Decode as a label map: one whole number a pixel, int64 ``[height, width]``, as stored.

        Raises
        ------
        DataError
            If it cannot be read, or holds something else.
        """
        raise DataError(f"image {self.path} is no label map: give PNG, NIfTI or an array of an npz")

    def content_digest(self) -> bytes:
        """Return 32 bytes that name the content: the SHA-256 of the file, if it is one image.

        Of a file with several images they begin with half of the file's digest, so that images
        sorted by digest keep those of a file together, which then is opened once.

        Raises
        ------
        DataError
            If the file cannot be read.
        """
        whole = _file_digest(self.path, stamp_of(self.path)) if self.place else _hash(self.path)
        if not self.place:
            return whole
        return whole[:16] + hashlib.sha256(whole + self.place.encode()).digest()[:16]


class Picture(Source):
    """A file that Pillow decodes."""

    @property
    def size(self) -> tuple[int, int]:
        return picture_size(self.path)

    def pixels(self, window: Window | None = None) -> Pixels:
        return read_image(self.path)

    def labels(self) -> NDArray[np.int64]:
        return read_labels(self.path)


@dataclass(frozen=True, eq=False)
class ArraySlice(Source):
    """Pixels in an array on disk (memory-mapped), of an npz file."""

    array: NDArray[np.generic] = field(default_factory=lambda: np.empty(0))

    @property
    def name(self) -> str:
        return self.place

    @property
    def size(self) -> tuple[int, int]:
        if self.array.size < 1 or self.array.dtype.kind != "u" or self.array.ndim > 3:
            array_to_rgb(self.array, str(self.path))  # says what is wrong
        return self.array.shape[0], self.array.shape[1]

    def pixels(self, window: Window | None = None) -> Pixels:
        return array_to_rgb(self.array, str(self.path))

    def labels(self) -> NDArray[np.int64]:
        if self.array.ndim != 2 or self.array.dtype.kind not in "bui":
            raise DataError(
                f"{self.path} holds a mask of shape {self.array.shape} and type "
                f"{self.array.dtype}: give one whole number a pixel"
            )
        return np.asarray(self.array, dtype=np.int64)

    @property
    def extent(self) -> tuple[int, str]:
        return self.array.nbytes, ""

    def content_digest(self) -> bytes:
        """Return the SHA-256 of the array's type, shape and bytes."""
        header = f"{self.array.dtype.str}{self.array.shape}".encode()
        return hashlib.sha256(header + self.array.tobytes()).digest()


@dataclass(frozen=True, eq=False)
class Unreadable(Source):
    """A listed file that cannot be opened: it stays listed, and says why when it is used."""

    fault: str = ""

    @property
    def size(self) -> tuple[int, int]:
        raise DataError(self.fault)

    def pixels(self, window: Window | None = None) -> Pixels:
        raise DataError(self.fault)

    def labels(self) -> NDArray[np.int64]:
        raise DataError(self.fault)


def stamp_of(path: Path) -> Stamp:
    """Return what the file system says of a file.

    Raises
    ------
    DataError
        If it is not there.
    """
    try:
        found = os.stat(path)
    except OSError as error:
        raise DataError(f"image {path} cannot be read: {error.strerror}") from error
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _hash(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise DataError(f"image {path} cannot be read: {error.strerror}") from error


@lru_cache(maxsize=65536)
def _file_digest(path: Path, _stamp: Stamp) -> bytes:
    """Return the SHA-256 of a file; its many images do not read it anew."""
    return _hash(path)
