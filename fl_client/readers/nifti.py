"""NIfTI volumes: their slices in one plane are the images."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path
from threading import Lock
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from fl_client.images import LARGEST, Pixels
from fl_client.readers.cut import Cut, Plane
from fl_client.readers.source import NeedsWindow, Source, Stamp, Window, stamp_of
from fl_client.readers.spill import spill
from fl_client.readers.window import grey, to_eight_bits
from protocol.errors import DataError

_AXES: dict[Plane, int] = {"sagittal": 0, "coronal": 1, "axial": 2}  # right, anterior, superior
_MOST_VOXELS = 2**30
_OPEN = 4
"""Volumes unpacked at a time: the images of one file, and its masks, come one after the other."""
_NEAR = 1e-2  # millimetres: programs that write masks round the affine

_lock = Lock()
_turning: Any = nibabel.orientations  # of which nothing is typed


@dataclass(frozen=True)
class _Volume:
    """Stored values [right, anterior, superior], and what turns them into scanner units.

    The values lie on the disk: only slices that are looked at are read.
    """

    stored: NDArray[np.generic]
    slope: float
    intercept: float

    @property
    def is_shown(self) -> bool:
        """Whether the values are grey values as they are."""
        return self.stored.dtype == np.uint8 and (self.slope, self.intercept) == (1, 0)


@dataclass(frozen=True, eq=False)
class Slice(Source):
    """One slice of a volume in its closest canonical orientation, turned by ``numpy.rot90``.

    So in axial and coronal slices anterior or superior is up and the patient's right on the right;
    in sagittal ones superior is up and anterior on the right.
    """

    plane: Plane = "axial"
    index: int = 0

    @property
    def size(self) -> tuple[int, int]:
        shape = list(_shape(self.path, stamp_of(self.path)))
        del shape[_AXES[self.plane]]
        return shape[1], shape[0]  # turned by rot90

    def pixels(self, window: Window | None = None) -> Pixels:
        """Decode to RGB, uint8 ``[height, width, 3]``.

        Raises
        ------
        DataError
            If it cannot be read, or has values in scanner units and the spec no window for them.
        """
        volume, stored = self._stored()
        if window is None and volume.is_shown:
            return grey(stored.astype(np.uint8))
        if window is None:
            raise NeedsWindow(
                f"image {self.path} holds {volume.stored.dtype.name} values in scanner units, and "
                "the spec has no window for them: take a spec with one, or make it with `fedprint "
                "spec calibrate ... --window LOW HIGH`"
            )
        values = stored.astype(np.float64) * volume.slope + volume.intercept
        return grey(to_eight_bits(values, window))

    def labels(self) -> NDArray[np.int64]:
        volume, stored = self._stored()
        values = stored.astype(np.float64) * volume.slope + volume.intercept
        if not bool((values == np.rint(values)).all()):  # false for NaN too
            raise DataError(f"image {self.path} is no label map: its values are no whole numbers")
        return values.astype(np.int64)

    def _stored(self) -> tuple[_Volume, NDArray[np.generic]]:
        """Return the volume, and the slice [h, w] as it is stored."""
        with _lock:  # a volume is unpacked once, however many threads want slices of it
            volume = _volume(self.path, stamp_of(self.path))
        # not numpy.take, which would first copy the whole volume into C order
        return volume, np.rot90(np.moveaxis(volume.stored, _AXES[self.plane], 0)[self.index])


def same_grid(one: Path, other: Path) -> bool:
    """Tell whether the voxels of two volumes lie in the same places of the patient.

    Raises
    ------
    DataError
        If one of them cannot be read.
    """
    shapes = [_shape(path, stamp_of(path)) for path in (one, other)]
    apart = np.abs(_canonical_affine(one) - _canonical_affine(other)).max()
    return shapes[0] == shapes[1] and bool(apart <= _NEAR)


def _canonical_affine(path: Path) -> NDArray[np.float64]:
    """Return where the voxels of a volume in its closest canonical orientation lie, [4, 4]."""
    image = _load(path)
    turning = _turning.io_orientation(image.affine)
    return np.asarray(image.affine @ _turning.inv_ornt_aff(turning, image.shape[: len(turning)]))


def expand(path: Path, cut: Cut) -> list[Source]:
    """Return the slices of a volume.

    Raises
    ------
    DataError
        If it is no NIfTI volume of three dimensions.
    """
    shape = _shape(path, stamp_of(path))
    chosen = cut.chosen(shape[_AXES[cut.plane]])
    return [Slice(path, f"{cut.plane} {index}", cut.plane, index) for index in chosen]


@lru_cache(maxsize=65536)
def _shape(path: Path, _stamp: Stamp) -> tuple[int, int, int]:
    """Return voxels to the right, anterior, superior; from the header alone."""
    image = _load(path)
    given = tuple(int(side) for side in image.shape)
    while len(given) > 3 and given[-1] == 1:
        given = given[:-1]
    if len(given) > 3:
        raise DataError(
            f"image {path} has {len(given)} dimensions {given}: give one volume a file, for "
            "example the mean over time"
        )
    shape = given + (1,) * (3 - len(given))
    kind = image.get_data_dtype()
    if kind.kind not in "iuf":
        raise DataError(f"image {path} holds {kind.name} values: give one number each")
    largest = max(shape[0] * shape[1], shape[0] * shape[2], shape[1] * shape[2])
    if min(shape) < 1 or prod(shape) > _MOST_VOXELS or largest > LARGEST:
        raise DataError(
            f"image {path} declares {' x '.join(map(str, shape))} voxels, between 1 and "
            f"{_MOST_VOXELS} are read: crop it"
        )
    places = _turning.io_orientation(image.affine)[:, 0].astype(int).tolist()
    turned = dict(zip(places, shape, strict=True))
    return turned[0], turned[1], turned[2]


@lru_cache(maxsize=_OPEN)
def _volume(path: Path, stamp: Stamp) -> _Volume:
    _shape(path, stamp)  # refuses before anything is allocated
    image = _load(path)
    try:
        stored = _mapped(path, image.dataobj)
    except Exception as error:  # a damaged file can make a decoder raise nearly anything
        raise _unreadable(path, error) from error
    stored = stored.reshape((*stored.shape, 1, 1)[:3] if stored.ndim < 3 else stored.shape[:3])
    turned = _turning.apply_orientation(stored, _turning.io_orientation(image.affine))
    return _Volume(turned, float(image.dataobj.slope), float(image.dataobj.inter))


def _mapped(path: Path, proxy: Any) -> NDArray[np.generic]:
    """Return the values as they are stored, memory-mapped whether the file is packed or not."""
    if path.suffix.lower() != ".gz":
        found: NDArray[np.generic] = proxy.get_unscaled()
        return found
    with gzip.open(path) as packed:
        packed.seek(proxy.offset)
        return spill(packed, proxy.dtype, proxy.shape, proxy.order)


def _load(path: Path) -> Any:  # nibabel.Nifti1Pair, of which most is untyped
    try:
        image: Any = nibabel.load(path)
        axes = _turning.io_orientation(image.affine)
        if np.isnan(axes).any():
            raise ValueError("its affine leaves out an axis")
    except Exception as error:  # a damaged file can make a parser raise nearly anything
        raise _unreadable(path, error) from error
    if not isinstance(image, nibabel.Nifti1Pair):
        raise DataError(f"image {path} is no NIfTI file: convert it")
    return image


def _unreadable(path: Path, error: Exception) -> DataError:
    detail = " ".join(str(error).split())[:200] or type(error).__name__
    return DataError(
        f"image {path} cannot be read as NIfTI ({detail}): replace it or remove it from the site"
    )
