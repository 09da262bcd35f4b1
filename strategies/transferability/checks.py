"""What the scores take: finite features, probabilities and labels that fit together."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from protocol.errors import DataError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


def finite_rows(values: ArrayLike, what: str) -> FloatArray:
    """Return finite numbers of shape ``[n, width]`` as float64.

    Raises
    ------
    DataError
        If they are anything else, or none.
    """
    rows = np.asarray(values)
    if rows.ndim != 2 or 0 in rows.shape or rows.dtype.kind not in "fiu":
        raise DataError(
            f"{what} must be numbers of shape [images, width], not {rows.dtype} of shape "
            f"{rows.shape}: give one row an image"
        )
    rows = rows.astype(np.float64)
    if not np.isfinite(rows).all():
        raise DataError(f"{what} hold NaN or infinite values: leave that model out")
    return rows


def class_indices(labels: ArrayLike, images: int, what: str = "labels") -> IntArray:
    """Return labels as indices 0, 1, ... into the classes that are present, shape ``[n]``.

    Raises
    ------
    DataError
        If they are not one integer an image.
    """
    given = np.asarray(labels)
    if given.shape != (images,) or given.dtype.kind not in "iu":
        raise DataError(
            f"{what} must be {images} integers, one an image, not {given.dtype} of shape "
            f"{given.shape}"
        )
    return np.asarray(np.unique(given, return_inverse=True)[1], dtype=np.int64)


def require_two_classes(labels: IntArray) -> None:
    """Refuse labels of one class: every score of a model would be the same.

    Raises
    ------
    DataError
        If there are fewer than two classes.
    """
    if len(labels) == 0 or labels.max() == 0:
        raise DataError("scores need images of at least two classes: label more of them")


def one_hot(labels: IntArray) -> FloatArray:
    """Return the indicator of each image's class, shape ``[n, classes]``."""
    return np.eye(int(labels.max()) + 1)[labels]


def even_sample(labels: IntArray, most: int) -> IntArray:
    """Return which images take part: at most so many, each class in proportion, none at random."""
    order = np.argsort(labels, kind="stable")  # [n]
    if len(order) <= most:
        return order
    return order[np.linspace(0, len(order) - 1, most).round().astype(np.int64)]
