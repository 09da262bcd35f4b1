"""How sure groups are when what is known of noise and sampling is taken at its word."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from strategies.dendrogram import Partition
from strategies.mixture import Fit, placement
from strategies.stability import together

__all__ = ["placed", "redrawn"]

FloatArray = NDArray[np.float64]


def placed(found: Fit) -> list[float]:
    """Return the probability of each site's group, given the groups of all others.

    Parameters
    ----------
    found
        The groups.

    Returns
    -------
    list of float
        Length k, between 0 and 1.
    """
    label = found.label
    out = []
    for site in range(len(label)):
        alone = int((label == label[site]).sum()) == 1
        gains = placement(found.sites, label, site, found.strength)
        if alone:  # its own group is empty without it: the same as a new one
            gains[label[site]] = -np.inf
        out.append(float(softmax(gains)[-1 if alone else label[site]]))
    return out


def redrawn(
    found: Fit, find: Callable[[FloatArray], Partition], draws: int, seed: int
) -> list[float] | None:
    """Mean overlap of each site's group with its group in redrawn fingerprints.

    The sites are drawn anew from the mixture: centres from what is believed of them, sites around
    them with all their noise and sampling. Nothing but the released counts is needed for it.

    Parameters
    ----------
    found
        The groups.
    find
        Finds groups in coordinates ``[k, D]``.
    draws
        Number of redrawings; 0 gives None.
    seed
        Seed of the redrawings.

    Returns
    -------
    list of float or None
        Jaccard index of the members, mean over the draws; length k.
    """
    if draws == 0:
        return None
    rng = np.random.default_rng(seed)
    sites, label = found.sites, found.label
    prior = found.strength * sites.scale  # [D]
    precision = np.stack([sites.precision[g].sum(axis=0) for g in found.groups])  # [G, D]
    weighted = np.stack([sites.weighted[g].sum(axis=0) for g in found.groups])
    spread = prior / (1.0 + prior * precision)  # [G, D] variance of what is believed of a centre
    member = together(found.groups, len(label))  # [k, k]
    total = np.zeros(len(label))
    for _ in range(draws):
        centres = spread * weighted + np.sqrt(spread) * rng.normal(size=spread.shape)
        values = centres[label] + rng.normal(size=sites.precision.shape) / np.sqrt(sites.precision)
        now = together(find(values), len(label))
        total += (member & now).sum(axis=1) / (member | now).sum(axis=1)
    return [float(value) for value in total / draws]
