"""Co-training groups out of any measure's distances.

`strategies.grouping` knows what histograms of one population scatter by, and so where a task ends.
Distances of other measures come without a scale: here only their shape decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from protocol.errors import BadShape
from strategies.dendrogram import Partition
from strategies.excess import symmetrised
from strategies.explain import Explanation, explain
from strategies.grouping import Grouping, GroupingOptions, named_groups
from strategies.partners import Partner, partners
from strategies.silhouettes import find_groups
from strategies.stability import together

__all__ = ["group_by_distance", "there_and_back"]

FloatArray = NDArray[np.float64]


def group_by_distance(
    distances: FloatArray,
    names: Sequence[str],
    measure: str,
    options: GroupingOptions | None = None,
    *,
    apart: float | None = None,
) -> Grouping:
    """Group sites by the distances of a measure.

    Distances are taken both ways, see `there_and_back`, and groups are found as `find_groups` says.
    A site that nobody can be compared with stays alone.

    Parameters
    ----------
    distances
        Shape ``[k, k]``: row = source, column = target, lower is closer, NaN is not known.
    names
        Of the k sites.
    measure
        Name of the measure, for the explanations.
    options
        Sizes of groups, number of partners, and parts that are left out for the stability.
    apart
        Distance from which on two sites have nothing in common, None where there is no such.

    Returns
    -------
    Grouping
        Distances in it are there and back, as shares of their mean; margins are measured in them.
        A site's stability is the mean overlap (Jaccard index) of its group with its groups when
        some of the others are left out.

    Raises
    ------
    BadShape
        If the matrix is not square or does not fit the names.
    """
    options = options or GroupingOptions()
    if distances.shape != (len(names), len(names)):
        raise BadShape(f"distances have shape {distances.shape}, but there are {len(names)} sites")
    ranked = _known_partners(distances, names, options.partners)
    known = _compared(distances)
    inside = [names[i] for i in known]
    between = there_and_back(distances[np.ix_(known, known)])  # [k', k']
    found = find_groups(between, options, None if apart is None else 2.0 * apart)
    unit = _mean_pair(between)
    sites = explain(
        between / unit,
        found.groups,
        inside,
        found.cut / unit,
        _stability(between, found.groups, options, apart),
        ranked,
    )
    said = f"By measure {measure}, both ways together; 1 is the mean distance of two sites."
    told = {name: replace(why, reason=f"{why.reason} {said}") for name, why in sites.items()}
    others = [i for i in range(len(names)) if i not in known]
    for i in others:
        told[names[i]] = _unknown(measure)
    groups = [[known[i] for i in members] for members in found.groups] + [[i] for i in others]
    scaled = np.full_like(distances, np.nan)
    scaled[np.ix_(known, known)] = between / unit
    return Grouping(
        groups=named_groups(groups, names),
        sites=dict(sorted(told.items())),
        order=list(names),
        distances=scaled,
        linkage=found.linkage,
        cut=found.cut / unit,
        support=found.silhouette,
    )


def there_and_back(distances: FloatArray) -> FloatArray:
    r"""Return how much worse than itself each of two sites finds the other, both ways together.

    .. math:: D(S, T) = d(S, T) - d(T, T) + d(T, S) - d(S, S)

    What belongs to a target alone (how hard it is) and to a source alone (its size) drops out; of a
    metric it is twice the distance. Where a site is not compared with itself its nearest site
    stands in. What is not known counts as the farthest that is.

    Parameters
    ----------
    distances
        Shape ``[k, k]``, with NaN where nothing is known.

    Returns
    -------
    numpy.ndarray
        Shape ``[k, k]``, symmetric, non-negative, 0 on the diagonal.
    """
    filled = np.array(distances, dtype=np.float64)
    unknown = np.isnan(filled)
    best = np.min(filled, axis=0, where=~unknown, initial=np.inf)  # [k] nearest source
    own = np.where(np.diag(unknown), np.where(np.isinf(best), 0.0, best), np.diag(filled))  # [k]
    np.fill_diagonal(filled, own)
    unknown = np.isnan(filled)
    if unknown.any():
        excess = filled - own[None, :]
        farthest = float(np.max(excess, where=~unknown, initial=0.0)) or 1.0
        filled = np.where(unknown, own[None, :] + farthest, filled)
    return symmetrised(filled)


def _compared(distances: FloatArray) -> list[int]:
    """Return the sites that are compared with another one, either way."""
    finite = ~np.isnan(distances)
    np.fill_diagonal(finite, False)
    return [int(i) for i in np.flatnonzero(finite.any(axis=0) | finite.any(axis=1))]


def _mean_pair(between: FloatArray) -> float:
    k = len(between)
    mean = float(between.sum()) / max(k * (k - 1), 1)
    return mean if mean > 0 else 1.0


def _known_partners(
    distances: FloatArray, names: Sequence[str], count: int
) -> dict[str, list[Partner]]:
    """Name the nearest sources of every target, without those that nothing is known of."""
    ranked = partners(np.where(np.isnan(distances), np.inf, distances), names, count)
    return {
        site: [partner for partner in found if np.isfinite(partner.distance)]
        for site, found in ranked.items()
    }


def _stability(
    between: FloatArray, groups: Partition, options: GroupingOptions, apart: float | None
) -> list[float] | None:
    """Return how alike groups stay when parts of the sites are left out, each part once."""
    k = len(between)
    parts = min(options.draws, k)
    if parts == 0 or k < 3:
        return None
    order = np.random.default_rng(options.seed).permutation(k)
    member = together(groups, k)  # [k, k]
    total, times = np.zeros(k), np.zeros(k)
    for gone in np.array_split(order, parts):
        kept = np.setdiff1d(np.arange(k), gone)
        found = find_groups(
            between[np.ix_(kept, kept)], options, None if apart is None else 2.0 * apart
        )
        now, old = together(found.groups, len(kept)), member[np.ix_(kept, kept)]
        total[kept] += (old & now).sum(axis=1) / (old | now).sum(axis=1)
        times[kept] += 1
    return [float(value) for value in total / times]


def _unknown(measure: str) -> Explanation:
    reason = f"Alone: by measure {measure} it cannot be compared with anybody."
    return Explanation(reason=reason, margin=0.0, stability=None, nearest=[], partners=[])
