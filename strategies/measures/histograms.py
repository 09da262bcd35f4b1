"""Measures on the released histograms alone: VDNA's earth mover's distance, and moments."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.spatial.distance import cdist

from protocol.spec import Spec
from strategies.measures.base import FloatArray, Measure, Task, feature_means, register
from strategies.measures.needs import both_rows


def earth_movers(sources: FloatArray, targets: FloatArray) -> FloatArray:
    r"""Return the mean 1-D Wasserstein distance of features, as a share of their bin range.

    On one axis the distance is the area between the distribution functions F and G, so with b bins
    of equal width

    .. math:: d = \frac{1}{m b} \sum_{i=1}^m \sum_{j=1}^b | F_{ij} - G_{ij} |

    Ramtoula et al., *Visual DNA* (CVPR 2023) count it in bins: b times as much.

    Parameters
    ----------
    sources, targets
        Histograms ``[S, m, b]`` and ``[T, m, b]``, rows summing to 1.

    Returns
    -------
    numpy.ndarray
        Shape ``[S, T]``, from 0 to 1.
    """
    own, others = (r.cumsum(axis=2).reshape(len(r), -1) for r in (sources, targets))  # [k, m * b]
    return np.asarray(cdist(own, others, metric="cityblock") / own.shape[1])


def histogram_moments(rows: FloatArray, spec: Spec) -> tuple[FloatArray, FloatArray]:
    """Return mean and variance of each feature as the histograms tell them.

    A value counts as the centre of its bin, and what lies outside the edges as the outermost one.

    Parameters
    ----------
    rows
        Histograms, shape ``[k, m, b]``.
    spec
        Supplies the bins' centres.

    Returns
    -------
    means, variances : ndarray
        Shape ``[k, m]`` each, in feature units and their squares.
    """
    means = feature_means(rows, spec)  # [k, m]
    squares = np.einsum("kmb,mb->km", rows, spec.centres**2)  # [k, m]
    return means, np.maximum(squares - means**2, 0.0)  # rounding may leave -1e-17


@register
class VisualDna(Measure):
    """VDNA: how far the mass of each feature's histogram has to be moved."""

    name = "vdna"
    source = "Ramtoula et al., CVPR 2023"
    description = "earth mover's distance of each feature's histogram, mean over the features"

    def matrix(self, sources: Sequence[Task], targets: Sequence[Task]) -> FloatArray:
        """Compare every source with every target, see `Measure.matrix`."""
        own, others, _ = both_rows(sources, targets)
        return earth_movers(own, others)


@register
class FrechetDiagonal(Measure):
    r"""Fréchet distance of independent Gaussians, one a feature, from the histograms.

    :math:`\sum_i (\mu_i - \nu_i)^2 + (\sigma_i - \tau_i)^2`: what Heusel et al. (2017) compute, as
    if features were independent.
    """

    name = "fid-diagonal"
    source = "Heusel et al., NeurIPS 2017; diagonal covariances"
    description = "Fréchet distance from the histograms' means and variances"

    def matrix(self, sources: Sequence[Task], targets: Sequence[Task]) -> FloatArray:
        """Compare every source with every target, see `Measure.matrix`."""
        own, others, spec = both_rows(sources, targets)
        return np.asarray(cdist(_gaussians(own, spec), _gaussians(others, spec), "sqeuclidean"))


def _gaussians(rows: FloatArray, spec: Spec) -> FloatArray:
    means, variances = histogram_moments(rows, spec)
    return np.concatenate([means, np.sqrt(variances)], axis=1)


@register
class FluxMoments(Measure):
    """Distance between descriptors of means and variances, as clustered training takes them.

    FLUX describes a client by the moments of its latent features. Here these are the moments that
    the histograms tell, in units of each feature's bin range, so that no feature outweighs others.
    """

    name = "flux-moments"
    source = "Fenoglio et al., NeurIPS 2025; marginal part"
    description = "Euclidean distance between feature means and variances"

    def matrix(self, sources: Sequence[Task], targets: Sequence[Task]) -> FloatArray:
        """Compare every source with every target, see `Measure.matrix`."""
        own, others, spec = both_rows(sources, targets)
        return np.asarray(cdist(_descriptors(own, spec), _descriptors(others, spec)))


def _descriptors(rows: FloatArray, spec: Spec) -> FloatArray:
    means, variances = histogram_moments(rows, spec)
    width = spec.upper_array - spec.lower_array  # [m]
    return np.concatenate([means / width, variances / width**2], axis=1)
