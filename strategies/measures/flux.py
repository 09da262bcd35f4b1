"""FLUX: distance between descriptors of the features of each class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist

from protocol.descriptors import ClassMoments
from protocol.spec import Spec
from protocol.taskcard import TaskCard, class_keys
from strategies.measures.base import FloatArray, Measure, Task, register
from strategies.measures.needs import cards_of, class_moments_of, few_classes, same_spec


@dataclass(frozen=True, eq=False)
class ClassPoints:
    """A task's classes as points.

    Parameters
    ----------
    keys : tuple of str
        What c classes are, see `protocol.taskcard.class_keys`.
    shares : ndarray, shape [c]
        Of the images, summing to 1.
    points : ndarray, shape [c, d]
        Descriptor of each class.
    """

    keys: tuple[str, ...]
    shares: FloatArray
    points: FloatArray

    @property
    def middle(self) -> FloatArray:
        """Descriptor of the task as a whole, shape ``[d]``."""
        return np.asarray(self.shares @ self.points)


def class_points(moments: ClassMoments, card: TaskCard, spec: Spec) -> ClassPoints:
    """Describe each class by means and standard deviations, as shares of each feature's bin range.

    Classes without images are left out.
    """
    width = spec.upper_array - spec.lower_array  # [m]
    there = np.flatnonzero(moments.counts > 0)
    points = np.concatenate([moments.means, np.sqrt(np.maximum(moments.variances, 0.0))], axis=1)
    keys = class_keys(card)
    counts = moments.counts[there].astype(np.float64)
    return ClassPoints(
        tuple(keys[i] for i in there),
        counts / counts.sum(),
        points[there] / np.concatenate([width, width]),
    )


def class_distance(source: ClassPoints, target: ClassPoints) -> float:
    r"""Return the distance of two tasks as wholes and class by class.

    .. math:: d^2 = \| \bar a - \bar b \|^2 + \tfrac12 \left( \sum_c w_c \| a_c - b_{c'} \|^2
              + \sum_c v_c \| b_c - a_{c'} \|^2 \right)

    where c' is the same class at the other site. FLUX knows of one label space only; a class that
    the other site lacks is compared with the nearest one there, so that tasks of different classes
    have a distance too.

    Parameters
    ----------
    source, target
        Of one spec.
    """
    squared = cdist(source.points, target.points, metric="sqeuclidean")  # [c, c']
    ahead = np.array([_match(squared[i], key, target.keys) for i, key in enumerate(source.keys)])
    back = np.array([_match(squared[:, j], key, source.keys) for j, key in enumerate(target.keys)])
    classes = (source.shares @ ahead + target.shares @ back) / 2.0
    return float(np.sqrt(np.sum((source.middle - target.middle) ** 2) + classes))


def _match(squared: FloatArray, key: str, keys: tuple[str, ...]) -> float:
    return float(squared[keys.index(key)] if key in keys else squared.min())


@register
class Flux(Measure):
    """Distance of means and deviations of the features, as a whole and within each class."""

    name = "flux"
    needs = frozenset({"class-moments", "card"})
    privacy = "shareable"
    source = "Fenoglio et al., NeurIPS 2025"
    description = "Euclidean distance between feature moments, of the task and of each class"

    def matrix(self, sources: Sequence[Task], targets: Sequence[Task]) -> FloatArray:
        """Compare every source with every target, see `Measure.matrix`.

        Two tasks are not compared if they have too many classes, see `few_classes`.
        """
        spec = same_spec(*sources, *targets)
        own, others = (
            [
                class_points(moments, card, spec)
                for moments, card in zip(class_moments_of(tasks), cards_of(tasks), strict=True)
            ]
            for tasks in (sources, targets)
        )
        rows = [
            [
                class_distance(s, t) if few_classes(len(s.keys), len(t.keys)) else np.nan
                for t in others
            ]
            for s in own
        ]
        return np.array(rows, dtype=np.float64)  # [S, T]
