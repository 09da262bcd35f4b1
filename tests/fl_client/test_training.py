"""Local training and evaluation, against scikit-learn and by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from sklearn.metrics import balanced_accuracy_score, log_loss, roc_auc_score

from fl_client.model import Adapter, SiteModel, class_weights
from fl_client.training import TrainData, batches, evaluate, feature_data, fit, quiet_trainer
from protocol.sharing import HIDDEN, Arrays, initial_adapter, initial_rows

CLASSES = ("a", "b", "c")
WIDTH = 6


def blobs(spread: float = 0.5, n: int = 90, seed: int = 0) -> TrainData:
    """Return three clouds of features with uneven class sizes."""
    rng = np.random.default_rng(seed)
    labels = np.sort(rng.choice(3, n, p=[0.6, 0.3, 0.1])).astype(np.int64)
    labels[:3], labels[3:6] = [0, 1, 2], [0, 1, 2]
    centres = 3 * np.eye(3, WIDTH)
    features = (centres[labels] + spread * rng.normal(size=(n, WIDTH))).astype(np.float32)
    order = rng.permutation(n)
    splits = {"train": order[: n // 2], "val": order[n // 2 :], "test": np.arange(0)}
    return feature_data(features, labels, CLASSES, splits)


def model_for(data: TrainData, seed: int = 0, lr: float = 0.1) -> SiteModel:
    """Return a model as it starts."""
    weights = class_weights(data.labels[data.splits["train"]], 3)
    model = SiteModel(Adapter(WIDTH), HIDDEN, CLASSES, weights, lr=lr)
    model.load_arrays(initial_adapter(WIDTH, seed) | initial_rows(CLASSES, HIDDEN, seed))
    return model


def after_fit(seed: int, find_lr: bool = False) -> Arrays:
    """Return what a short training leaves."""
    data = blobs()
    model = model_for(data)
    fit(model, data, epochs=2, batch_size=8, seed=seed, find_lr=find_lr)
    return model.arrays()


def logits_of(model: SiteModel, data: TrainData, rows: NDArray[np.int64]) -> torch.Tensor:
    """Return the logits of some items."""
    return model(torch.stack([data.evaluation[int(row)][0] for row in rows])).detach()


def test_a_separable_task_is_learnt() -> None:
    data = blobs()
    model = model_for(data)
    before = evaluate(model, data, "val")
    fit(model, data, epochs=20, batch_size=16, seed=0, find_lr=False)
    after = evaluate(model, data, "val")
    assert after["balanced_accuracy"] > 0.95
    assert after["auroc"] > 0.99
    assert after["loss"] < before["loss"]


def test_the_same_seed_gives_the_same_model_and_another_another() -> None:
    first, again, other = after_fit(1), after_fit(1), after_fit(2)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not all(np.array_equal(first[name], other[name]) for name in first)


def test_a_fit_is_what_lightning_does_by_itself() -> None:
    data = blobs()
    model = model_for(data)
    loader = torch.utils.data.DataLoader(
        torch.utils.data.Subset(data.train, data.splits["train"].tolist()),
        8,
        shuffle=True,
        generator=torch.Generator().manual_seed(1),
    )
    pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(model, loader)
    expected, found = model.arrays(), after_fit(1)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_trainers_share_nothing_that_training_changes() -> None:
    first, second = (quiet_trainer(epochs, torch.device("cpu")) for epochs in (1, 3))
    data = blobs()
    model = model_for(data)
    loader = batches(data.train, data.splits["train"], 8)
    second.fit(model, loader)
    assert (first.max_epochs, first.current_epoch, first.global_step) == (1, 0, 0)
    assert (second.max_epochs, second.current_epoch) == (3, 3)
    assert quiet_trainer(2, torch.device("cpu")).global_step == 0


@pytest.mark.parametrize("shuffled", [True, False])
def test_batches_are_those_of_the_items_one_by_one(shuffled: bool) -> None:
    data, rows = blobs(), np.array([5, 3, 3, 80, 41, 0, 7])
    generators = [torch.Generator().manual_seed(4) if shuffled else None for _ in range(2)]
    expected = torch.utils.data.DataLoader(
        torch.utils.data.Subset(data.train, rows.tolist()),
        3,
        shuffle=shuffled,
        generator=generators[0],
    )
    found = list(batches(data.train, rows, 3, generators[1]))
    assert len(found) == 3
    for (x, y), (inputs, labels) in zip(found, expected, strict=True):
        assert torch.equal(x, inputs)
        assert torch.equal(y, labels)


def test_the_rate_is_found_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = blobs()
    model = model_for(data, lr=0.1234)
    fit(model, data, epochs=5, batch_size=8, seed=0, find_lr=True)
    assert 0 < model.lr <= 0.3
    assert model.lr != 0.1234
    assert evaluate(model, data, "val")["balanced_accuracy"] > 0.8
    assert list(tmp_path.iterdir()) == []


def test_the_rate_is_found_where_the_working_folder_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert after_fit(0, find_lr=True)


@pytest.mark.parametrize("spread", [0.5, 3.0])
def test_scores_are_those_of_scikit_learn(spread: float) -> None:
    data = blobs(spread)
    model = model_for(data)
    fit(model, data, epochs=3, batch_size=16, seed=0, find_lr=False)
    rows = data.splits["val"]
    labels, logits = data.labels[rows], logits_of(model, data, rows)
    scores = torch.softmax(logits, 1).double().numpy()
    found = evaluate(model, data, "val")
    assert found["balanced_accuracy"] == pytest.approx(
        balanced_accuracy_score(labels, scores.argmax(1))
    )
    scores /= scores.sum(axis=1, keepdims=True)
    assert found["auroc"] == pytest.approx(
        roc_auc_score(labels, scores, multi_class="ovr", average="macro")
    )
    weights = class_weights(data.labels[data.splits["train"]], 3).numpy()[labels]
    assert found["loss"] == pytest.approx(
        log_loss(labels, scores, sample_weight=weights, labels=[0, 1, 2]), rel=1e-5
    )


def test_classes_that_a_split_lacks_do_not_count() -> None:
    data = blobs()
    rows = data.splits["val"]
    data.splits["val"] = rows[data.labels[rows] != 1]
    model = model_for(data)
    logits = logits_of(model, data, data.splits["val"])
    labels = data.labels[data.splits["val"]]
    recalls = [float((logits.argmax(1).numpy()[labels == c] == c).mean()) for c in (0, 2)]
    found = evaluate(model, data, "val")
    assert found["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    assert 0 <= found["auroc"] <= 1


def test_one_class_has_no_roc_curve() -> None:
    data = blobs()
    rows = data.splits["val"]
    data.splits["val"] = rows[data.labels[rows] == 0]
    found = evaluate(model_for(data), data, "val")
    assert np.isnan(found["auroc"])
    assert np.isfinite(found["balanced_accuracy"])
    assert np.isfinite(found["loss"])


def test_an_empty_split_has_no_scores() -> None:
    data = blobs()
    found = evaluate(model_for(data), data, "test")
    assert list(found) == ["balanced_accuracy", "auroc", "loss"]
    assert all(np.isnan(value) for value in found.values())


def test_evaluation_changes_nothing_and_uses_no_augmentation() -> None:
    data = blobs()
    noise = torch.utils.data.TensorDataset(torch.randn(90, WIDTH), torch.from_numpy(data.labels))
    noisy = TrainData(noise, data.evaluation, data.labels, CLASSES, data.splits)  # type: ignore[arg-type]
    model = model_for(data)
    before = model.arrays()
    assert evaluate(model, noisy, "val") == evaluate(model, data, "val")
    assert all(np.array_equal(before[name], value) for name, value in model.arrays().items())


def test_more_items_than_a_batch_are_scored_in_order() -> None:
    data = blobs(n=1400)
    model = model_for(data)
    assert len(data.splits["val"]) > 512
    rows = data.splits["val"]
    predicted = logits_of(model, data, rows).argmax(1).numpy()
    assert evaluate(model, data, "val")["balanced_accuracy"] == pytest.approx(
        balanced_accuracy_score(data.labels[rows], predicted)
    )
