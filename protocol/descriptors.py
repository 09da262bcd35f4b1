"""What a site may release of its task beside the fingerprint, for measures that need more.

A descriptor is about the spec's counted features (those that its bins are of, `Spec.width` many),
one centre view an image, so that descriptors of one spec are comparable.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from protocol.errors import ConfigError

Kind = Literal["moments", "class-moments", "fisher", "features"]

KINDS: tuple[Kind, ...] = ("moments", "class-moments", "fisher", "features")
"""All kinds of descriptors; ``features`` are the raw ones, which no deployment lets go."""


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and covariance of a task's features.

    Parameters
    ----------
    mean : ndarray of float64, shape [m]
        Of the features.
    covariance : ndarray of float64, shape [m, m]
        Unbiased, symmetric.
    images : int
        How many they are of.
    """

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]
    images: int


@dataclass(frozen=True, eq=False)
class ClassMoments:
    """Mean and variance of the features of each class, in the order of the task card's classes.

    Parameters
    ----------
    counts : ndarray of int64, shape [c]
        Images of each class.
    means, variances : ndarray of float64, shape [c, m]
        Of each feature within each class; variances unbiased, 0 for a class of one image.
    """

    counts: NDArray[np.int64]
    means: NDArray[np.float64]
    variances: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Fisher:
    """Diagonal Fisher information of a probe network on a task, one number a filter.

    Parameters
    ----------
    values : ndarray of float64, shape [p]
        Non-negative.
    """

    values: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Features:
    """Raw features and labels; for simulations only.

    Parameters
    ----------
    values : ndarray of float32, shape [n, m]
        One centre view an image.
    labels : ndarray of int64, shape [n]
        Into the task card's classes.
    """

    values: NDArray[np.float32]
    labels: NDArray[np.int64]


def parse_kinds(text: str, option: str) -> tuple[Kind, ...]:
    """Return the kinds that a text names with commas between them, in the order of `KINDS`.

    Raises
    ------
    ConfigError
        When there is no such kind; `option` says where it was named.
    """
    wanted = {part.strip() for part in text.split(",") if part.strip()}
    if unknown := sorted(wanted - {*KINDS}):
        raise ConfigError(
            f"{option}: there is no descriptor {unknown[0]!r}: take {', '.join(KINDS)}"
        )
    return tuple(kind for kind in KINDS if kind in wanted)


Descriptor = Moments | ClassMoments | Fisher | Features
Arrays = dict[str, NDArray[Any]]
