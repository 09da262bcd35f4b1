"""Bayesian linear regression whose coefficients come in blocks, each with a variance of its own.

``y = X w + noise``, and every block of columns has ``w ~ N(mean, variance of the block)``. The
variances are learnt from the data by MacKay's evidence fixed point (*Bayesian interpolation*,
Neural Computation 4, 1992), so a block that explains nothing shrinks to nothing by itself. Each
variance has a prior worth a few coefficients, so that little data moves it little. The design may
have columns of groups' own, see `strategies.bordered`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from strategies.bordered import Rows, Sums, split

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
    weights, variance
        Posterior means and variances, shape ``[p]``.
    own
        Posterior covariance within each group if the shared coefficients were known, shape
        ``[G, w, w]``.
    lever
        How much each group's coefficients give way to the shared ones, shape ``[G, w, q]``.
    shared
        Posterior covariance of the shared coefficients, shape ``[q, q]``.
    """

    weights: Floats
    variance: Floats
    own: Floats
    lever: Floats
    shared: Floats

    def predict(self, rows: Rows) -> tuple[Floats, Floats]:
        """Return mean ``[n]`` and covariance ``[n, n]`` of new rows, noise excluded."""
        own, shared = split(self.weights, *self.own.shape[:2])
        mean = np.einsum("nw,nw->n", rows.own, own[rows.group]) + rows.shared @ shared
        rest = rows.shared - np.einsum("nw,nwq->nq", rows.own, self.lever[rows.group])
        within = np.einsum("nv,nvw->nw", rows.own, self.own[rows.group]) @ rows.own.T
        same = rows.group[:, None] == rows.group
        return mean, rest @ self.shared @ rest.T + np.where(same, within, 0)


def fit(sums: Sums, components: Components) -> Fit:
    """Return the posterior under known variances.

    Every group is eliminated by itself, so the work is G (w^3 + w q^2) + q^3, not (G w + q)^3.

    Parameters
    ----------
    sums
        Of the observations.
    components
        The variances.
    """
    groups, width, common = sums.border.shape
    prior = 1 / components.variance[components.block]
    prior_own, prior_shared = split(prior, groups, width)
    pull = sums.moment / components.noise + components.mean * prior
    pull_own, pull_shared = split(pull, groups, width)
    inner = sums.own / components.noise + prior_own[:, :, None] * np.eye(width)
    own = np.asarray(np.linalg.inv(inner), dtype=np.float64)
    border = sums.border / components.noise
    lever = own @ border
    flat = lever.reshape(groups * width, common)
    precision = sums.shared / components.noise + np.diag(prior_shared)
    precision -= border.reshape(flat.shape).T @ flat
    factor = linalg.cho_factor(precision, lower=True, overwrite_a=True, check_finite=False)
    shared = linalg.cho_solve(factor, np.eye(common), check_finite=False)
    common_weights = shared @ (pull_shared - flat.T @ pull_own.ravel())
    own_weights = np.einsum("gvw,gw->gv", own, pull_own) - lever @ common_weights
    own_variance = np.einsum("gww->gw", own).ravel() + ((flat @ shared) * flat).sum(axis=1)
    return Fit(
        np.concatenate([own_weights.ravel(), common_weights]),
        np.concatenate([own_variance, np.diag(shared)]),
        own, lever, shared,
    )  # fmt: skip


def learn(
    sums: Sums,
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
    sums
        Of the observations.
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
        state = fit(sums, components)
        spread = state.variance / components.variance[components.block]
        known = np.clip(np.bincount(components.block, 1 - spread, size), 0, None)
        squares = np.bincount(components.block, (state.weights - components.mean) ** 2, size)
        variance = (squares + strength * prior.variance) / (known + strength)
        misfit = max(sums.misfit(state.weights), 0.0)
        freedom = max(sums.count - float(known.sum()), 0.0)
        noise = (misfit + noise_strength * prior.noise) / (freedom + noise_strength)
        components = replace(
            components, variance=np.maximum(variance, FLOOR), noise=max(float(noise), FLOOR)
        )
    return components
