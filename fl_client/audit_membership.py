"""Membership games: was this image, or this patient, among those that the site counted?

Two attackers play. The *worst case* knows every other image and that one of two images, in
different bins of every feature, was counted: nobody can know more, and the declared privacy is
about exactly this game (canaries, after Jagielski, Ullman and Oprea, arXiv 2006.07709). The
*realistic* attacker knows the features of one patient's images and how features are distributed
among everybody else's.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, vstack

from fl_client.audit_mechanism import Counts, Mechanism, made_up
from protocol.spec import Spec

BLOCK = 1_000_000  # values that are noised in one call
CANARIES = 8  # pairs of made-up images, so that all bins are tried
TARGETS, FEWEST = 200, 20  # of the realistic attacker, whose work grows with the cells read
CELLS = 50_000  # that are read of all targets together, about
Features = NDArray[np.float32]
Values = NDArray[np.float64]


class Scores(NamedTuple):
    """An attacker's scores [g] of games with the image (or patient) inside and outside."""

    inside: Values
    outside: Values


class People(NamedTuple):
    """A site's counted images as an attacker may know them.

    Attributes
    ----------
    bins : csr_array of int, shape [n, m * b]
        What each image adds to the counts.
    units : ndarray of int, shape [n]
        Whose image it is: patients, or the images themselves, numbered from 0.
    labels : ndarray of int, shape [n]
        Class of each image.
    width : int
        Number of bins b.
    """

    bins: csr_array
    units: NDArray[np.int64]
    labels: NDArray[np.int64]
    width: int

    @property
    def patients(self) -> csr_array:
        """What each patient adds to the counts, [p, m * b]."""
        images, count = len(self.units), int(self.units.max()) + 1
        ones = np.ones(images, np.int64)
        of_whom = csr_array((ones, (self.units, np.arange(images))), (count, images))
        return csr_array(of_whom @ self.bins)


def population(
    mechanism: Mechanism,
    spec: Spec,
    features: Features,
    units: NDArray[np.int64],
    labels: NDArray[np.int64],
) -> People:
    """Count every image alone, with the mechanism's own counting."""
    rows = [csr_array(mechanism.counts(row[None]).reshape(1, -1)) for row in features]
    return People(csr_array(vstack(rows)), units, labels, spec.bins)


def worst_case(
    mechanism: Mechanism,
    spec: Spec,
    others: Features,
    cap: int,
    games: int,
    answers: int,
    rng: np.random.Generator,
) -> Scores:
    """Play the worst-case attacker.

    Parameters
    ----------
    mechanism : Mechanism
        What is attacked.
    spec : Spec
        Of the canaries' features.
    others : ndarray of float32, shape [n, M]
        Everybody else's images.
    cap : int
        Number of images of the patient that is exchanged.
    games : int
        In all, half of them on each of the two data sets.
    answers : int
        How many different answers the attacker gets to average.
    rng : numpy.random.Generator
        Chooses the canaries; the noise is the mechanism's own.
    """
    inside: list[Values] = []
    outside: list[Values] = []
    for share in np.array_split(np.arange(games // 2), CANARIES):
        bins = rng.integers(0, spec.bins, spec.width)
        other = (bins + rng.integers(1, spec.bins, spec.width)) % spec.bins
        first, second = (
            mechanism.counts(np.concatenate([others, np.tile(made_up(spec, b), (cap, 1))])).ravel()
            for b in (bins, other)
        )
        read = np.flatnonzero(first - second)
        direction = (first - second)[read] / np.linalg.norm((first - second)[read])
        middle = (first + second)[read] / 2
        for counts, scores in ((first, inside), (second, outside)):
            games_of = np.tile(counts[read], (len(share), 1))  # [g, cells that are read]
            scores.append((released(mechanism, games_of, answers) - middle) @ direction)
    return Scores(np.concatenate(inside), np.concatenate(outside))


def realistic(
    mechanism: Mechanism,
    people: People,
    sigma: float,
    games: int,
    answers: int,
    rng: np.random.Generator,
) -> Scores:
    """Play the likelihood-ratio attacker who knows one patient's features and the population.

    The population is everybody else at the site, which the attacker knows exactly. A game without
    the target holds as many patients as the site has, drawn with replacement from the population;
    one with the target holds one fewer, and the target. The score is the Gaussian log-likelihood
    ratio of the released counts in the bins that the target falls in.

    Parameters
    ----------
    mechanism, people
        What is attacked, and the site's patients.
    sigma : float
        Declared noise, which the attacker knows.
    games : int
        In all, half of them with the target.
    answers, rng
        See `worst_case`.
    """
    patients = people.patients
    size = patients.shape[0]
    inside: list[Values] = []
    outside: list[Values] = []
    read_each = people.bins.nnz // size
    targets = rng.permutation(size)[: max(FEWEST, min(TARGETS, CELLS // read_each))]
    each = max(1, games // (2 * len(targets)))
    for target in targets:
        read = patients[[target]].indices
        there = patients[:, read].toarray()  # [p, cells that are read]
        own, others = there[target], np.delete(there, target, axis=0)
        score = _ratio(others, own, size, sigma)
        for present, scores in ((1, inside), (0, outside)):
            chance = np.full(size - 1, 1 / (size - 1))
            counts = rng.multinomial(size - present, chance, each) @ others + present * own
            scores.append(score(released(mechanism, counts, answers)))
    return Scores(np.concatenate(inside), np.concatenate(outside))


def released(mechanism: Mechanism, counts: Counts, answers: int = 1) -> Values:
    """Release counts [g, c] of many games at once and average the answers, float64 [g, c]."""
    result = np.empty(counts.shape)
    step = max(1, BLOCK // counts.shape[1])
    for start in range(0, len(counts), step):
        part = counts[start : start + step]
        result[start : start + step] = (
            sum(mechanism.release(part).astype(np.float64) for _ in range(answers)) / answers
        )
    return result


def _ratio(known: Counts, own: Counts, size: int, sigma: float) -> Any:
    """Return the log-likelihood ratio's function of released counts [g, c].

    `known` [a, c] are the population's contributions in the cells that are read and `own` [c] the
    target's. Where cells outnumber patients, their correlations count for less.
    """
    people, cells = known.shape
    mean = known.mean(axis=0)  # [c]
    variance = (known.sum(axis=0) + known.mean()) / (people + 1)  # [c], never 0
    shrink = cells / (cells + people)
    shift = own - mean  # of the released counts, when the target is in
    # the counts' covariance is diag(alone) + together.T @ together
    alone = size * shrink * variance + sigma**2
    together = math.sqrt(size * (1 - shrink) / people) * (known - mean)
    weights = _solve(alone, together, shift)
    return lambda counts: (counts - size * mean - shift / 2) @ weights


def _solve(diagonal: Values, rows: Values, right: Values) -> Values:
    """Solve (diag(diagonal) + rows.T @ rows) x = right, by whichever side of rows is shorter."""
    number, cells = rows.shape
    if cells <= number:
        matrix: Values = np.diag(diagonal) + rows.T @ rows
        return np.asarray(np.linalg.solve(matrix, right), np.float64)
    scaled = rows / diagonal  # Woodbury's identity
    inner = np.linalg.solve(np.eye(number) + scaled @ rows.T, scaled @ right)
    return np.asarray(right / diagonal - scaled.T @ inner, np.float64)
