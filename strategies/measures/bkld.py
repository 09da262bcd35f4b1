"""The paper's three variants of bKLD, thin classes over `strategies.bkld`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import softmax

from strategies.bkld import bkld_matrix, bkld_of_counts
from strategies.measures.base import (
    FloatArray,
    Measure,
    Task,
    feature_means,
    fingerprints_of,
    register,
    require_one_spec,
)
from strategies.measures.needs import both_rows, same_spec

PAPER = "Godau et al., arXiv 2412.08763"


@register
class SmallTarget(Measure):
    """bKLD(small,target): weighted by the softmax of the target's feature means; 100 bins."""

    source = PAPER
    name = "bkld-small-target"
    description = "bKLD weighted by the softmax of the target's feature means (paper: 100 bins)"

    def matrix(self, sources: Sequence[Task], targets: Sequence[Task]) -> FloatArray:
        """Compare every source with every target, see `Measure.matrix`."""
        q, p, spec = both_rows(sources, targets)
        weights = np.asarray(softmax(feature_means(p, spec), axis=1))  # [T, m]
        return bkld_matrix(q, p, target_weights=weights)


@register
class LargeSource(Measure):
    """bKLD(large,source): weighted by the source's absolute feature means; 1,000 bins."""

    source = PAPER
    name = "bkld-large-source"
    description = "bKLD weighted by the source's absolute feature means (paper: 1000 bins)"

    def matrix(self, sources: Sequence[Task], targets: Sequence[Task]) -> FloatArray:
        """Compare every source with every target, see `Measure.matrix`."""
        q, p, spec = both_rows(sources, targets)
        weights = np.abs(feature_means(q, spec))  # [S, m]
        return bkld_matrix(q, p, source_weights=weights)


@register
class LargeUnweighted(Measure):
    """bKLD(large,unweighted): all features alike; 1,000 bins."""

    source = PAPER
    name = "bkld-large-unweighted"
    description = "bKLD with all features alike (paper: 1000 bins)"

    def matrix(self, sources: Sequence[Task], targets: Sequence[Task]) -> FloatArray:
        """Compare every source with every target, see `Measure.matrix`."""
        if (found := _of_plain_counts(sources, targets)) is not None:
            return found
        q, p, _ = both_rows(sources, targets)
        return bkld_matrix(q, p)


def _of_plain_counts(sources: Sequence[Task], targets: Sequence[Task]) -> FloatArray | None:
    """Return the distances of tasks from each other, where counts alone give them."""
    if list(map(id, sources)) != list(map(id, targets)):
        return None
    prints = fingerprints_of(sources)
    require_one_spec(prints, same_spec(*sources))
    if any(fingerprint.sigma > 0 for fingerprint in prints):
        return None
    return bkld_of_counts([fingerprint.counts for fingerprint in prints])
