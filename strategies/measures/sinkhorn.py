"""Sinkhorn divergence between clouds of raw features; for simulations only."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from scipy.special import rel_entr

from protocol.errors import ConfigError
from protocol.spec import Spec
from strategies.measures.base import FloatArray, Measure, Task, register
from strategies.measures.needs import features_of, same_spec

REGULARISATION = 0.01
"""Entropic regularisation, in units of the cost; fixed, so that values do not depend on others."""
_ITERATIONS = 2000


def transport(x: FloatArray, y: FloatArray, regularisation: float = REGULARISATION) -> float:
    r"""Return the entropic transport cost of two clouds of equal weights.

    .. math:: OT_\epsilon = \min_P \langle P, C \rangle + \epsilon \, KL(P \,\|\, a b^T)

    (Cuturi, NeurIPS 2013), with C the mean squared difference of the coordinates.

    Parameters
    ----------
    x, y
        Shapes ``[n, m]`` and ``[n', m]``.
    regularisation
        :math:`\epsilon`.
    """
    import ot  # imports torch, which nobody needs who asks for another measure

    a, b = np.full(len(x), 1.0 / len(x)), np.full(len(y), 1.0 / len(y))
    cost = cdist(x, y, metric="sqeuclidean") / x.shape[1]  # [n, n']
    plan = ot.sinkhorn(a, b, cost, regularisation, numItermax=_ITERATIONS, warn=False)  # [n, n']
    entropy = rel_entr(plan, np.outer(a, b)).sum()
    return float(np.sum(plan * cost) + regularisation * entropy)


def divergences(sources: Sequence[FloatArray], targets: Sequence[FloatArray]) -> FloatArray:
    r"""Return the debiased Sinkhorn divergence of every pair of clouds.

    Feydy et al. (AISTATS 2019), equation 3:
    :math:`OT_\epsilon(a, b) - \tfrac12 OT_\epsilon(a, a) - \tfrac12 OT_\epsilon(b, b)`.

    Parameters
    ----------
    sources, targets
        Clouds, shape ``[n, m]`` each.

    Returns
    -------
    numpy.ndarray
        Shape ``[S, T]``, 0 between equal clouds.
    """
    pairs: dict[tuple[int, int], float] = {}

    def cost(x: FloatArray, y: FloatArray) -> float:
        key = (min(id(x), id(y)), max(id(x), id(y)))  # it is symmetric
        if key not in pairs:
            pairs[key] = transport(x, y)
        return pairs[key]

    between = [[cost(x, y) - (cost(x, x) + cost(y, y)) / 2.0 for y in targets] for x in sources]
    return np.asarray(np.maximum(between, 0.0))


def cloud(values: NDArray[np.float32], spec: Spec, most: int) -> FloatArray:
    """Return at most so many of a task's feature vectors, in units of each feature's bin range.

    Values are clipped to the spec's edges, as for the histograms. The vectors of smallest SHA-256
    are taken: a sample that is the same in whatever order images lie.

    Parameters
    ----------
    values
        Shape ``[n, m]``.
    spec
        Supplies the edges.
    most
        Feature vectors to take.

    Returns
    -------
    numpy.ndarray
        Shape ``[min(n, most), m]``, from 0 to 1.
    """
    rows = np.ascontiguousarray(values, dtype="<f4")
    order = sorted(range(len(rows)), key=lambda i: hashlib.sha256(rows[i].tobytes()).digest())
    low, high = spec.lower_array, spec.upper_array  # [m]
    return np.asarray((rows[order[:most]].clip(low, high) - low) / (high - low))


@register
class Sinkhorn(Measure):
    """Debiased Sinkhorn divergence between at most 200 feature vectors of each task."""

    name = "sinkhorn"
    needs = frozenset({"features"})
    privacy = "simulation only"
    source = "Feydy et al., AISTATS 2019"
    description = "debiased Sinkhorn divergence between clouds of features"
    most: ClassVar[int] = 200

    def matrix(self, sources: Sequence[Task], targets: Sequence[Task]) -> FloatArray:
        """Compare every source with every target, see `Measure.matrix`."""
        spec = same_spec(*sources, *targets)
        known = {id(f): f for f in features_of([*sources, *targets])}
        clouds = {key: cloud(f.values, spec, self.most) for key, f in known.items()}
        own, others = ([clouds[id(f)] for f in features_of(side)] for side in (sources, targets))
        return divergences(own, others)


@register
class SinkhornProjected(Sinkhorn):
    """The same in the few directions of the spec's public projection, between more vectors."""

    name = "sinkhorn-projected"
    description = "the same between clouds in the spec's public projection"
    most = 500

    def matrix(self, sources: Sequence[Task], targets: Sequence[Task]) -> FloatArray:
        """Compare every source with every target, see `Measure.matrix`.

        Raises
        ------
        ConfigError
            If the spec has no projection.
        """
        spec = same_spec(*sources, *targets)
        if spec.projection is None:
            raise ConfigError(
                f"measure {self.name} needs a spec with a public projection, {spec.name} has none: "
                "take lite0-private, or measure sinkhorn"
            )
        return super().matrix(sources, targets)
