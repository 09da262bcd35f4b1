"""npz files with MedMNIST's keys, of pictures or of volumes."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fl_client.images import LARGEST
from fl_client.readers.cut import Cut, Plane
from fl_client.readers.rows import Row, inside
from fl_client.readers.source import ArraySlice
from protocol.errors import DataError
from protocol.names import printable

_AXES: dict[Plane, int] = {"axial": 0, "coronal": 1, "sagittal": 2}


def read_arrays(folder: Path, npz: str, named_in: Path, cut: Cut | None = None) -> list[Row]:
    """List the images of an npz file with MedMNIST's keys (``train_images``, ``train_labels``, …).

    Images are ``[n, h, w]`` or ``[n, h, w, c]`` with c = 1, 3 or 4; ``[n, d, h, w]`` are volumes,
    whose slices are the images. The arrays are spilled to a nameless temporary file and
    memory-mapped, so that memory does not grow with their number. The parameters are those of
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
                for row in _split_rows(archive, keys, split, path, cut or Cut())
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
    archive: zipfile.ZipFile, keys: set[str], split: str, path: Path, cut: Cut
) -> Iterator[Row]:
    if f"{split}_labels" not in keys:
        raise DataError(f"npz file {path} has {split}_images but no {split}_labels: add them")
    images = _spill(archive, f"{split}_images")
    labels = _labels(np.asarray(_spill(archive, f"{split}_labels")), len(images), split, path)
    volumes = images.ndim == 4 and images.shape[-1] not in (1, 3, 4)
    for number, label in enumerate(labels.tolist()):
        name = f"{split}-{number}"
        if not volumes:
            yield Row(ArraySlice(path, name, images[number]), str(label).strip(), name, split)
            continue
        volume = np.moveaxis(images[number], _AXES[cut.plane], 0)  # [slices, rows, columns]
        for index in cut.chosen(len(volume)):
            source = ArraySlice(path, f"{name} {cut.plane} {index}", volume[index])
            yield Row(source, str(label).strip(), name, split)


def _labels(
    labels: NDArray[np.generic], images: int, split: str, path: Path
) -> NDArray[np.generic]:
    """Return one label an image, [n], out of [n] or [n, 1]."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or len(labels) != images:
        raise DataError(
            f"npz file {path}: {split}_labels has shape {labels.shape} for {images} images: "
            "give one label an image"
        )
    if labels.dtype.kind == "f":
        if not bool(np.all(labels == np.floor(labels))):  # false for NaN too
            raise DataError(f"npz file {path}: {split}_labels holds NaN or fractions: mend them")
        return labels.astype(np.int64)
    return labels


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
        size = prod(shape) * dtype.itemsize
        _check_size(archive.getinfo(f"{key}.npy").file_size - source.tell(), size, shape, key)
        spill = tempfile.TemporaryFile()  # noqa: SIM115, the map keeps its own handle
        with spill:
            shutil.copyfileobj(source, spill, 1 << 20)
            spill.flush()
            return np.memmap(spill, dtype, "r", shape=shape, order="F" if fortran else "C")


def _check_size(held: int, size: int, shape: tuple[int, ...], key: str) -> None:
    """Refuse before anything is unpacked what its header lies about, or what finds no room."""
    if held != size:
        raise ValueError(f"{key} declares {size} bytes and holds {held}")
    if len(shape) > 2 and prod(shape[1:3]) > LARGEST:
        raise ValueError(f"{key} has images of {shape[1]} x {shape[2]} pixels")
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if size > free:
        raise ValueError(f"{key} takes {size} bytes, {tempfile.gettempdir()} has {free} free")
