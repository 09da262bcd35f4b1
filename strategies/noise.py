r"""What known noise and finite samples do to histograms: coordinates in which both are independent.

The counts of a site with n images and noise of standard deviation :math:`\sigma` are released as
:math:`x = p + sampling + noise`, per feature with the covariance

.. math:: Cov(x) = C / n + (\sigma / n)^2 (I - 1 1^T / b), \quad C = diag(\pi) - \pi \pi^T

once the noise is projected so that the row sums to 1 again, as it is known to. Both terms share the
eigenvectors of C, so in that basis every coordinate has a known variance of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from protocol.fingerprint import Fingerprint
from strategies.excess import per_sample

__all__ = ["Coordinates", "coarse", "coordinates", "noisy_distances", "shares_of"]

FloatArray = NDArray[np.float64]

_BINS = 8  # of plain histograms: rare bins would weigh as much as common ones
_RARE = 0.02  # least share of a bin, of 1/b: a bin that noise left empty has some variance still


@dataclass(frozen=True)
class Coordinates:
    """Sites as points whose scatter is known.

    Parameters
    ----------
    values
        Shape ``[k, D]``, relative to the pool's mean; unbiased.
    variance
        Shape ``[k, D]``: of noise and sampling.
    scale
        Shape ``[D]``: variance of a single image, the eigenvalues of C.
    """

    values: FloatArray
    variance: FloatArray
    scale: FloatArray


def shares_of(fingerprints: Sequence[Fingerprint]) -> FloatArray:
    """Return unbiased shares ``[k, m, b]`` whose rows sum to 1; noised ones may be negative."""
    shares = np.stack([f.shares for f in fingerprints])  # [k, m, b]
    surplus = shares.sum(axis=2, keepdims=True) - 1.0  # all of it is noise
    return np.asarray(shares - surplus / shares.shape[2])


def coordinates(
    shares: FloatArray, images: Sequence[int], sigma: Sequence[float], draws: int | None = None
) -> Coordinates:
    """Rotate every feature so that its coordinates are independent, and say how they scatter.

    Parameters
    ----------
    shares
        Shape ``[k, m, b]``, see `shares_of`.
    images
        Number of images of each site, length k.
    sigma
        Standard deviation of the noise in each count, length k; 0 for plain releases.
    draws
        Number of draws with replacement, or None where each image counts once.

    Returns
    -------
    Coordinates
        With ``D = m * (b - 1)``.
    """
    k, m, b = shares.shape
    sampling = per_sample(images, draws)  # [k]
    noise = _noise(images, sigma)  # [k]
    pooled = np.average(shares, axis=0, weights=1.0 / (sampling + b * noise))  # [m, b]
    pooled = np.maximum(pooled, _RARE / b)
    pooled /= pooled.sum(axis=1, keepdims=True)
    covariance = np.eye(b) * pooled[:, None, :] - pooled[:, :, None] * pooled[:, None, :]
    scale, basis = np.linalg.eigh(covariance)  # [m, b], [m, b, b]; the first is the constant row
    values = np.einsum("kmb,mbe->kme", shares - pooled, basis[:, :, 1:]).reshape(k, m * (b - 1))
    flat = scale[:, 1:].ravel()  # [D]
    return Coordinates(values, sampling[:, None] * flat + noise[:, None], flat)


def coarse(shares: FloatArray, bins: int = _BINS) -> FloatArray:
    """Take neighbouring bins together into about equally full ones, the same for all sites.

    Parameters
    ----------
    shares
        Plain histograms, shape ``[k, m, b]``.
    bins
        Number of bins at most.

    Returns
    -------
    numpy.ndarray
        Shape ``[k, m, bins]``, or the shares themselves where they have no more bins than that.
    """
    if shares.shape[2] <= bins:
        return shares
    pooled = shares.mean(axis=0)  # [m, b]
    middle = np.clip(pooled.cumsum(axis=1) - pooled / 2, 0.0, 1.0 - 1e-12)
    home = (middle * bins).astype(np.intp)  # [m, b] never falls along a row
    chosen = np.eye(bins)[home]  # [m, b, bins]
    return np.asarray(np.einsum("kmb,mbc->kmc", shares, chosen))


def noisy_distances(
    shares: FloatArray, images: Sequence[int], sigma: Sequence[float], draws: int | None = None
) -> FloatArray:
    r"""Squared distances between noised histograms: unbiased, as a share of the spread of images.

    As `site_distances`, but bin by bin: on cumulative rows the noise of all bins below an edge adds
    up, and drowns what they tell.

    Parameters
    ----------
    shares
        Shape ``[k, m, b]``, see `shares_of`.
    images
        Number of images of each site, length k.
    sigma
        Standard deviation of the noise in each count, length k.
    draws
        Number of draws with replacement, or None where each image counts once.

    Returns
    -------
    numpy.ndarray
        Shape ``[k, k]``; sites of one population scatter around 0.
    """
    k, m, b = shares.shape
    flat = shares.reshape(k, m * b)
    noise = m * (b - 1) * _noise(images, sigma)  # [k] expected squared length
    sampling = per_sample(images, draws)  # [k]
    length = np.einsum("kd,kd->k", flat, flat)  # [k]
    # E |x|^2 = |pi|^2 + (m - |pi|^2) * sampling + noise, hence the spread V = m - |pi|^2
    spread = np.maximum((m - (length - noise)) / (1.0 - sampling), 0.0)  # [k]
    scatter = noise + sampling * spread  # [k]
    squared = length[:, None] + length[None, :] - 2.0 * flat @ flat.T
    squared -= scatter[:, None] + scatter[None, :]
    np.fill_diagonal(squared, 0.0)
    scale = 2.0 * float(spread.mean())
    return np.asarray(squared / scale if scale > 0 else squared / (2.0 * m))


def _noise(images: Sequence[int], sigma: Sequence[float]) -> FloatArray:
    """Return the variance [k] of the noise in a share."""
    return np.asarray((np.asarray(sigma, dtype=np.float64) / np.maximum(images, 1)) ** 2)
