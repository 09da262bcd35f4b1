"""Whole slides: tiles of a pyramid of resolutions, through OpenSlide."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import openslide
from numpy.typing import NDArray
from PIL import Image

from fl_client.images import LARGEST, Pixels
from fl_client.readers.cut import Cut
from fl_client.readers.source import Source, Stamp, Window, stamp_of
from protocol.errors import DataError

_OPEN = 8
_COLOURED = 20
"""Least difference between a pixel's largest and smallest channel, of 255: glass is grey."""

_TISSUE = 0.5
"""Least share of coloured pixels in a tile that is taken."""

_OVERVIEW = 2048
"""Longest side in pixels of the picture in which tissue is looked for."""


@dataclass(frozen=True, eq=False)
class Tile(Source):
    """A square of a slide."""

    cut: Cut = field(default_factory=Cut)
    x: int = 0
    y: int = 0

    @property
    def size(self) -> tuple[int, int]:
        _open(self.path, stamp_of(self.path))
        return self.cut.tile, self.cut.tile

    def pixels(self, window: Window | None = None) -> Pixels:
        """Decode to RGB, uint8 ``[tile, tile, 3]``; what the scanner left out is white.

        Raises
        ------
        DataError
            If it cannot be read.
        """
        slide = _open(self.path, stamp_of(self.path))
        level, side = _read_at(slide, self.cut, self.path)
        try:
            region = slide.read_region((self.x, self.y), level, (side, side))
        except openslide.OpenSlideError as error:
            _open.cache_clear()  # a slide that failed once fails ever after
            raise _unreadable(self.path, error) from error
        white = Image.new("RGBA", region.size, "white")
        shown = Image.alpha_composite(white, region).convert("RGB")
        if side != self.cut.tile:
            shown = shown.resize((self.cut.tile, self.cut.tile), Image.Resampling.LANCZOS)
        return np.asarray(shown)


def expand(path: Path, cut: Cut) -> list[Source]:
    """Return the tiles of a grid over the slide, of which at least half is coloured.

    Raises
    ------
    DataError
        If the slide cannot be read, or no tile shows tissue.
    """
    slide = _open(path, stamp_of(path))
    step = round(_side_at_0(slide, cut, path))  # of a tile, in pixels of level 0
    width, height = slide.dimensions
    coloured = _overview(slide, path)  # [h, w]
    tiles: list[Source] = [
        _tile(path, cut, x, y)
        for y in range(0, height - step + 1, step)
        for x in range(0, width - step + 1, step)
        if _share(coloured, (x / width, y / height), (step / width, step / height)) >= _TISSUE
    ]
    if not tiles:
        raise DataError(
            f"image {path} shows no tissue in tiles of {step} pixels of level 0: name tiles by x "
            "and y in the manifest, or correct [data] tile, mpp or level"
        )
    return tiles


def tile_at(path: Path, cut: Cut, x: int, y: int) -> Tile:
    """Return the tile with this upper left corner, in pixels of level 0.

    Raises
    ------
    DataError
        If the slide cannot be read, or the tile does not lie within.
    """
    slide = _open(path, stamp_of(path))
    side, (width, height) = int(_side_at_0(slide, cut, path)), slide.dimensions
    if x + side > width or y + side > height:
        raise DataError(
            f"image {path}: the tile at x = {x}, y = {y} ends outside the slide of {width} x "
            f"{height} pixels: correct the manifest"
        )
    return _tile(path, cut, x, y)


def _tile(path: Path, cut: Cut, x: int, y: int) -> Tile:
    scale = f"level {cut.level}" if cut.mpp is None else f"{cut.mpp:g} mpp"
    return Tile(path, f"tile {cut.tile} at {x},{y} of {scale}", cut, x, y)


@lru_cache(maxsize=_OPEN)
def _open(path: Path, _stamp: Stamp) -> openslide.OpenSlide:
    try:
        return openslide.OpenSlide(path)
    except (openslide.OpenSlideError, OSError) as error:
        raise _unreadable(path, error) from error


def _read_at(slide: openslide.OpenSlide, cut: Cut, path: Path) -> tuple[int, int]:
    """Return the level to read from, and the side of a tile there."""
    if not cut.tile:
        raise DataError(f"image {path} is a whole slide: add tile = 256 to [data] of site.toml")
    if cut.mpp is None:
        if cut.level >= slide.level_count:
            raise DataError(
                f"image {path} has the levels 0 to {slide.level_count - 1}: correct [data] level"
            )
        return cut.level, cut.tile
    factor = cut.mpp / _resolution(slide, path)
    if factor < 0.5:
        raise DataError(
            f"image {path} has {_resolution(slide, path):g} micrometres a pixel, too coarse for "
            f"mpp = {cut.mpp:g}: correct [data] mpp"
        )
    level = slide.get_best_level_for_downsample(max(factor, 1.0))
    side = cut.tile * factor / slide.level_downsamples[level]
    if not side * side <= LARGEST:
        raise DataError(
            f"image {path} has {_resolution(slide, path):g} micrometres a pixel: a tile of "
            f"{cut.tile} pixels at mpp = {cut.mpp:g} would be read from {side:.3g} x {side:.3g}: "
            "correct [data] mpp, or give level instead"
        )
    return level, max(1, round(side))


def _side_at_0(slide: openslide.OpenSlide, cut: Cut, path: Path) -> float:
    level, side = _read_at(slide, cut, path)
    return float(side * slide.level_downsamples[level])


def _resolution(slide: openslide.OpenSlide, path: Path) -> float:
    """Return micrometres a pixel of level 0."""
    try:
        found = float(slide.properties[openslide.PROPERTY_NAME_MPP_X])
        if not 0 < found < math.inf:
            raise ValueError
        return found
    except (KeyError, ValueError) as error:
        raise DataError(
            f"image {path} does not say its micrometres a pixel: give [data] level instead of mpp"
        ) from error


def _overview(slide: openslide.OpenSlide, path: Path) -> NDArray[np.bool_]:
    """Return which pixels of a small picture of the slide are coloured, ``[height, width]``."""
    scale = max(side / _OVERVIEW for side in slide.dimensions)
    width, height = slide.level_dimensions[slide.get_best_level_for_downsample(scale)]
    if width * height > LARGEST:
        raise DataError(
            f"image {path} has no level small enough to look for tissue in, the best has {width} "
            f"x {height} pixels: write it as a pyramid, or name tiles by x and y in a manifest"
        )
    try:
        small = np.asarray(slide.get_thumbnail((_OVERVIEW, _OVERVIEW)).convert("RGB"))
    except openslide.OpenSlideError as error:
        raise _unreadable(path, error) from error
    spread = small.max(axis=2) - small.min(axis=2)  # never negative
    return np.asarray(spread >= _COLOURED)


def _share(
    coloured: NDArray[np.bool_],
    corner: tuple[float, float],
    side: tuple[float, float],
) -> float:
    """Return the share of coloured pixels of a rectangle, given in shares of width and height."""
    height, width = coloured.shape
    left, top = int(corner[0] * width), int(corner[1] * height)
    right = max(left + 1, int((corner[0] + side[0]) * width))
    bottom = max(top + 1, int((corner[1] + side[1]) * height))
    return float(coloured[top:bottom, left:right].mean())


def _unreadable(path: Path, error: Exception) -> DataError:
    detail = " ".join(str(error).split())[:200] or type(error).__name__
    return DataError(
        f"image {path} cannot be read as a whole slide ({detail}): replace it or take it out"
    )
