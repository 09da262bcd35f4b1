"""Bayesian linear regression whose coefficients come in blocks, each with a variance of its own.

``y = X w + noise``, and every block of columns has ``w ~ N(mean, variance of the block)``. The
variances are learnt from the data by MacKay's evidence fixed point (*Bayesian interpolation*,
Neural Computation 4, 1992), so a block that explains nothing shrinks to nothing by itself. Each
variance has a prior worth a few coefficients, so that little data moves it little.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

__all__ = ["Components", "Fit", "fit", "learn"]

Floats = NDArray[np.float64]
FLOOR = 1e-6  # of a variance: keeps every block invertible


@dataclass(frozen=True)
class Components:
    """Variances of a model's blocks and of its noise.

    Parameters
    ----------
    block
        Which block each of the p coefficients belongs to, shape ``[p]``.
    mean
        Prior mean of each coefficient, shape ``[p]``.
    variance
        Prior variance of each of the J blocks, shape ``[J]``.
    noise
        Variance of the noise.
    """

    block: NDArray[np.intp]
    mean: Floats
    variance: Floats
    noise: float


@dataclass(frozen=True)
class Fit:
    """Posterior of the coefficients.

    Parameters
    ----------
    weights
        Posterior means, shape ``[p]``.
    covariance
        Posterior covariance, shape ``[p, p]``.
    """

    weights: Floats
    covariance: Floats

    def predict(self, rows: Floats) -> tuple[Floats, Floats]:
        """Return mean ``[n]`` and covariance ``[n, n]`` of new rows ``[n, p]``, noise excluded."""
        return rows @ self.weights, rows @ self.covariance @ rows.T


def fit(gram: Floats, moment: Floats, components: Components) -> Fit:
    """Return the posterior under known variances.

    Parameters
    ----------
    gram
        ``X'X``, shape ``[p, p]``.
    moment
        ``X'y``, shape ``[p]``.
    components
        The variances.
    """
    prior = components.variance[components.block]
    precision = gram / components.noise
    precision[np.diag_indices_from(precision)] += 1 / prior
    factor = linalg.cho_factor(precision, lower=True, overwrite_a=True, check_finite=False)
    covariance = linalg.cho_solve(factor, np.eye(len(prior)), check_finite=False)
    weights = covariance @ (moment / components.noise + components.mean / prior)
    return Fit(weights, covariance)


def learn(
    gram: Floats,
    moment: Floats,
    square: float,
    count: int,
    components: Components,
    prior: Components,
    *,
    strength: float = 1.0,
    noise_strength: float = 20.0,
    steps: int = 25,
) -> Components:
    """Move the variances towards the greatest evidence.

    Parameters
    ----------
    gram, moment, square, count
        ``X'X`` ``[p, p]``, ``X'y`` ``[p]``, ``y'y`` and the number of observations.
    components
        Where to start.
    prior
        The variances expected beforehand.
    strength, noise_strength
        How many coefficients, or observations, the prior is worth.
    steps
        Number of fixed-point steps.

    Returns
    -------
    Components
        The same model with other variances.
    """
    size = len(components.variance)
    for _ in range(steps):
        state = fit(gram, moment, components)
        spread = np.diag(state.covariance) / components.variance[components.block]
        known = np.clip(np.bincount(components.block, 1 - spread, size), 0, None)
        squares = np.bincount(components.block, (state.weights - components.mean) ** 2, size)
        variance = (squares + strength * prior.variance) / (known + strength)
        misfit = square - 2 * state.weights @ moment + state.weights @ gram @ state.weights
        freedom = max(count - float(known.sum()), 0.0)
        noise = (max(float(misfit), 0.0) + noise_strength * prior.noise) / (
            freedom + noise_strength
        )
        components = replace(
            components, variance=np.maximum(variance, FLOOR), noise=max(float(noise), FLOOR)
        )
    return components
