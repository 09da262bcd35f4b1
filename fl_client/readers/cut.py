"""How a file that holds more than one image is cut into images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Plane = Literal["axial", "coronal", "sagittal"]


@dataclass(frozen=True)
class Cut:
    """The site's choice, from ``[data]`` of its ``site.toml``.

    Attributes
    ----------
    plane : str
        Plane of the slices of a volume.
    slices : int
        How many evenly spaced slices of a volume to take; 0 takes all.
    tile : int
        Side in pixels of a whole slide's tiles; 0: TIFF files are pictures, no slides.
    mpp : float or None
        Micrometres a pixel of a tile; None: `level` says where tiles are read.
    level : int
        Level of the slide's pyramid that tiles are read from, 0 is the finest.
    """

    plane: Plane = "axial"
    slices: int = 0
    tile: int = 0
    mpp: float | None = None
    level: int = 0

    def chosen(self, depth: int) -> list[int]:
        """Return which of `depth` slices are taken: the middles of equally thick slabs.

        >>> Cut(slices=3).chosen(12)
        [2, 6, 10]
        """
        if not 0 < self.slices < depth:
            return list(range(depth))
        return [(2 * number + 1) * depth // (2 * self.slices) for number in range(self.slices)]
