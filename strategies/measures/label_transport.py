"""Measures of how well a source's labels carry over to a target's, by optimal transport.

Both report OTCE's task difference, the entropy of the target's labels given the source's: the
paper's score needs transfers already measured to weigh the domain difference with.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from strategies.measures.base import FloatArray, Measure, Need, Task, register
from strategies.measures.needs import class_moments_of, features_of, few_classes, same_spec
from strategies.transferability import even_sample, otce, otce_classes

MOST = 300
"""Images of a task that take part; a plan costs their product."""


@register
class OtceOfImages(Measure):
    """OTCE's task difference between two tasks' images, by features of the spec's network."""

    name = "otce"
    needs = frozenset[Need]({"features"})
    privacy = "simulation only"
    source = "Tan et al., CVPR 2021"
    description = "entropy of the target's labels given the source's that transport matches them to"

    def matrix(self, sources: Sequence[Task], targets: Sequence[Task]) -> FloatArray:
        """Compare every source with every target, see `Measure.matrix`."""
        same_spec(*sources, *targets)
        left, right = _images(sources), _images(targets)
        rows = [[otce(*s, *t).task_difference for t in right] for s in left]
        return np.array(rows, dtype=np.float64)  # [S, T]


@register
class OtceOfClasses(Measure):
    """OTCE's task difference between two tasks' classes, by their released moments."""

    name = "otce-classes"
    needs = frozenset[Need]({"class-moments"})
    privacy = "shareable"
    source = "after Tan et al., CVPR 2021"
    description = "OTCE's entropy from transport between classes, by their means and variances"

    def matrix(self, sources: Sequence[Task], targets: Sequence[Task]) -> FloatArray:
        """Compare every source with every target, see `Measure.matrix`.

        Two tasks are not compared if they have too many classes, see `few_classes`.
        """
        same_spec(*sources, *targets)
        left, right = class_moments_of(sources), class_moments_of(targets)
        rows = [
            [
                otce_classes(s, t).task_difference
                if few_classes(len(s.counts), len(t.counts))
                else np.nan
                for t in right
            ]
            for s in left
        ]
        return np.array(rows, dtype=np.float64)  # [S, T]


def _images(tasks: Sequence[Task]) -> list[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """Return features and labels of the images that take part."""
    found = []
    for features in features_of(tasks):
        chosen = even_sample(features.labels, MOST)
        found.append((features.values[chosen], features.labels[chosen]))
    return found
