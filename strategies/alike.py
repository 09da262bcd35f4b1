"""Groups by evidence: for noised fingerprints, and where groups shall hold the same kind of data.

Whether two sites share a task or also their data is one question with two answers: what may sites
of one group differ by? The mixture takes it as a parameter, so both answers are at hand and each
can be told in the light of the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from protocol.fingerprint import Fingerprint
from strategies.dendrogram import Cut, Partition, merge_undersized, split_oversized
from strategies.doubt import placed, redrawn
from strategies.mixture import Fit, fit, refit
from strategies.nested import nested_linkage
from strategies.noise import Coordinates, coarse, coordinates, noisy_distances, shares_of

__all__ = ["Pool", "Sizes", "alike", "notes", "pool", "sureness"]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Pool:
    """Sites as the mixture sees them, and their squared distances ``[k, k]``."""

    points: Coordinates
    features: int
    squared: FloatArray


@dataclass(frozen=True)
class Sizes:
    """Smallest and largest number of sites of a group."""

    least: int = 1
    most: int | None = None


def pool(fingerprints: Sequence[Fingerprint], draws: int | None) -> Pool:
    """Prepare fingerprints of one spec, plain or noised.

    Parameters
    ----------
    fingerprints
        One a site.
    draws
        Number of draws with replacement, or None where each image counts once.
    """
    shares = shares_of(fingerprints)  # [k, m, b]
    images, sigma = [f.n_images for f in fingerprints], [f.sigma for f in fingerprints]
    squared = noisy_distances(shares, images, sigma, draws)
    if not any(sigma):
        shares = coarse(shares)
    return Pool(coordinates(shares, images, sigma, draws), shares.shape[1], squared)


def alike(sites: Pool, kin: float, sizes: Sizes) -> tuple[Fit, FloatArray, Cut]:
    """Find groups, mend their sizes, and put them in a dendrogram.

    Parameters
    ----------
    sites
        The k sites.
    kin
        What sites of one group may differ by, see `strategies.mixture.mixture`.
    sizes
        Of groups.

    Returns
    -------
    found, linkage, cut
        The groups, a dendrogram ``[k - 1, 4]`` of them, and where it is to be cut.
    """
    found = fit(sites.points, sites.features, kin)
    mended = _mended(sites.squared, found.groups, sizes)
    if mended != found.groups:
        found = refit(sites.points, sites.features, kin, mended, found.support)
    linkage, height = nested_linkage(sites.squared, found.groups)
    return found, linkage, Cut(len(linkage) + 1 - len(found.groups), height, found.support)


def sureness(
    sites: Pool, found: Fit, kin: float, sizes: Sizes, draws: int, seed: int
) -> tuple[list[float] | None, list[float]]:
    """Return how steady each site's group is when redrawn, and how sure it is in all.

    Parameters
    ----------
    sites, found, kin, sizes
        As given to and found by `alike`.
    draws, seed
        Number of redrawings and their seed.

    Returns
    -------
    stability, confidence
        Length k. The confidence is the lesser of the stability and of the probability of the site's
        group given all others: on pools with a known truth, the true overlap was about that.
    """

    def find(values: FloatArray) -> Partition:
        again = Coordinates(values, sites.points.variance, sites.points.scale)
        groups = fit(again, sites.features, kin, (found.strength,)).groups
        return _mended(sites.squared, groups, sizes)

    steady, sure = redrawn(found, find, draws, seed), placed(found)
    if steady is None:
        return None, sure
    return steady, [min(pair) for pair in zip(steady, sure, strict=True)]


def notes(found: Fit, other: Fit, names: Sequence[str], truth: str) -> list[str]:
    """Say for each site what the other way of grouping would have done with its group.

    Parameters
    ----------
    found
        The groups.
    other
        The groups by the other truth.
    names
        Names of the k sites.
    truth
        ``"task"`` or ``"data"``: how ``found`` was found.

    Returns
    -------
    list of str
        A sentence a site, or nothing.
    """
    own, across = found.label, other.label
    here, there = own[:, None] == own[None, :], across[:, None] == across[None, :]  # [k, k]
    if truth == "data":
        told = ~here & there
        text = "It seems to share its task with {}, but to hold other classes or kinds of images."
    else:
        told = here & ~there
        text = (
            "It shares its task with {}, but beyond chance holds other classes or kinds of images."
        )
    return [text.format(_list(names, row)) if row.any() else "" for row in told]


def _mended(squared: FloatArray, groups: Partition, sizes: Sizes) -> Partition:
    if sizes.most is not None and max(map(len, groups)) > sizes.most:
        groups = split_oversized(nested_linkage(squared, groups)[0], groups, sizes.most)
    if sizes.least > 1:
        groups = merge_undersized(squared, groups, sizes.least, sizes.most)
    return groups


def _list(names: Sequence[str], chosen: NDArray[np.bool_]) -> str:
    few = sorted(name for name, is_chosen in zip(names, chosen, strict=True) if is_chosen)
    return few[0] if len(few) == 1 else f"{few[0]} and {len(few) - 1} more"
