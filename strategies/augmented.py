r"""Fingerprints as records of exact counts, whose product with a target's ranks them by bKLD.

Godau et al., *Beyond Knowledge Silos* (https://arxiv.org/abs/2412.08763), weight the features by
the target, by the source, or not at all. With :math:`lse(q) = \log \sum_b \exp q_b` and weights of
sum 1 (see `strategies.bkld`),

.. math:: -d = \langle w \cdot p, q \rangle - \langle w, lse(q) \rangle - \langle w, -H(p) \rangle

is linear in the source's rows *q* and normalisers if the weights are the target's (the last term
is the target's own), and linear in :math:`w \cdot q`, :math:`w` and :math:`\langle w, lse(q)
\rangle` if they are the source's. So a source is a body and a few sides, each multiplied with its
part of the target's `strategies.retrieval.Question`:

=========  ==============  ====================================  =============================
layout     body, [m, b]    sides                                 kept beside the counts
=========  ==============  ====================================  =============================
rows       q               lse(q) - log b, m                     lse(q), totals
weighted   w q             w, m, and <w, lse(q)> - log b, 1      lse(q), totals, w
=========  ==============  ====================================  =============================

Rows are counts divided by their total, so a record keeps the counts themselves, in one, two, or
four bytes each: a quarter to all of what float32 shares would take, and nothing is rounded.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocol.errors import ConfigError, FedprintError
from protocol.fingerprint import Fingerprint
from protocol.spec import Spec
from strategies.bkld import log_normaliser
from strategies.measures import feature_means, stack

__all__ = [
    "COUNTS",
    "MAX_TOTAL",
    "MEASURES",
    "Layout",
    "Records",
    "decode",
    "encode",
    "layout_for",
    "scale",
    "sides",
    "source_weights",
]

Records = NDArray[Any]
"""A structured array [k] of a type that `Layout.record` returns."""

MEASURES = {
    "bkld-small-target": "rows",
    "bkld-large-unweighted": "rows",
    "bkld-large-source": "weighted",
}
"""Layout of each measure that can be retrieved."""

COUNTS = ("u1", "u2", "u4")
"""Types of counts, the smallest first."""

MAX_TOTAL = 2**24 - 1
"""Largest sum of a row of counts: a float32 holds each of them exactly."""

_ALIGN = 64  # bytes: records start at cache lines


@dataclass(frozen=True)
class Layout:
    """What a record holds.

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

    def record(self, counts: str) -> np.dtype[Any]:
        """Return the type of a record, given the type of its counts, one of `COUNTS`."""
        m = self.features
        fields: dict[str, np.dtype[Any]] = {"lse": np.dtype(("<f8", (m,)))}
        if self.kind == "weighted":
            fields["weights"] = np.dtype(("<f8", (m,)))
        fields["totals"] = np.dtype(("<u4", (m,)))
        fields["counts"] = np.dtype((f"<{counts}", (m, self.bins)))
        used = sum(part.itemsize for part in fields.values())
        fields["spare"] = np.dtype(("u1", (-used % _ALIGN,)))  # named, so that it is always copied
        return np.dtype(list(fields.items()))


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


def encode(fingerprints: Sequence[Fingerprint], spec: Spec, layout: Layout) -> Records:
    """Return the records of k fingerprints, with the smallest counts that hold them all.

    Raises
    ------
    FedprintError
        If there are none, or a row holds more than `MAX_TOTAL` counts.
    SpecMismatch
        If one was made by another spec.
    """
    rows = stack(fingerprints, spec)  # [k, m, b]
    counts = np.stack([np.maximum(f.counts, 0).astype(np.int64) for f in fingerprints])
    totals = counts.sum(axis=2)  # [k, m]
    if totals.max() > MAX_TOTAL:
        worst = fingerprints[int(totals.max(axis=1).argmax())]
        raise FedprintError(
            f"fingerprint of {worst.site} counts {totals.max()} views a feature: retrieval is "
            f"exact up to {MAX_TOTAL}, so fingerprint fewer images or draws"
        )
    counts[totals == 0] = 1  # a row without any count is uniform
    most = int(counts.max())
    kind = next(name for name in COUNTS if most <= np.iinfo(name).max)
    records = np.zeros(len(rows), layout.record(kind))
    records["counts"], records["totals"] = counts, counts.sum(axis=2)
    records["lse"] = log_normaliser(rows)
    if layout.kind == "weighted":
        records["weights"] = source_weights(rows, spec)
    return records


def decode(records: Records) -> NDArray[np.float64]:
    """Return the rows of k records, ``[k, m, b]``, bit for bit `Fingerprint.rows`."""
    rows: NDArray[np.float64] = records["counts"] / records["totals"][:, :, None].astype(np.float64)
    return rows


def scale(records: Records) -> NDArray[np.float64]:
    """Return what the counts of each feature are multiplied with to make a body, ``[k, m]``.

    It is 0 where a record was blanked.
    """
    totals = records["totals"]
    weights = records["weights"] if "weights" in (records.dtype.names or ()) else 1.0
    out = np.zeros(totals.shape)
    np.divide(weights, totals, out=out, where=totals > 0)
    return out


def sides(records: Records, layout: Layout) -> NDArray[np.float64]:
    """Return the coordinates that carry the constants, ``[k, m]`` or ``[k, m + 1]``.

    They are centred: small numbers lose less to rounding.
    """
    flat_term = records["lse"] - np.log(layout.bins)  # [k, m]
    if layout.kind == "rows":
        return np.asarray(flat_term)
    constant = np.einsum("km,km->k", records["weights"], flat_term)
    return np.column_stack([records["weights"], constant])


def source_weights(rows: NDArray[np.float64], spec: Spec) -> NDArray[np.float64]:
    """Return the weights of bKLD(large,source), ``[k, m]``: the share of each absolute mean.

    Parameters
    ----------
    rows
        Histograms, shape ``[k, m, b]``.
    spec
        Supplies the bins' centres.

    Raises
    ------
    FedprintError
        If all means of a fingerprint are 0.
    """
    means = np.abs(feature_means(rows, spec))  # [k, m]
    total = means.sum(axis=1, keepdims=True)
    if (total == 0).any():
        raise FedprintError("all feature means of a fingerprint are 0: take an unweighted measure")
    return np.asarray(means / total)
