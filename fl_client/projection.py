"""Choosing a spec's public directions, from the features of public images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from protocol.errors import ConfigError


def directions(features: NDArray[np.floating], components: int) -> NDArray[np.float64]:
    """Return the principal directions of public features.

    The noise of a private release grows with the square root of the number of counted features,
    so few should tell most: where public images differ most, images of different tasks differ too.
    Other choices (features of unit variance, directions within the public image sets or their
    classes, discriminants, rotations, random directions) grouped no better on any kind of pool,
    most of them worse: benchmarks/private_profile.py.

    Parameters
    ----------
    features : ndarray of float, shape [n, M]
        Features of public images, never of a site's own.
    components : int
        Number of directions k.

    Returns
    -------
    ndarray of float64, shape [k, M]
        Orthonormal, of falling variance; the largest entry of each is positive, so that equal
        images give equal directions.

    Raises
    ------
    ConfigError
        When the images do not span that many directions.
    """
    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)  # [n, M]
    _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    spanned = int(np.sum(sizes > 1e-9 * max(sizes[0], 1e-300)))
    if not 0 < components <= spanned:
        raise ConfigError(
            f"{components} components cannot be had: these images span {spanned} directions; "
            "take fewer, or more images"
        )
    chosen: NDArray[np.float64] = axes[:components]
    peaks = np.take_along_axis(chosen, np.abs(chosen).argmax(axis=1)[:, None], axis=1)  # [k, 1]
    return chosen * np.sign(peaks)
