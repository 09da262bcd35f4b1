"""Effort of a trial: how many of the images it takes, and how many epochs."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold

from fl_client.splits import Split
from protocol.errors import DataError

EPOCHS = 20
FOLDS = 3
FEWEST = 48
"""Images of a split below which no share is taken: fewer would only be noise."""


@dataclass(frozen=True)
class Effort:
    """What goes into a trial: a share of the images of each split, and epochs."""

    share: float
    epochs: int


def ladder(rounds: int) -> list[Effort]:
    """Return the efforts of a search, the least first: half of the rounds grow the images.

    Examples
    --------
    >>> [(effort.share, effort.epochs) for effort in ladder(5)]
    [(0.25, 20), (0.5, 20), (1.0, 20), (1.0, 40), (1.0, 80)]
    """
    growing = rounds // 2 + 1
    shares = [Effort(2.0 ** (step + 1 - growing), EPOCHS) for step in range(growing)]
    return shares + [Effort(1.0, EPOCHS * 2**step) for step in range(1, rounds - growing + 1)]


def stratified(rows: NDArray[np.int64], labels: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Return rows in an order of which every beginning holds the classes in about their shares.

    Parameters
    ----------
    rows : ndarray of int64, shape [k]
        Indices of images.
    labels : ndarray of int64, shape [n]
        Label of each image.
    seed : int
        Order within a class; one image of every class comes first.
    """
    shuffled = np.random.default_rng(seed).permutation(rows)
    of_class = labels[shuffled]
    position = np.empty(len(shuffled))
    for label in np.unique(of_class):
        members = np.flatnonzero(of_class == label)
        position[members] = np.arange(len(members)) / len(members)
    return shuffled[np.argsort(position, kind="stable")]


def share_of(order: NDArray[np.int64], share: float) -> NDArray[np.int64]:
    """Return the beginning of an order of images: a share of them, and never too few."""
    return order[: max(FEWEST, round(share * len(order)))]


def folds_of(
    known: NDArray[np.int64], labels: NDArray[np.int64], subjects: NDArray[np.str_], seed: int
) -> list[Split]:
    """Return training and validation images of each fold; no subject is in both.

    Parameters
    ----------
    known : ndarray of int64, shape [k]
        Images to divide.
    labels, subjects : ndarray, shape [n]
        Label and subject of every image.
    seed : int
        Of the division.

    Raises
    ------
    DataError
        If there are too few subjects.
    """
    if len(np.unique(subjects[known])) < FOLDS:
        raise DataError(
            f"training and validation images are of fewer than {FOLDS} subjects: candidates cannot "
            "be judged on others than they are trained on"
        )
    dealt = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes with fewer subjects than folds
        parts = list(dealt.split(known, labels[known], subjects[known]))
    return [{"train": known[a], "val": known[b]} for a, b in parts if len(a) and len(b)]
