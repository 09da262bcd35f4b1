"""Discrete Gaussian noise from the distribution's table, for tests that need millions of draws."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

from fl_client.audit_mechanism import Counts

RNG = np.random.default_rng()


def drawn(counts: Counts, sigma: float) -> Counts:
    """Add what `protocol.privacy.noised` adds, a hundred times as fast.

    The tests of `noised` compare OpenDP's exact sampler with this very distribution; here it only
    stands in where chance is what is tested, and the sampler is not.
    """
    chances, reach = _table(sigma)
    places = np.searchsorted(chances, RNG.random(counts.size), side="right")
    return counts + (places - reach).reshape(counts.shape)


@cache
def _table(sigma: float) -> tuple[NDArray[np.float64], int]:
    """Return the chances of at most -r, ..., r (all but the last), and r."""
    reach = math.ceil(12 * sigma) + 8
    mass = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    return np.cumsum(mass / mass.sum())[:-1], reach
