"""What a release tells of the site as a whole: shares of classes, a rare subgroup, likely images.

Differential privacy protects each patient, not what is true of the patients together. So these
attacks have no limit to stay below; how well they work is measured and said.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls
from scipy.sparse import csr_array

from fl_client.audit_bounds import auc
from fl_client.audit_mechanism import Counts, Mechanism
from fl_client.audit_membership import People, released

RARE = 0.05  # share of the images that a rare subgroup has
VALUES = 4_000_000  # that are noised in one attack, about; few games where a release is large
MOST, FEWEST = 400, 20  # games of one attack

Values = NDArray[np.float64]


class Shares(NamedTuple):
    """Mean absolute error of estimated class shares, and of the guess that all are equal."""

    error: float
    trivial: float


class Rebuilt(NamedTuple):
    """How well released counts tell counted images from others.

    Attributes
    ----------
    auc : float
        That a counted image fits the counts better than one that was not counted.
    first : float
        How often the image that fits best of all was a counted one.
    chance : float
        The same, by guessing.
    """

    auc: float
    first: float
    chance: float


class Classes(NamedTuple):
    """What the attacker knows of each class, and the images that sites are drawn from.

    Attributes
    ----------
    means : ndarray of float, shape [m * b, c]
        Mean contribution to the counts of the images of each class, among half the patients.
    members : list of csr_array
        Contributions of each class's images, of the other half.
    size : int
        Number of images of a site.
    """

    means: Values
    members: list[csr_array]
    size: int

    def draw(self, numbers: Counts, rng: np.random.Generator) -> Counts:
        """Return the counts [g, m * b] of sites with `numbers` [g, c] of images of each class."""
        counts = np.zeros((len(numbers), self.means.shape[0]), np.int64)
        for wanted, rows in zip(numbers.T, self.members, strict=True):
            even = np.full(rows.shape[0], 1 / rows.shape[0])
            counts += rng.multinomial(wanted, even) @ rows
        return counts


def split_classes(people: People, rng: np.random.Generator) -> Classes | None:
    """Halve the patients at random; None unless two classes are in both halves."""
    known = _half(people, rng)
    classes = np.intersect1d(people.labels[known], people.labels[~known])
    if len(classes) < 2:
        return None
    of_class = [people.labels == label for label in classes]
    means = [np.asarray(people.bins[known & own].mean(axis=0)).ravel() for own in of_class]
    members = [people.bins[~known & own] for own in of_class]
    return Classes(np.stack(means, axis=1), members, len(people.labels))


def class_shares(mechanism: Mechanism, classes: Classes, rng: np.random.Generator) -> Shares:
    """Estimate the shares of classes from releases, by non-negative least squares.

    Sites have random shares (uniform on the simplex); the released counts of each are explained as
    a mixture of the attacker's mean counts of the classes.
    """
    cells, number = classes.means.shape
    numbers = rng.multinomial(classes.size, rng.dirichlet(np.ones(number), _rounds(cells)))
    basis, triangle = np.linalg.qr(classes.means)  # least squares in c instead of m * b equations
    answers = released(mechanism, classes.draw(numbers, rng)) @ basis / classes.size  # [g, c]
    found = np.stack([nnls(triangle, answer)[0] for answer in answers]) + 1e-12
    guess = found / found.sum(axis=1, keepdims=True)
    truth = numbers / classes.size
    return Shares(float(np.abs(guess - truth).mean()), float(np.abs(1 / number - truth).mean()))


def rare_subgroup(
    mechanism: Mechanism, classes: Classes, sigma: float, rng: np.random.Generator
) -> float:
    """Return the AUC of telling sites with 5 % of one class from sites without it.

    Each class in turn is the rare one, among the others in equal shares. The attacker weighs each
    count by the inverse of its variance.
    """
    cells, number = classes.means.shape
    each, rare = max(5, _rounds(cells) // (2 * number)), max(1, round(RARE * classes.size))
    found = []
    for place in range(number):
        usual = np.where(np.arange(number) == place, 0, 1 / (number - 1))
        numbers = rng.multinomial(classes.size - rare, usual, each)
        extra = np.stack([rng.multinomial(rare, usual, each), np.zeros_like(numbers)])
        extra[1, :, place] = rare  # [without and with, g, c]
        common = classes.means @ usual  # [m * b]
        variance = classes.size * common + sigma**2 + 0.5
        weights = (classes.means[:, place] - common) / variance
        outside, inside = (
            released(mechanism, classes.draw(numbers + more, rng)) @ weights for more in extra
        )
        found.append(auc(inside, outside))
    return float(np.mean(found))


def rebuild(mechanism: Mechanism, people: People, rng: np.random.Generator) -> Rebuilt:
    """Look for counted images by the fullest bin of every feature.

    In each game the images of a random half of the patients are counted, and the attacker ranks
    all images of the site by the number of features in which they fall in the fullest bin.
    """
    cells = people.bins.shape[1]
    found, first, chance = [], [], []
    for _ in range(_rounds(cells)):
        counted = _half(people, rng)
        counts = people.bins[counted].sum(axis=0)[None]
        answer = released(mechanism, counts).reshape(-1, people.width)  # [m, b]
        fullest = np.eye(people.width)[answer.argmax(axis=1)].ravel()  # [m * b]
        matches = people.bins @ fullest  # [n]
        found.append(auc(matches[counted], matches[~counted]))
        best = matches == matches.max()
        first.append(counted[best].mean())
        chance.append(counted.mean())
    return Rebuilt(float(np.mean(found)), float(np.mean(first)), float(np.mean(chance)))


def _half(people: People, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Choose the images [n] of half the patients."""
    size = int(people.units.max()) + 1
    return np.isin(people.units, rng.permutation(size)[: size // 2])


def _rounds(cells: int) -> int:
    return int(np.clip(VALUES // cells, FEWEST, MOST))
