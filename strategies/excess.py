r"""Excess divergence: what a source costs a target beyond the target itself.

bKLD's self-distance is not 0, and :math:`-H(p)` dominates whatever compares *across* targets. The
excess :math:`e(S, T) = d(S, T) - d(T, T)` removes both. With weights that do not depend on the
site, its symmetric sum is a squared Euclidean distance between histograms,

.. math:: e(S, T) + e(T, S) = \sum_i w_i \| p_i - q_i \|^2 / \sum_i w_i

so that Ward, k-means and the subtraction of a known variance are exact on it.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from protocol.errors import BadShape
from protocol.fingerprint import histograms
from strategies.whole_numbers import Counts, gram, row_total, terms_at_once

__all__ = [
    "Overlap",
    "below_edges",
    "counted_overlap",
    "cumulative",
    "debiased",
    "excess",
    "feature_blocks",
    "histograms_below",
    "histograms_overlap",
    "overlap",
    "per_sample",
    "population_spread",
    "relative",
    "sampling_variance",
    "site_distances",
    "spread",
    "spread_below",
    "summed_below",
    "symmetrised",
    "takes_every_edge",
]

FloatArray = NDArray[np.float64]
Values = TypeVar("Values", FloatArray, NDArray[np.float32], NDArray[np.integer[Any]])

_BLOCK_BYTES = 1 << 26  # of shares below edges: enough for BLAS, little beside the histograms
_WORTHWHILE = 512  # edges at a time, below which adding up parts takes longer than float32 saves


class Overlap(NamedTuple):
    r"""What all distances of distribution functions F on some edges are made of.

    Attributes
    ----------
    products
        Mean of :math:`F G` over the edges, shape ``[k, k]``.
    means
        Mean of F over the edges, shape ``[k]``.
    """

    products: FloatArray
    means: FloatArray

    @property
    def squared(self) -> FloatArray:
        r"""Cramer's distances :math:`\overline{2 (F - G)^2}`, ``[k, k]``, 0 on the diagonal."""
        squares = np.diag(self.products)
        return np.maximum(2.0 * (squares[:, None] + squares[None, :] - 2.0 * self.products), 0.0)

    @property
    def spread(self) -> FloatArray:
        r"""How concentrated the histograms are not: :math:`\overline{2 F (1 - F)}`, ``[k]``."""
        return np.asarray(2.0 * (self.means - np.diag(self.products)))

    def among(self, indices: Sequence[int]) -> "Overlap":
        """Return that of some of the histograms."""
        return Overlap(self.products[np.ix_(indices, indices)], self.means[indices])


def overlap(shares: Iterable[FloatArray]) -> Overlap:
    """Multiply distribution functions, given a block of edges at a time: they never lie together.

    Parameters
    ----------
    shares
        Blocks ``[k, e]`` of the share below every edge, one row a histogram.
    """
    edges, products, sums = 0, np.zeros(()), np.zeros(())
    for below in shares:
        edges += below.shape[1]
        products = products + below @ below.T  # [k, k] of one array: BLAS computes half of it
        sums = sums + below.sum(axis=1)
    return Overlap(products / edges, sums / edges)


def counted_overlap(counted: NDArray[np.int64], images: NDArray[np.int64]) -> Overlap:
    """Return the overlap of what was counted below edges ``[k, m, e]``, of so many images ``[k]``.

    Without rounding, and in half the time, where there are few images.
    """
    below = counted.reshape(len(counted), -1)  # [k, m * e]
    edges = below.shape[1]
    step = terms_at_once(int(images.max()))
    if step < _WORTHWHILE:
        return overlap([below / images[:, None]])
    return _whole_overlap((below[:, i : i + step] for i in range(0, edges, step)), images, edges)


