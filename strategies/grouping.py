"""Co-training groups out of fingerprints alone.

Sites are grouped by the symmetrised excess divergence of their cumulative histograms, which is a
squared Euclidean distance, less the scatter that a finite number of images causes, relative to how
much the images of one site differ. Noised fingerprints, and groups that shall hold the same kind of
data, are weighed by the evidence of a mixture instead, see `strategies.alike`. Names, classes and
task cards play no part: fingerprints are put in an order of their content first.
"""

import hashlib
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from protocol.errors import ConfigError, FedprintError
from protocol.fingerprint import Fingerprint
from protocol.spec import Spec
from strategies.alike import descend, leaves, mended, pool_of
from strategies.dendrogram import (
    Cut,
    Partition,
    best_cut,
    centroid_linkage,
    merge_undersized,
    partition,
    split_oversized,
)
from strategies.doubt import notes, sureness
from strategies.excess import Overlap, histograms_overlap, site_distances
from strategies.explain import Explanation, explain
from strategies.measures import require_one_spec
from strategies.nested import nested_linkage
from strategies.partners import partners
from strategies.stability import stability

__all__ = [
    "Group",
    "Grouping",
    "GroupingOptions",
    "by_content",
    "by_evidence",
    "compared",
    "find_groups",
    "group",
    "named_groups",
    "site_distances",
]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class GroupingOptions:
    """How to group.

    Parameters
    ----------
    min_size, max_size
        Smallest and largest number of sites of a group. Below the smallest, a group joins the
        nearest one that has room; above the largest, it is split where it is widest.
    scale
        Distance where one task ends and another begins: 0.11 says that two images of different
        sites differ by 11 % more than two images of one site. Only roughly known, see ``factor``.
    factor
        The scale may be wrong by so much either way (one standard deviation of its logarithm).
    draws
        Resamplings for the stability; 0 leaves it out.
    seed
        Seed of the resamplings. The groups do not depend on it.
    partners
        Number of co-training partners to name for each site.
    truth
        What a group has in common: ``"task"``, whatever the shares of classes that its sites hold,
        or ``"data"``, the same images too: sites whose class mix or scanner differ by more than
        chance go to groups of their own.
    """

    min_size: int = 1
    max_size: int | None = None
    scale: float = 0.11
    factor: float = 1.8
    draws: int = 24
    seed: int = 0
    partners: int = 3
    truth: Literal["task", "data"] = "task"

    def __post_init__(self) -> None:
        if self.min_size < 1:
            raise ConfigError(f"minimum group size must be at least 1, got {self.min_size}")
        if self.max_size is not None and self.max_size < self.min_size:
            raise ConfigError(
                f"maximum group size {self.max_size} is below the minimum {self.min_size}"
            )
        if not (0 < self.scale < math.inf and 1 < self.factor < math.inf):
            raise ConfigError("scale of the grouping must be above 0 and its factor above 1")
        if self.draws < 0 or self.partners < 0:
            raise ConfigError("numbers of draws and of partners must not be negative")
        if self.truth not in ("task", "data"):
            raise ConfigError(f"groups are by task or by data, not by {self.truth!r}")

    def kin(self, truth: Literal["task", "data"] | None = None) -> float:
        """What sites of one group may well differ by: nothing but chance where data are alike.

        Parameters
        ----------
        truth
            Another one than that of the options, or None.
        """
        # a task ends at the scale, or sooner by the factor; its sites differ by less than that
        return self.scale / self.factor if (truth or self.truth) == "task" else 0.0


@dataclass(frozen=True)
class Group:
    """A co-training group: its name and its sites, sorted by name."""

    name: str
    sites: list[str]


@dataclass(frozen=True)
class Grouping:
    """Groups, why they are so, and what they were made of.

    Parameters
    ----------
    groups
        Largest first, each site in exactly one.
    sites
        Explanation by site.
    order
        Names of the k sites in the order of ``distances`` and of the leaves of ``linkage``.
    distances
        Squared distances, shape ``[k, k]``, see `site_distances`.
    linkage
        Shape ``[k - 1, 4]``, as scipy's; heights are squared distances between centroids.
    cut
        Squared distance at which the dendrogram was cut.
    support
        Belief in this number of groups, between 0 and 1.
    """

    groups: list[Group]
    sites: dict[str, Explanation]
    order: list[str]
    distances: FloatArray = field(repr=False)
    linkage: FloatArray = field(repr=False)
    cut: float
    support: float


