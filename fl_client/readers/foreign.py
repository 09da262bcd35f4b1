"""Images of another package's reader: whatever it raises becomes one line about the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from fl_client.images import Pixels
from fl_client.readers.cut import Cut
from fl_client.readers.source import Source, Window
from protocol.errors import DataError

__all__ = ["foreign"]


def foreign(reader: ModuleType, path: Path, cut: Cut) -> list[Source]:
    """Return the images of a file as another package's reader lists them.

    Raises
    ------
    DataError
        Whatever the reader raises; later on, whatever its images raise.
    """
    with _blaming(path):
        return [_Foreign(each.path, each.place, each) for each in reader.expand(path, cut)]


@contextmanager
def _blaming(path: Path) -> Iterator[None]:
    """Turn whatever is raised within the block into an error about the file."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise DataError(f"image {path} cannot be read ({reason}): mend it") from error


@dataclass(frozen=True, eq=False)
class _Foreign(Source):
    """One image, and as the reader gives it."""

    given: Source | None = None

    @property
    def _held(self) -> Source:
        assert self.given is not None
        return self.given

    @property
    def name(self) -> str:
        with _blaming(self.path):
            return self._held.name

    @property
    def subject(self) -> str | None:
        with _blaming(self.path):
            return self._held.subject

    @property
    def extent(self) -> tuple[int, str]:
        with _blaming(self.path):
            return self._held.extent

    @property
    def size(self) -> tuple[int, int]:
        with _blaming(self.path):
            return self._held.size

    def pixels(self, window: Window | None = None) -> Pixels:
        with _blaming(self.path):
            return self._held.pixels(window)

    def labels(self) -> NDArray[np.int64]:
        with _blaming(self.path):
            return self._held.labels()

    def content_digest(self) -> bytes:
        with _blaming(self.path):
            return self._held.content_digest()
