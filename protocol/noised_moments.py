r"""Mean and covariance under differential privacy: what is summed, how much one patient moves it.

Each feature is clipped to the spec's public edges, mapped onto [-1, 1] and rounded to a grid of
:math:`g` steps, so that an image is a vector of integers :math:`z \in [-g, g]^m`. What is released
is the upper triangle, without its first entry, of :math:`\sum_k w_k w_k^\top` with
:math:`w = (g, z)`: the sums of all features (times g) and of all their products.

Sensitivity. Exchange one image for another, and that matrix changes by
:math:`D = w w^\top - v v^\top`. With :math:`|w|^2, |v|^2 \le g^2 (m + 1)`,

.. math:: \|D\|_F^2 = |w|^4 + |v|^4 - 2 (w^\top v)^2 \le 2 g^4 (m + 1)^2 .

Its diagonal moves by at most :math:`g^2` in each of m entries, and not at all in the first. The
triangle counts everything off the diagonal once where the matrix counts it twice, so its squared
norm is half of :math:`\|D\|_F^2` and of the diagonal's together:

.. math:: \Delta^2 \le g^4 \left( (m + 1)^2 + m / 2 \right) .

A patient with k counted images moves it by at most k times as much. Noise is as in
`protocol.privacy`. It grows with m: for the 8 directions of the private spec it is moderate, for
all features of a backbone it drowns what a small site has to say.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from protocol.descriptors import Moments
from protocol.errors import BadDescriptor, BadDtype, BadShape, MalformedPayload, TooLarge
from protocol.spec import Spec
from protocol.verify import TAIL

TENSOR = "products"
GRID = 256
"""Steps from the middle of a feature's range to its edge: rounding moves a value by 0.2 % of it."""
_HEADER = 4096  # bytes of a safetensors header, which has some 100


def sensitivity(width: int, cap: int = 1) -> float:
    """Return the most by which one patient moves the products, in L2 norm.

    Parameters
    ----------
    width : int
        Number of counted features m.
    cap : int
        At most so many images of one patient are counted.
    """
    return cap * GRID**2 * math.sqrt((width + 1) ** 2 + width / 2)


def entries(width: int) -> int:
    """Return how many numbers are released: sums of m features and of their products."""
    return width + width * (width + 1) // 2


def products(features: NDArray[np.floating], spec: Spec) -> NDArray[np.int64]:
    """Return the exact sums that noise is added to.

    Parameters
    ----------
    features : ndarray of float, shape [n, m]
        Counted features, one row an image.
    spec : Spec
        Whose edges they are clipped to.

    Returns
    -------
    ndarray of int64, shape [m + m (m + 1) / 2]
        The upper triangle of the sum over w w', row by row, without its first entry.
    """
    lower, upper = spec.lower_array, spec.upper_array  # [m]
    clipped = np.clip(features.astype(np.float64), lower, upper)  # [n, m]
    steps = np.rint((2 * clipped - lower - upper) / (upper - lower) * GRID)  # [n, m]
    rows = np.hstack([np.full((len(steps), 1), GRID), steps])  # [n, m + 1]
    # exact in float64: integers up to n GRID^2, far below 2^53
    total = (rows.T @ rows).astype(np.int64)  # [m + 1, m + 1]
    return np.asarray(total[np.triu_indices(len(total))][1:])


def to_moments(noised: NDArray[np.int64], spec: Spec, images: int, sigma: float) -> Moments:
    """Return what noised products say of mean and covariance.

    The mean's own noise would lower the variances by a known amount, which is added again; negative
    variances, which only noise can make, are taken as none. Neither costs any privacy.

    Parameters
    ----------
    noised : ndarray of int64, shape [m + m (m + 1) / 2]
        As `products`, with noise.
    spec : Spec
        Whose edges they were scaled by.
    images : int
        How many images n they are of.
    sigma : float
        Standard deviation of the noise in each entry.
    """
    m = spec.width
    matrix = np.zeros((m + 1, m + 1))
    matrix[np.triu_indices(m + 1)] = np.concatenate([[0.0], noised.astype(np.float64)])
    scaled = (matrix + np.triu(matrix, 1).T) / (images * GRID**2)  # [m + 1, m + 1]
    mean, second = scaled[0, 1:], scaled[1:, 1:]  # [m], [m, m]
    noise = (sigma / (images * GRID**2)) ** 2
    unbiased = max(images, 2) / (max(images, 2) - 1)
    covariance = (second - np.outer(mean, mean) + noise * np.eye(m)) * unbiased
    values, axes = np.linalg.eigh(covariance)
    covariance = (axes * np.maximum(values, 0.0)) @ axes.T
    half = (spec.upper_array - spec.lower_array) / 2  # [m]
    middle = (spec.upper_array + spec.lower_array) / 2
    return Moments(middle + half * mean, covariance * np.outer(half, half), images)


def to_bytes(noised: NDArray[np.int64]) -> bytes:
    """Return the exact bytes of the safetensors file of noised products."""
    return safetensors.numpy.save({TENSOR: np.ascontiguousarray(noised, dtype=np.int64)})


def most_bytes(width: int) -> int:
    """Return the most bytes that such a file can have."""
    return _HEADER + 8 * entries(width)


def from_bytes(data: bytes, width: int, images: int, sigma: float) -> NDArray[np.int64]:
    """Return the noised products of a safetensors file, checked against what they can be.

    Raises
    ------
    TooLarge, MalformedPayload, BadShape, BadDtype, BadDescriptor
        When it is none, or noise of `sigma` cannot explain an entry.
    """
    if len(data) > (limit := most_bytes(width)):
        raise TooLarge(f"the noised moments have {len(data)} bytes, the limit is {limit}")
    try:
        tensors: dict[str, NDArray[Any]] = safetensors.numpy.load(data)
    except (SafetensorError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise MalformedPayload(f"noised moments are no readable safetensors: {error}") from None
    if list(tensors) != [TENSOR]:
        raise MalformedPayload(f"noised moments must hold one tensor {TENSOR!r}")
    found = tensors[TENSOR]
    if found.dtype != np.int64:
        raise BadDtype(f"{TENSOR} are {found.dtype}, not int64")
    if found.shape != (entries(width),):
        raise BadShape(f"{TENSOR} have shape {found.shape}, not ({entries(width)},)")
    if np.abs(found.astype(np.float64)).max() > images * GRID**2 + TAIL * sigma + 1:
        raise BadDescriptor(
            f"an entry of the {TENSOR} is further off than {images} images and noise of "
            f"{sigma:.4g} explain"
        )
    return found
