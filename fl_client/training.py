"""Local training and evaluation: plain functions around Lightning's trainer."""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import logging
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from sklearn.metrics import recall_score, roc_auc_score
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from fl_client.device import choose_device
from fl_client.model import SiteModel
from protocol.errors import NotFinite

DEFAULT_LR = {"adapter": 0.1, "fine-tune": 0.01}
logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
logging.getLogger("lightning").setLevel(logging.ERROR)


@runtime_checkable
class Augmented(Protocol):
    """A data set that draws random numbers of its own."""

    def reseed(self, seed: int) -> None:
        """Start the draws anew: what ran before must not matter."""


@dataclass(frozen=True)
class TrainData:
    """A site's data, split.

    Attributes
    ----------
    train, evaluation : Dataset
        The same items in the same order, with and without augmentation: (input, label).
    labels : ndarray of int64, shape [n]
        Indices into `classes`.
    classes : tuple of str
        Keys of the site's classes.
    splits : dict
        Indices of ``train``, ``val`` and ``test``.
    """

    train: Dataset[tuple[torch.Tensor, torch.Tensor]]
    evaluation: Dataset[tuple[torch.Tensor, torch.Tensor]]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    splits: dict[str, NDArray[np.int64]]


def feature_data(
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    classes: Sequence[str],
    splits: dict[str, NDArray[np.int64]],
) -> TrainData:
    """Return data of cached features, float32 [n, m]."""
    items = TensorDataset(torch.from_numpy(features), torch.from_numpy(labels))
    return TrainData(items, items, labels, tuple(classes), splits)  # type: ignore[arg-type]


class _Rows(Dataset[tuple[torch.Tensor, ...]]):
    """Some rows of tensors, gathered a batch at a time and not item by item."""

    def __init__(self, tensors: Sequence[torch.Tensor], rows: NDArray[np.int64]) -> None:
        self._tensors, self._rows = tensors, torch.from_numpy(rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitems__(self, places: list[int]) -> list[torch.Tensor]:
        rows = self._rows[places]
        return [tensor[rows] for tensor in self._tensors]


def batches(
    items: Dataset[tuple[torch.Tensor, torch.Tensor]],
    rows: NDArray[np.int64],
    batch_size: int,
    generator: torch.Generator | None = None,
) -> DataLoader[Any]:
    """Return some items in batches, shuffled where a generator is given."""
    how: dict[str, Any] = {"shuffle": generator is not None, "generator": generator}
    if isinstance(items, TensorDataset):
        return DataLoader(_Rows(items.tensors, rows), batch_size, collate_fn=list, **how)
    return DataLoader(Subset(items, rows.tolist()), batch_size, **how)


def fit(
    model: SiteModel,
    data: TrainData,
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    find_lr: bool,
    device: torch.device | None = None,
) -> None:
    """Train on the site's training split.

    Parameters
    ----------
    model : SiteModel
        Changed in place.
    data : TrainData
        The site's data.
    epochs, batch_size : int
        Budget of this call.
    seed : int
        Order of the batches.
    find_lr : bool
        Let Lightning find the step size first (Smith 2017, arXiv 1506.01186), as the paper does.
    device : torch.device or None
        Where to compute; None chooses.
    """
    generator = torch.Generator().manual_seed(seed)
    loader = batches(data.train, data.splits["train"], batch_size, generator)
    place = device or choose_device()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if find_lr:
            model.lr = _found_lr(model, loader, place)
        quiet_trainer(epochs, place).fit(model, loader)
    model.to(place)  # Lightning leaves it on the CPU, where scoring would be slow


def quiet_trainer(max_epochs: int, device: torch.device) -> pl.Trainer:
    """Return a new trainer that trains and does nothing else."""
    trainer = copy.deepcopy(_first_trainer(device.type, device.index))
    trainer.fit_loop.max_epochs = max_epochs
    return trainer


@functools.cache
def _first_trainer(kind: str, index: int | None) -> pl.Trainer:
    """Return the trainer that others are copied from.

    Making one looks for callbacks among the entry points of every installed package, which takes
    longer than a small site's epoch.
    """
    return pl.Trainer(
        accelerator=kind,
        devices=1 if index is None else [index],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        max_epochs=1,
        default_root_dir=tempfile.gettempdir(),  # the finder's checkpoint, for a moment
    )


def _found_lr(model: SiteModel, loader: DataLoader[object], device: torch.device) -> float:
    """Return the step size that Lightning's finder suggests, the default where it finds none.

    Below 1e-3 so few steps of SGD hardly move the loss, and the finder would choose among noise.
    """
    from pytorch_lightning.tuner.tuning import Tuner

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        found = Tuner(quiet_trainer(50, device)).lr_find(
            model, loader, min_lr=1e-3, max_lr=1.0, num_training=50, update_attr=False
        )
    suggestion = found.suggestion() if found is not None else None
    return float(suggestion) if suggestion else model.lr


def evaluate(model: SiteModel, data: TrainData, split: str) -> dict[str, float]:
    """Score the model on one split.

    Returns
    -------
    dict
        ``balanced_accuracy`` (mean recall over the classes present), ``auroc`` (macro,
        one against the rest; NaN where fewer than two classes are present), ``loss`` (class-
        weighted cross entropy). All NaN for an empty split.

    Raises
    ------
    NotFinite
        If what the model answers is not: it diverged, or started from what overflows.
    """
    indices = data.splits[split]
    if len(indices) == 0:
        return {"balanced_accuracy": float("nan"), "auroc": float("nan"), "loss": float("nan")}
    model.eval()
    with torch.inference_mode():
        device = next(model.parameters()).device
        logits = torch.cat(
            [model(x.to(device)) for x, _ in batches(data.evaluation, indices, 256)]
        ).cpu()
    if not bool(torch.isfinite(logits).all()):
        raise NotFinite(
            "what the model answers is not finite: take a smaller learning rate, or another start"
        )
    labels = data.labels[indices]
    loss = float(model.loss.cpu()(logits, torch.from_numpy(labels)))
    present = np.unique(labels)
    recall = recall_score(
        labels, logits.argmax(1).numpy(), labels=present, average="macro", zero_division=0
    )
    return {
        # the last bit depends on the order of summing: what is equal must compare as equal
        "balanced_accuracy": round(float(recall), 12),
        "auroc": _macro_auroc(labels, torch.softmax(logits, 1).double().numpy()),
        "loss": loss,
    }


def _macro_auroc(labels: NDArray[np.int64], scores: NDArray[np.float64]) -> float:
    """Return the mean area under the ROC curve of each class present against the rest."""
    present = np.unique(labels)
    if len(present) < 2:
        return float("nan")
    return float(np.mean([roc_auc_score(labels == c, scores[:, c]) for c in present]))
