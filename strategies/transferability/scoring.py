"""All scores of one model on one target at once, as the target's site computes them."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from protocol.errors import DataError
from strategies.transferability.checks import class_indices, finite_rows, require_two_classes
from strategies.transferability.evidence import logme
from strategies.transferability.h_score import h_score, h_score_shrunk
from strategies.transferability.label_transfer import distributions, leep, nce

SCORES = ("h-score", "h-score-shrunk", "nce", "leep", "logme")
"""Names of the scores, which are names of measures; of all of them higher promises more."""

_LARGEST = 1e12
"""Beyond it squares of what a broken model answers would overflow."""


def score_model(
    features: ArrayLike, probabilities: ArrayLike, labels: ArrayLike
) -> dict[str, float]:
    """Return how well a source's model fits a target's images, by several scores.

    Parameters
    ----------
    features : array of numbers, shape [n, h]
        The model's embeddings of the target's images.
    probabilities : array of numbers, shape [n, source classes]
        Its probabilities of the source's classes.
    labels : array of int, shape [n]
        The target's own labels.

    Returns
    -------
    dict
        Finite value by name of the measure, see `SCORES`.

    Raises
    ------
    DataError
        If the arrays do not fit together, hold what is not finite or too large to reckon with, or
        labels are of one class.
    """
    rows, theta = finite_rows(features, "features"), distributions(probabilities)
    if len(rows) != len(theta):
        raise DataError(f"features are of {len(rows)} images, probabilities of {len(theta)}")
    indices = class_indices(labels, len(rows))
    require_two_classes(indices)
    if np.abs(rows).max() > _LARGEST:
        raise DataError(f"features exceed {_LARGEST:.0e}: leave that model out")
    return {
        "h-score": h_score(rows, indices),
        "h-score-shrunk": h_score_shrunk(rows, indices),
        "nce": nce(np.argmax(theta, axis=1), indices),
        "leep": leep(theta, indices),
        "logme": logme(rows, indices),
    }
