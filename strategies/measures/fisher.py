"""Task2Vec and FED: distances between diagonal Fisher embeddings of a probe network."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.spatial.distance import cdist

from strategies.measures.base import FloatArray, Measure, Task, register
from strategies.measures.needs import fisher_of, same_spec

PAPER = "Achille et al., ICCV 2019"
ALPHA = 0.15
"""Weight of a source's complexity, from Achille et al., section 3."""


def symmetric(sources: FloatArray, targets: FloatArray) -> FloatArray:
    r"""Return the symmetric Task2Vec distance of every pair of embeddings.

    Achille et al. (arXiv 1902.03545), section 3:

    .. math:: d_{sym}(F_a, F_b) = d_{cos}\left( \frac{F_a}{F_a + F_b}, \frac{F_b}{F_a + F_b} \right)

    The scaling lets filters of small and of large Fisher information weigh alike. A filter that
    neither task uses says nothing and is left out.

    Parameters
    ----------
    sources, targets
        Non-negative, shapes ``[S, p]`` and ``[T, p]``.

    Returns
    -------
    numpy.ndarray
        Shape ``[S, T]``, from 0 to 1.
    """
    out = np.empty((len(sources), len(targets)))
    for row, own in zip(out, sources, strict=True):
        total = own + targets  # [T, p]
        share = np.divide(own, total, out=np.zeros_like(total), where=total > 0)  # [T, p]
        rest = np.divide(targets, total, out=np.zeros_like(total), where=total > 0)
        lengths = np.linalg.norm(share, axis=1) * np.linalg.norm(rest, axis=1)  # [T]
        product = np.einsum("tp,tp->t", share, rest)
        row[:] = 1.0 - np.divide(product, lengths, out=np.zeros_like(product), where=lengths > 0)
    return np.clip(out, 0.0, 1.0)


def asymmetric(sources: FloatArray, targets: FloatArray, trivial: FloatArray) -> FloatArray:
    r"""Return the asymmetric Task2Vec distance: complex sources are nearer to everybody.

    Achille et al., section 3: :math:`d_{sym}(F_a, F_b) - \alpha \, d_{sym}(F_a, F_0)`, with
    :math:`F_0` the embedding of the trivial task and :math:`\alpha = 0.15`.

    Parameters
    ----------
    sources, targets
        Non-negative, shapes ``[S, p]`` and ``[T, p]``.
    trivial
        Shape ``[p]``.

    Returns
    -------
    numpy.ndarray
        Shape ``[S, T]``, lower is closer, perhaps negative.
    """
    complexity = symmetric(sources, trivial[None, :])  # [S, 1]
    return np.asarray(symmetric(sources, targets) - ALPHA * complexity)


def _embeddings(*sides: Sequence[Task]) -> list[FloatArray]:
    """Return the embeddings ``[k, p]`` of each side, all of one spec and one length."""
    same_spec(*[task for side in sides for task in side])
    values = np.stack([f.values for f in fisher_of([task for side in sides for task in side])])
    return np.split(values, np.cumsum([len(side) for side in sides])[:-1])


@register
class Task2Vec(Measure):
    """Cosine distance of Fisher embeddings, each filter scaled by both tasks."""

    name = "task2vec"
    needs = frozenset({"fisher"})
    privacy = "shareable"
    source = PAPER
    description = "cosine distance of scaled diagonal Fisher embeddings, symmetric form"

    def matrix(self, sources: Sequence[Task], targets: Sequence[Task]) -> FloatArray:
        """Compare every source with every target, see `Measure.matrix`."""
        return symmetric(*_embeddings(sources, targets))


@register
class Task2VecAsymmetric(Measure):
    """Task2Vec less the complexity of the source: its distance from the trivial task.

    The paper's embeddings keep a constant of the prior where a task tells nothing. Exact ones are 0
    there, and the distance from 0 is not defined. So the trivial task is as flat as the prior: the
    mean value of all tasks that are compared, at every filter.
    """

    name = "task2vec-asymmetric"
    needs = frozenset({"fisher"})
    privacy = "shareable"
    source = PAPER
    description = "Task2Vec, preferring complex sources, asymmetric form"

    def matrix(self, sources: Sequence[Task], targets: Sequence[Task]) -> FloatArray:
        """Compare every source with every target, see `Measure.matrix`."""
        own, others = _embeddings(sources, targets)
        level = float(np.concatenate([own, others]).mean())
        return asymmetric(own, others, np.full(own.shape[1], level))


@register
class FisherEmbeddingDistance(Measure):
    """FED: plain cosine distance of Fisher embeddings."""

    name = "fed"
    needs = frozenset({"fisher"})
    privacy = "shareable"
    source = "Godau et al., MICCAI 2021"
    description = "plain cosine distance of diagonal Fisher embeddings"

    def matrix(self, sources: Sequence[Task], targets: Sequence[Task]) -> FloatArray:
        """Compare every source with every target, see `Measure.matrix`."""
        own, others = _embeddings(sources, targets)
        return np.asarray(cdist(own, others, metric="cosine").clip(0.0, 2.0))  # NaN: all is 0
