"""How steady groups are when the histograms are resampled."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from strategies.dendrogram import Partition
from strategies.excess import (
    below_edges,
    debiased,
    overlap,
    per_sample,
    population_spread,
    relative,
    spread_below,
)

__all__ = ["resample", "stability", "together"]

FloatArray = NDArray[np.float64]

# The features of one image go together, which histograms do not show. Resampling all of them as
# if they were independent would average the noise away, so each draw keeps this many at random.
_FEATURES = 64


def stability(
    rows: FloatArray,
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
    rows
        Histograms, shape ``[k, m, b]``.
    images
        Number of images of each site, length k.
    sampling_draws
        Number of draws with replacement behind a histogram, None where each image counts once.
    groups
        Groups of indices as found in ``rows``.
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
    rng = np.random.default_rng(seed)
    member = together(groups, len(rows))  # [k, k]
    total = np.zeros(len(rows))
    for _ in range(draws):
        keep = np.sort(rng.permutation(rows.shape[1])[:_FEATURES])
        kept = rows[:, keep]  # [k, m', b]
        again = resample(kept, images, rng)
        new = overlap([below_edges(again)])
        old = population_spread(spread_below(below_edges(kept)), images, sampling_draws)  # [k]
        # the first sampling and the second one both scatter
        variance = old * per_sample(images, sampling_draws)
        variance += population_spread(new.spread, images) * per_sample(images)
        found = find(relative(debiased(new.squared, variance), old))
        now = together(found, len(rows))
        total += (member & now).sum(axis=1) / (member | now).sum(axis=1)
    return [float(value) for value in total / draws]


def resample(rows: FloatArray, images: Sequence[int], rng: np.random.Generator) -> FloatArray:
    """Draw new histograms of as many images from the old ones.

    Parameters
    ----------
    rows
        Histograms, shape ``[k, m, b]``.
    images
        Number of images of each site, length k.
    rng
        Source of randomness.

    Returns
    -------
    numpy.ndarray
        Shape ``[k, m, b]``, rows summing to 1.
    """
    n = np.maximum(np.asarray(images), 1)
    return np.asarray(rng.multinomial(n[:, None], rows) / n[:, None, None])


def together(groups: Partition, k: int) -> NDArray[np.bool_]:
    """Return which of k sites share a group, shape ``[k, k]``."""
    label = np.empty(k, dtype=np.intp)
    for number, members in enumerate(groups):
        label[members] = number
    return np.asarray(label[:, None] == label[None, :])
