"""The distance by which groups and partners are found, as a measure beside the others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from protocol.fingerprint import Fingerprint
from strategies.excess import histograms_overlap, site_distances
from strategies.measures.base import FloatArray, Measure, Task, register
from strategies.measures.needs import both_rows
from strategies.noise import noisy_distances, shares_of


@register
class Excess(Measure):
    """Symmetrised excess bKLD of cumulated histograms, debiased: `strategies.excess`.

    Of noised fingerprints, and of projected ones, which are grouped by the evidence of a mixture,
    the squared distances that partners go by there, `strategies.noise.noisy_distances`.
    """

    name = "bkld-excess"
    source = "fedprint, after Godau et al., arXiv 2412.08763"
    description = "excess bKLD there and back of cumulated histograms, less chance: what groups use"

    def matrix(self, sources: Sequence[Task], targets: Sequence[Task]) -> FloatArray:
        """Compare every source with every target, see `Measure.matrix`."""
        _, _, spec = both_rows(sources, targets)
        every = {id(t.fingerprint): t.fingerprint for t in (*sources, *targets) if t.fingerprint}
        prints, place = list(every.values()), {key: i for i, key in enumerate(every)}
        squared = _squared(prints, spec.sampling.draws, spec.projection is not None)  # [k, k]
        rows, columns = ([place[id(t.fingerprint)] for t in side] for side in (sources, targets))
        return squared[np.ix_(rows, columns)]


def _squared(prints: Sequence[Fingerprint], draws: int | None, projected: bool) -> FloatArray:
    """Return the squared distances ``[k, k]`` of fingerprints of one spec."""
    images, sigma = [f.n_images for f in prints], [f.sigma for f in prints]
    if projected or any(sigma):
        return noisy_distances(shares_of(prints), images, sigma, draws)
    found = histograms_overlap([f.counts for f in prints])
    return site_distances(found, images, draws)
