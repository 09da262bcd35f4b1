"""Image files to RGB pixels, and to the views that a backbone sees.

Every image becomes 8-bit RGB by one documented rule, decoded by Pillow everywhere, so that the
same file gives the same pixels at every site.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from protocol.errors import ConfigError, DataError
from protocol.spec import Preprocess, Sampling, Spec

Pixels = NDArray[np.uint8]

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"})
"""Endings of the picture files that are read."""

LARGEST = 100_000_000
"""Most pixels of an image: a file that declares more is refused before anything is allocated."""

_FORMATS = ("PNG", "JPEG", "TIFF", "BMP")  # what a file holds counts, whatever its ending says
_LOSSLESS = ("PNG", "TIFF", "BMP")
_LABELS = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L", "I;16N")  # one whole number a pixel

_FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
    "nearest": Image.Resampling.NEAREST,
}


def read_image(path: Path, content: bytes | None = None) -> Pixels:
    """Decode an image file.

    Grey is repeated to three channels; 16-bit grey is scaled by its full range (65535 becomes
    255), not by the image's own extremes; palettes are looked up; an alpha channel is dropped;
    the first page of several is taken; the EXIF orientation is applied.

    Parameters
    ----------
    path : Path
        PNG, JPEG, TIFF or BMP file.
    content : bytes, optional
        Its content, where it is no file of its own; `path` then names it in messages.

    Returns
    -------
    ndarray of uint8, shape [height, width, 3]

    Raises
    ------
    DataError
        If the file is missing or damaged, holds pixels of another kind, or too many.
    """
    with _opened(path, content) as image:
        image.load()
        return _to_rgb(ImageOps.exif_transpose(image), path)


def picture_size(path: Path, content: bytes | None = None) -> tuple[int, int]:
    """Return height and width of what `read_image` reads, from its header.

    Raises
    ------
    DataError
        If the header shows already that it cannot be read.
    """
    with _opened(path, content) as image:
        if image.mode in ("I", "F"):
            _to_rgb(image, path)  # says what is wrong
        return image.height, image.width


def read_labels(path: Path) -> NDArray[np.int64]:
    """Decode a label map: one whole number a pixel, as stored.

    Of palettes the indices count, of black and white 0 and 1. The EXIF orientation is applied, as
    to the picture that the labels are of.

    Parameters
    ----------
    path : Path
        PNG, TIFF or BMP file: JPEG keeps no labels.

    Returns
    -------
    ndarray of int64, shape [height, width]

    Raises
    ------
    DataError
        If the file is missing or damaged, or holds colours instead of labels.
    """
    with _opened(path, None, _LOSSLESS) as image:
        image.load()
        if image.mode not in _LABELS:
            raise DataError(
                f"image {path} is no label map (its pixels are {image.mode}): save one whole "
                "number a pixel, as a grey or palette PNG"
            )
        return np.asarray(ImageOps.exif_transpose(image)).astype(np.int64)


@contextmanager
def _opened(
    path: Path, content: bytes | None, formats: tuple[str, ...] = _FORMATS
) -> Iterator[Image.Image]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns about odd metadata that does not matter
            with Image.open(path if content is None else BytesIO(content), "r", formats) as image:
                if image.width * image.height > LARGEST:
                    raise Image.DecompressionBombError
                yield image
    except FileNotFoundError:
        raise DataError(f"image {path} does not exist: restore it or remove its label") from None
    except DataError:
        raise
    except Image.DecompressionBombError:  # Pillow's own limit is twice as high
        raise DataError(
            f"image {path} declares more than {LARGEST} pixels: make it smaller, or take it out"
        ) from None
    except Exception as error:  # a damaged file can make a decoder raise nearly anything
        detail = str(error).replace("\n", " ") or type(error).__name__
        raise DataError(
            f"image {path} cannot be read ({detail}): replace it or remove it from the site"
        ) from error


def _to_rgb(image: Image.Image, path: Path) -> Pixels:
    if image.mode in ("I", "F"):
        raise DataError(
            f"image {path} has 32-bit pixels without a known range: save it with 8 or 16 bits"
        )
    if image.mode.startswith("I;16"):
        return array_to_rgb(np.asarray(image).astype(np.uint16), str(path))
    return np.asarray(image.convert("RGB"))


def array_to_rgb(array: NDArray[np.generic], where: str) -> Pixels:
    """Turn a grey or colour array into RGB pixels by the rules of `read_image`.

    Parameters
    ----------
    array : ndarray of uint8 or uint16, shape [height, width] or [height, width, 1, 3 or 4]
        One image.
    where : str
        Its origin, for the error message.

    Returns
    -------
    ndarray of uint8, shape [height, width, 3]

    Raises
    ------
    DataError
        If its type or shape is another one.
    """
    values = np.asarray(array)
    if values.dtype == np.uint16:
        values = ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    if values.ndim == 2:
        values = values[..., None]  # [h, w, 1]
    good = values.dtype == np.uint8 and values.ndim == 3 and values.shape[-1] in (1, 3, 4)
    if not good or 0 in values.shape:
        raise DataError(
            f"{where} holds an image of shape {np.shape(array)} and type {array.dtype}: "
            "give 8- or 16-bit unsigned grey, RGB or RGBA"
        )
    return np.ascontiguousarray(np.broadcast_to(values[..., :3], (*values.shape[:2], 3)))


def pixel_digest(pixels: Pixels) -> bytes:
    """Return the SHA-256 of the decoded pixels and their shape: 32 bytes.

    It names an image by what it shows: neither path nor file format nor position enter.
    """
    shape = np.asarray(pixels.shape[:2], dtype="<u8").tobytes()
    return hashlib.sha256(shape + np.ascontiguousarray(pixels).tobytes()).digest()


def check_preprocess(spec: Spec) -> None:
    """Check that views can be made by a spec.

    Raises
    ------
    ConfigError
        If its interpolation is unknown or its crop is larger than the resized image.
    """
    preprocess = spec.preprocess
    if preprocess.interpolation not in _FILTERS:
        known = ", ".join(sorted(_FILTERS))
        raise ConfigError(
            f"spec {spec.name}: unknown interpolation {preprocess.interpolation!r}, "
            f"take one of {known}"
        )
    if preprocess.crop > preprocess.resize:
        raise ConfigError(
            f"spec {spec.name}: crop {preprocess.crop} is larger than resize {preprocess.resize}"
        )


def resize_shorter(pixels: Pixels, preprocess: Preprocess) -> Image.Image:
    """Resize so that the shorter side has `preprocess.resize` pixels (antialiased)."""
    size = _resized(pixels.shape[0], pixels.shape[1], preprocess)
    image = Image.fromarray(pixels)
    if size == image.size:
        return image
    return image.resize(size, _FILTERS[preprocess.interpolation])


def _resized(height: int, width: int, preprocess: Preprocess) -> tuple[int, int]:
    """Return width and height that an image is resized to."""
    short = min(height, width)
    size = (
        max(preprocess.resize, preprocess.resize * width // short),
        max(preprocess.resize, preprocess.resize * height // short),
    )
    if size[0] * size[1] > LARGEST:
        raise DataError(
            f"an image of {width} x {height} pixels is too thin to be made {preprocess.resize} "
            "pixels wide: crop it or take it out"
        )
    return size


def view_labels(labels: NDArray[np.uint8], preprocess: Preprocess) -> NDArray[np.uint8]:
    """Make the centre view of a label map that lies on an image's centre view.

    Parameters
    ----------
    labels : ndarray of uint8, shape [height, width]
        On the image's grid. No label is made up: the nearest one is taken.
    preprocess : Preprocess
        How the image is resized and cropped.

    Returns
    -------
    ndarray of uint8, shape [crop, crop]
    """
    size = _resized(labels.shape[0], labels.shape[1], preprocess)
    resized = np.asarray(Image.fromarray(labels).resize(size, Image.Resampling.NEAREST))
    top, left = _centre(resized.shape, preprocess.crop)
    return resized[top : top + preprocess.crop, left : left + preprocess.crop]


def _centre(shape: tuple[int, ...], crop: int) -> tuple[int, int]:
    """Return the upper left corner of a centre crop."""
    return round((shape[0] - crop) / 2), round((shape[1] - crop) / 2)


def make_views(pixels: Pixels, spec: Spec, draws: list[int]) -> Pixels:
    """Make the views of one image that a spec's sampling rule asks for.

    Parameters
    ----------
    pixels : ndarray of uint8, shape [height, width, 3]
        The decoded image.
    spec : Spec
        Preprocessing and sampling.
    draws : list of int
        Numbers k of the draws that chose this image.

    Returns
    -------
    ndarray of uint8, shape [len(draws), crop, crop, 3]
        A random crop and flip depends on the pixels, the spec's seed and the draw's number only.
    """
    resized = np.asarray(resize_shorter(pixels, spec.preprocess))
    random = spec.sampling.crop == "random" or spec.sampling.flip
    digest = pixel_digest(pixels) if random else b""
    return np.stack([_view(resized, spec, digest, draw) for draw in draws])


def _view(resized: Pixels, spec: Spec, digest: bytes, draw: int) -> Pixels:
    size, sampling = spec.preprocess.crop, spec.sampling
    room = np.array(resized.shape[:2]) - size  # [2], free rows and columns
    top, left = _centre(resized.shape, size)
    chance = chance_of(sampling, digest, draw) if digest else b""
    if sampling.crop == "random":
        # 8 bytes against at most a few thousand positions: the bias of the remainder is < 1e-15
        top = int.from_bytes(chance[:8], "little") % (int(room[0]) + 1)
        left = int.from_bytes(chance[8:16], "little") % (int(room[1]) + 1)
    view = resized[top : top + size, left : left + size]
    return view[:, ::-1] if sampling.flip and chance[16] & 1 else view


def chance_of(sampling: Sampling, content: bytes, draw: int) -> bytes:
    """Return 32 random-looking bytes that depend on content, seed and draw alone (SHA-256)."""
    numbers = np.asarray([sampling.seed % 2**64, draw], dtype="<u8").tobytes()
    return hashlib.sha256(content + numbers).digest()
