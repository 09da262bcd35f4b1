"""Groups by evidence: for noised fingerprints, and where groups shall hold the same kind of data.

Whether two sites share a task or also their data is one question with two answers: what may sites
of one group differ by? For tasks that is about known. For data it is nothing but chance, and how
far groups lie apart depends on where one looks: tasks are far from each other, the classes within a
task are not. So every group is looked into again, as a pool of its own, until none splits.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from protocol.fingerprint import Fingerprint
from strategies.dendrogram import Partition, merge_undersized, split_oversized
from strategies.nested import nested_linkage
from strategies.noise import Coordinates, coarse, coordinates, noisy_distances, shares_of
from strategies.search import Fit, fit

__all__ = ["MOST", "Level", "Pool", "descend", "leaves", "mended", "pool_of"]

FloatArray = NDArray[np.float64]

MOST = 4
"""Images of a site that count as evidence, at most, as a multiple of the median site's.

Nobody can check how many images a site has, and who claims millions would be believed to the last
digit and alone decide where the middle of all sites lies. Four times the images leave a sixteenth
of the variance of noise: what then limits the groups are the others, and in pools of 60 and 600
real images the cap changed none."""


@dataclass(frozen=True)
class Pool:
    """What is known of k sites before groups are sought.

    Parameters
    ----------
    shares
        Shape ``[k, m, b]``, unbiased, rows summing to 1.
    images
        Number of images of each site that count as evidence, shape ``[k]``.
    sigma
        Standard deviation of the noise in each count, shape ``[k]``.
    draws
        Number of draws with replacement, or None where each image counts once.
    """

    shares: FloatArray
    images: NDArray[np.int64]
    sigma: FloatArray
    draws: int | None = None

    @property
    def features(self) -> int:
        """Number of features m."""
        return int(self.shares.shape[1])

    def points(self, members: Sequence[int]) -> Coordinates:
        """Return coordinates of some of the sites, as if there were no others."""
        m = list(members)
        images, sigma = self.images[m].tolist(), self.sigma[m].tolist()
        return coordinates(self.shares[m], images, sigma, self.draws)


@dataclass(frozen=True)
class Level:
    """A look into a group, or into all sites.

    Parameters
    ----------
    members
        Indices of the sites that were looked at.
    points
        Where they lie.
    found
        Their groups, of indices into ``members``.
    """

    members: list[int]
    points: Coordinates
    found: Fit

    @property
    def groups(self) -> Partition:
        """The groups, of indices of the pool."""
        return [[self.members[i] for i in g] for g in self.found.groups]


def pool_of(
    fingerprints: Sequence[Fingerprint], draws: int | None = None
) -> tuple[Pool, FloatArray]:
    """Prepare fingerprints of one spec, plain or noised.

    Parameters
    ----------
    fingerprints
        One a site.
    draws
        Number of draws with replacement, or None where each image counts once.

    Returns
    -------
    pool, squared
        The sites, and their squared distances ``[k, k]``.
    """
    shares = shares_of(fingerprints)  # [k, m, b]
    images, sigma = [f.n_images for f in fingerprints], [f.sigma for f in fingerprints]
    squared = noisy_distances(shares, images, sigma, draws)
    shares = shares if any(sigma) else coarse(shares)
    return Pool(shares, _believed(images), np.array(sigma), draws), squared


def _believed(images: Sequence[int]) -> NDArray[np.int64]:
    """Return the numbers of images, none above `MOST` times their median, ``[k]``."""
    return np.minimum(images, int(MOST * np.median(images))).astype(np.int64)


def descend(sites: Pool, kin: float) -> list[Level]:
    """Find groups, and groups in them as long as sites of a group may differ by chance alone.

    Parameters
    ----------
    sites
        The k sites.
    kin
        What sites of one group may differ by, see `strategies.mixture.mixture`.

    Returns
    -------
    list of Level
        All sites first.
    """
    return list(_descend(sites, list(range(len(sites.images))), kin))


def _descend(sites: Pool, members: list[int], kin: float) -> Iterator[Level]:
    points = sites.points(members)
    level = Level(members, points, fit(points, sites.features, kin))
    yield level
    if len(level.groups) > 1:
        for group in level.groups:
            if len(group) > 1:
                yield from _descend(sites, group, kin)


def leaves(levels: Sequence[Level]) -> Partition:
    """Return the groups that were not split any further, each sorted, in order."""
    looked_into = {tuple(level.members) for level in levels if len(level.groups) > 1}
    groups = {tuple(group) for level in levels for group in level.groups}
    return sorted(list(group) for group in groups if group not in looked_into)


def mended(
    squared: FloatArray, groups: Partition, min_size: int = 1, max_size: int | None = None
) -> Partition:
    """Split groups that are too large and join those that are too small.

    Parameters
    ----------
    squared
        Squared distances, shape ``[k, k]``.
    groups
        Groups of indices.
    min_size, max_size
        Smallest and largest number of members.
    """
    if max_size is not None:
        groups = split_oversized(nested_linkage(squared, groups)[0], groups, max_size)
    if min_size > 1:
        groups = merge_undersized(squared, groups, min_size, max_size)
    return groups
