"""npz files with MedMNIST's keys, of pictures or of volumes."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fl_client.images import LARGEST
from fl_client.readers.cut import Cut, Plane
from fl_client.readers.labels import ONE, Labels, of_matrix
from fl_client.readers.masks import array_masks
from fl_client.readers.rows import Row, inside
from fl_client.readers.source import ArraySlice
from fl_client.readers.spill import spill
from protocol.errors import DataError
from protocol.names import printable

_AXES: dict[Plane, int] = {"axial": 0, "coronal": 1, "sagittal": 2}


def read_arrays(
    folder: Path, npz: str, named_in: Path, cut: Cut | None = None, labels: Labels = ONE
) -> list[Row]:
    """List the images of an npz file with MedMNIST's keys (``train_images``, ``train_labels``, …).

    Images are ``[n, h, w]`` or ``[n, h, w, c]`` with c = 1, 3 or 4; ``[n, d, h, w]`` are volumes,
    whose slices are the images. The arrays are spilled to a nameless temporary file and
    memory-mapped, so that memory does not grow with their number. Labels are ``[n]`` or ``[n, 1]``,
    of a multi-label task 0 and 1 in ``[n, classes]``; a segmentation has ``train_masks`` instead,
    one whole number a pixel. The parameters are those of
    `fl_client.readers.read_manifest`.

    Raises
    ------
    DataError
        If keys are missing, or arrays do not fit each other.
    """
    path = inside(folder, npz, f"{named_in}: npz")
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
            rows = [
                row
                for split in splits
                for row in _split_rows(archive, keys, split, path, cut or Cut(), labels)
            ]
    except DataError:
        raise
    except Exception as error:  # a damaged archive can make a decoder raise nearly anything
        detail = printable(str(error), 300) or type(error).__name__
        raise DataError(f"npz file {path} cannot be read ({detail}): write it again") from error
    if not rows:
        raise DataError(f"site folder {folder} holds no images after reading {npz}: add some")
    return rows


def _split_rows(
    archive: zipfile.ZipFile, keys: set[str], split: str, path: Path, cut: Cut, how: Labels
) -> Iterator[Row]:
    key = f"{split}_{'masks' if how.masks else 'labels'}"
    if key not in keys:
        raise DataError(f"npz file {path} has {split}_images but no {key}: add them")
    images, where = _mapped(archive, f"{split}_images"), f"npz file {path}: {key}"
    given = _mapped(archive, key)
    masks = array_masks(given, images, where) if how.masks else None
    labels: Sequence[tuple[str, ...]] = [()] * len(images)
    if how.several:
        labels = of_matrix(np.asarray(given), len(images), how.names, where)
    elif masks is None:
        one = _labels(np.asarray(given), len(images), split, path)
        labels = [(str(label).strip(),) for label in one.tolist()]
    volumes = images.ndim == 4 and images.shape[-1] not in (1, 3, 4)
    for number, own in enumerate(labels):
        name, mask = f"{split}-{number}", None if masks is None else masks[number]
        if not volumes:
            shown = None if mask is None else ArraySlice(path, f"{name} mask", mask)
            yield Row(ArraySlice(path, name, images[number]), own, name, split, shown)
            continue
        volume = np.moveaxis(images[number], _AXES[cut.plane], 0)  # [slices, rows, columns]
        turned = None if mask is None else np.moveaxis(mask, _AXES[cut.plane], 0)
        for index in cut.chosen(len(volume)):
            place = f"{name} {cut.plane} {index}"
            source = ArraySlice(path, place, volume[index])
            shown = None if turned is None else ArraySlice(path, f"{place} mask", turned[index])
            yield Row(source, own, name, split, shown)


def _labels(
    labels: NDArray[np.generic], images: int, split: str, path: Path
) -> NDArray[np.generic]:
    """Return one label an image, [n], out of [n] or [n, 1]."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or len(labels) != images:
        raise DataError(
            f"npz file {path}: {split}_labels has shape {labels.shape} for {images} images: "
            'give one label an image, or say objective = "multilabel"'
        )
    if labels.dtype.kind == "f":
        whole = np.isfinite(labels) & (labels == np.floor(labels)) & (abs(labels) < 2**53)
        if not whole.all():
            raise DataError(
                f"npz file {path}: {split}_labels holds NaN, infinity or fractions: mend them"
            )
        return labels.astype(np.int64)
    return labels


def _mapped(archive: zipfile.ZipFile, key: str) -> NDArray[np.generic]:
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
        size = prod(shape) * dtype.itemsize
        _check_size(archive.getinfo(f"{key}.npy").file_size - source.tell(), size, shape, key)
        try:
            return spill(source, dtype, shape, "F" if fortran else "C")
        except ValueError as error:
            raise ValueError(f"{key}: {error}") from error


def _check_size(held: int, size: int, shape: tuple[int, ...], key: str) -> None:
    """Refuse before anything is unpacked what its header lies about."""
    if held != size:
        raise ValueError(f"{key} declares {size} bytes and holds {held}")
    if len(shape) > 2 and prod(shape[1:3]) > LARGEST:
        raise ValueError(f"{key} has images of {shape[1]} x {shape[2]} pixels")
