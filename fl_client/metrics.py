"""How good a model's answers are, by objective; the decisive figures have one name for all.

``balanced_accuracy`` and ``auroc`` decide and are reported for every objective; what an objective
has of its own stands beside them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax
from sklearn.metrics import (
    average_precision_score,
    cohen_kappa_score,
    recall_score,
    roc_auc_score,
)

Logits = NDArray[np.float64]
NAN = float("nan")


def class_scores(labels: NDArray[np.int64], logits: Logits) -> dict[str, float]:
    """Score answers to which of several classes an image is of.

    Parameters
    ----------
    labels : ndarray of int64, shape [n]
        Indices of the classes.
    logits : ndarray of float64, shape [n, classes]
        The answers.

    Returns
    -------
    dict
        ``balanced_accuracy`` (mean recall over the classes present) and ``auroc`` (macro, one
        against the rest; NaN where fewer than two classes are present).
    """
    if not len(labels):
        return {"balanced_accuracy": NAN, "auroc": NAN}
    present, chances = np.unique(labels), softmax(logits, axis=1)
    recall = recall_score(
        labels, logits.argmax(axis=1), labels=present, average="macro", zero_division=0
    )
    areas = [roc_auc_score(labels == c, chances[:, c]) for c in present if len(present) > 1]
    return {
        # the last bit depends on the order of summing: what is equal must compare as equal
        "balanced_accuracy": round(float(recall), 12),
        "auroc": _mean(areas),
    }


def grade_scores(
    labels: NDArray[np.int64], logits: Logits, ranks: tuple[int, ...]
) -> dict[str, float]:
    """Score answers to which grade an image has, beside `class_scores`.

    Parameters
    ----------
    labels, logits
        As for `class_scores`.
    ranks : tuple of int
        Place of each class among all grades, ascending: grades that the site does not hold lie
        between those that it does.

    Returns
    -------
    dict
        ``quadratic_kappa`` (Cohen's, weighted by the squared distance of grades; NaN where all
        grades are one) and ``grade_error`` (mean distance of grades, 0 is best).
    """
    truth, said = np.array(ranks)[labels], np.array(ranks)[logits.argmax(axis=1)]  # [n] each
    if len(np.union1d(truth, said)) < 2:
        kappa = NAN
    else:
        kappa = cohen_kappa_score(truth, said, labels=range(max(ranks) + 1), weights="quadratic")
    return {
        "quadratic_kappa": round(float(kappa), 12),
        "grade_error": float(np.abs(truth - said).mean()) if len(truth) else NAN,
    }


def label_scores(targets: NDArray[np.floating], logits: Logits) -> dict[str, float]:
    """Score answers to which of several labels an image has: any number of them.

    Every figure is a mean over the labels that some images have and some have not; NaN without any.

    Parameters
    ----------
    targets : ndarray, shape [n, classes]
        1 where an image has the label, else 0.
    logits : ndarray of float64, shape [n, classes]
        The answers.

    Returns
    -------
    dict
        ``balanced_accuracy`` (mean recall of having a label and of not having it, where a label is
        said from a probability of one half on), ``auroc`` and ``average_precision``.
    """
    chances = expit(logits)
    held = targets.astype(bool)
    told = [c for c in range(held.shape[1]) if len(np.unique(held[:, c])) == 2]
    recalls = [
        recall_score(held[:, c], chances[:, c] >= 0.5, average="macro", zero_division=0)
        for c in told
    ]
    return {
        "balanced_accuracy": round(_mean(recalls), 12),
        "auroc": _mean([roc_auc_score(held[:, c], chances[:, c]) for c in told]),
        "average_precision": _mean(
            [average_precision_score(held[:, c], chances[:, c]) for c in told]
        ),
    }


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else NAN
