r"""Fingerprints as vectors whose inner product with a target's ranks them by bKLD, exactly.

Godau et al., *Beyond Knowledge Silos* (https://arxiv.org/abs/2412.08763), weight the features by
the target, by the source, or not at all. With :math:`lse(q) = \log \sum_b \exp q_b` and weights of
sum 1 (see `strategies.bkld`),

.. math:: -d = \langle w \cdot p, q \rangle - \langle w, lse(q) \rangle - \langle w, -H(p) \rangle

is linear in the source's rows *q* and normalisers if the weights are the target's (the last term
is the target's own), and linear in :math:`w \cdot q`, :math:`w` and :math:`\langle w, lse(q)
\rangle` if they are the source's. So each layout is one matrix of float32 vectors:

=========  ==================  =========================================  ==================
layout     body, m * b         sides                                      totals, m
=========  ==================  =========================================  ==================
rows       q                   lse(q) - log b, m                          sum of the counts
weighted   w q                 w, m, and <w, lse(q)> - log b, 1           sum of the counts
=========  ==================  =========================================  ==================

A vector also keeps what each row of counts adds up to. A float32 share times its total is less
than half a count off, so rounding gives back the very counts, and with them the float64 distance.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from protocol.errors import ConfigError, FedprintError
from protocol.fingerprint import Fingerprint
from protocol.spec import Spec
from strategies.bkld import log_normaliser
from strategies.measures import feature_means, stack

__all__ = ["MAX_TOTAL", "MEASURES", "Layout", "decode", "encode", "layout_for", "source_weights"]

MEASURES = {
    "bkld-small-target": "rows",
    "bkld-large-unweighted": "rows",
    "bkld-large-source": "weighted",
}
"""Layout of each measure that can be retrieved."""

MAX_TOTAL = 2**22 - 1
"""Largest sum of a row of counts that a float32 share gives back exactly, in either layout."""

Columns: TypeAlias = "slice[int, int, None]"

_ALIGN = 16  # float32 values: vectors start at cache lines
_NO_WEIGHT = 1e-20  # below it a weighted row is lost in float32, and so is its part of a distance


@dataclass(frozen=True)
class Layout:
    """Where the parts of a vector lie.

    Parameters
    ----------
    kind
        ``"rows"`` or ``"weighted"``.
    features, bins
        m and b of the spec.
    """

    kind: str
    features: int
    bins: int

    @property
    def body(self) -> Columns:
        """The rows, feature by feature."""
        return slice(0, self.features * self.bins)

    @property
    def sides(self) -> Columns:
        """The coordinates that carry the constants."""
        end = self.body.stop + self.features + (self.kind == "weighted")
        return slice(self.body.stop, end)

    @property
    def totals(self) -> Columns:
        """The sums of the counts; they take no part in products."""
        return slice(self.sides.stop, self.sides.stop + self.features)

    @property
    def width(self) -> int:
        """Number of float32 values of a vector, padded with zeros to whole cache lines."""
        return -(-self.totals.stop // _ALIGN) * _ALIGN


def layout_for(measure: str, spec: Spec) -> Layout:
    """Return the layout that serves a measure.

    Raises
    ------
    ConfigError
        If the measure is no inner product of known vectors.
    """
    if measure not in MEASURES:
        raise ConfigError(
            f"measure {measure!r} cannot be retrieved by inner products: take one of "
            f"{', '.join(sorted(MEASURES))}"
        )
    return Layout(MEASURES[measure], spec.width, spec.bins)


def encode(fingerprints: Sequence[Fingerprint], spec: Spec, layout: Layout) -> NDArray[np.float32]:
    """Return the vectors of k fingerprints, shape ``[k, layout.width]``.

    Raises
    ------
    FedprintError
        If there are none, or a row holds more than `MAX_TOTAL` counts.
    SpecMismatch
        If one was made by another spec.
    """
    rows = stack(fingerprints, spec)  # [k, m, b]
    counts = np.stack([np.maximum(f.counts, 0).sum(axis=1, dtype=np.int64) for f in fingerprints])
    if counts.max() > MAX_TOTAL:
        worst = fingerprints[int(counts.max(axis=1).argmax())]
        raise FedprintError(
            f"fingerprint of {worst.site} counts {counts.max()} views a feature: retrieval is "
            f"exact up to {MAX_TOTAL}, so fingerprint fewer images or draws"
        )
    vectors = np.zeros((len(rows), layout.width), dtype=np.float32)
    flat_term = log_normaliser(rows) - np.log(layout.bins)  # [k, m], centred: small numbers
    if layout.kind == "weighted":
        weights = source_weights(rows, spec)  # [k, m]
        constant = (weights * flat_term).sum(axis=1, keepdims=True)  # [k, 1]
        rows = weights[:, :, None] * rows
        vectors[:, layout.sides] = np.hstack([weights, constant])
    else:
        vectors[:, layout.sides] = flat_term
    vectors[:, layout.body] = rows.reshape(len(rows), -1)
    vectors[:, layout.totals] = counts
    return vectors


def decode(vectors: NDArray[np.float32], layout: Layout) -> NDArray[np.float64]:
    """Return the rows of k vectors, ``[k, m, b]``, bit for bit `Fingerprint.rows`.

    The one exception are rows that a source's weights make meaningless: they come back uniform.
    """
    k, m, b = len(vectors), layout.features, layout.bins
    shares = vectors[:, layout.body].astype(np.float64).reshape(k, m, b)
    totals = vectors[:, layout.totals].astype(np.float64)[:, :, None]  # [k, m, 1]
    if layout.kind == "weighted":
        weights = _kept_weights(vectors, layout)[:, :, None]  # [k, m, 1]
        shares = np.divide(shares, weights, out=np.zeros_like(shares), where=weights > 0)
        totals = np.where(weights > 0, totals, 0.0)
    uniform = np.full_like(shares, 1.0 / b)
    rows = np.divide(np.rint(shares * totals), totals, out=uniform, where=totals > 0)
    return np.asarray(rows)


def source_weights(
    rows: NDArray[np.float64], spec: Spec, vectors: NDArray[np.float32] | None = None
) -> NDArray[np.float64]:
    """Return the weights of bKLD(large,source), ``[k, m]``: the share of each absolute mean.

    Parameters
    ----------
    rows
        Histograms, shape ``[k, m, b]``.
    spec
        Supplies the bins' centres.
    vectors
        What `rows` was decoded from, so that meaningless rows weigh nothing.

    Raises
    ------
    FedprintError
        If all means of a fingerprint are 0.
    """
    means = np.abs(feature_means(rows, spec))  # [k, m]
    if vectors is not None:
        layout = Layout("weighted", spec.width, spec.bins)
        means = np.where(_kept_weights(vectors, layout) > 0, means, 0.0)
    total = means.sum(axis=1, keepdims=True)
    if (total == 0).any():
        raise FedprintError("all feature means of a fingerprint are 0: take an unweighted measure")
    return np.asarray(means / total)


def _kept_weights(vectors: NDArray[np.float32], layout: Layout) -> NDArray[np.float64]:
    start = layout.sides.start
    weights = vectors[:, start : start + layout.features].astype(np.float64)
    return np.where(weights > _NO_WEIGHT, weights, 0.0)
