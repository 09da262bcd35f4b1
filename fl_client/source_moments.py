"""Class moments of another task that a site has as a file, as run folders hold them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from protocol.descriptor_files import Sizes, from_bytes
from protocol.descriptors import ClassMoments
from protocol.errors import BadDtype, DataError, VerificationError

MOST_BYTES = 1 << 28
"""Largest file: 10,000 classes of 2,560 features are 205 MB."""


def read_class_moments(path: Path, width: int) -> ClassMoments:
    """Read the class moments of a task.

    Parameters
    ----------
    path : Path
        A ``.class-moments.safetensors``.
    width : int
        Counted features m of the site's spec.

    Raises
    ------
    DataError
        If it cannot be read or holds no class moments of so many features.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise DataError(f"{path} has more than {MOST_BYTES >> 20} MiB: it holds no moments")
        with safe_open(path, framework="numpy") as file:
            counts = file.get_tensor("counts")
        if counts.dtype != np.int64:
            raise BadDtype(f"counts of the class-moments is {counts.dtype}, not int64")
        sizes = Sizes(width, classes=counts.size, images=int(counts.sum()))
        moments = from_bytes(path.read_bytes(), "class-moments", sizes)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except (
        *(SafetensorError, VerificationError, ValueError, TypeError, KeyError),
        AttributeError,  # of a type that numpy does not have
    ) as error:
        raise DataError(f"{path} holds no class moments of {width} features: {error}") from error
    assert isinstance(moments, ClassMoments)
    if not moments.counts.sum():
        raise DataError(f"{path} holds class moments of no image: ask for another release")
    return moments
