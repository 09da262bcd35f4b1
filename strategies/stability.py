"""How steady groups are when the histograms are resampled."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from protocol.fingerprint import histograms
from strategies.blas import single_blas
from strategies.dendrogram import Partition
from strategies.excess import (
    Overlap,
    below_edges,
    counted_overlap,
    debiased,
    per_sample,
    population_spread,
    relative,
    spread_below,
    summed_below,
)
from strategies.whole_numbers import Counts

__all__ = ["stability", "together"]

FloatArray = NDArray[np.float64]

# The features of one image go together, which histograms do not show. Resampling all of them as
# if they were independent would average the noise away, so each draw keeps this many at random.
_FEATURES = 64
# Fewer edges tell as much of so few features, in a quarter of the time: on 17 real sites 25 bins
# move a stability by 0.005 from that of 100, other draws by 0.013.
_BINS = 25
_AT_ONCE = 4  # draws; each takes eight bytes a site, kept feature and bin
_CACHE_BYTES = 1 << 19


def stability(
    counts: Sequence[Counts],
    images: Sequence[int],
    sampling_draws: int | None,
    groups: Partition,
    find: Callable[[FloatArray], Partition],
    draws: int,
    seed: int,
) -> list[float] | None:
    """Mean overlap of each site's group with its group in resampled histograms.

    Parameters
    ----------
    counts
        What was counted at k sites, each of shape ``[m, b]``, without noise.
    images
        Number of images of each site, length k.
    sampling_draws
        Number of draws with replacement behind a histogram, None where each image counts once.
    groups
        Groups of indices as found in the counts.
    find
        Finds groups in squared distances ``[k, k]``.
    draws
        Number of resamplings; 0 gives None.
    seed
        Seed of the resamplings.

    Returns
    -------
    list of float or None
        Jaccard index of the members, mean over the draws; length k.
    """
    if draws == 0:
        return None
    k, m = len(counts), len(counts[0])
    member = together(groups, k)  # [k, k]

    def draw(rng: np.random.Generator) -> FloatArray:
        """Return the overlap of each site's groups, ``[k]``."""
        keep = np.sort(rng.permutation(m)[:_FEATURES])
        spreads, found = _redrawn([_coarse(each[keep]) for each in counts], images, rng)
        old = population_spread(spreads, images, sampling_draws)  # [k]
        # the first sampling and the second one both scatter
        variance = old * per_sample(images, sampling_draws)
        variance += population_spread(found.spread, images) * per_sample(images)
        now = together(find(relative(debiased(found.squared, variance), old)), k)
        return np.asarray((member & now).sum(axis=1) / (member | now).sum(axis=1))

    generators = np.random.default_rng(seed).spawn(draws)
    with single_blas(), ThreadPoolExecutor(_AT_ONCE) as pool:
        total = sum(pool.map(draw, generators), np.zeros(k))
    return [float(value) for value in total / draws]


def _redrawn(
    kept: Sequence[Counts], images: Sequence[int], rng: np.random.Generator
) -> tuple[FloatArray, Overlap]:
    """Return the spreads ``[k]`` of some features' histograms, and what they are drawn anew.

    Some sites are drawn at a time, so that what comes between stays in the processor's cache.
    """
    size, spreads, below = max(1, _CACHE_BYTES // (8 * kept[0].size)), [], []
    n = np.maximum(images, 1)  # [k]
    for part in (slice(start, start + size) for start in range(0, len(kept), size)):
        rows = histograms(np.stack(kept[part]))  # [s, m', b]
        spreads.append(spread_below(below_edges(rows)))
        below.append(summed_below(rng.multinomial(n[part, None], rows)))  # [s, m', e]
    return np.concatenate(spreads), counted_overlap(np.concatenate(below), n)


def _coarse(counts: Counts) -> NDArray[np.int64]:
    """Take neighbouring bins of counts ``[m', b]`` together until about `_BINS` are left."""
    starts = np.arange(0, counts.shape[1], max(1, counts.shape[1] // _BINS))
    return np.asarray(np.add.reduceat(counts, starts, axis=1, dtype=np.int64))


def together(groups: Partition, k: int) -> NDArray[np.bool_]:
    """Return which of k sites share a group, shape ``[k, k]``."""
    label = np.empty(k, dtype=np.intp)
    for number, members in enumerate(groups):
        label[members] = number
    return np.asarray(label[:, None] == label[None, :])
