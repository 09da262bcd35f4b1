"""How near a newcomer is to groups that stay as they are: by distance, or by evidence."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, softmax

from protocol.fingerprint import Fingerprint
from protocol.spec import Spec
from strategies.alike import Pool, descend, pool_of
from strategies.dendrogram import Partition, best_cut, centroid_distance, centroid_linkage
from strategies.excess import site_distances
from strategies.grouping import GroupingOptions, by_evidence, compared
from strategies.measures import require_one_spec
from strategies.nested import nested_linkage
from strategies.search import placement, refit

__all__ = ["View", "joining_cut", "view_of"]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class View:
    """What decides where the newcomer, the last of k + 1 sites, belongs.

    Parameters
    ----------
    squared
        Squared distances, shape ``[k + 1, k + 1]``.
    cut
        Squared distance where groups end.
    better
        By how much each group is better than staying alone; above 0 it is joined.
    chance
        Probability of each group, and of staying alone, which is the last. None where distances
        decide.
    """

    squared: FloatArray
    cut: float
    better: list[float]
    chance: list[float] | None


def view_of(
    ordered: Sequence[Fingerprint], groups: Partition, spec: Spec, options: GroupingOptions
) -> View:
    """Look at the groups from the newcomer.

    Parameters
    ----------
    ordered
        Fingerprints, the newcomer's last.
    groups
        Groups of indices of all others.
    spec
        What all fingerprints were made by.
    options
        As the groups were made with.

    Raises
    ------
    SpecMismatch
        If a fingerprint was made by another spec.
    """
    require_one_spec(ordered, spec)
    new = len(ordered) - 1
    if not by_evidence(ordered, spec, options):
        images = [f.n_images for f in ordered]
        squared = site_distances(compared(ordered), images, spec.sampling.draws)
        cut = joining_cut(squared[:new, :new], options)
        return View(
            squared, cut, [cut - centroid_distance(squared, [new], g) for g in groups], None
        )
    return _by_evidence(ordered, groups, spec, options)


def _by_evidence(
    ordered: Sequence[Fingerprint], groups: Partition, spec: Spec, options: GroupingOptions
) -> View:
    """Look where the search for groups would look last: among the sites the newcomer stays with."""
    sites, squared = pool_of(ordered, spec.sampling.draws)
    new = len(ordered) - 1
    _, cut = nested_linkage(squared[:new, :new], groups)
    near = _company(sites, groups, new, options)
    better, chance = np.full(len(groups), -np.inf), np.zeros(len(groups) + 1)
    members = sorted({i for g in near for i in groups[g]} | {new})
    at = {i: n for n, i in enumerate(members)}
    local = [[at[i] for i in groups[g]] for g in near] + [[at[new]]]
    found = refit(sites.points(members), sites.features, options.kin(), local)
    gains = placement(found.sites, found.label, at[new], found.strength)
    gains = np.delete(gains, len(near))  # its own group is empty without it: the same as a new one
    better[near] = gains[:-1] - gains[-1]
    chance[[*near, len(groups)]] = softmax(gains)
    return View(squared, cut, better.tolist(), chance.tolist())


def _company(sites: Pool, groups: Partition, new: int, options: GroupingOptions) -> list[int]:
    """Groups with a site of the smallest part of the pool in which the newcomer has company."""
    looks = [
        set(level.members)
        for level in descend(sites, options.kin())
        if new in level.members and len(level.members) > 1
    ]
    return [g for g, members in enumerate(groups) if looks[-1].intersection(members)]


def joining_cut(squared: FloatArray, options: GroupingOptions) -> float:
    """Return below which distance to a group's centroid a newcomer joins it.

    The groups were cut between two heights of their dendrogram. A newcomer puts a height of its own
    between the two: of the belief in that interval, what lies above says that it belongs to the
    group, what lies below that it is alone. It joins where the former is more, hence below the
    median of the belief in the interval: as `group` would decide if the others stayed.

    Parameters
    ----------
    squared
        Squared distances between the sites that were grouped, shape ``[k, k]``.
    options
        Scale and factor of the belief.

    Returns
    -------
    float
        The scale itself where nothing else is known; less or more where groups lie close or wide.
    """
    spread = math.log(options.factor)
    linkage = centroid_linkage(squared)
    cut = best_cut(linkage, options.scale, spread)
    heights = np.concatenate([[0.0], linkage[:, 2], [np.inf]])  # [k + 1]
    with np.errstate(divide="ignore"):
        logs = np.log(heights[cut.merges : cut.merges + 2] / options.scale)  # [2] may be infinite
    return float(options.scale * np.exp(spread * ndtri(ndtr(logs / spread).mean())))
