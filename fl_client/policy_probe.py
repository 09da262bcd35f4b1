"""Linear probes on frozen features, and how well they classify: the judges of an augmentation."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fl_client.site import Site
from protocol.errors import DataError

Features = NDArray[np.float32]
Labels = NDArray[np.int64]
Rows = NDArray[np.int64]

STRENGTHS = (1.0, 10.0, 100.0, 1000.0)
"""Inverse regularisation that plain images choose among."""

FOLDS = 3
_FLOOR = 1e-6  # probability of a class that the probe has never seen


class Verdict(NamedTuple):
    """How well a probe classifies.

    Attributes
    ----------
    recall : float
        Mean recall over the classes present: balanced accuracy.
    loss : float
        Mean over the classes present of their mean cross entropy.
    """

    recall: float
    loss: float


class Scale(NamedTuple):
    """From features to a probe's inputs: each of mean 0 and variance 1 / m over plain images."""

    mean: Features
    factor: Features

    @classmethod
    def of(cls, features: Features) -> Scale:
        """Measure features [n, m]; one that is constant over them counts for nothing."""
        spread = features.std(axis=0)
        factor = np.divide(1, spread, out=np.zeros_like(spread), where=spread > 1e-6)
        return cls(features.mean(axis=0), factor / np.float32(np.sqrt(features.shape[1])))

    def __call__(self, features: Features) -> Features:
        """Scale features [n, m]."""
        return (features - self.mean) * self.factor


def view_weights(labels: Labels, images: Rows, classes: int) -> NDArray[np.float64]:
    """Return the weight of each view, [k]: classes count alike, and within one its images.

    Parameters
    ----------
    labels : ndarray of int64, shape [k]
        Class of each view's image.
    images : ndarray of int64, shape [k]
        Which image it is of: with more views, an image does not weigh more.
    classes : int
        Number of classes.

    Returns
    -------
    ndarray of float64
        Their sum is the number of images.
    """
    unique, place, times = np.unique(images, return_inverse=True, return_counts=True)
    held = np.bincount(labels, weights=1 / times[place], minlength=classes)  # images a class
    present = int((held > 0).sum())
    weights: NDArray[np.float64] = len(unique) / (present * held[labels] * times[place])
    return weights


def fit_probe(
    features: Features, labels: Labels, images: Rows, classes: int, strength: float
) -> Any:
    """Fit a multinomial logistic regression to scaled features [k, m] of views."""
    from sklearn.linear_model import LogisticRegression

    weights = view_weights(labels, images, classes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it need not converge to the last digit to be a judge
        return LogisticRegression(C=strength, max_iter=200, tol=1e-3).fit(features, labels, weights)


def judge(probe: Any, features: Features, labels: Labels, classes: int) -> Verdict:
    """Return how well a probe classifies scaled features [k, m]."""
    chances = np.full((len(labels), classes), _FLOOR)  # [k, classes]
    chances[:, probe.classes_] = np.maximum(probe.predict_proba(features), _FLOOR)
    own = -np.log(chances[np.arange(len(labels)), labels])  # [k]
    right = chances.argmax(axis=1) == labels
    present = np.unique(labels)
    recall = np.mean([right[labels == label].mean() for label in present])
    loss = np.mean([own[labels == label].mean() for label in present])
    return Verdict(round(float(recall), 12), float(loss))


def mean_verdict(verdicts: Sequence[Verdict]) -> Verdict:
    """Return the mean of several verdicts."""
    recall, loss = np.mean([tuple(verdict) for verdict in verdicts], axis=0)
    return Verdict(float(recall), float(loss))


def folds_of(site: Site, rows: Rows, seed: int) -> tuple[list[tuple[Rows, Rows]], bool]:
    """Deal images out to folds, by class and, where every class has two subjects, by subject.

    Returns
    -------
    folds : list of (ndarray, ndarray)
        The places in `rows` of the images to fit on and of those left out.
    apart : bool
        Whether no subject is on both sides. If not, images left out resemble those fitted on.

    Raises
    ------
    DataError
        If there are too few images.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    labels = site.labels[rows]
    classes, held = np.unique(labels, return_counts=True)
    if len(classes) < 2 or held.min() < FOLDS:
        raise DataError(
            f"site {site.name} has too few training images to choose an augmentation policy by: "
            f"it needs two classes, and {FOLDS} images of each"
        )
    names = np.array([site.images[row].subject for row in rows])
    parts = min(FOLDS, min(len(np.unique(names[labels == label])) for label in classes))
    apart = parts > 1
    how = {"shuffle": True, "random_state": seed % 2**32}
    if apart:
        folds = list(StratifiedGroupKFold(parts, **how).split(rows, labels, names))
    else:
        folds = list(StratifiedKFold(FOLDS, **how).split(rows, labels))
    return [(fitted, out) for fitted, out in folds if len(out)], apart
