"""How certain it is that one model beats another on the same images."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Difference(NamedTuple):
    """A difference in balanced accuracy and its standard error."""

    value: float
    error: float


def balanced_accuracy(hits: NDArray[np.bool_], labels: NDArray[np.int64]) -> float:
    """Return the mean over the classes present of the share of hits, rounded to 12 digits.

    Parameters
    ----------
    hits : ndarray of bool, shape [n]
        Which images were classified correctly.
    labels : ndarray of int64, shape [n]
        Their classes.
    """
    shares = [hits[labels == label].mean() for label in np.unique(labels)]
    return round(float(np.mean(shares)), 12)


def paired_difference(
    ours: NDArray[np.bool_],
    theirs: NDArray[np.bool_],
    labels: NDArray[np.int64],
    subjects: NDArray[np.str_],
) -> Difference:
    """Compare two models image by image.

    The standard error is the cluster-robust one (Liang and Zeger 1986): images of one subject
    count as one draw. With u_i = (d_i - mean of d in the class of i) / (C n_c) for image i of a
    class with n_c images among C classes, and d_i in {-1, 0, 1} the difference in hits,

        error^2 = S / (S - 1) * sum over the S subjects of (sum of u_i of a subject)^2.

    Parameters
    ----------
    ours, theirs : ndarray of bool, shape [n]
        Which images each model classified correctly.
    labels, subjects : ndarray, shape [n]
        Class and subject of each image.

    Returns
    -------
    Difference
        Of the balanced accuracies, ours minus theirs; the error is infinite for one subject.
    """
    difference = ours.astype(np.float64) - theirs  # [n]
    _, of_class, counts = np.unique(labels, return_inverse=True, return_counts=True)
    means = np.bincount(of_class, difference) / counts  # [C]
    rest = (difference - means[of_class]) / (len(counts) * counts[of_class])  # [n]
    _, of_subject = np.unique(subjects, return_inverse=True)
    sums = np.bincount(of_subject, rest)  # [S]
    if len(sums) < 2:
        return Difference(float(means.mean()), float("inf"))
    error = np.sqrt(len(sums) / (len(sums) - 1) * np.sum(sums**2))
    return Difference(float(means.mean()), float(error))
