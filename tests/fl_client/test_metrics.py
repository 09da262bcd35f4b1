"""Figures of merit against their definitions, written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fl_client.metrics import class_scores, grade_scores, label_scores
from fl_client.model import LabelsLoss, class_weights

RNG = np.random.default_rng(5)


def area(held: NDArray[np.bool_], said: NDArray[np.float64]) -> float:
    """Return how often an image with the label is put above one without, ties half."""
    pairs = said[held][:, None] - said[~held][None]
    return float(((pairs > 0) + 0.5 * (pairs == 0)).mean())


def precision(held: NDArray[np.bool_], said: NDArray[np.float64]) -> float:
    """Return the mean precision at each image with the label, where nothing ties."""
    ordered = held[np.argsort(-said)]
    ranks = np.flatnonzero(ordered) + 1
    return float(np.mean(np.arange(1, len(ranks) + 1) / ranks))


def test_several_labels() -> None:
    targets = RNG.integers(0, 2, (40, 5)).astype(np.float32)
    targets[:, 3], targets[:, 4] = 0, 1  # tell nothing
    logits = RNG.normal(size=(40, 5)) + targets
    found = label_scores(targets, logits)
    held = targets.astype(bool)
    assert found["auroc"] == pytest.approx(
        np.mean([area(held[:, c], logits[:, c]) for c in range(3)])
    )
    assert found["average_precision"] == pytest.approx(
        np.mean([precision(held[:, c], logits[:, c]) for c in range(3)])
    )
    said = logits >= 0
    recalls = [
        (said & held).sum(0)[:3] / held.sum(0)[:3] / 2,
        ((~said & ~held).sum(0)[:3] / (~held).sum(0)[:3]) / 2,
    ]
    assert found["balanced_accuracy"] == pytest.approx(np.sum(recalls, axis=0).mean())
    for nothing in (targets[:, 3:], targets[:0]):
        scores = label_scores(nothing, logits[: len(nothing), : nothing.shape[1]])
        assert all(math.isnan(value) for value in scores.values())


def test_grades() -> None:
    ranks, labels = (0, 1, 3), np.array([0, 0, 1, 1, 2, 2])
    said = np.array([0, 1, 1, 2, 2, 0])
    found = grade_scores(labels, np.eye(3)[said], ranks)
    truth, guess = np.array(ranks)[labels], np.array(ranks)[said]
    assert found["grade_error"] == pytest.approx(np.abs(truth - guess).mean())
    apart = (truth[:, None] - guess[None]) ** 2  # of every pair, by chance
    kappa = 1 - ((truth - guess) ** 2).mean() / apart.mean()
    assert found["quadratic_kappa"] == pytest.approx(kappa)
    # a far grade costs more than a near one, which no accuracy tells
    far = grade_scores(np.array([0, 1, 2]), np.eye(3)[[2, 1, 2]], ranks)
    near = grade_scores(np.array([0, 1, 2]), np.eye(3)[[1, 1, 2]], ranks)
    assert far["quadratic_kappa"] < near["quadratic_kappa"]
    same = grade_scores(np.array([1, 1]), np.eye(3)[[1, 1]], ranks)
    assert (math.isnan(same["quadratic_kappa"]), same["grade_error"]) == (True, 0.0)
    none = grade_scores(np.array([], dtype=np.int64), np.empty((0, 3)), ranks)
    assert all(math.isnan(value) for value in none.values())


def test_one_class_an_image() -> None:
    labels, logits = np.array([0, 0, 1, 2, 2]), RNG.normal(size=(5, 4))
    found = class_scores(labels, logits)
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert found["auroc"] == pytest.approx(
        np.mean([area(labels == c, chances[:, c]) for c in range(3)])
    )
    right = logits.argmax(axis=1) == labels
    recall = np.mean([right[labels == c].mean() for c in range(3)])
    assert found["balanced_accuracy"] == pytest.approx(recall)
    one = class_scores(np.zeros(3, dtype=np.int64), np.eye(4)[:3])
    assert (one["balanced_accuracy"], math.isnan(one["auroc"])) == (pytest.approx(1 / 3), True)


def test_weights_make_both_outcomes_of_every_label_count_alike() -> None:
    targets = (RNG.random((50, 4)) < [0.1, 0.5, 0.0, 1.0]).astype(np.float32)
    weights = class_weights(targets, 4)
    held = targets.sum(axis=0)
    assert weights.shape == (2, 4)
    assert weights[1, :2].numpy() * held[:2] == pytest.approx([25, 25])
    assert weights[0, :2].numpy() * (50 - held[:2]) == pytest.approx([25, 25])
    assert weights[:, 2:].tolist() == [[0, 0], [0, 0]]
    logits = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    loss = LabelsLoss(weights)(logits, torch.from_numpy(targets))
    chances = torch.sigmoid(logits).double().numpy()
    each = -np.log(np.where(targets > 0, chances, 1 - chances))
    used = np.where(targets > 0, weights[1].numpy(), weights[0].numpy())
    assert float(loss) == pytest.approx((used * each).sum() / used.sum(), rel=1e-5)
    nothing = LabelsLoss(torch.zeros(2, 4))(logits, torch.from_numpy(targets))
    assert float(nothing) == 0.0
