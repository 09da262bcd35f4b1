"""The paper's three variants of bKLD, thin classes over `strategies.bkld`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import softmax

from strategies.bkld import bkld_matrix
from strategies.measures.base import FloatArray, Measure, Task, feature_means, register, rows_of

PAPER = "Godau et al., arXiv 2412.08763"


@register
class SmallTarget(Measure):
    """bKLD(small,target): weighted by the softmax of the target's feature means; 100 bins."""

    source = PAPER
    name = "bkld-small-target"
    description = "bKLD weighted by the softmax of the target's feature means (paper: 100 bins)"

    def matrix(self, sources: Sequence[Task], targets: Sequence[Task]) -> FloatArray:
        """Compare every source with every target, see `Measure.matrix`."""
        p, spec = rows_of(targets)  # [T, m, b]
        weights = np.asarray(softmax(feature_means(p, spec), axis=1))  # [T, m]
        return bkld_matrix(rows_of(sources)[0], p, target_weights=weights)


@register
class LargeSource(Measure):
    """bKLD(large,source): weighted by the source's absolute feature means; 1,000 bins."""

    source = PAPER
    name = "bkld-large-source"
    description = "bKLD weighted by the source's absolute feature means (paper: 1000 bins)"

    def matrix(self, sources: Sequence[Task], targets: Sequence[Task]) -> FloatArray:
        """Compare every source with every target, see `Measure.matrix`."""
        q, spec = rows_of(sources)  # [S, m, b]
        weights = np.abs(feature_means(q, spec))  # [S, m]
        return bkld_matrix(q, rows_of(targets)[0], source_weights=weights)


@register
class LargeUnweighted(Measure):
    """bKLD(large,unweighted): all features alike; 1,000 bins."""

    source = PAPER
    name = "bkld-large-unweighted"
    description = "bKLD with all features alike (paper: 1000 bins)"

    def matrix(self, sources: Sequence[Task], targets: Sequence[Task]) -> FloatArray:
        """Compare every source with every target, see `Measure.matrix`."""
        return bkld_matrix(rows_of(sources)[0], rows_of(targets)[0])