def group(
    fingerprints: Sequence[Fingerprint],
    spec: Spec,
    options: GroupingOptions | None = None,
    found: Overlap | None = None,
) -> Grouping:
    """Group sites that may train together.

    Parameters
    ----------
    fingerprints
        One a site, all made by the spec. Their order and their names do not change the groups.
    spec
        What the fingerprints were made by.
    options
        Sizes of groups and the like.
    found
        Their `compared`, where that is at hand; then they come in the order `by_content`.

    Returns
    -------
    Grouping
        The number of groups is chosen by the data; a site may stay alone.

    Raises
    ------
    FedprintError
        If there are no fingerprints, or a site occurs twice.
    SpecMismatch
        If a fingerprint was made by another spec.
    """
    options = options or GroupingOptions()
    ordered = by_content(fingerprints) if found is None else list(fingerprints)
    names = [f.site for f in ordered]
    if len(set(names)) < len(names):
        raise FedprintError("a site sent two fingerprints: keep one of each")
    require_one_spec(ordered, spec)
    if by_evidence(ordered, spec, options):
        return _by_evidence(ordered, names, spec, options)
    images, draws = [f.n_images for f in ordered], spec.sampling.draws
    squared = site_distances(found or compared(ordered), images, draws)  # [k, k]
    groups, linkage, cut = find_groups(squared, options)
    steady = stability(
        [f.counts for f in ordered],
        images,
        draws,
        groups,
        lambda matrix: find_groups(matrix, options)[0],
        options.draws,
        options.seed,
    )
    ranked = partners(squared, names, options.partners)
    sites = explain(squared, groups, names, cut.height, steady, ranked, confidence=steady)
    named = named_groups(groups, names)
    return Grouping(named, sites, names, squared, linkage, cut.height, cut.support)


def compared(ordered: Sequence[Fingerprint]) -> Overlap:
    """Return what all distances that groups are cut by are made of, for `site_distances`."""
    return histograms_overlap([f.counts for f in ordered])


def by_evidence(fingerprints: Sequence[Fingerprint], spec: Spec, options: GroupingOptions) -> bool:
    """Return whether groups are found by `strategies.alike`, not by a cut through distances.

    A cut knows nothing of noise, and its scale is that of tasks in all features of a model: there
    it needs no assumption on how the thousand features of an image hang together.
    """
    noised = any(f.sigma > 0 for f in fingerprints)
    return noised or options.truth == "data" or spec.projection is not None


def _by_evidence(
    ordered: Sequence[Fingerprint], names: list[str], spec: Spec, options: GroupingOptions
) -> Grouping:
    sites, squared = pool_of(ordered, spec.sampling.draws)
    kin = options.kin()
    levels = descend(sites, kin)
    groups = mended(squared, leaves(levels), options.min_size, options.max_size)
    linkage, cut = nested_linkage(squared, groups)
    steady, sure = sureness(levels, sites.features, kin, options.draws, options.seed)
    other = leaves(descend(sites, options.kin("data" if options.truth == "task" else "task")))
    why = explain(
        squared,
        groups,
        names,
        cut,
        steady,
        partners(squared, names, options.partners),
        confidence=sure,
        notes=notes(groups, other, names, options.truth),
    )
    support = min(level.found.support for level in levels)
    return Grouping(named_groups(groups, names), why, names, squared, linkage, cut, support)


def find_groups(squared: FloatArray, options: GroupingOptions) -> tuple[Partition, FloatArray, Cut]:
    """Cluster by squared distances: link centroids, cut, mend the sizes.

    Parameters
    ----------
    squared
        Debiased squared distances, shape ``[k, k]``.
    options
        Scale of the cut and sizes of groups.

    Returns
    -------
    groups, linkage, cut
        Groups of indices, the dendrogram ``[k - 1, 4]``, and where it was cut.
    """
    linkage = centroid_linkage(squared)
    cut = best_cut(linkage, options.scale, math.log(options.factor))
    groups = partition(linkage, cut.merges)
    if options.max_size is not None:
        groups = split_oversized(linkage, groups, options.max_size)
    if options.min_size > 1:
        groups = merge_undersized(squared, groups, options.min_size, options.max_size)
    return groups, linkage, cut


def by_content(fingerprints: Sequence[Fingerprint]) -> list[Fingerprint]:
    """Sort by what was counted, so that neither names nor order can break a tie or round a sum."""

    def content(f: Fingerprint) -> tuple[str, int, str]:
        counts = np.ascontiguousarray(f.counts, dtype="<i8")
        return hashlib.sha256(counts.data).hexdigest(), f.n_images, f.site

    with ThreadPoolExecutor() as pool:  # hashing leaves Python to the others
        keys = list(pool.map(content, fingerprints))
    return [fingerprints[i] for i in sorted(range(len(keys)), key=keys.__getitem__)]


def named_groups(groups: Partition, names: Sequence[str]) -> list[Group]:
    """Return groups of indices under their names, the largest first."""
    members = sorted((sorted(names[i] for i in g) for g in groups), key=lambda g: (-len(g), g))
    width = len(str(len(members)))
    return [Group(f"group-{i:0{width}d}", sites) for i, sites in enumerate(members, 1)]