def histograms_overlap(counts: Sequence[Counts]) -> Overlap:
    """Return the overlap of the histograms of k sites' counts ``[m, b]``.

    Without rounding, and in half the time, where all sites have few images.
    """
    totals = [row_total(each) for each in counts]
    step = terms_at_once(max(totals))
    if not all(totals) or step < _WORTHWHILE:
        return overlap(histograms_below(counts))
    k, (m, bins) = len(counts), counts[0].shape
    inner = summed_below(counts[0][None, :1]).size  # edges of a feature
    blocks = (
        np.concatenate([summed_below(each[None, part].astype(np.float32)) for each in counts])
        for part in feature_blocks(k, m, bins, most=step // inner)
    )
    return _whole_overlap((block.reshape(k, -1) for block in blocks), np.array(totals), m * inner)


def _whole_overlap(
    blocks: Iterable[NDArray[np.integer[Any]] | NDArray[np.float32]],
    totals: NDArray[np.int64],
    edges: int,
) -> Overlap:
    """Return the overlap of whole numbers below edges, in blocks ``[k, e]``, of totals ``[k]``."""
    sums = np.zeros(len(totals))

    def summed() -> Iterator[NDArray[np.integer[Any]] | NDArray[np.float32]]:
        for block in blocks:
            np.add(sums, block.sum(axis=1, dtype=np.float64), out=sums)
            yield block

    products = gram(summed(), len(totals))  # [k, k]
    return Overlap(products / (totals[:, None] * totals * edges), sums / (totals * edges))


def takes_every_edge(bins: int, edges: int = 100) -> bool:
    """Tell whether `below_edges` of so many bins leaves no edge between them out."""
    return bins // edges < 2


def histograms_below(counts: Sequence[Counts]) -> Iterator[FloatArray]:
    """Yield `below_edges` of the histograms of k sites' counts ``[m, b]``, a block at a time."""
    k, (m, bins) = len(counts), counts[0].shape
    for part in feature_blocks(k, m, bins):
        # a site at a time: what is between counts and shares stays in the processor's cache
        yield np.concatenate([below_edges(histograms(each[part])[None]) for each in counts])


def spread_below(below: FloatArray) -> FloatArray:
    r"""Return :math:`\overline{2 F (1 - F)}` of the shares ``[k, e]`` below edges, ``[k]``."""
    squares = np.einsum("ke,ke->k", below, below) / below.shape[1]  # [k]
    return np.asarray(2.0 * (below.mean(axis=1) - squares))


def feature_blocks(k: int, m: int, bins: int, most: int | None = None) -> Iterator[slice]:
    """Return slices of m features, as many at a time (at most) as keep k histograms small."""
    step = max(1, min(_BLOCK_BYTES // (8 * max(1, k * bins)), m if most is None else most))
    return (slice(start, start + step) for start in range(0, m, step))


def excess(distances: FloatArray) -> FloatArray:
    """Subtract every target's distance from itself.

    Parameters
    ----------
    distances
        Divergences, shape ``[k, k]``: row = source, column = target.

    Returns
    -------
    numpy.ndarray
        Shape ``[k, k]``, 0 on the diagonal.

    Raises
    ------
    BadShape
        If the matrix is not square.
    """
    if distances.ndim != 2 or distances.shape[0] != distances.shape[1]:
        raise BadShape(f"the excess needs a square matrix of distances, got {distances.shape}")
    return np.asarray(distances - np.diag(distances)[None, :])


def symmetrised(distances: FloatArray) -> FloatArray:
    """Return ``e + e.T``, the squared Euclidean distances between histograms, shape ``[k, k]``.

    Parameters
    ----------
    distances
        Divergences, shape ``[k, k]``: row = source, column = target.

    Returns
    -------
    numpy.ndarray
        Symmetric, non-negative, 0 on the diagonal.
    """
    e = excess(distances)
    return np.maximum(e + e.T, 0.0)  # rounding may leave -1e-17


def cumulative(rows: FloatArray, edges: int = 100) -> FloatArray:
    r"""Return each histogram as the two-bin histograms below and above every inner edge.

    Plain bins forget which bins are neighbours: two narrow histograms side by side are as far apart
    as two at opposite ends. On these two-bin rows the symmetrised excess is Cramer's distance
    :math:`\overline{2 (F - G)^2}` of the distribution functions (up to the bin width the energy
    distance of Szekely & Rizzo 2013), which depends on neither the number nor the width of bins.

    Parameters
    ----------
    rows
        Histograms, shape ``[k, m, b]``.
    edges
        Use about so many edges; more bins than that are taken together.

    Returns
    -------
    numpy.ndarray
        Shape ``[k, m * e, 2]``, rows summing to 1.
    """
    below = below_edges(rows, edges)  # [k, m * e]
    return np.stack([below, 1.0 - below], axis=2)


def below_edges(rows: FloatArray, edges: int = 100) -> FloatArray:
    """Return the share of each histogram ``[k, m, b]`` below about so many edges, ``[k, m * e]``.

    More bins than that are taken together.
    """
    # rounding may leave 1 + 1e-16
    return np.clip(summed_below(rows, edges), 0.0, 1.0).reshape(len(rows), -1)


def summed_below(values: Values, edges: int = 100) -> Values:
    """Return the sums of values ``[k, m, b]`` below about so many edges, ``[k, m, e]``."""
    bins = values.shape[2]
    step = max(1, bins // edges)
    return values.cumsum(axis=2)[:, :, step - 1 : bins - 1 : step]


def spread(rows: FloatArray, images: Sequence[int], draws: int | None = None) -> FloatArray:
    r"""How much the images of each site differ among themselves: :math:`V = 1 - \sum_b \pi^2`.

    The chance that two images of the site's population fall into different bins. A histogram p of n
    images is more concentrated than its population's :math:`\pi`, so
    :math:`(1 - \sum_b p^2) \, n / (n - 1)` estimates V without bias, and likewise for c draws with
    replacement out of the n images.

    Parameters
    ----------
    rows
        Histograms, shape ``[k, m, b]``.
    images
        Number of images of each site, length k.
    draws
        Number of draws with replacement, or None where each image counts once.

    Returns
    -------
    numpy.ndarray
        Mean over the features, shape ``[k]``.
    """
    concentration = np.einsum("kmb,kmb->k", rows, rows) / rows.shape[1]  # [k] mean of sum_b p^2
    return population_spread(1.0 - concentration, images, draws)


def population_spread(
    spread: FloatArray, images: Sequence[int], draws: int | None = None
) -> FloatArray:
    """Return the spread of the populations behind histograms of this spread, see `spread`."""
    per_image, per_draw = _shares(images, draws)
    return np.asarray(spread / ((1.0 - per_image) * (1.0 - per_draw)))


def sampling_variance(
    rows: FloatArray, images: Sequence[int], draws: int | None = None
) -> FloatArray:
    r"""Expected squared distance of each histogram from that of its whole population.

    A histogram of n independent images scatters by :math:`V / n`, see `spread`. Drawing c times
    with replacement out of the n images adds :math:`(1 - 1/n) V / c`.

    Parameters
    ----------
    rows
        Histograms, shape ``[k, m, b]``.
    images
        Number of images of each site, length k.
    draws
        Number of draws with replacement, or None where each image counts once.

    Returns
    -------
    numpy.ndarray
        Mean over the features, shape ``[k]``.
    """
    return np.asarray(spread(rows, images, draws) * per_sample(images, draws))


def per_sample(images: Sequence[int], draws: int | None = None) -> FloatArray:
    """Return a histogram's scatter as a share of the spread of images: 1/n where each counts once.

    Parameters
    ----------
    images
        Number of images of each site, length k.
    draws
        Number of draws with replacement, or None where each image counts once.

    Returns
    -------
    numpy.ndarray
        Shape ``[k]``, above 0 and below 1.
    """
    per_image, per_draw = _shares(images, draws)
    return np.asarray(per_image + (1.0 - per_image) * per_draw)


def _shares(images: Sequence[int], draws: int | None) -> tuple[FloatArray, float]:
    """Return 1/n [k] and 1/c; a single image or draw tells nothing about spread and counts as 2."""
    per_image = 1.0 / np.maximum(np.asarray(images, dtype=np.float64), 2.0)
    return per_image, 0.0 if draws is None else 1.0 / max(draws, 2)


def debiased(squared: FloatArray, variance: FloatArray) -> FloatArray:
    """Subtract the known scatter of both ends from squared distances.

    Without it two small sites of one task look as far apart as two large ones of different tasks.

    Parameters
    ----------
    squared
        Squared distances between histograms, shape ``[k, k]``.
    variance
        Scatter of each histogram, shape ``[k]``, see `sampling_variance`.

    Returns
    -------
    numpy.ndarray
        Shape ``[k, k]``, 0 on the diagonal. Unbiased, so sites of one task scatter around 0 and
        some values are negative.
    """
    out = squared - variance[:, None] - variance[None, :]
    np.fill_diagonal(out, 0.0)
    return np.asarray(out)


def relative(squared: FloatArray, spreads: FloatArray) -> FloatArray:
    r"""Express squared distances as a share of what images differ by within a site.

    With :math:`D = e(S, T) + e(T, S)` and V the mean spread, :math:`D / 2V` is an effect size
    without unit: on `cumulative` rows 0.1 says that two images of different sites differ by 10 %
    more than two images of one site. It means the same for every backbone and number of bins.

    Parameters
    ----------
    squared
        Squared distances between histograms, shape ``[k, k]``.
    spreads
        Spread of each site, shape ``[k]``, see `spread`. Its mean over the sites is used, so that
        the result is a squared Euclidean distance still.

    Returns
    -------
    numpy.ndarray
        Shape ``[k, k]``.
    """
    scale = 2.0 * float(spreads.mean())
    return squared / scale if scale > 0 else squared  # 0: every site has one image over and over


def site_distances(found: Overlap, images: Sequence[int], draws: int | None = None) -> FloatArray:
    """Squared distances between sites, fit for grouping.

    The symmetrised excess divergence of the cumulative rows, less its sampling variance, relative
    to the spread within sites.

    Parameters
    ----------
    found
        Of the sites' `histograms_below`.
    images
        Number of images of each site, length k.
    draws
        Number of draws with replacement, or None where each image counts once.

    Returns
    -------
    numpy.ndarray
        Shape ``[k, k]``; sites of one population scatter around 0.
    """
    spreads = population_spread(found.spread, images, draws)  # [k]
    unbiased = debiased(found.squared, spreads * per_sample(images, draws))
    return relative(unbiased, spreads)
