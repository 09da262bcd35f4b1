"""What the release gate really adds: its answers from many fresh states, against exact counts.

The games of the worst case hold for the noise that they play with; this is about the bytes that
would leave. Were the gate as declared, each error (answer less exact count) would be one draw of
the discrete Gaussian of the declared width, on its own. Five tests look for anything else; an
intact gate fails any of them with a probability of `NOISE_ALARM` at most, whatever the games.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, binom, chi2, kstest, norm

from fl_client.audit_mechanism import Counts, Mechanism
from fl_client.audit_result import Asked

NOISE_ALARM = 1e-5  # that an intact gate fails any of the tests
STATES, FEWEST_STATES = 128, 12  # fresh states that are asked; wide releases are drawn slowly ...
MOST_DRAWN = 2_000_000  # ... so this many counts are drawn in all, about
QUERIES, REPEATED = 4, 8  # how often the first states are asked the same, and how many of them
TESTS = 5
MOST_PAIRED = 500  # counts of a release of which every two are compared
_WIDE = 1000.0  # counts; of wider noise the steps between integers do not matter
_BODY = 6.0  # standard deviations within which discrete noise is made normal exactly
Values = NDArray[np.float64]


def ask(
    mechanism: Mechanism, exact: Counts, images: int, sigma: float, rng: np.random.Generator
) -> Asked:
    """Ask the gate for the same release from several fresh states, and look at what it adds.

    Parameters
    ----------
    mechanism : Mechanism
        Whose gate.
    exact : ndarray of int64, shape [m, b]
        What it should release but for the noise.
    images : int
        How many were counted: the sum of each row.
    sigma : float
        Declared noise.
    rng : numpy.random.Generator
        Makes integers continuous.
    """
    states = max(FEWEST_STATES, min(STATES, MOST_DRAWN // exact.size))
    answers = [mechanism.answers(QUERIES if s < REPEATED else 1) for s in range(states)]
    different = max(len(np.unique(state, axis=0)) for state in answers)
    errors = np.stack([state[0] for state in answers]) - exact  # [s, m, b]
    freedom = exact.size * (states - 1)
    alarm = _level(exact.size + len(exact) + 1) / 2
    least, most = np.sqrt(chi2.ppf([alarm, 1 - alarm], freedom) / freedom)
    return Asked(
        times=QUERIES,
        different=different,
        states=states,
        noise=_noise(errors, sigma),
        noise_least=float(least),
        noise_most=float(most),
        wrong=_wrong_counts(exact, images) or _wrong_noise(errors, images, sigma, rng),
    )


def _wrong_counts(exact: Counts, images: int) -> str:
    sums = np.unique(exact.sum(axis=1))
    if list(sums) == [images]:
        return ""
    return f"rows of the counts hold {sums[0]} to {sums[-1]} images, counted are {images}"


def _wrong_noise(errors: Counts, images: int, sigma: float, rng: np.random.Generator) -> str:
    """Say what is wrong with errors [s, m, b], or nothing; the first test that fails decides."""
    normal = _as_normal(errors, sigma, rng)
    if wrong_size := _size(errors, normal, sigma):
        return wrong_size
    if _fails(_missing(errors, sigma)):
        exact = 100 * float(np.mean(errors == 0))
        return f"the gate adds no noise to some counts: {exact:.0f} % leave as they are"
    if _fails(_together(normal)):
        return "the gate's noise of one count depends on that of another"
    if _fails(_moved(normal)):
        released = images + errors.sum(axis=2).mean()
        return f"the gate releases other counts, of {released:.0f} images; counted are {images}"
    if _fails(np.array([kstest(normal.ravel(), "norm").pvalue])):
        return "the gate's noise is not distributed as declared"
    return ""


def _size(errors: Counts, normal: Values, sigma: float) -> str:
    """Compare the size of the noise, in all, in each row and in each count, with the declared."""
    freedom, bins, found = len(errors) - 1, errors.shape[2], _squares(normal)  # [m, b]
    cells = _two_sided(found, freedom)
    rows = _two_sided(found.sum(axis=1), freedom * bins)
    whole = _two_sided(found.sum(), freedom * found.size)
    every = np.concatenate([cells.ravel(), rows, whole[None]])
    if not _fails(every):
        return ""
    text = f"the gate's noise is {_noise(errors, sigma):.2f} times the declared one"
    bad = cells < _level(every.size)
    if not bad.any():
        bad |= rows[:, None] < _level(every.size)
    if 0 < bad.sum() < bad.size:
        part = _noise(errors[:, bad], sigma)
        text += f", in {bad.sum()} of {bad.size} counts {part:.2f} times"
    return text


def _missing(errors: Counts, sigma: float) -> Values:
    """Test whether more errors are 0, in all or in a row, than noise leaves at 0."""
    zeros = np.sum(errors == 0, axis=(0, 2))  # [m]
    each = errors.size // len(zeros)
    chance = _discrete(sigma)[0] if sigma < _WIDE else 1 / (sigma * math.sqrt(2 * math.pi))
    rows, whole = binom.sf(zeros - 1, each, chance), binom.sf(zeros.sum() - 1, errors.size, chance)
    return np.append(rows, whole)


def _together(normal: Values) -> Values:
    """Test pairs of counts, and the spread of sums over a row, a bin and all, for linked draws."""
    freedom, (_, rows, bins) = len(normal) - 1, normal.shape
    sums = (normal.sum(axis=2) / math.sqrt(bins), normal.sum(axis=1) / math.sqrt(rows))
    whole = normal.sum(axis=(1, 2))[:, None] / math.sqrt(rows * bins)
    spread = _two_sided(_squares(np.concatenate([*sums, whole], axis=1)), freedom)
    if rows * bins > MOST_PAIRED:
        return spread
    linked = np.atleast_2d(np.corrcoef(normal.reshape(len(normal), -1).T))
    square = np.minimum(linked[np.triu_indices(rows * bins, 1)] ** 2, 1.0)
    return np.append(spread, beta.sf(square, 0.5, (freedom - 1) / 2))


def _moved(normal: Values) -> Values:
    """Test whether the mean error is 0: of each count, of all counts, of sums of rows, of all."""
    mean = normal.mean(axis=0) * math.sqrt(len(normal))  # [m, b], standard normal
    rows, bins = mean.shape
    sums = np.append(mean.sum(axis=1) / math.sqrt(bins), mean.sum() / math.sqrt(rows * bins))
    single = chi2.sf(np.concatenate([mean.ravel(), sums]) ** 2, 1)
    return np.append(single, chi2.sf(np.sum(mean**2), mean.size))


def _as_normal(errors: Counts, sigma: float, rng: np.random.Generator) -> Values:
    """Return standard normal values [s, m, b], exactly such where errors are as declared.

    Each integer is spread at random over its share of the distribution. Far outside, where noise
    hardly comes, the plain quotient tells how far.
    """
    if sigma >= _WIDE:
        return (errors + rng.uniform(-0.5, 0.5, errors.shape)) / sigma
    chances = _discrete(sigma)
    beyond = np.append(np.cumsum(chances[::-1])[::-1], 0.0)  # of k and more, for k = 0, 1, ...
    chances[0] /= 2  # 0 belongs to both sides
    size, coin = np.abs(errors), rng.choice([-1, 1], errors.shape)
    near = np.minimum(size, len(chances) - 1)
    tail = beyond[near + 1] + rng.uniform(size=errors.shape) * chances[near]
    exact = np.where(errors == 0, coin, np.sign(errors)) * norm.isf(tail)
    return np.where(size > _BODY * sigma + 1, errors / sigma, exact)


def _noise(errors: Counts, sigma: float) -> float:
    """Return the standard deviation of errors [s, ...] over that of the declared noise."""
    variance = sigma**2
    if sigma < _WIDE:
        chances = _discrete(sigma)
        variance = 2 * float(np.sum(chances * np.arange(len(chances)) ** 2))
    return math.sqrt(_squares(errors).mean() / (len(errors) - 1) / variance)


def _discrete(sigma: float) -> Values:
    """Return the chances of 0, 1, 2 ... under the discrete Gaussian of this width."""
    weights = np.exp(-0.5 * (np.arange(math.ceil(12 * sigma) + 8) / sigma) ** 2)
    return np.asarray(weights / (2 * weights.sum() - weights[0]), np.float64)


def _squares(values: NDArray[np.float64] | Counts) -> Values:
    """Return the sums of squares about the mean, over the first axis."""
    return np.asarray(np.sum((values - values.mean(axis=0)) ** 2, axis=0), np.float64)


def _two_sided(statistic: Values | np.float64, freedom: int) -> Values:
    lower, upper = chi2.cdf(statistic, freedom), chi2.sf(statistic, freedom)
    return np.asarray(np.minimum(1.0, 2 * np.minimum(lower, upper)))


def _level(number: int) -> float:
    """Return below what one of so many p-values fails its test."""
    return NOISE_ALARM / TESTS / number


def _fails(chances: Values) -> bool:
    return bool(chances.min() < _level(chances.size))
