"""What a number of won games proves: bounds on epsilon from true and false positive rates.

An attacker that tells two neighbouring data sets apart better than the declared privacy permits
proves that the mechanism is weaker than declared. All rates are bounded after Clopper and Pearson,
so that the bounds hold for any number of games.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import log_ndtr
from scipy.stats import beta, norm, rankdata

CANDIDATES = 200  # thresholds of which the best is taken
RATES = 4  # of which a `Certificate` is made: two thresholds with two rates each
Values = NDArray[np.float64]


class Certificate(NamedTuple):
    """Lower bounds that hold together.

    Attributes
    ----------
    epsilon : float
        Of epsilon at the delta asked for, whatever the mechanism.
    mu : float
        Of the parameter mu of Gaussian differential privacy (Dong, Roth and Su,
        arXiv 1905.02383).
    epsilon_gaussian : float
        Epsilon at the same delta of a mechanism with exactly that mu: tighter, and right for
        mechanisms that add Gaussian noise.
    """

    epsilon: float
    mu: float
    epsilon_gaussian: float


def rate_at_least(hits: ArrayLike, games: int, alpha: float) -> Values:
    """Return the lower Clopper-Pearson bound of a rate, wrong with probability `alpha` at most."""
    found = np.asarray(hits, dtype=np.float64)
    lowest = beta.ppf(alpha, np.maximum(found, 1), games - found + 1)
    return np.where(found > 0, lowest, 0.0)


def rate_at_most(hits: ArrayLike, games: int, alpha: float) -> Values:
    """Return the upper Clopper-Pearson bound of a rate, wrong with probability `alpha` at most."""
    return 1 - rate_at_least(games - np.asarray(hits, dtype=np.float64), games, alpha)


def gaussian_delta(mu: float, epsilon: float) -> float:
    """Return delta at `epsilon` of a mu-GDP mechanism (Dong et al., corollary 2.13)."""
    first = float(norm.cdf(-epsilon / mu + mu / 2))
    return first - math.exp(epsilon + float(log_ndtr(-epsilon / mu - mu / 2)))


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Return epsilon at `delta` of a mu-GDP mechanism; 0 for mu at most 0."""
    if mu <= 0 or gaussian_delta(mu, 0.0) <= delta:
        return 0.0
    highest = mu * mu / 2 + mu * float(norm.isf(delta))  # where the first term alone is delta
    return float(brentq(lambda epsilon: gaussian_delta(mu, epsilon) - delta, 0.0, highest))


def declared_mu(rho: float) -> float:
    r"""Return mu of Gaussian noise that spends `rho` of zCDP: :math:`\mu = \sqrt{2 \rho}`."""
    return math.sqrt(2 * rho)


def gaussian_auc(mu: float) -> float:
    r"""Return the best AUC against a mu-GDP mechanism, :math:`\Phi(\mu / \sqrt 2)`."""
    return float(norm.cdf(mu / math.sqrt(2)))


def gaussian_tpr(mu: float, fpr: float) -> float:
    r"""Return the best true positive rate, :math:`\Phi(\mu + \Phi^{-1}(\mathrm{fpr}))`."""
    return float(norm.cdf(mu + norm.ppf(fpr)))


def auc(inside: NDArray[Any], outside: NDArray[Any]) -> float:
    """Return the probability that a score of `inside` beats one of `outside`; ties count half."""
    ranks = rankdata(np.concatenate([inside, outside]))[: len(inside)]
    wins = ranks.sum() - len(inside) * (len(inside) + 1) / 2
    return float(wins / (len(inside) * len(outside)))


def tpr_at(inside: NDArray[Any], outside: NDArray[Any], fpr: float) -> float:
    """Return the share of `inside` above the threshold that at most `fpr` of `outside` exceed."""
    threshold = np.quantile(outside, 1 - fpr, method="higher")
    return float(np.mean(inside > threshold))


def certify(
    inside: NDArray[Any], outside: NDArray[Any], *, delta: float, alpha: float
) -> Certificate:
    """Bound epsilon and mu from below by the scores of an attacker's games.

    Thresholds are chosen on one half of the games and the bounds made of the other half.

    Parameters
    ----------
    inside, outside : ndarray of float, shape [g]
        Scores, independent of each other, of games on the one data set and on its neighbour.
    delta : float
        At which epsilon is wanted.
    alpha : float
        Probability that any of the bounds is wrong, at most.
    """
    half_in, half_out = len(inside) // 2, len(outside) // 2
    choose = np.concatenate([inside[:half_in], outside[:half_out]])
    thresholds = np.unique(np.quantile(choose, np.linspace(0, 1, CANDIDATES)))
    chosen = _bounds(inside[:half_in], outside[:half_out], thresholds, delta, alpha / RATES)
    best = thresholds[[int(np.argmax(values)) for values in chosen]]
    epsilons, mus = _bounds(inside[half_in:], outside[half_out:], best, delta, alpha / RATES)
    epsilon, mu = float(epsilons[0]), max(0.0, float(mus[1]))
    return Certificate(epsilon, mu, gaussian_epsilon(mu, delta))


def _bounds(
    inside: NDArray[Any], outside: NDArray[Any], thresholds: Values, delta: float, alpha: float
) -> tuple[Values, Values]:
    """Return lower bounds of epsilon and of mu at each threshold."""
    true = _above(inside, thresholds)
    false = _above(outside, thresholds)
    tpr = rate_at_least(true, len(inside), alpha)
    fpr = rate_at_most(false, len(outside), alpha)
    with np.errstate(divide="ignore", invalid="ignore"):
        # (epsilon, delta)-DP: tpr <= e^epsilon fpr + delta, and the same of the complements
        accept = np.log(np.maximum(tpr - delta, 0) / fpr)
        reject = np.log(np.maximum(1 - fpr - delta, 0) / (1 - tpr))
        mus = norm.ppf(tpr) - norm.ppf(fpr)
    epsilons = np.maximum(np.maximum(accept, reject), 0.0)
    return epsilons, np.where(np.isfinite(mus), mus, 0.0)


def _above(scores: NDArray[Any], thresholds: Values) -> NDArray[np.int64]:
    """Count the scores above each threshold."""
    return len(scores) - np.searchsorted(np.sort(scores), thresholds, side="right")
